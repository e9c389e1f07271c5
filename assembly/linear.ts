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
 * `output = x Wᵀ + bias + residual`; bias and residual are 0 for none. W has `weightBytes` per element: 4 for f32, 2 for
 * bfloat16.
 */
export function linear(
  x: usize, weight: usize, bias: usize, residual: usize, output: usize,
  rows: i32, inDim: i32, outDim: i32, weightBytes: i32, scratch: usize,
): void {
  if (rows <= FEW_ROWS) {
    if (weightBytes == 2) fewRows<u16>(x, weight, bias, residual, output, rows, inDim, outDim);
    else fewRows<f32>(x, weight, bias, residual, output, rows, inDim, outDim);
  } else {
    const weightRow = <usize> (inDim * weightBytes);
    addends(bias, residual, output, rows, outDim);
    matmul(x, <usize> inDim << 2, true, weight, weightRow, true, weightBytes, output, rows, inDim, outDim, scratch);
  }
}

/** `dx = dy W + residual`. */
export function linearInput(
  dy: usize, weight: usize, residual: usize, dx: usize, rows: i32, outDim: i32, inDim: i32, scratch: usize,
): void {
  addends(0, residual, dx, rows, inDim);
  matmul(dy, <usize> outDim << 2, true, weight, <usize> inDim << 2, false, 4, dx, rows, outDim, inDim, scratch);
}

/** `dW += dyᵀ x` for `outDim` rows of W; rows of dy are `stride` bytes apart. */
export function linearWeight(
  dy: usize, x: usize, dWeight: usize, rows: i32, outDim: i32, inDim: i32, stride: usize, scratch: usize,
): void {
  matmul(dy, stride, false, x, <usize> inDim << 2, false, 4, dWeight, outDim, rows, inDim, scratch);
}

/**
 * `C += A B`, C `[rows, columns]` dense. A comes as `[rows, inner]` (`aByRow`) or as its transpose, B as its transpose
 * `[columns, inner]` (`bByColumn`) or as `[inner, columns]`. Strides are bytes between the rows as they lie in memory. A B
 * that comes by column may be of bfloat16: its elements have `bBytes`, 4 or 2.
 */
function matmul(
  a: usize, aStride: usize, aByRow: bool, b: usize, bStride: usize, bByColumn: bool, bBytes: i32, c: usize,
  rows: i32, inner: i32, columns: i32, scratch: usize,
): void {
  const cStride = <usize> columns << 2;
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
function addends(bias: usize, residual: usize, output: usize, rows: i32, outDim: i32): void {
  const outRow = <usize> outDim << 2;
  for (let r = 0; r < rows; r++) {
    for (let o = 0; o < outDim; o += 4) {
      const at = <usize> o << 2, count = outDim - o;
      let sum = bias != 0 ? loadLanes(bias + at, count) : f32x4.splat(0);
      if (residual != 0) sum = f32x4.add(sum, loadLanes(residual + at, count));
      storeLanes(output + at, sum, count);
    }
    output += outRow;
    if (residual != 0) residual += outRow;
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
): void {
  const inRow = <usize> inDim << 2, weightRow = <usize> inDim * sizeof<T>();
  const step = rows == 1 ? outDim : FEW_ROWS_OUT_DIM;
  for (let start = 0; start < outDim; start += step) {
    const end = min(outDim, start + step);
    let r = 0;
    for (; r + 6 <= rows; r += 6) {
      let o = start;
      for (; o + 2 <= end; o += 2) {
        dots6<T>(x + <usize> r * inRow, weight + <usize> o * weightRow, bias, residual, output, inDim, r, o, outDim);
      }
      for (let left = r; o < end && left < r + 6; left++) {
        dot<T>(x + <usize> left * inRow, weight + <usize> o * weightRow, bias, residual, output, inDim, left, o, outDim);
      }
    }
    for (; r < rows; r++) {
      const xr = x + <usize> r * inRow, apart = (end - start) >> 3;
      let o = start;
      for (; o < start + apart; o++) {
        dots8<T>(xr, weight + <usize> o * weightRow, bias, residual, output, inDim, r, o, apart, outDim);
      }
      for (o += 7 * apart; o < end; o++) {
        dot<T>(xr, weight + <usize> o * weightRow, bias, residual, output, inDim, r, o, outDim);
      }
    }
  }
}

/** Rows r to r + 5 of x with rows o and o + 1 of W. */
function dots6<T>(
  x: usize, w: usize, bias: usize, residual: usize, output: usize, inDim: i32, r: i32, o: i32, outDim: i32,
): void {
  const row = <usize> inDim << 2;
  const x1 = x + row, x2 = x1 + row, x3 = x2 + row, x4 = x3 + row, x5 = x4 + row;
  const w1 = w + <usize> inDim * sizeof<T>();
  let s00 = f32x4.splat(0), s01 = s00, s10 = s00, s11 = s00, s20 = s00, s21 = s00;
  let s30 = s00, s31 = s00, s40 = s00, s41 = s00, s50 = s00, s51 = s00;
  for (let i = 0, end = inDim & ~3; i < end; i += 4) {
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
  }
  finish<T>(s00, x, w, inDim, bias, residual, output, r, o, outDim);
  finish<T>(s01, x, w1, inDim, bias, residual, output, r, o + 1, outDim);
  finish<T>(s10, x1, w, inDim, bias, residual, output, r + 1, o, outDim);
  finish<T>(s11, x1, w1, inDim, bias, residual, output, r + 1, o + 1, outDim);
  finish<T>(s20, x2, w, inDim, bias, residual, output, r + 2, o, outDim);
  finish<T>(s21, x2, w1, inDim, bias, residual, output, r + 2, o + 1, outDim);
  finish<T>(s30, x3, w, inDim, bias, residual, output, r + 3, o, outDim);
  finish<T>(s31, x3, w1, inDim, bias, residual, output, r + 3, o + 1, outDim);
  finish<T>(s40, x4, w, inDim, bias, residual, output, r + 4, o, outDim);
  finish<T>(s41, x4, w1, inDim, bias, residual, output, r + 4, o + 1, outDim);
  finish<T>(s50, x5, w, inDim, bias, residual, output, r + 5, o, outDim);
  finish<T>(s51, x5, w1, inDim, bias, residual, output, r + 5, o + 1, outDim);
}

/**
 * One row of x with eight rows of W, `apart` from one another, from row o. Eight accumulators hide the latency of the
 * multiply-add, and eight long streams are what the prefetcher serves best.
 */
function dots8<T>(
  x: usize, w: usize, bias: usize, residual: usize, output: usize, inDim: i32, r: i32, o: i32, apart: i32, outDim: i32,
): void {
  const gap = <usize> apart * (<usize> inDim * sizeof<T>());
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
  finish<T>(s0, x, w, inDim, bias, residual, output, r, o, outDim);
  finish<T>(s1, x, w1, inDim, bias, residual, output, r, o + apart, outDim);
  finish<T>(s2, x, w2, inDim, bias, residual, output, r, o + 2 * apart, outDim);
  finish<T>(s3, x, w3, inDim, bias, residual, output, r, o + 3 * apart, outDim);
  finish<T>(s4, x, w4, inDim, bias, residual, output, r, o + 4 * apart, outDim);
  finish<T>(s5, x, w5, inDim, bias, residual, output, r, o + 5 * apart, outDim);
  finish<T>(s6, x, w6, inDim, bias, residual, output, r, o + 6 * apart, outDim);
  finish<T>(s7, x, w7, inDim, bias, residual, output, r, o + 7 * apart, outDim);
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

/** One row of x with row o of W. */
function dot<T>(
  x: usize, w: usize, bias: usize, residual: usize, output: usize, inDim: i32, r: i32, o: i32, outDim: i32,
): void {
  let accumulator = f32x4.splat(0);
  for (let i = 0, end = inDim & ~3; i < end; i += 4) {
    accumulator = madd(v128.load(x + (<usize> i << 2)), loadFour<T>(w + <usize> i * sizeof<T>()), accumulator);
  }
  finish<T>(accumulator, x, w, inDim, bias, residual, output, r, o, outDim);
}

// @ts-ignore: decorator
@inline
function finish<T>(
  accumulator: v128, x: usize, w: usize, inDim: i32, bias: usize, residual: usize, output: usize, r: i32, o: i32, outDim: i32,
): void {
  const at = <usize> (r * outDim + o) << 2;
  let sum = horizontalSum(accumulator);
  for (let i = inDim & ~3; i < inDim; i++) {
    sum += load<f32>(x + (<usize> i << 2)) * loadOne<T>(w + <usize> i * sizeof<T>());
  }
  if (bias != 0) sum += load<f32>(bias + (<usize> o << 2));
  if (residual != 0) sum += load<f32>(residual + at);
  store<f32>(output + at, sum);
}
