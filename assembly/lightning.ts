// Lightning Attention, forward and step: one (sequence, head) per call, block by block, in one fused loop that stays
// in cache. The stages are those of core/lightning.ts; every product is a C = β C + Aᵀ B of tile.ts.
//
// Scratch of one call, in f32 (C: BLOCK, W: C rounded up to 8, d: headDim, d5: d rounded up to 5, e8: valueDim to 8):
//
//   queryT  [d][W]         the block's queries transposed, times scale: A of interBlock, B of the scores
//   keyT    [d][W]         keys transposed: A of the scores
//   valueD  [e8/8][C][8]   values in panels, row j times λ^(m−1−j): B of updateState
//   scores  [C][W]         row j is key j, column i is query i: A of intraBlock
//   output  [e8/8][C][8]   O of the block
//   state   [e8/8][d5][8]  S between blocks: B of interBlock
//
// Keys are the A of updateState, and values the B of intraBlock, as they lie in memory.
// Rows and columns of padding, which hold whatever lies beside, never reach a row or column that belongs to the sequence.
import { BLOCK, TILE_COLUMNS, TILE_ROWS } from "../core/tile";
import { loadLanes, madd, storeLanes, touch } from "./simd";
import { packPanels, packScaledPanels, packTransposed, PANEL_ROW, roundUp, tile, unpackPanels } from "./tile";

/** W: columns of the buffers that hold a block's tokens in a row, whole panels of B. */
// @ts-ignore: decorator
@inline
export const WIDTH: i32 = (BLOCK + TILE_COLUMNS - 1) / TILE_COLUMNS * TILE_COLUMNS;

/** Bytes of such a row. */
// @ts-ignore: decorator
@inline
export const BLOCK_ROW: usize = WIDTH * 4;

/** How many of them are packed: whole vectors, tokens of the next block if need be. */
// @ts-ignore: decorator
@inline
export const PACKED: i32 = (BLOCK + 3) & ~3;

/** Tokens whose operands are brought into cache at once: few streams that go on for long. */
// @ts-ignore: decorator
@inline
export const FETCHED: i32 = 12 * BLOCK;

// The decay table of one head, made in float64 by wasm/backend.ts. Byte offsets of its parts:
// C zeros (the mask above the diagonal), λ^0 .. λ^C;
// @ts-ignore: decorator
@inline
export const RISING: usize = BLOCK * 4;
// λ^C .. λ^0, C zeros;
// @ts-ignore: decorator
@inline
export const FALLING: usize = (2 * BLOCK + 1) * 4;
// the change of a state over 0 .. C tokens (`decayChange` in core/decay.ts).
// @ts-ignore: decorator
@inline
export const CHANGE: usize = (4 * BLOCK + 2) * 4;

/** A state decays by `keep·S + change·S`; a change that is not positive is λ^m − 1, added to S itself. */
// @ts-ignore: decorator
@inline
export function keepOf(change: f32): f32 {
  return change <= 0 ? 1 : 0;
}

/** Bytes of scratch that `lightning` needs. */
export function lightningScratch(headDim: i32, valueDim: i32): i32 {
  const d5 = roundUp(headDim, TILE_ROWS), e8 = roundUp(valueDim, TILE_COLUMNS);
  return 4 * (WIDTH * (2 * headDim + BLOCK) + 2 * BLOCK * e8 + d5 * e8) + 64;
}

/**
 * Forward over one sequence and head.
 *
 * q, k `[length, headDim]`, v, o `[length, valueDim]`: first row, and bytes between rows. `decay`: see above.
 * `initialState` and `finalState`, either 0 for none: `[headDim, valueDim]`, rows `stateStride` bytes apart.
 * `accumulate` adds to o. The columns of v, o and the state do not mix, so that a call may do with some of them.
 */
export function lightning(
  q: usize, qStride: usize, k: usize, kStride: usize, v: usize, vStride: usize, o: usize, oStride: usize,
  length: i32, headDim: i32, valueDim: i32,
  decay: usize, scale: f32, initialState: usize, finalState: usize, stateStride: usize, accumulate: bool, scratch: usize,
): void {
  walk(q, qStride, k, kStride, v, vStride, o, oStride, length, headDim, valueDim, decay, scale,
    initialState, finalState, stateStride, accumulate, true, scratch);
}

/** The same; without `intra` only what a query takes from the blocks before its own. */
export function walk(
  q: usize, qStride: usize, k: usize, kStride: usize, v: usize, vStride: usize, o: usize, oStride: usize,
  length: i32, headDim: i32, valueDim: i32,
  decay: usize, scale: f32, initialState: usize, finalState: usize, stateStride: usize, accumulate: bool, intra: bool,
  scratch: usize,
): void {
  const d5 = roundUp(headDim, TILE_ROWS), e8 = roundUp(valueDim, TILE_COLUMNS);
  const queryT = scratch;
  const keyT = queryT + <usize> headDim * BLOCK_ROW;
  const valueD = keyT + <usize> headDim * BLOCK_ROW;
  const scores = valueD + <usize> (e8 * BLOCK) * 4;
  const output = scores + BLOCK * BLOCK_ROW;
  const state = output + <usize> (e8 * BLOCK) * 4;

  if (initialState != 0) packPanels(initialState, stateStride, headDim, valueDim, state, d5, 1);
  else memory.fill(state, 0, <usize> (d5 * e8) << 2);

  for (let start = 0; start < length; start += BLOCK) {
    const m = min(BLOCK, length - start), packed = min(PACKED, length - start);
    if (start % FETCHED == 0) {
      const count = min(FETCHED, length - start);
      store<i32>(scores, touch(q, qStride, count, headDim) + touch(k, kStride, count, headDim) +
        touch(v, vStride, count, valueDim));
    }
    packTransposed(q, qStride, packed, headDim, queryT, BLOCK_ROW, PACKED, 0, scale);

    // Whole tiles go to where they belong at once, others by way of panels.
    const direct = m == BLOCK && valueDim == e8;
    const out = direct ? o : output, outRow = direct ? oStride : PANEL_ROW, outPanel = direct ? PANEL_ROW : BLOCK * PANEL_ROW;
    interBlock(queryT, decay + RISING + 4, state, d5, headDim, out, outRow, outPanel, direct && accumulate, m, e8);
    if (intra) {
      packTransposed(k, kStride, packed, headDim, keyT, BLOCK_ROW, PACKED, 0, 1);
      intraBlock(queryT, keyT, v, vStride, scores, out, outRow, outPanel, decay, m, headDim, e8);
    }
    if (finalState != 0 || start + BLOCK < length) {
      packScaledPanels(v, vStride, m, valueDim, valueD, BLOCK, decay + FALLING + (<usize> (BLOCK - m + 1) << 2), 1);
      updateState(k, kStride, valueD, state, load<f32>(decay + CHANGE + (<usize> m << 2)), m, d5, e8);
    }

    if (!direct) unpackPanels(output, BLOCK, m, valueDim, o, oStride, accumulate);
    q += BLOCK * qStride;
    k += BLOCK * kStride;
    v += BLOCK * vStride;
    o += BLOCK * oStride;
  }
  if (finalState != 0) unpackPanels(state, d5, headDim, valueDim, finalState, stateStride, false);
}

/**
 * `O[i] = factors[i] · x_iᵀ S`, or added to O; S is in panels of `stateRows` rows, `depth` of them used. In the forward
 * `O[i] = λ^(i+1) q_iᵀ S`, the linear attention kernel trick (right product).
 */
export function interBlock(
  xT: usize, factors: usize, state: usize, stateRows: i32, depth: i32, output: usize, outRow: usize, outPanel: usize,
  accumulate: bool, m: i32, columns: i32,
): void {
  const keep: f32 = accumulate ? 1 : 0;
  for (let c = 0; c < columns; c += TILE_COLUMNS) {
    const panel = state + <usize> (c * stateRows) * 4;
    for (let i = 0; i < m; i += TILE_ROWS) {
      const at = <usize> i << 2;
      tile(xT + at, BLOCK_ROW, panel, PANEL_ROW, depth, output + <usize> i * outRow, outRow, keep, 0, factors + at);
    }
    output += outPanel;
  }
}

/** `O[i] += Σ_{j≤i} λ^(i−j) (q_i·k_j) v_j` — conventional (left) product, masked; tiles above the diagonal are left out. */
function intraBlock(
  queryT: usize, keyT: usize, v: usize, vStride: usize, scores: usize, output: usize, outRow: usize, outPanel: usize,
  decay: usize, m: i32, headDim: i32, e8: i32,
): void {
  for (let i = 0; i < m; i += TILE_COLUMNS) {
    const queries = queryT + (<usize> i << 2);
    for (let j = 0; j < min(m, i + TILE_COLUMNS); j += TILE_ROWS) {
      const corner = scores + <usize> j * BLOCK_ROW + (<usize> i << 2);
      tile(keyT + (<usize> j << 2), BLOCK_ROW, queries, BLOCK_ROW, headDim, corner, BLOCK_ROW, 0, 0, 0);
      maskScores(corner, decay + RISING + (<usize> i << 2) - (<usize> j << 2));
    }
  }
  applyScores(scores, v, vStride, output, outRow, outPanel, true, m, e8);
}

/** `O[i] = Σ_{j≤i} scores[j][i] z_j`, or added to O; tiles above the diagonal are not read. */
export function applyScores(
  scores: usize, z: usize, zStride: usize, output: usize, outRow: usize, outPanel: usize,
  accumulate: bool, m: i32, columns: i32,
): void {
  const keep: f32 = accumulate ? 1 : 0;
  for (let c = 0; c < columns; c += TILE_COLUMNS) {
    for (let i = 0; i < m; i += TILE_ROWS) {
      tile(scores + (<usize> i << 2), BLOCK_ROW, z, zStride, min(m, i + TILE_ROWS),
        output + <usize> i * outRow, outRow, keep, 0, 0);
    }
    z += PANEL_ROW;
    output += outPanel;
  }
}

/** A tile of scores times λ^(i−j), 0 for i < j; `powers` points at its corner's power, the next row's is one before. */
// @ts-ignore: decorator
@inline
export function maskScores(corner: usize, powers: usize): void {
  for (let row = 0; row < TILE_ROWS; row++) {
    v128.store(corner, f32x4.mul(v128.load(corner), v128.load(powers)));
    v128.store(corner, f32x4.mul(v128.load(corner, 16), v128.load(powers, 16)), 16);
    corner += BLOCK_ROW;
    powers -= 4;
  }
}

/** `S ← λ^m S + Σ_j k_j (λ^(m−1−j) v_j)ᵀ`, values in panels with their decay. */
export function updateState(
  k: usize, kStride: usize, valueD: usize, state: usize, change: f32, m: i32, d5: i32, e8: i32,
): void {
  const keep = keepOf(change);
  for (let c = 0; c < e8; c += TILE_COLUMNS) {
    const panel = valueD + <usize> (c * BLOCK) * 4, into = state + <usize> (c * d5) * 4;
    for (let i = 0; i < d5; i += TILE_ROWS) {
      tile(k + (<usize> i << 2), kStride, panel, PANEL_ROW, m, into + <usize> i * PANEL_ROW, PANEL_ROW, keep, change, 0);
    }
  }
}

/** `λ S + k vᵀ` on four elements. */
// @ts-ignore: decorator
@inline
function stepState(s: v128, keep: v128, change: v128, k: v128, v: v128): v128 {
  return madd(s, keep, madd(s, change, f32x4.mul(k, v)));
}

/**
 * One token of one sequence and head: `S ← λ S + k vᵀ`, `o = scale · qᵀ S`, in one pass over S.
 * q, k `[headDim]`, v, o `[valueDim]`, state `[headDim, valueDim]`.
 */
export function lightningStep(
  q: usize, k: usize, v: usize, o: usize, state: usize, headDim: i32, valueDim: i32, change: f32, scale: f32,
): void {
  const keep = f32x4.splat(keepOf(change)), changed = f32x4.splat(change), factor = f32x4.splat(scale);
  const row = <usize> valueDim << 2;
  let c = 0;
  // A state that is not in cache comes as a stream if its lines are met in the order in which they lie.
  store<i32>(o, touch(state, row, headDim, valueDim));
  // Sixteen columns at a time: one cache line of every row.
  for (; c + 16 <= valueDim; c += 16) {
    const at = <usize> c << 2;
    const v0 = v128.load(v + at), v1 = v128.load(v + at, 16), v2 = v128.load(v + at, 32), v3 = v128.load(v + at, 48);
    let o0 = f32x4.splat(0), o1 = o0, o2 = o0, o3 = o0;
    let s = state + at;
    for (let i = 0; i < headDim; i++) {
      const ki = v128.load32_splat(k + (<usize> i << 2)), qi = v128.load32_splat(q + (<usize> i << 2));
      const s0 = stepState(v128.load(s), keep, changed, ki, v0);
      const s1 = stepState(v128.load(s, 16), keep, changed, ki, v1);
      const s2 = stepState(v128.load(s, 32), keep, changed, ki, v2);
      const s3 = stepState(v128.load(s, 48), keep, changed, ki, v3);
      v128.store(s, s0);
      v128.store(s, s1, 16);
      v128.store(s, s2, 32);
      v128.store(s, s3, 48);
      o0 = madd(qi, s0, o0);
      o1 = madd(qi, s1, o1);
      o2 = madd(qi, s2, o2);
      o3 = madd(qi, s3, o3);
      s += row;
    }
    v128.store(o + at, f32x4.mul(factor, o0));
    v128.store(o + at, f32x4.mul(factor, o1), 16);
    v128.store(o + at, f32x4.mul(factor, o2), 32);
    v128.store(o + at, f32x4.mul(factor, o3), 48);
  }
  for (; c < valueDim; c += 4) {
    const at = <usize> c << 2, count = valueDim - c;
    const v0 = loadLanes(v + at, count);
    let o0 = f32x4.splat(0);
    let s = state + at;
    for (let i = 0; i < headDim; i++) {
      const ki = v128.load32_splat(k + (<usize> i << 2)), qi = v128.load32_splat(q + (<usize> i << 2));
      const s0 = stepState(loadLanes(s, count), keep, changed, ki, v0);
      storeLanes(s, s0, count);
      o0 = madd(qi, s0, o0);
      s += row;
    }
    storeLanes(o + at, f32x4.mul(factor, o0), count);
  }
}
