// Linear with a quantised weight: y = x Wᵀ + bias + residual, W[o][i] = q[o][i] · s[o][⌊i / group⌋] with integers q of 8
// or 4 bits.
//
// Rows of x become integers too, with a scale for each group as W has them: of 16 bits where q has 8, of 8 bits where q
// has 4. Either way x loses little beside what W lost, its products with q are exact, and one instruction takes
// eight (pmaddwd) or sixteen (pmaddubsw) of them, so that not arithmetic but reading W bounds the time.
//
// W is packed (wasm/quantized.ts) in blocks of 8 outputs that are read strictly in order. A block holds, group by group,
// the integers of all its outputs, and then their 8 scales as bfloat16. The integers are words, one output after another:
//
//   8 bits: 2 inputs in a half word
//   4 bits: 8 inputs in a word, 0 to 3 in the low nibbles of its bytes, 4 to 7 in the high ones, 8 added to each
//
// An output's sum runs over the groups in order, whatever the number of rows: neither other rows nor threads change its
// bits.
import { loadLanes, madd, storeLanes } from "./simd";

/** Outputs of a block. */
// @ts-ignore: decorator
@inline
const OUTS = 8;
/** Sums of 16 bits hold this many inputs of products up to 15 · 127. */
// @ts-ignore: decorator
@inline
const UNIT = 32;

/** Bytes of a quantised group of x: integers, and 16 of which their scale and their sum take 8. */
// @ts-ignore: decorator
@inline
function inputBytes(bits: i32, group: i32): i32 {
  return (bits == 8 ? 2 : 1) * group + 16;
}

/** Bytes of a group of a block: integers and scales. */
// @ts-ignore: decorator
@inline
function weightBytes(bits: i32, group: i32): i32 {
  return bits * group + 2 * OUTS;
}

/** Bytes of scratch for `quantizeRows`. */
export function quantizedScratch(rows: i32, depth: i32, bits: i32, group: i32): usize {
  return <usize> rows * <usize> (((depth + group - 1) / group) * inputBytes(bits, group));
}

/** Writes rows of x, `[rows, depth]`, as the weight's `bits` want them. What is beyond depth is zero. */
export function quantizeRows(x: usize, rows: i32, depth: i32, bits: i32, group: i32, target: usize): void {
  for (let r = 0; r < rows; r++) {
    for (let start = 0; start < depth; start += group) {
      quantizeGroup(x + (<usize> start << 2), min(group, depth - start), bits, group, target);
      target += inputBytes(bits, group);
    }
    x += <usize> depth << 2;
  }
}

function quantizeGroup(x: usize, count: i32, bits: i32, group: i32, target: usize): void {
  const largest: f32 = bits == 8 ? 32767 : 127;
  let most = f32x4.splat(0);
  for (let i = 0; i < count; i += 4) {
    most = f32x4.max(most, f32x4.abs(loadLanes(x + (<usize> i << 2), count - i)));
  }
  let scale = max(
    max(f32x4.extract_lane(most, 0), f32x4.extract_lane(most, 1)),
    max(f32x4.extract_lane(most, 2), f32x4.extract_lane(most, 3)),
  ) / largest;
  // Groups this small count as zero: their reciprocal would be infinite. NaN goes on in the scale.
  if (scale < 1e-37) scale = 0;
  const inverse = f32x4.splat(scale == 0 ? 0 : 1 / scale);
  let sums = i32x4.splat(0);
  for (let i = 0; i < group; i += 8) {
    const integers = i16x8.narrow_i32x4_s(
      integersOf(x + (<usize> i << 2), count - i, inverse),
      integersOf(x + (<usize> i << 2) + 16, count - i - 4, inverse),
    );
    sums = i32x4.add(sums, i32x4.extadd_pairwise_i16x8_s(integers));
    if (bits == 8) {
      v128.store(target, integers);
      target += 16;
    } else {
      v128.store64_lane(target, i8x16.narrow_i16x8_s(integers, integers), 0);
      target += 8;
    }
  }
  store<f32>(target, scale);
  store<i32>(target, i32x4.extract_lane(sums, 0) + i32x4.extract_lane(sums, 1) + i32x4.extract_lane(sums, 2) +
    i32x4.extract_lane(sums, 3), 4);
}

// @ts-ignore: decorator
@inline
function integersOf(x: usize, count: i32, inverse: v128): v128 {
  return i32x4.trunc_sat_f32x4_s(f32x4.nearest(f32x4.mul(loadLanes(x, count), inverse)));
}

/** `y = x Wᵀ + bias + residual`; x from `quantizeRows`, rows of y and residual `stride` bytes apart. */
export function linearQuantized(
  x: usize, weight: usize, bias: usize, residual: usize, y: usize,
  rows: i32, depth: i32, outs: i32, stride: usize, bits: i32, group: i32,
): void {
  const mask = (1 << bits) - 1; // no constant where it is used: engines load those anew in every turn of a loop
  const groups = (depth + group - 1) / group;
  const inRow = <usize> (groups * inputBytes(bits, group));
  for (let o = 0; o < outs; o += OUTS) {
    const count = outs - o;
    let from = x, to = y + (<usize> o << 2);
    const b = bias == 0 ? 0 : bias + (<usize> o << 2);
    let c = residual == 0 ? 0 : residual + (<usize> o << 2);
    for (let r = 0; r < rows;) {
      const many = r + 4 <= rows;
      if (bits == 8) {
        if (many) block8x4(from, inRow, weight, b, c, to, groups, group, count, stride, mask);
        else block8x1(from, inRow, weight, b, c, to, groups, group, count, stride, mask);
      } else {
        if (many) block4x4(from, inRow, weight, b, c, to, groups, group, count, stride, mask);
        else block4x1(from, inRow, weight, b, c, to, groups, group, count, stride, mask);
      }
      const step = many ? 4 : 1;
      r += step;
      from += <usize> step * inRow;
      to += <usize> step * stride;
      if (c != 0) c += <usize> step * stride;
    }
    weight += <usize> (groups * weightBytes(bits, group));
  }
}

function block8x1(
  x: usize, inRow: usize, w: usize, bias: usize, residual: usize, y: usize,
  groups: i32, group: i32, outs: i32, stride: usize, mask: i32,
): void {
  block(8, 1, x, inRow, w, bias, residual, y, groups, group, outs, stride, mask);
}

function block8x4(
  x: usize, inRow: usize, w: usize, bias: usize, residual: usize, y: usize,
  groups: i32, group: i32, outs: i32, stride: usize, mask: i32,
): void {
  block(8, 4, x, inRow, w, bias, residual, y, groups, group, outs, stride, mask);
}

function block4x1(
  x: usize, inRow: usize, w: usize, bias: usize, residual: usize, y: usize,
  groups: i32, group: i32, outs: i32, stride: usize, mask: i32,
): void {
  block(4, 1, x, inRow, w, bias, residual, y, groups, group, outs, stride, mask);
}

function block4x4(
  x: usize, inRow: usize, w: usize, bias: usize, residual: usize, y: usize,
  groups: i32, group: i32, outs: i32, stride: usize, mask: i32,
): void {
  block(4, 4, x, inRow, w, bias, residual, y, groups, group, outs, stride, mask);
}

/** A block of 8 outputs with 1 or 4 rows of x: two vectors of sums per row. */
// @ts-ignore: decorator
@inline
function block(
  bits: i32, rows: i32, x: usize, inRow: usize, w: usize, bias: usize, residual: usize, y: usize,
  groups: i32, group: i32, outs: i32, stride: usize, mask: i32,
): void {
  const x1 = x + inRow, x2 = x1 + inRow, x3 = x2 + inRow;
  const nibble = i8x16.splat(<i8> mask);
  let y00 = f32x4.splat(0), y01 = y00, y10 = y00, y11 = y00, y20 = y00, y21 = y00, y30 = y00, y31 = y00;
  let at: usize = 0;
  for (let g = 0; g < groups; g++) {
    let s00 = i32x4.splat(0), s01 = s00, s10 = s00, s11 = s00, s20 = s00, s21 = s00, s30 = s00, s31 = s00;
    if (bits == 8) {
      for (const end = at + (<usize> group << 1); at < end; at += 4) {
        const w0 = v128.load8x8_s(w), w1 = v128.load8x8_s(w, 8);
        w += 16;
        let a = v128.load32_splat(x + at);
        s00 = i32x4.add(s00, i32x4.dot_i16x8_s(w0, a));
        s01 = i32x4.add(s01, i32x4.dot_i16x8_s(w1, a));
        if (rows == 4) {
          a = v128.load32_splat(x1 + at);
          s10 = i32x4.add(s10, i32x4.dot_i16x8_s(w0, a));
          s11 = i32x4.add(s11, i32x4.dot_i16x8_s(w1, a));
          a = v128.load32_splat(x2 + at);
          s20 = i32x4.add(s20, i32x4.dot_i16x8_s(w0, a));
          s21 = i32x4.add(s21, i32x4.dot_i16x8_s(w1, a));
          a = v128.load32_splat(x3 + at);
          s30 = i32x4.add(s30, i32x4.dot_i16x8_s(w0, a));
          s31 = i32x4.add(s31, i32x4.dot_i16x8_s(w1, a));
        }
      }
    } else {
      for (const end = at + group; at < end;) {
        let h00 = i16x8.splat(0), h01 = h00, h10 = h00, h11 = h00, h20 = h00, h21 = h00, h30 = h00, h31 = h00;
        for (const unit = at + UNIT; at < unit; at += 8) {
          const v0 = v128.load(w), v1 = v128.load(w, 16);
          w += 32;
          const low0 = v128.and(v0, nibble), high0 = v128.and(i16x8.shr_u(v0, 4), nibble);
          const low1 = v128.and(v1, nibble), high1 = v128.and(i16x8.shr_u(v1, 4), nibble);
          let a = v128.load32_splat(x + at), b = v128.load32_splat(x + at, 4);
          h00 = i16x8.add(i16x8.add(h00, dots(a, low0)), dots(b, high0));
          h01 = i16x8.add(i16x8.add(h01, dots(a, low1)), dots(b, high1));
          if (rows == 4) {
            a = v128.load32_splat(x1 + at), b = v128.load32_splat(x1 + at, 4);
            h10 = i16x8.add(i16x8.add(h10, dots(a, low0)), dots(b, high0));
            h11 = i16x8.add(i16x8.add(h11, dots(a, low1)), dots(b, high1));
            a = v128.load32_splat(x2 + at), b = v128.load32_splat(x2 + at, 4);
            h20 = i16x8.add(i16x8.add(h20, dots(a, low0)), dots(b, high0));
            h21 = i16x8.add(i16x8.add(h21, dots(a, low1)), dots(b, high1));
            a = v128.load32_splat(x3 + at), b = v128.load32_splat(x3 + at, 4);
            h30 = i16x8.add(i16x8.add(h30, dots(a, low0)), dots(b, high0));
            h31 = i16x8.add(i16x8.add(h31, dots(a, low1)), dots(b, high1));
          }
        }
        s00 = i32x4.add(s00, i32x4.extadd_pairwise_i16x8_s(h00));
        s01 = i32x4.add(s01, i32x4.extadd_pairwise_i16x8_s(h01));
        if (rows == 4) {
          s10 = i32x4.add(s10, i32x4.extadd_pairwise_i16x8_s(h10));
          s11 = i32x4.add(s11, i32x4.extadd_pairwise_i16x8_s(h11));
          s20 = i32x4.add(s20, i32x4.extadd_pairwise_i16x8_s(h20));
          s21 = i32x4.add(s21, i32x4.extadd_pairwise_i16x8_s(h21));
          s30 = i32x4.add(s30, i32x4.extadd_pairwise_i16x8_s(h30));
          s31 = i32x4.add(s31, i32x4.extadd_pairwise_i16x8_s(h31));
        }
      }
    }
    const scales0 = i32x4.shl(v128.load16x4_u(w), 16), scales1 = i32x4.shl(v128.load16x4_u(w, 8), 16);
    w += 2 * OUTS;
    y00 = scaled(bits, s00, scales0, x + at, y00);
    y01 = scaled(bits, s01, scales1, x + at, y01);
    if (rows == 4) {
      y10 = scaled(bits, s10, scales0, x1 + at, y10);
      y11 = scaled(bits, s11, scales1, x1 + at, y11);
      y20 = scaled(bits, s20, scales0, x2 + at, y20);
      y21 = scaled(bits, s21, scales1, x2 + at, y21);
      y30 = scaled(bits, s30, scales0, x3 + at, y30);
      y31 = scaled(bits, s31, scales1, x3 + at, y31);
    }
    at += 16;
  }
  finish(y00, y01, bias, residual, 0, y, outs);
  if (rows == 4) {
    finish(y10, y11, bias, residual, stride, y, outs);
    finish(y20, y21, bias, residual, 2 * stride, y, outs);
    finish(y30, y31, bias, residual, 3 * stride, y, outs);
  }
}

/** Sums of two adjacent products of signed bytes a and bytes b from 0 to 127: no sum leaves 16 bits. */
// @ts-ignore: decorator
@inline
function dots(a: v128, b: v128): v128 {
  if (ASC_FEATURE_RELAXED_SIMD) return i16x8.relaxed_dot_i8x16_i7x16_s(a, b);
  const even = i16x8.mul(i16x8.shr_s(i16x8.shl(a, 8), 8), v128.and(b, i16x8.splat(255)));
  return i16x8.add(even, i16x8.mul(i16x8.shr_s(a, 8), i16x8.shr_u(b, 8)));
}

/** Adds a group's sums, in units of both scales, to y; behind the integers of x stand their scale and their sum. */
// @ts-ignore: decorator
@inline
function scaled(bits: i32, sums: v128, scales: v128, behind: usize, y: v128): v128 {
  // Σ q x = Σ (q + 8) x − 8 Σ x
  if (bits == 4) sums = i32x4.sub(sums, i32x4.shl(v128.load32_splat(behind, 4), 3));
  return madd(f32x4.convert_i32x4_s(sums), f32x4.mul(scales, v128.load32_splat(behind)), y);
}

/** Writes 8 outputs of the row that lies `offset` bytes on. */
// @ts-ignore: decorator
@inline
function finish(sums0: v128, sums1: v128, bias: usize, residual: usize, offset: usize, y: usize, outs: i32): void {
  if (bias != 0) {
    sums0 = f32x4.add(sums0, loadLanes(bias, outs));
    sums1 = f32x4.add(sums1, loadLanes(bias + 16, outs - 4));
  }
  if (residual != 0) {
    sums0 = f32x4.add(sums0, loadLanes(residual + offset, outs));
    sums1 = f32x4.add(sums1, loadLanes(residual + offset + 16, outs - 4));
  }
  storeLanes(y + offset, sums0, outs);
  storeLanes(y + offset + 16, sums1, outs - 4);
}
