// Linear and its gradients, x [rows, in], W [out, in], y [rows, out]:
//
//   y = x Wᵀ + bias + residual     dx = dy W + residual     dW += dyᵀ x
//
// All three are one blocked product C += A B (GotoBLAS): panels of B meet blocks of Aᵀ, so that the register tile of
// parts/tile.ts does the work. They differ in which operands are transposed while they are packed. Few rows (decode) are
// computed differently: W streams through once, and every element is used for all rows.
//
// A W of bfloat16 is widened on the way: in registers for few rows, while it is packed for many. What is added up is the same, in the same order, as with the same W in f32.
//
// Inside, products pass up to ten pointers and sizes on. They are loop counters and addresses, which belong in registers.
import { FEW_ROWS, TILE_COLUMNS, TILE_ROWS } from "../core/sizes";
import { horizontalSum, loadFour, loadLanes, loadOne, madd, storeLanes, widenHigh, widenLow } from "./parts/simd";
import { packPanels, packTransposed, packTransposedPanels, PANEL_ROW, roundUp, tile } from "./parts/tile";

/** Terms of each sum per block: a panel of 8 columns of B then takes 8 KiB and stays in L1. */
// @ts-ignore: decorator
@inline
const INNER = 256;
/** Rows of A per block: 20 KiB with INNER, in L1 together with a panel. */
// @ts-ignore: decorator
@inline
const ROWS = 20;
/** Columns of B per block: 512 KiB with INNER, in L2. */
// @ts-ignore: decorator
@inline
const COLUMNS = 512;
/** Rows of W per block of `fewRows`: 128 KiB with an inDim of 1024, in L2. */
// @ts-ignore: decorator
@inline
const FEW_ROWS_OUT_DIM = 32;

/** Bytes of scratch that a product of `[rows, inner]` and `[inner, columns]` needs. */
export function matmulScratch(rows: i32, inner: i32, columns: i32): i32 {
  return 4 * (min(inner, INNER) * (ROWS + min(roundUp(columns, TILE_COLUMNS), COLUMNS)) + ROWS * TILE_COLUMNS);
}

/** Bytes of scratch that `linear` needs. */
export function linearScratch(rows: i32, inDim: i32, outDim: i32): i32 {
  return rows <= FEW_ROWS ? 0 : matmulScratch(rows, inDim, outDim);
}

/**
 * `output = x Wᵀ + bias + residual`, rows of output and residual `stride` bytes apart; bias and residual are 0 for none. A
 * part of a call is computed as all of it would be: `few` says whether that has few rows. W has `weightBytes` per element: 4 for f32, 2 for
 * bfloat16.
 */
export function linear(
  x: usize, weight: usize, bias: usize, residual: usize, output: usize,
  rows: i32, inDim: i32, outDim: i32, stride: usize, few: bool, weightBytes: i32, scratch: usize,
): void {
  if (few) {
    if (weightBytes == 2) fewRows<u16>(x, weight, bias, residual, output, rows, inDim, outDim, stride);
    else fewRows<f32>(x, weight, bias, residual, output, rows, inDim, outDim, stride);
  } else {
    const weightRow = <usize> (inDim * weightBytes);
    addends(bias, residual, output, rows, outDim, stride);
    matmul(x, <usize> inDim << 2, true, weight, weightRow, true, weightBytes, output, stride, rows, inDim, outDim, scratch);
  }
}

/** `dx = dy W + residual`. */
export function linearInput(
  dy: usize, weight: usize, residual: usize, dx: usize, rows: i32, outDim: i32, inDim: i32, scratch: usize,
): void {
  addends(0, residual, dx, rows, inDim, <usize> inDim << 2);
  matmul(dy, <usize> outDim << 2, true, weight, <usize> inDim << 2, false, 4, dx, <usize> inDim << 2, rows, outDim, inDim, scratch);
}

/** `dW += dyᵀ x` for `outDim` rows of W; rows of dy are `stride` bytes apart. */
export function linearWeight(
  dy: usize, x: usize, dWeight: usize, rows: i32, outDim: i32, inDim: i32, stride: usize, scratch: usize,
): void {
  matmul(dy, stride, false, x, <usize> inDim << 2, false, 4, dWeight, <usize> inDim << 2, outDim, rows, inDim, scratch);
}

/**
 * `C += A B`, C `[rows, columns]`. A comes as `[rows, inner]` (`aByRow`) or as its transpose, B as its transpose
 * `[columns, inner]` (`bByColumn`) or as `[inner, columns]`. Strides are bytes between the rows as they lie in memory. A B
 * that comes by column may be of bfloat16: its elements have `bBytes`, 4 or 2.
 */
function matmul(
  a: usize, aStride: usize, aByRow: bool, b: usize, bStride: usize, bByColumn: bool, bBytes: i32, c: usize,
  cStride: usize, rows: i32, inner: i32, columns: i32, scratch: usize,
): void {
  const blockInner = min(inner, INNER);
  const aT = scratch; // [terms of block][ROWS]
  const edge = aT + <usize> (blockInner * ROWS) * 4; // a tile that is larger than what is left of C
  const panels = edge + ROWS * PANEL_ROW; // [columns of block / 8][terms of block][8]

  for (let j0 = 0; j0 < columns; j0 += COLUMNS) {
    const columnCount = min(COLUMNS, columns - j0);
    for (let k0 = 0; k0 < inner; k0 += INNER) {
      const k = min(INNER, inner - k0);
      if (bByColumn) {
        const from = b + <usize> j0 * bStride + <usize> (k0 * bBytes);
        if (bBytes == 2) packTransposedPanels<u16>(from, bStride, columnCount, k, panels, 1);
        else packTransposedPanels<f32>(from, bStride, columnCount, k, panels, 1);
      } else packPanels(b + <usize> k0 * bStride + (<usize> j0 << 2), bStride, k, columnCount, panels, k, 1);
      for (let i0 = 0; i0 < rows; i0 += ROWS) {
        const rowCount = min(ROWS, rows - i0);
        if (aByRow) {
          packTransposed<f32>(a + <usize> i0 * aStride + (<usize> k0 << 2), aStride, rowCount, k, aT, ROWS * 4,
            ROWS, 0, 1);
        } else {
          packRows(a + <usize> k0 * aStride + (<usize> i0 << 2), aStride, k, rowCount, aT);
        }
        for (let j = 0; j < columnCount; j += TILE_COLUMNS) {
          const panel = panels + <usize> (j * k) * 4;
          const corner = c + <usize> i0 * cStride + (<usize> (j0 + j) << 2);
          const width = min(TILE_COLUMNS, columnCount - j);
          for (let i = 0; i < rowCount; i += TILE_ROWS) {
            const to = corner + <usize> i * cStride;
            if (width == TILE_COLUMNS && i + TILE_ROWS <= rowCount) {
              tile(aT + (<usize> i << 2), ROWS * 4, panel, PANEL_ROW, k, to, cStride, 1, 0, 0);
            } else {
              tile(aT + (<usize> i << 2), ROWS * 4, panel, PANEL_ROW, k, edge, PANEL_ROW, 0, 0, 0);
              addEdge(edge, to, cStride, min(TILE_ROWS, rowCount - i), width);
            }
          }
        }
      }
    }
  }
}

/** `target[k][r] = source[k][r]` for r < rows, the rest of the ROWS zero. */
function packRows(source: usize, stride: usize, inner: i32, rows: i32, target: usize): void {
  for (let k = 0; k < inner; k++) {
    for (let r = 0; r < ROWS; r += 4) {
      v128.store(target + (<usize> r << 2), loadLanes(source + (<usize> r << 2), rows - r));
    }
    source += stride;
    target += ROWS * 4;
  }
}

/** `output = bias + residual`, to which the products are added. */
function addends(bias: usize, residual: usize, output: usize, rows: i32, outDim: i32, stride: usize): void {
  for (let r = 0; r < rows; r++) {
    for (let o = 0; o < outDim; o += 4) {
      const at = <usize> o << 2, count = outDim - o;
      let sum = bias != 0 ? loadLanes(bias + at, count) : f32x4.splat(0);
      if (residual != 0) sum = f32x4.add(sum, loadLanes(residual + at, count));
      storeLanes(output + at, sum, count);
    }
    output += stride;
    if (residual != 0) residual += stride;
  }
}

function addEdge(edge: usize, output: usize, outRow: usize, rows: i32, columns: i32): void {
  for (let r = 0; r < rows; r++) {
    for (let c = 0; c < columns; c += 4) {
      const at = <usize> c << 2, count = columns - c;
      storeLanes(output + at, f32x4.add(loadLanes(output + at, count), v128.load(edge + at)), count);
    }
    edge += PANEL_ROW;
    output += outRow;
  }
}

/**
 * `output = x Wᵀ + bias + residual` without packing. Blocks of W's rows stay in cache while all rows of x meet them, in
 * tiles of 6 rows and 2 outputs: 12 accumulators, 2 vectors of W and one of x fill 15 of 16 registers. Whichever tile
 * computes an output, it is one vector of accumulators over inDim in order, then its four lanes, then the rest of inDim.
 * So a row's bits do not depend on the other rows. T is how W is stored: f32, or u16 for bfloat16.
 */
function fewRows<T>(
  x: usize, weight: usize, bias: usize, residual: usize, output: usize, rows: i32, inDim: i32, outDim: i32,
  stride: usize,
): void {
  const inRow = <usize> inDim << 2, weightRow = <usize> inDim * sizeof<T>();
  const step = rows == 1 ? outDim : FEW_ROWS_OUT_DIM;
  for (let start = 0; start < outDim; start += step) {
    const end = min(outDim, start + step);
    let r = 0;
    for (; r + 6 <= rows; r += 6) {
      const xr = x + <usize> r * inRow, to = output + <usize> r * stride;
      let o = start;
      for (; o + 2 <= end; o += 2) {
        dots6<T>(xr, weight + <usize> o * weightRow, to + (<usize> o << 2), inDim, stride);
      }
      for (let i: usize = 0; o < end && i < 6; i++) {
        dot<T>(xr + i * inRow, weight + <usize> o * weightRow, to + i * stride + (<usize> o << 2), inDim);
      }
    }
    for (; r < rows; r++) {
      const xr = x + <usize> r * inRow, to = output + <usize> r * stride, apart = (end - start) >> 3;
      let o = start;
      for (; o < start + apart; o++) {
        dots8<T>(xr, weight + <usize> o * weightRow, to + (<usize> o << 2), inDim, apart);
      }
      for (o += 7 * apart; o < end; o++) dot<T>(xr, weight + <usize> o * weightRow, to + (<usize> o << 2), inDim);
    }
    addRest<T>(x, weight, bias, residual, output, rows, inDim, start, end, stride);
  }
}

/** Six rows of x with two rows of W, as far as vectors of inDim go. */
function dots6<T>(x: usize, w: usize, output: usize, inDim: i32, stride: usize): void {
  const row = <usize> inDim << 2;
  const x1 = x + row, x2 = x1 + row, x3 = x2 + row, x4 = x3 + row, x5 = x4 + row;
  const w1 = w + <usize> inDim * sizeof<T>();
  let s00 = f32x4.splat(0), s01 = s00, s10 = s00, s11 = s00, s20 = s00, s21 = s00;
  let s30 = s00, s31 = s00, s40 = s00, s41 = s00, s50 = s00, s51 = s00;
  const end = inDim & ~3;
  if (end > 0) {
    let i = 0;
    do {
      const at = <usize> i << 2, from = <usize> i * sizeof<T>();
      const b0 = loadFour<T>(w + from), b1 = loadFour<T>(w1 + from);
      let a = v128.load(x + at);
      s00 = madd(a, b0, s00);
      s01 = madd(a, b1, s01);
      a = v128.load(x1 + at);
      s10 = madd(a, b0, s10);
      s11 = madd(a, b1, s11);
      a = v128.load(x2 + at);
      s20 = madd(a, b0, s20);
      s21 = madd(a, b1, s21);
      a = v128.load(x3 + at);
      s30 = madd(a, b0, s30);
      s31 = madd(a, b1, s31);
      a = v128.load(x4 + at);
      s40 = madd(a, b0, s40);
      s41 = madd(a, b1, s41);
      a = v128.load(x5 + at);
      s50 = madd(a, b0, s50);
      s51 = madd(a, b1, s51);
      i += 4;
    } while (i < end); // as in parts/tile.ts: a loop that tests first takes 1.4 times as long over shared memory with bfloat16
  }
  storePair(output, s00, s01);
  storePair(output + stride, s10, s11);
  storePair(output + 2 * stride, s20, s21);
  storePair(output + 3 * stride, s30, s31);
  storePair(output + 4 * stride, s40, s41);
  storePair(output + 5 * stride, s50, s51);
}

/** The sums of two accumulators, one after the other. */
// @ts-ignore: decorator
@inline
function storePair(output: usize, a: v128, b: v128): void {
  store<f32>(output, horizontalSum(a));
  store<f32>(output, horizontalSum(b), 4);
}

/**
 * One row of x with eight rows of W, `apart` from one another. Eight accumulators hide the latency of the multiply-add,
 * and eight long streams are what the prefetcher serves best.
 */
function dots8<T>(x: usize, w: usize, output: usize, inDim: i32, apart: i32): void {
  const step = <usize> apart << 2, gap = <usize> (apart * inDim) * sizeof<T>();
  const w1 = w + gap, w2 = w1 + gap, w3 = w2 + gap, w4 = w3 + gap, w5 = w4 + gap, w6 = w5 + gap, w7 = w6 + gap;
  let s0 = f32x4.splat(0), s1 = s0, s2 = s0, s3 = s0, s4 = s0, s5 = s0, s6 = s0, s7 = s0;
  let i = 0;
  for (const end = inDim & ~7; i < end; i += 8) {
    const to = x + (<usize> i << 2), at = <usize> i * sizeof<T>();
    const a = v128.load(to), b = v128.load(to, 16);
    s0 = madd8<T>(a, b, w + at, s0);
    s1 = madd8<T>(a, b, w1 + at, s1);
    s2 = madd8<T>(a, b, w2 + at, s2);
    s3 = madd8<T>(a, b, w3 + at, s3);
    s4 = madd8<T>(a, b, w4 + at, s4);
    s5 = madd8<T>(a, b, w5 + at, s5);
    s6 = madd8<T>(a, b, w6 + at, s6);
    s7 = madd8<T>(a, b, w7 + at, s7);
  }
  if ((inDim & 4) != 0) {
    const a = v128.load(x + (<usize> i << 2)), at = <usize> i * sizeof<T>();
    s0 = madd(a, loadFour<T>(w + at), s0);
    s1 = madd(a, loadFour<T>(w1 + at), s1);
    s2 = madd(a, loadFour<T>(w2 + at), s2);
    s3 = madd(a, loadFour<T>(w3 + at), s3);
    s4 = madd(a, loadFour<T>(w4 + at), s4);
    s5 = madd(a, loadFour<T>(w5 + at), s5);
    s6 = madd(a, loadFour<T>(w6 + at), s6);
    s7 = madd(a, loadFour<T>(w7 + at), s7);
  }
  store<f32>(output, horizontalSum(s0));
  store<f32>(output + step, horizontalSum(s1));
  store<f32>(output + 2 * step, horizontalSum(s2));
  store<f32>(output + 3 * step, horizontalSum(s3));
  store<f32>(output + 4 * step, horizontalSum(s4));
  store<f32>(output + 5 * step, horizontalSum(s5));
  store<f32>(output + 6 * step, horizontalSum(s6));
  store<f32>(output + 7 * step, horizontalSum(s7));
}

/** s plus a times four elements of W, then b times the next four. */
// @ts-ignore: decorator
@inline
function madd8<T>(a: v128, b: v128, w: usize, s: v128): v128 {
  if (sizeof<T>() == 2) {
    const words = v128.load(w);
    return madd(b, widenHigh(words), madd(a, widenLow(words), s));
  }
  return madd(b, v128.load(w, 16), madd(a, v128.load(w), s));
}

/** One row of x with one row of W. */
function dot<T>(x: usize, w: usize, output: usize, inDim: i32): void {
  let accumulator = f32x4.splat(0);
  for (let i = 0, end = inDim & ~3; i < end; i += 4) {
    accumulator = madd(v128.load(x + (<usize> i << 2)), loadFour<T>(w + <usize> i * sizeof<T>()), accumulator);
  }
  store<f32>(output, horizontalSum(accumulator));
}

/** Adds to outputs start to end of all rows what no vector of inDim holds, then bias and residual. */
function addRest<T>(
  x: usize, weight: usize, bias: usize, residual: usize, output: usize,
  rows: i32, inDim: i32, start: i32, end: i32, stride: usize,
): void {
  if ((<usize> (inDim & 3) | bias | residual) == 0) return;
  for (let r = 0; r < rows; r++) {
    for (let o = start; o < end; o++) {
      const at = <usize> r * stride + (<usize> o << 2);
      const xr = x + (<usize> (r * inDim) << 2), w = weight + <usize> (o * inDim) * sizeof<T>();
      let sum = load<f32>(output + at);
      for (let i = inDim & ~3; i < inDim; i++) {
        sum += load<f32>(xr + (<usize> i << 2)) * loadOne<T>(w + <usize> i * sizeof<T>());
      }
      if (bias != 0) sum += load<f32>(bias + (<usize> o << 2));
      if (residual != 0) sum += load<f32>(residual + at);
      store<f32>(output + at, sum);
    }
  }
}
