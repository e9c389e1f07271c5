// Linear: y = x Wᵀ + bias + residual, x [rows, in], W [out, in], y [rows, out].
//
// Many rows: blocks of W are transposed into panels once and met by blocks of x, so that the register tile of tile.ts
// does all the work. Few rows (decode): W streams through once, every element used for all rows.
import { TILE_COLUMNS, TILE_ROWS } from "../core/tile";
import { horizontalSum, loadLanes, madd, storeLanes } from "./simd";
import { packTransposed, PANEL_ROW, roundUp, tile } from "./tile";

/** Depth of a block: a B panel of 8 columns then is 8 KiB and stays in L1. */
// @ts-ignore: decorator
@inline
const DEPTH = 256;
/** Rows of x per block: with DEPTH 48 KiB, in L2. */
// @ts-ignore: decorator
@inline
const ROWS = 48;
/** Outputs per block: with DEPTH 512 KiB of packed W, in L2. */
// @ts-ignore: decorator
@inline
const OUTS = 512;
/** Below this many rows, packing W costs more than it gives. */
// @ts-ignore: decorator
@inline
const FEW_ROWS = 6;

/** Bytes of scratch that `linear` needs. */
export function linearScratch(rows: i32, depth: i32, outs: i32): i32 {
  if (rows < FEW_ROWS) return 0;
  return 4 * (min(depth, DEPTH) * (ROWS + min(roundUp(outs, TILE_COLUMNS), OUTS)) + ROWS * TILE_COLUMNS);
}

/** `bias` and `residual` are 0 where there is none. */
export function linear(
  x: usize, weight: usize, bias: usize, residual: usize, y: usize,
  rows: i32, depth: i32, outs: i32, scratch: usize,
): void {
  if (rows < FEW_ROWS) fewRows(x, weight, bias, residual, y, rows, depth, outs);
  else manyRows(x, weight, bias, residual, y, rows, depth, outs, scratch);
}

function manyRows(
  x: usize, weight: usize, bias: usize, residual: usize, y: usize,
  rows: i32, depth: i32, outs: i32, scratch: usize,
): void {
  const inRow = <usize> depth << 2, outRow = <usize> outs << 2;
  const blockDepth = min(depth, DEPTH);
  const xT = scratch; // [depth of block][ROWS]
  const edge = xT + <usize> (blockDepth * ROWS) * 4; // [ROWS][8], for tiles that do not fit into y
  const panels = edge + ROWS * PANEL_ROW; // [outs of block / 8][depth of block][8]
  addends(bias, residual, y, rows, outs);

  for (let o0 = 0; o0 < outs; o0 += OUTS) {
    const outCount = min(OUTS, outs - o0);
    for (let k0 = 0; k0 < depth; k0 += DEPTH) {
      const k = min(DEPTH, depth - k0);
      for (let o = 0; o < outCount; o += TILE_COLUMNS) {
        packTransposed(weight + <usize> (o0 + o) * inRow + (<usize> k0 << 2), inRow, min(TILE_COLUMNS, outCount - o), k,
          panels + <usize> (o * k) * 4, PANEL_ROW, TILE_COLUMNS, 0);
      }
      for (let r0 = 0; r0 < rows; r0 += ROWS) {
        const rowCount = min(ROWS, rows - r0);
        packTransposed(x + <usize> r0 * inRow + (<usize> k0 << 2), inRow, rowCount, k, xT, ROWS * 4,
          roundUp(rowCount, 12), 0);
        for (let o = 0; o < outCount; o += TILE_COLUMNS) {
          const panel = panels + <usize> (o * k) * 4;
          const out = y + <usize> r0 * outRow + (<usize> (o0 + o) << 2);
          const columns = min(TILE_COLUMNS, outCount - o);
          for (let r = 0; r < rowCount; r += TILE_ROWS) {
            const to = out + <usize> r * outRow;
            if (columns == TILE_COLUMNS && r + TILE_ROWS <= rowCount) {
              tile(xT + (<usize> r << 2), ROWS * 4, panel, k, to, outRow, 1, 0);
            } else {
              tile(xT + (<usize> r << 2), ROWS * 4, panel, k, edge, PANEL_ROW, 0, 0);
              addEdge(edge, to, outRow, min(TILE_ROWS, rowCount - r), columns);
            }
          }
        }
      }
    }
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
