// Linear with a quantised weight: output = x Wᵀ + bias + residual, W[o][i] = q[o][i] · s[o][⌊i / group⌋], with integers q
// of 8 or 4 bits.
//
// Rows of x become integers too, with a scale per group as in W: of 16 bits for a weight of 8 bits, of 8 bits for one of 4.
// Either way x loses little compared with W, its products with q are exact, and one instruction takes eight (pmaddwd) or
// sixteen (pmaddubsw) of them. So reading W bounds the time, not arithmetic.
//
// wasm/quantized.ts packs W in blocks of 8 outputs, which are read strictly in order. A block holds, group by group, the
// integers of all its outputs and then their 8 scales as bfloat16, those of outputs 0 and 4, 1 and 5 and so on side by
// side. The integers, made unsigned by adding 128 or 8, are words, one output after another:
//
//   8 bits: 4 inputs in a word, 0 and 1 in the low bytes of its halves, 2 and 3 in the high ones
//   4 bits: 8 inputs in a word, 0 to 3 in the low nibbles of its bytes, 4 to 7 in the high ones
//
// so that one mask and one shift give what meets two words of x. A group of x is its scale, the correction for the added
// numbers (−128 Σ x or −8 Σ x), 8 bytes of padding, and the integers.
//
// An output is accumulated over the groups in order, whatever the number of rows: neither other rows nor threads change
// its bits.
//
// Engines check the bounds of every access, in Deno by a comparison, which costs as much as an arithmetic instruction.
// Hence loads are few and wide, x is broadcast by shuffles, and no load widens.
//
// fourRows has twelve arguments, but it is inlined: they are registers, not a call.
import { loadLanes, madd, storeLanes } from "./parts/simd";

/** Outputs of a block. */
// @ts-ignore: decorator
@inline
const BLOCK_OUT_DIM = 8;
/** Bytes before the integers of a group of x: scale, offset, padding. */
// @ts-ignore: decorator
@inline
const HEAD = 16;

/** Bytes of a quantised group of x. */
// @ts-ignore: decorator
@inline
function inputBytes(bits: i32, group: i32): i32 {
  return HEAD + (bits == 8 ? 2 : 1) * group;
}

/** Bytes of a group of a block: integers and scales. */
// @ts-ignore: decorator
@inline
function weightBytes(bits: i32, group: i32): i32 {
  return bits * group + 2 * BLOCK_OUT_DIM;
}

/** Bytes of scratch for `quantizeRows`. */
export function quantizedScratch(rows: i32, inDim: i32, bits: i32, group: i32): usize {
  return <usize> rows * <usize> (((inDim + group - 1) / group) * inputBytes(bits, group));
}

/** Writes rows of x, `[rows, inDim]`, as integers for a weight of `bits` bits, zeros beyond inDim. */
export function quantizeRows(x: usize, rows: i32, inDim: i32, bits: i32, group: i32, target: usize): void {
  for (let r = 0; r < rows; r++) {
    for (let start = 0; start < inDim; start += group) {
      quantizeGroup(x + (<usize> start << 2), min(group, inDim - start), bits, group, target);
      target += inputBytes(bits, group);
    }
    x += <usize> inDim << 2;
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
  // Groups this small count as zero: their reciprocal would be infinite. NaN stays NaN, in the scale.
  if (scale < 1e-37) scale = 0;
  const inverse = f32x4.splat(scale == 0 ? 0 : 1 / scale);
  const whole = f32x4.splat(12582912);
  let accumulator = i32x4.splat(0), to = target + HEAD;
  for (let i = 0; i < group; i += 8) {
    const integers = i16x8.narrow_i32x4_s(
      integersOf(x + (<usize> i << 2), count - i, inverse, whole),
      integersOf(x + (<usize> i << 2) + 16, count - i - 4, inverse, whole),
    );
    accumulator = i32x4.add(accumulator, i32x4.extadd_pairwise_i16x8_s(integers));
    if (bits == 8) {
      v128.store(to, integers);
      to += 16;
    } else {
      v128.store64_lane(to, i8x16.narrow_i16x8_s(integers, integers), 0);
      to += 8;
    }
  }
  const sum = i32x4.extract_lane(accumulator, 0) + i32x4.extract_lane(accumulator, 1) +
    i32x4.extract_lane(accumulator, 2) + i32x4.extract_lane(accumulator, 3);
  store<f32>(target, scale);
  store<i32>(target, -(sum << (bits - 1)), 4);
}

/** The nearest integers: added to 1.5 · 2^23, where f32 has no fraction, they are its last bits. */
// @ts-ignore: decorator
@inline
function integersOf(x: usize, count: i32, inverse: v128, whole: v128): v128 {
  return i32x4.sub(f32x4.add(f32x4.mul(loadLanes(x, count), inverse), whole), whole);
}

/** `output = x Wᵀ + bias + residual`; x from `quantizeRows`, rows of output and residual `stride` bytes apart. */
export function linearQuantized(
  x: usize, weight: usize, bias: usize, residual: usize, output: usize,
  rows: i32, inDim: i32, outDim: i32, stride: usize, bits: i32, group: i32,
): void {
  const mask = bits == 8 ? 0x00ff : 0x0f0f; // an argument, as engines load a constant again in every iteration
  const groups = (inDim + group - 1) / group;
  const inRow = <usize> (groups * inputBytes(bits, group));
  for (let o = 0; o < outDim; o += BLOCK_OUT_DIM) {
    const count = outDim - o;
    let from = x, to = output + (<usize> o << 2);
    const b = bias == 0 ? 0 : bias + (<usize> o << 2);
    let c = residual == 0 ? 0 : residual + (<usize> o << 2);
    for (let r = 0; r < rows;) {
      const many = r + 4 <= rows;
      if (bits == 8) {
        if (many) fourRows8(from, inRow, weight, b, c, to, groups, group, count, stride, mask);
        else oneRow8(from, weight, b, c, to, groups, group, count, mask);
      } else {
        if (many) fourRows4(from, inRow, weight, b, c, to, groups, group, count, stride, mask);
        else oneRow4(from, weight, b, c, to, groups, group, count, mask);
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

function oneRow8(
  x: usize, w: usize, bias: usize, residual: usize, output: usize, groups: i32, group: i32, outDim: i32, mask: i32,
): void {
  oneRow(8, x, w, bias, residual, output, groups, group, outDim, mask);
}

function oneRow4(
  x: usize, w: usize, bias: usize, residual: usize, output: usize, groups: i32, group: i32, outDim: i32, mask: i32,
): void {
  oneRow(4, x, w, bias, residual, output, groups, group, outDim, mask);
}

function fourRows8(
  x: usize, inRow: usize, w: usize, bias: usize, residual: usize, output: usize,
  groups: i32, group: i32, outDim: i32, stride: usize, mask: i32,
): void {
  fourRows(8, x, inRow, w, bias, residual, output, groups, group, outDim, stride, mask);
}

function fourRows4(
  x: usize, inRow: usize, w: usize, bias: usize, residual: usize, output: usize,
  groups: i32, group: i32, outDim: i32, stride: usize, mask: i32,
): void {
  fourRows(4, x, inRow, w, bias, residual, output, groups, group, outDim, stride, mask);
}

/** A block of 8 outputs with one row of x. */
// @ts-ignore: decorator
@inline
function oneRow(
  bits: i32, x: usize, w: usize, bias: usize, residual: usize, output: usize, groups: i32, group: i32, outDim: i32, mask: i32,
): void {
  const low = i16x8.splat(<i16> mask);
  let y0 = f32x4.splat(0), y1 = y0;
  for (let g = 0; g < groups; g++) {
    const head = v128.load(x), scale = v128.shuffle<f32>(head, head, 0, 0, 0, 0);
    let s0 = v128.shuffle<i32>(head, head, 1, 1, 1, 1), s1 = s0;
    x += HEAD;
    const end = x + <usize> (inputBytes(bits, group) - HEAD);
    do {
      let a = v128.load(x);
      let a0 = v128.shuffle<i32>(a, a, 0, 0, 0, 0), a1 = v128.shuffle<i32>(a, a, 1, 1, 1, 1);
      let a2 = v128.shuffle<i32>(a, a, 2, 2, 2, 2), a3 = v128.shuffle<i32>(a, a, 3, 3, 3, 3);
      const h0 = products(bits, a0, a1, a2, a3, v128.load(w), v128.load(w, 32), low);
      const h1 = products(bits, a0, a1, a2, a3, v128.load(w, 16), v128.load(w, 48), low);
      a = v128.load(x, 16);
      a0 = v128.shuffle<i32>(a, a, 0, 0, 0, 0), a1 = v128.shuffle<i32>(a, a, 1, 1, 1, 1);
      a2 = v128.shuffle<i32>(a, a, 2, 2, 2, 2), a3 = v128.shuffle<i32>(a, a, 3, 3, 3, 3);
      s0 = widen(bits, s0, sum(bits, h0, products(bits, a0, a1, a2, a3, v128.load(w, 64), v128.load(w, 96), low)));
      s1 = widen(bits, s1, sum(bits, h1, products(bits, a0, a1, a2, a3, v128.load(w, 80), v128.load(w, 112), low)));
      w += 128;
      x += 32;
    } while (x < end);
    const scales = v128.load(w);
    w += 2 * BLOCK_OUT_DIM;
    y0 = madd(f32x4.convert_i32x4_s(s0), f32x4.mul(scale, scales0(scales)), y0);
    y1 = madd(f32x4.convert_i32x4_s(s1), f32x4.mul(scale, scales1(scales)), y1);
  }
  finish(y0, y1, bias, residual, 0, output, outDim);
}

/** The same with four rows. */
// @ts-ignore: decorator
@inline
function fourRows(
  bits: i32, x: usize, inRow: usize, w: usize, bias: usize, residual: usize, output: usize,
  groups: i32, group: i32, outDim: i32, stride: usize, mask: i32,
): void {
  const x1 = x + inRow, x2 = x1 + inRow, x3 = x2 + inRow;
  const low = i16x8.splat(<i16> mask);
  let y00 = f32x4.splat(0), y01 = y00, y10 = y00, y11 = y00, y20 = y00, y21 = y00, y30 = y00, y31 = y00;
  let at: usize = 0;
  for (let g = 0; g < groups; g++) {
    const head = at;
    let s00 = v128.load32_splat(x + at, 4), s10 = v128.load32_splat(x1 + at, 4);
    let s20 = v128.load32_splat(x2 + at, 4), s30 = v128.load32_splat(x3 + at, 4);
    let s01 = s00, s11 = s10, s21 = s20, s31 = s30;
    at += HEAD;
    for (const end = head + <usize> inputBytes(bits, group); at < end;) {
      let h00 = i16x8.splat(0), h01 = h00, h10 = h00, h11 = h00, h20 = h00, h21 = h00, h30 = h00, h31 = h00;
      for (const unit = at + 32; at < unit; at += 8) {
        const v0 = v128.load(w), v1 = v128.load(w, 16);
        w += 32;
        const low0 = lower(v0, low), high0 = upper(bits, v0, low);
        const low1 = lower(v1, low), high1 = upper(bits, v1, low);
        let a = v128.load32_splat(x + at), b = v128.load32_splat(x + at, 4);
        h00 = sum(bits, sum(bits, h00, dots(bits, a, low0)), dots(bits, b, high0));
        h01 = sum(bits, sum(bits, h01, dots(bits, a, low1)), dots(bits, b, high1));
        a = v128.load32_splat(x1 + at), b = v128.load32_splat(x1 + at, 4);
        h10 = sum(bits, sum(bits, h10, dots(bits, a, low0)), dots(bits, b, high0));
        h11 = sum(bits, sum(bits, h11, dots(bits, a, low1)), dots(bits, b, high1));
        a = v128.load32_splat(x2 + at), b = v128.load32_splat(x2 + at, 4);
        h20 = sum(bits, sum(bits, h20, dots(bits, a, low0)), dots(bits, b, high0));
        h21 = sum(bits, sum(bits, h21, dots(bits, a, low1)), dots(bits, b, high1));
        a = v128.load32_splat(x3 + at), b = v128.load32_splat(x3 + at, 4);
        h30 = sum(bits, sum(bits, h30, dots(bits, a, low0)), dots(bits, b, high0));
        h31 = sum(bits, sum(bits, h31, dots(bits, a, low1)), dots(bits, b, high1));
      }
      s00 = widen(bits, s00, h00), s01 = widen(bits, s01, h01);
      s10 = widen(bits, s10, h10), s11 = widen(bits, s11, h11);
      s20 = widen(bits, s20, h20), s21 = widen(bits, s21, h21);
      s30 = widen(bits, s30, h30), s31 = widen(bits, s31, h31);
    }
    const scales = v128.load(w), w0 = scales0(scales), w1 = scales1(scales);
    w += 2 * BLOCK_OUT_DIM;
    let scale = v128.load32_splat(x + head);
    y00 = madd(f32x4.convert_i32x4_s(s00), f32x4.mul(scale, w0), y00);
    y01 = madd(f32x4.convert_i32x4_s(s01), f32x4.mul(scale, w1), y01);
    scale = v128.load32_splat(x1 + head);
    y10 = madd(f32x4.convert_i32x4_s(s10), f32x4.mul(scale, w0), y10);
    y11 = madd(f32x4.convert_i32x4_s(s11), f32x4.mul(scale, w1), y11);
    scale = v128.load32_splat(x2 + head);
    y20 = madd(f32x4.convert_i32x4_s(s20), f32x4.mul(scale, w0), y20);
    y21 = madd(f32x4.convert_i32x4_s(s21), f32x4.mul(scale, w1), y21);
    scale = v128.load32_splat(x3 + head);
    y30 = madd(f32x4.convert_i32x4_s(s30), f32x4.mul(scale, w0), y30);
    y31 = madd(f32x4.convert_i32x4_s(s31), f32x4.mul(scale, w1), y31);
  }
  finish(y00, y01, bias, residual, 0, output, outDim);
  finish(y10, y11, bias, residual, stride, output, outDim);
  finish(y20, y21, bias, residual, 2 * stride, output, outDim);
  finish(y30, y31, bias, residual, 3 * stride, output, outDim);
}

/** Products of two words of weights of 4 outputs with four words of x, added up as far as `dots` has room. */
// @ts-ignore: decorator
@inline
function products(bits: i32, a0: v128, a1: v128, a2: v128, a3: v128, v: v128, u: v128, low: v128): v128 {
  return sum(bits, sum(bits, dots(bits, a0, lower(v, low)), dots(bits, a1, upper(bits, v, low))),
    sum(bits, dots(bits, a2, lower(u, low)), dots(bits, a3, upper(bits, u, low))));
}

/** The first inputs of the words of a weight. */
// @ts-ignore: decorator
@inline
function lower(words: v128, low: v128): v128 {
  return v128.and(words, low);
}

/** The last inputs of the words of a weight. */
// @ts-ignore: decorator
@inline
function upper(bits: i32, words: v128, low: v128): v128 {
  return bits == 8 ? i16x8.shr_u(words, 8) : v128.and(i16x8.shr_u(words, 4), low);
}

/** Sums of two adjacent products of x and weights: of 32 bits, or of 16 if both are bytes. */
// @ts-ignore: decorator
@inline
function dots(bits: i32, a: v128, w: v128): v128 {
  return bits == 8 ? i32x4.dot_i16x8_s(a, w) : dotBytes(a, w);
}

// @ts-ignore: decorator
@inline
function sum(bits: i32, a: v128, b: v128): v128 {
  return bits == 8 ? i32x4.add(a, b) : i16x8.add(a, b);
}

/** Adds sums over 32 bytes of x to the accumulators of the group: 16 bits have room for these products, ≤ 15 · 127 each. */
// @ts-ignore: decorator
@inline
function widen(bits: i32, s: v128, h: v128): v128 {
  return i32x4.add(s, bits == 8 ? h : i32x4.extadd_pairwise_i16x8_s(h));
}

/** Scales of outputs 0 to 3. */
// @ts-ignore: decorator
@inline
function scales0(scales: v128): v128 {
  return i32x4.shl(scales, 16);
}

/** Scales of outputs 4 to 7. */
// @ts-ignore: decorator
@inline
function scales1(scales: v128): v128 {
  return i32x4.shl(i32x4.shr_u(scales, 16), 16);
}

/** Sums of two adjacent products of signed bytes a and bytes b from 0 to 127: no sum leaves 16 bits. */
// @ts-ignore: decorator
@inline
function dotBytes(a: v128, b: v128): v128 {
  if (ASC_FEATURE_RELAXED_SIMD) return i16x8.relaxed_dot_i8x16_i7x16_s(a, b);
  const even = i16x8.mul(i16x8.shr_s(i16x8.shl(a, 8), 8), v128.and(b, i16x8.splat(255)));
  return i16x8.add(even, i16x8.mul(i16x8.shr_s(a, 8), i16x8.shr_u(b, 8)));
}

/** Writes 8 outputs of the row that is `offset` bytes further. */
// @ts-ignore: decorator
@inline
function finish(y0: v128, y1: v128, bias: usize, residual: usize, offset: usize, output: usize, outDim: i32): void {
  if (bias != 0) {
    y0 = f32x4.add(y0, loadLanes(bias, outDim));
    y1 = f32x4.add(y1, loadLanes(bias + 16, outDim - 4));
  }
  if (residual != 0) {
    y0 = f32x4.add(y0, loadLanes(residual + offset, outDim));
    y1 = f32x4.add(y1, loadLanes(residual + offset + 16, outDim - 4));
  }
  storeLanes(output + offset, y0, outDim);
  storeLanes(output + offset + 16, y1, outDim - 4);
}
