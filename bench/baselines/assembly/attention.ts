// What lightning attention is measured against, on the same register tile and packing:
//
//   softmaxAttention  conventional causal attention as FlashAttention-2 does it: blocks, online softmax, no n×n matrix
//   leftProduct       linear attention as (Q Kᵀ ⊙ M) V, the method of Lightning Attention-1: the same function as
//                     lightning attention, in O(n²) time
//   softmaxStep       one query over a cache of keys and values, as models of conventional attention generate
//
// The first two walk blocks of queries and, for each, the blocks of keys up to the diagonal. Scratch of one call, in f32
// (d: headDim, e8: valueDim rounded up to 8):
//
//   queryP  [Q/8][d][8]    queries transposed, in panels: B of the scores
//   keyT    [d][K]         keys transposed: A of the scores
//   value   [e8/8][K][8]   values in panels: B of the output
//   scores  [K][Q]         row j is key j, column i is query i: A of the output
//   output  [e8/8][Q][8]   O of the block of queries
//   and for the softmax: maximum [Q], sum [Q], mask [2K + 8]
//
// Keys beyond the last token are zeros that come after every query, so the mask covers them; their values are not read.
import { TILE_COLUMNS, TILE_ROWS } from "../../../core/sizes";
import { madd } from "../../../assembly/parts/simd";
import {
  packPanels,
  packTransposed,
  packTransposedPanels,
  PANEL_ROW,
  roundUp,
  tile,
  unpackPanels,
} from "../../../assembly/parts/tile";
import { KEYS, QUERIES } from "../sizes";

/** Bytes between rows of scores. */
// @ts-ignore: decorator
@inline
const SCORE_ROW: usize = QUERIES * 4;

// @ts-ignore: decorator
@inline
const KEY_ROW: usize = KEYS * 4;

/** The exponential is taken to base 2, so log2(e) goes into the scale of the scores. */
// @ts-ignore: decorator
@inline
const LOG2_E: f32 = 1.4426950408889634;

/** Bytes of scratch that either function needs. */
export function quadraticScratch(headDim: i32, valueDim: i32): i32 {
  const e8 = roundUp(valueDim, TILE_COLUMNS);
  return 4 * (QUERIES * (headDim + e8 + KEYS + 2) + KEYS * (headDim + e8 + 2) + TILE_COLUMNS) + 64;
}

/**
 * `O = (Q Kᵀ ⊙ M) V` over one head, `M[i][j] = scale · λ^(i−j)` for j ≤ i, else 0.
 * q, k `[length, headDim]`, v, o `[length, valueDim]`; `powers`: λ^0 .. λ^(length+7), after K zeros.
 */
export function leftProduct(
  q: usize,
  k: usize,
  v: usize,
  o: usize,
  length: i32,
  headDim: i32,
  valueDim: i32,
  powers: usize,
  scale: f32,
  scratch: usize,
): void {
  const e8 = roundUp(valueDim, TILE_COLUMNS), keyRow = <usize> headDim << 2, valueRow = <usize> valueDim << 2;
  const queryP = scratch;
  const keyT = queryP + <usize> headDim * SCORE_ROW;
  const value = keyT + <usize> headDim * KEY_ROW;
  const scores = value + <usize> e8 * KEY_ROW;
  const output = scores + <usize> KEYS * SCORE_ROW;

  for (let i0 = 0; i0 < length; i0 += QUERIES) {
    const queries = min(QUERIES, length - i0);
    packTransposedPanels<f32>(q + <usize> i0 * keyRow, keyRow, queries, headDim, queryP, scale);
    memory.fill(output, 0, <usize> e8 * SCORE_ROW);
    for (let j0 = 0; j0 < i0 + queries; j0 += KEYS) {
      const keys = min(KEYS, length - j0), ahead = i0 - j0;
      packKeys(k, v, j0, keys, headDim, valueDim, keyT, value);
      for (let i = max(0, -ahead); i < queries; i += TILE_COLUMNS) {
        const count = keysBelow(ahead + i);
        score(queryP, keyT, scores, i, count, headDim);
        decay(scores + (<usize> i << 2), count, powers + KEY_ROW + (<usize> (ahead + i) << 2));
      }
      addValues(scores, value, output, max(0, -ahead), queries, ahead, keys, e8);
    }
    unpackPanels(
      output,
      QUERIES,
      queries,
      valueDim,
      o + <usize> (i0 * valueDim) * 4,
      <usize> valueDim << 2,
      false,
    );
  }
}

/**
 * `O = softmax(scale · Q Kᵀ, over j ≤ i) V` over one head ("FlashAttention-2", algorithm 1).
 * q, k `[length, headDim]`, v, o `[length, valueDim]`.
 */
export function softmaxAttention(
  q: usize,
  k: usize,
  v: usize,
  o: usize,
  length: i32,
  headDim: i32,
  valueDim: i32,
  scale: f32,
  scratch: usize,
): void {
  const e8 = roundUp(valueDim, TILE_COLUMNS), keyRow = <usize> headDim << 2, valueRow = <usize> valueDim << 2;
  const queryP = scratch;
  const keyT = queryP + <usize> headDim * SCORE_ROW;
  const value = keyT + <usize> headDim * KEY_ROW;
  const scores = value + <usize> e8 * KEY_ROW;
  const output = scores + <usize> KEYS * SCORE_ROW;
  const maximum = output + <usize> e8 * SCORE_ROW;
  const sum = maximum + SCORE_ROW;
  const mask = sum + SCORE_ROW;
  fill(mask, KEYS, -Infinity);
  fill(mask + KEY_ROW, KEYS + TILE_COLUMNS, 0);

  for (let i0 = 0; i0 < length; i0 += QUERIES) {
    const queries = min(QUERIES, length - i0);
    packTransposedPanels<f32>(q + <usize> i0 * keyRow, keyRow, queries, headDim, queryP, scale * LOG2_E);
    memory.fill(output, 0, <usize> e8 * SCORE_ROW);
    fill(maximum, QUERIES, -1e30); // finite, so that the difference of two of them is no NaN
    fill(sum, QUERIES, 0);
    for (let j0 = 0; j0 < i0 + queries; j0 += KEYS) {
      const keys = min(KEYS, length - j0), ahead = i0 - j0;
      packKeys(k, v, j0, keys, headDim, valueDim, keyT, value);
      for (let i = max(0, -ahead); i < queries; i += TILE_COLUMNS) {
        const at = <usize> i << 2, count = keysBelow(ahead + i);
        score(queryP, keyT, scores, i, count, headDim);
        if (ahead + i < KEYS) maskFuture(scores + at, count, mask + KEY_ROW + (<usize> (ahead + i) << 2));
        const factor0 = softmax4(scores + at, count, maximum + at, sum + at);
        const factor1 = softmax4(scores + at + 16, count, maximum + at + 16, sum + at + 16);
        rescale(output + <usize> i * PANEL_ROW, factor0, e8);
        rescale(output + <usize> (i + 4) * PANEL_ROW, factor1, e8);
      }
      addValues(scores, value, output, max(0, -ahead), queries, ahead, keys, e8);
    }
    for (let i = 0; i < queries; i += 4) {
      const total = v128.load(sum + (<usize> i << 2));
      rescale(output + <usize> i * PANEL_ROW, f32x4.div(f32x4.splat(1), total), e8);
    }
    unpackPanels(
      output,
      QUERIES,
      queries,
      valueDim,
      o + <usize> (i0 * valueDim) * 4,
      <usize> valueDim << 2,
      false,
    );
  }
}

/** Keys of a panel of the cache; as in `bench/baselines/mod.ts`. */
// @ts-ignore: decorator
@inline
const CACHED_KEYS = 16;

/** Columns of a panel of cached values; as in `bench/baselines/mod.ts`. */
// @ts-ignore: decorator
@inline
const CACHED_COLUMNS = 32;

/**
 * One query of one head, `o = softmax(scale · q Kᵀ) V`, over the first `length` tokens of a cache, which is read once and
 * in order.
 *
 * keys `[⌈capacity/16⌉][headDim][16]` and values `[⌈valueDim/32⌉][capacity][32]` hold anything beyond; scores has room for
 * `length` rounded up to 16, o for valueDim rounded up to 32.
 */
export function softmaxStep(
  q: usize,
  keys: usize,
  values: usize,
  o: usize,
  length: i32,
  headDim: i32,
  valueDim: i32,
  capacity: i32,
  scale: f32,
  scores: usize,
): void {
  const factor = f32x4.splat(scale * LOG2_E);
  let top = f32x4.splat(-1e30);
  for (let j = 0; j < length; j += CACHED_KEYS) {
    let s0 = f32x4.splat(0), s1 = s0, s2 = s0, s3 = s0;
    for (let c = 0; c < headDim; c++) {
      const x = v128.load32_splat(q + (<usize> c << 2));
      s0 = madd(x, v128.load(keys), s0);
      s1 = madd(x, v128.load(keys, 16), s1);
      s2 = madd(x, v128.load(keys, 32), s2);
      s3 = madd(x, v128.load(keys, 48), s3);
      keys += CACHED_KEYS * 4;
    }
    const at = scores + (<usize> j << 2);
    v128.store(at, f32x4.mul(s0, factor));
    v128.store(at, f32x4.mul(s1, factor), 16);
    v128.store(at, f32x4.mul(s2, factor), 32);
    v128.store(at, f32x4.mul(s3, factor), 48);
    for (let i = length; i < j + CACHED_KEYS; i++) store<f32>(scores + (<usize> i << 2), -1e30);
    top = f32x4.pmax(f32x4.pmax(top, v128.load(at)), v128.load(at, 16));
    top = f32x4.pmax(f32x4.pmax(top, v128.load(at, 32)), v128.load(at, 48));
  }
  top = f32x4.pmax(top, v128.shuffle<f32>(top, top, 2, 3, 0, 1));
  top = f32x4.pmax(top, v128.shuffle<f32>(top, top, 1, 0, 3, 2));
  let sums = f32x4.splat(0);
  for (let j = 0; j < length; j += 4) {
    const at = scores + (<usize> j << 2), p = exp2(f32x4.sub(v128.load(at), top));
    v128.store(at, p);
    sums = f32x4.add(sums, p);
  }
  sums = f32x4.add(sums, v128.shuffle<f32>(sums, sums, 2, 3, 0, 1));
  sums = f32x4.add(sums, v128.shuffle<f32>(sums, sums, 1, 0, 3, 2));
  const share = f32x4.div(f32x4.splat(1), sums);
  for (let column = 0; column < valueDim; column += CACHED_COLUMNS) {
    weightedSum(scores, values, length, share, o + (<usize> column << 2));
    values += <usize> capacity * CACHED_COLUMNS * 4;
  }
}

/** `o = share · Σ_i weights[i] v_i` on one panel of values. */
// @ts-ignore: decorator
@inline
function weightedSum(weights: usize, v: usize, length: i32, share: v128, o: usize): void {
  let a0 = f32x4.splat(0), a1 = a0, a2 = a0, a3 = a0, a4 = a0, a5 = a0, a6 = a0, a7 = a0;
  for (let i = 0; i < length; i++) {
    const p = v128.load32_splat(weights);
    a0 = madd(p, v128.load(v), a0);
    a1 = madd(p, v128.load(v, 16), a1);
    a2 = madd(p, v128.load(v, 32), a2);
    a3 = madd(p, v128.load(v, 48), a3);
    a4 = madd(p, v128.load(v, 64), a4);
    a5 = madd(p, v128.load(v, 80), a5);
    a6 = madd(p, v128.load(v, 96), a6);
    a7 = madd(p, v128.load(v, 112), a7);
    weights += 4;
    v += CACHED_COLUMNS * 4;
  }
  v128.store(o, f32x4.mul(a0, share));
  v128.store(o, f32x4.mul(a1, share), 16);
  v128.store(o, f32x4.mul(a2, share), 32);
  v128.store(o, f32x4.mul(a3, share), 48);
  v128.store(o, f32x4.mul(a4, share), 64);
  v128.store(o, f32x4.mul(a5, share), 80);
  v128.store(o, f32x4.mul(a6, share), 96);
  v128.store(o, f32x4.mul(a7, share), 112);
}

/** Keys of a block that a panel of queries meets, the first of them `ahead` tokens after the first key, in whole tiles. */
// @ts-ignore: decorator
@inline
function keysBelow(ahead: i32): i32 {
  return min(KEYS, roundUp(ahead + TILE_COLUMNS, TILE_ROWS));
}

function fill(target: usize, count: i32, value: f32): void {
  for (let i = 0; i < count; i++) store<f32>(target + (<usize> i << 2), value);
}

function packKeys(
  k: usize,
  v: usize,
  start: i32,
  keys: i32,
  headDim: i32,
  valueDim: i32,
  keyT: usize,
  value: usize,
): void {
  const keyRow = <usize> headDim << 2, valueRow = <usize> valueDim << 2;
  packTransposed<f32>(k + <usize> start * keyRow, keyRow, keys, headDim, keyT, KEY_ROW, KEYS, 0, 1);
  packPanels(v + <usize> start * valueRow, valueRow, keys, valueDim, value, KEYS, 1);
}

/** `scores[j][i] = q_i·k_j` for one panel of queries and the first `count` keys. */
// @ts-ignore: decorator
@inline
function score(queryP: usize, keyT: usize, scores: usize, i: i32, count: i32, headDim: i32): void {
  const panel = queryP + <usize> (i * headDim) * 4;
  for (let j = 0; j < count; j += TILE_ROWS) {
    tile(
      keyT + (<usize> j << 2),
      KEY_ROW,
      panel,
      PANEL_ROW,
      headDim,
      scores + <usize> j * SCORE_ROW + (<usize> i << 2),
      SCORE_ROW,
      0,
      0,
      0,
    );
  }
}

/** `scores[j][i] *= M[i][j]` on one panel; `powers` points at the power of its first query and key. */
function decay(column: usize, count: i32, powers: usize): void {
  for (let j = 0; j < count; j++) {
    v128.store(column, f32x4.mul(v128.load(column), v128.load(powers)));
    v128.store(column, f32x4.mul(v128.load(column, 16), v128.load(powers, 16)), 16);
    column += SCORE_ROW;
    powers -= 4;
  }
}

/** `scores[j][i] = −∞` for i < j on one panel; `mask` points at the entry of its first query and key. */
function maskFuture(column: usize, count: i32, mask: usize): void {
  for (let j = 0; j < count; j++) {
    v128.store(column, f32x4.add(v128.load(column), v128.load(mask)));
    v128.store(column, f32x4.add(v128.load(column, 16), v128.load(mask, 16)), 16);
    column += SCORE_ROW;
    mask -= 4;
  }
}

/**
 * Online softmax of four queries over `count` more keys: scores become `2^(score − max)`, maximum and sum are brought
 * up to date. Returns the factor of what was summed under the maximum before.
 */
function softmax4(column: usize, count: i32, maximum: usize, sum: usize): v128 {
  const before = v128.load(maximum);
  let top = before;
  const end = column + <usize> count * SCORE_ROW;
  for (let row = column; row < end; row += SCORE_ROW) top = f32x4.pmax(top, v128.load(row));
  v128.store(maximum, top);
  const factor = exp2(f32x4.sub(before, top));
  let added = f32x4.splat(0);
  for (let row = column; row < end; row += SCORE_ROW) {
    const p = exp2(f32x4.sub(v128.load(row), top));
    v128.store(row, p);
    added = f32x4.add(added, p);
  }
  v128.store(sum, madd(v128.load(sum), factor, added));
  return factor;
}

/** 2^x for x ≤ 0 within 2 ulp; below 2^−126 it stays there, which is nothing compared with a sum ≥ 1. */
// @ts-ignore: decorator
@inline
function exp2(x: v128): v128 {
  const bounded = f32x4.pmax(x, f32x4.splat(-126));
  // Adding 1.5·2^23 rounds to an integer n and leaves it in the low bits, from where it moves to the exponent.
  const rounder = f32x4.splat(12582912);
  const shifted = f32x4.add(bounded, rounder);
  const r = f32x4.sub(bounded, f32x4.sub(shifted, rounder));
  let p = f32x4.splat(1.5403530393381608e-4); // ln2^n / n!, n = 6 .. 0
  p = madd(p, r, f32x4.splat(1.3333558146428443e-3));
  p = madd(p, r, f32x4.splat(9.618129107628477e-3));
  p = madd(p, r, f32x4.splat(5.550410866482158e-2));
  p = madd(p, r, f32x4.splat(0.2402265069591007));
  p = madd(p, r, f32x4.splat(0.6931471805599453));
  p = madd(p, r, f32x4.splat(1));
  return i32x4.add(p, i32x4.shl(shifted, 23));
}

/** Multiplies four rows of the output by a lane each; most often the maximum has not moved and there is no need. */
function rescale(rows: usize, factor: v128, e8: i32): void {
  if (!v128.any_true(f32x4.ne(factor, f32x4.splat(1)))) return;
  const f0 = v128.shuffle<f32>(factor, factor, 0, 0, 0, 0),
    f1 = v128.shuffle<f32>(factor, factor, 1, 1, 1, 1);
  const f2 = v128.shuffle<f32>(factor, factor, 2, 2, 2, 2),
    f3 = v128.shuffle<f32>(factor, factor, 3, 3, 3, 3);
  for (let c = 0; c < e8; c += TILE_COLUMNS) {
    scaleRow(rows, f0);
    scaleRow(rows + PANEL_ROW, f1);
    scaleRow(rows + 2 * PANEL_ROW, f2);
    scaleRow(rows + 3 * PANEL_ROW, f3);
    rows += <usize> QUERIES * PANEL_ROW;
  }
}

// @ts-ignore: decorator
@inline
function scaleRow(row: usize, factor: v128): void {
  v128.store(row, f32x4.mul(v128.load(row), factor));
  v128.store(row, f32x4.mul(v128.load(row, 16), factor), 16);
}

/** `O[i] += Σ_j scores[j][i] v_j`; a tile of 5 queries takes no key beyond its last one. */
function addValues(
  scores: usize,
  value: usize,
  output: usize,
  first: i32,
  queries: i32,
  ahead: i32,
  keys: i32,
  e8: i32,
): void {
  for (let c = 0; c < e8; c += TILE_COLUMNS) {
    const panel = value + <usize> c * KEY_ROW, out = output + <usize> c * SCORE_ROW;
    for (let i = first; i < queries; i += TILE_ROWS) {
      tile(
        scores + (<usize> i << 2),
        SCORE_ROW,
        panel,
        PANEL_ROW,
        min(keys, ahead + i + TILE_ROWS),
        out + <usize> i * PANEL_ROW,
        PANEL_ROW,
        1,
        0,
        0,
      );
    }
  }
}
