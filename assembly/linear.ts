// Linear and its gradients, x [rows, in], W [out, in], y [rows, out]:
//
//   y = x Wᵀ + bias + residual     dx = dy W + residual     dW += dyᵀ x
//
// All three are one blocked product C += A B (GotoBLAS): blocks of B in panels, met by blocks of Aᵀ, so that the
// register tile of tile.ts does the work. They differ in which operands must be transposed on the way into their
// blocks. Few rows (decode) go another way: W streams through once, every element used for all rows.
import { TILE_COLUMNS, TILE_ROWS } from "../core/tile";
import { horizontalSum, loadLanes, madd, storeLanes } from "./simd";
import { packPanels, packTransposed, packTransposedPanels, PANEL_ROW, roundUp, tile } from "./tile";

/** Depth of a block: a B panel of 8 columns then is 8 KiB and stays in L1. */
// @ts-ignore: decorator
@inline
const DEPTH = 256;
/** Rows of A per block: with DEPTH 48 KiB, in L2. */
// @ts-ignore: decorator
@inline
const ROWS = 48;
/** Columns of B per block: with DEPTH 512 KiB, in L2. */
// @ts-ignore: decorator
@inline
const COLUMNS = 512;
/** Below this many rows, packing W costs more than it gives. */
// @ts-ignore: decorator
@inline
const FEW_ROWS = 6;

/** Bytes of scratch that a product of `[rows, depth]` and `[depth, columns]` needs. */
export function matmulScratch(rows: i32, depth: i32, columns: i32): i32 {
  return 4 * (min(depth, DEPTH) * (ROWS + min(roundUp(columns, TILE_COLUMNS), COLUMNS)) + ROWS * TILE_COLUMNS);
}

/** Bytes of scratch that `linear` needs. */
export function linearScratch(rows: i32, depth: i32, outs: i32): i32 {
  return rows < FEW_ROWS ? 0 : matmulScratch(rows, depth, outs);
}

/** `y = x Wᵀ + bias + residual`; bias and residual are 0 where there is none. */
export function linear(
  x: usize, weight: usize, bias: usize, residual: usize, y: usize,
  rows: i32, depth: i32, outs: i32, scratch: usize,
): void {
  if (rows < FEW_ROWS) {
    fewRows(x, weight, bias, residual, y, rows, depth, outs);
  } else {
    addends(bias, residual, y, rows, outs);
    matmul(x, <usize> depth << 2, true, weight, <usize> depth << 2, true, y, rows, depth, outs, scratch);
  }
}

/** `dx = dy W + residual`. */
export function linearInput(
  dy: usize, weight: usize, residual: usize, dx: usize, rows: i32, outs: i32, depth: i32, scratch: usize,
): void {
  addends(0, residual, dx, rows, depth);
  matmul(dy, <usize> outs << 2, true, weight, <usize> depth << 2, false, dx, rows, outs, depth, scratch);
}

/** `dW += dyᵀ x`. */
export function linearWeight(
  dy: usize, x: usize, dWeight: usize, rows: i32, outs: i32, depth: i32, scratch: usize,
): void {
  matmul(dy, <usize> outs << 2, false, x, <usize> depth << 2, false, dWeight, outs, rows, depth, scratch);
}

/**
 * `C += A B`, C `[rows, columns]` dense. A comes as `[rows, depth]` (`aByRow`) or as its transpose, B as its transpose
 * `[columns, depth]` (`bByColumn`) or as `[depth, columns]`; strides in bytes between the rows that lie in memory.
 */
function matmul(
  a: usize, aStride: usize, aByRow: bool, b: usize, bStride: usize, bByColumn: bool, c: usize,
  rows: i32, depth: i32, columns: i32, scratch: usize,
): void {
  const cStride = <usize> columns << 2;
  const blockDepth = min(depth, DEPTH);
  const aT = scratch; // [depth of block][ROWS]
  const edge = aT + <usize> (blockDepth * ROWS) * 4; // a tile that does not fit into C
  const panels = edge + ROWS * PANEL_ROW; // [columns of block / 8][depth of block][8]

  for (let j0 = 0; j0 < columns; j0 += COLUMNS) {
    const columnCount = min(COLUMNS, columns - j0);
    for (let k0 = 0; k0 < depth; k0 += DEPTH) {
      const k = min(DEPTH, depth - k0);
      if (bByColumn) packTransposedPanels(b + <usize> j0 * bStride + (<usize> k0 << 2), bStride, columnCount, k, panels, 1);
      else packPanels(b + <usize> k0 * bStride + (<usize> j0 << 2), bStride, k, columnCount, panels, k, 1);
      for (let i0 = 0; i0 < rows; i0 += ROWS) {
        const rowCount = min(ROWS, rows - i0);
        if (aByRow) {
          packTransposed(a + <usize> i0 * aStride + (<usize> k0 << 2), aStride, rowCount, k, aT, ROWS * 4,
            roundUp(rowCount, 12), 0, 1);
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
              tile(aT + (<usize> i << 2), ROWS * 4, panel, k, to, cStride, 1, 0);
            } else {
              tile(aT + (<usize> i << 2), ROWS * 4, panel, k, edge, PANEL_ROW, 0, 0);
              addEdge(edge, to, cStride, min(TILE_ROWS, rowCount - i), width);
            }
          }
        }
      }
    }
  }
}

/** `target[k][r] = source[k][r]` for r < rows, the rest of the ROWS zero. */
function packRows(source: usize, stride: usize, depth: i32, rows: i32, target: usize): void {
  for (let k = 0; k < depth; k++) {
    for (let r = 0; r < ROWS; r += 4) {
      v128.store(target + (<usize> r << 2), loadLanes(source + (<usize> r << 2), rows - r));
    }
    source += stride;
    target += ROWS * 4;
  }
}

/** `y = bias + residual`, what the products are added to. */
function addends(bias: usize, residual: usize, y: usize, rows: i32, outs: i32): void {
  const outRow = <usize> outs << 2;
  for (let r = 0; r < rows; r++) {
    for (let o = 0; o < outs; o += 4) {
      const at = <usize> o << 2, count = outs - o;
      let sum = bias != 0 ? loadLanes(bias + at, count) : f32x4.splat(0);
      if (residual != 0) sum = f32x4.add(sum, loadLanes(residual + at, count));
      storeLanes(y + at, sum, count);
    }
    y += outRow;
    if (residual != 0) residual += outRow;
  }
}

function addEdge(edge: usize, y: usize, outRow: usize, rows: i32, columns: i32): void {
  for (let r = 0; r < rows; r++) {
    for (let c = 0; c < columns; c += 4) {
      const at = <usize> c << 2, count = columns - c;
      storeLanes(y + at, f32x4.add(loadLanes(y + at, count), v128.load(edge + at)), count);
    }
    edge += PANEL_ROW;
    y += outRow;
  }
}

function fewRows(
  x: usize, weight: usize, bias: usize, residual: usize, y: usize, rows: i32, depth: i32, outs: i32,
): void {
  const inRow = <usize> depth << 2;
  let o = 0;
  for (; o + 4 <= outs; o += 4) {
    const w0 = weight + <usize> o * inRow, w1 = w0 + inRow, w2 = w1 + inRow, w3 = w2 + inRow;
    for (let r = 0; r < rows; r++) {
      const xr = x + <usize> r * inRow;
      let s0 = f32x4.splat(0), s1 = s0, s2 = s0, s3 = s0, t0 = s0, t1 = s0, t2 = s0, t3 = s0;
      let i = 0;
      for (; i + 8 <= depth; i += 8) {
        const at = <usize> i << 2;
        const a = v128.load(xr + at), b = v128.load(xr + at, 16);
        s0 = madd(a, v128.load(w0 + at), s0);
        t0 = madd(b, v128.load(w0 + at, 16), t0);
        s1 = madd(a, v128.load(w1 + at), s1);
        t1 = madd(b, v128.load(w1 + at, 16), t1);
        s2 = madd(a, v128.load(w2 + at), s2);
        t2 = madd(b, v128.load(w2 + at, 16), t2);
        s3 = madd(a, v128.load(w3 + at), s3);
        t3 = madd(b, v128.load(w3 + at, 16), t3);
      }
      for (; i < depth; i += 4) {
        const at = <usize> i << 2, count = depth - i;
        const a = loadLanes(xr + at, count);
        s0 = madd(a, loadLanes(w0 + at, count), s0);
        s1 = madd(a, loadLanes(w1 + at, count), s1);
        s2 = madd(a, loadLanes(w2 + at, count), s2);
        s3 = madd(a, loadLanes(w3 + at, count), s3);
      }
      let sum = f32x4.splat(horizontalSum(f32x4.add(s0, t0)));
      sum = f32x4.replace_lane(sum, 1, horizontalSum(f32x4.add(s1, t1)));
      sum = f32x4.replace_lane(sum, 2, horizontalSum(f32x4.add(s2, t2)));
      sum = f32x4.replace_lane(sum, 3, horizontalSum(f32x4.add(s3, t3)));
      finish(sum, bias, residual, y, r, o, outs, 4);
    }
  }
  for (; o < outs; o++) {
    const w = weight + <usize> o * inRow;
    for (let r = 0; r < rows; r++) {
      const xr = x + <usize> r * inRow;
      let s = f32x4.splat(0);
      for (let i = 0; i < depth; i += 4) {
        const at = <usize> i << 2, count = depth - i;
        s = madd(loadLanes(xr + at, count), loadLanes(w + at, count), s);
      }
      finish(f32x4.splat(horizontalSum(s)), bias, residual, y, r, o, outs, 1);
    }
  }
}

// @ts-ignore: decorator
@inline
function finish(sum: v128, bias: usize, residual: usize, y: usize, r: i32, o: i32, outs: i32, count: i32): void {
  const at = <usize> (r * outs + o) << 2;
  if (bias != 0) sum = f32x4.add(sum, loadLanes(bias + (<usize> o << 2), count));
  if (residual != 0) sum = f32x4.add(sum, loadLanes(residual + at, count));
  storeLanes(y + at, sum, count);
}
