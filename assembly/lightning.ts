// Lightning Attention: one (sequence, head) per call, block by block, in a fused loop that stays in cache. The stages of the
// forward are those of core/ops/lightning.ts; every product is a C = β C + Aᵀ B of parts/tile.ts.
//
// Scratch of the forward: a Walk, then in f32 (C: BLOCK, W: C rounded up to 8, d: headDim, d5: d rounded up to 5,
// e8: valueDim rounded up to 8):
//
//   queryT  [d][W]         the block's queries transposed, times scale: A of interBlock, B of the scores
//   keyT    [d][W]         keys transposed: A of the scores
//   valueD  [e8/8][C][8]   values in panels, row j times λ^(m−1−j): B of updateState
//   scores  [C][W]         row j is key j, column i is query i: A of intraBlock
//   panels  [e8/8][C][8]   the block's output, where it is not written directly
//   state   [e8/8][d5][8]  S between blocks: B of interBlock
//
// Keys are the A of updateState, and values the B of intraBlock, as they lie in memory. Rows and columns of padding hold
// whatever memory holds there. They never reach a row or column of the sequence.
import { BLOCK, TILE_COLUMNS, TILE_ROWS } from "../core/sizes";
import { loadLanes, madd, prefetch, storeLanes } from "./parts/simd";
import { packPanels, packScaledPanels, packTransposed, PANEL_ROW, roundUp, tile, unpackPanels } from "./parts/tile";

/** W: columns of the buffers that hold a block's tokens in a row, whole panels of B. */
// @ts-ignore: decorator
@inline
const WIDTH: i32 = (BLOCK + TILE_COLUMNS - 1) / TILE_COLUMNS * TILE_COLUMNS;

/** Bytes of such a row. */
// @ts-ignore: decorator
@inline
const BLOCK_ROW: usize = WIDTH * 4;

/** Tokens that are packed per block: whole vectors, so some may belong to the next block. */
// @ts-ignore: decorator
@inline
const PACKED: i32 = (BLOCK + 3) & ~3;

/** Tokens to prefetch together: a few long streams beat many short ones. */
// @ts-ignore: decorator
@inline
const FETCHED: i32 = 12 * BLOCK;

// The decay table of one head, made in float64 by wasm/lightning.ts. Byte offsets of its parts:
// C zeros (the mask above the diagonal), λ^0 .. λ^C;
// @ts-ignore: decorator
@inline
const RISING: usize = BLOCK * 4;
// λ^C .. λ^0, C zeros;
// @ts-ignore: decorator
@inline
const FALLING: usize = (2 * BLOCK + 1) * 4;
// the change of a state over 0 .. C tokens (`decayChange` in core/decay.ts).
// @ts-ignore: decorator
@inline
const CHANGE: usize = (4 * BLOCK + 2) * 4;

/** A state decays by `keep·S + change·S`. A change ≤ 0 is λ^m − 1, added to S itself; a change > 0 is λ^m. */
// @ts-ignore: decorator
@inline
function keepOf(change: f32): f32 {
  return change <= 0 ? 1 : 0;
}

/**
 * A walk over one sequence and head, for the forward and for dq. A record at the head of the scratch, so that its
 * fields have names and each thread has its own. It is filled and read once per walk, which costs nothing.
 */
@unmanaged
class Walk {
  /** q, k `[length, headDim]`, v, output `[length, valueDim]`: first row, and bytes between rows. */
  q: usize; qStride: usize; k: usize; kStride: usize; v: usize; vStride: usize; output: usize; outputStride: usize;
  length: i32; headDim: i32; valueDim: i32;
  decay: usize;
  scale: f32;
  /** The states before the blocks, as `lightningCarry` leaves them; 0: the state goes from block to block in the scratch. */
  states: usize;
  /** `[headDim, valueDim]`, rows `stateStride` bytes apart; 0 for none. */
  initialState: usize; finalState: usize; stateStride: usize;
  /** Adds to output. */
  accumulate: bool;
  /** Whether queries meet the keys of their own block; else they meet only the state before it. */
  intra: bool;
}

/** Bytes of a Walk, whole cache lines. */
// @ts-ignore: decorator
@inline
const WALK: usize = (offsetof<Walk>() + 63) & ~63;

/** Bytes of scratch that `lightning` needs. */
export function lightningScratch(headDim: i32, valueDim: i32): i32 {
  const d5 = roundUp(headDim, TILE_ROWS), e8 = roundUp(valueDim, TILE_COLUMNS);
  return <i32> WALK + 4 * (WIDTH * (2 * headDim + BLOCK) + 2 * BLOCK * e8 + d5 * e8) + 64;
}

/** Forward over one sequence and head, or over blocks of it whose states are known; the arguments are those of a Walk. */
export function lightning(
  q: usize, qStride: usize, k: usize, kStride: usize, v: usize, vStride: usize, output: usize, outputStride: usize,
  length: i32, headDim: i32, valueDim: i32, decay: usize, scale: f32,
  states: usize, initialState: usize, finalState: usize, stateStride: usize, scratch: usize,
): void {
  const call = changetype<Walk>(scratch);
  call.q = q, call.qStride = qStride;
  call.k = k, call.kStride = kStride;
  call.v = v, call.vStride = vStride;
  call.output = output, call.outputStride = outputStride;
  call.length = length, call.headDim = headDim, call.valueDim = valueDim;
  call.decay = decay, call.scale = scale;
  call.states = states;
  call.initialState = initialState, call.finalState = finalState, call.stateStride = stateStride;
  call.accumulate = false, call.intra = true;
  walk(call);
}

/** Walks the blocks from first to last. */
function walk(call: Walk): void {
  let q = call.q, k = call.k, v = call.v, output = call.output;
  const qStride = call.qStride, kStride = call.kStride, vStride = call.vStride, outputStride = call.outputStride;
  const length = call.length, headDim = call.headDim, valueDim = call.valueDim;
  const decay = call.decay, scale = call.scale, states = call.states, finalState = call.finalState;
  const accumulate = call.accumulate, intra = call.intra;

  const d5 = roundUp(headDim, TILE_ROWS), e8 = roundUp(valueDim, TILE_COLUMNS);
  const queryT = changetype<usize>(call) + WALK;
  const keyT = queryT + <usize> headDim * BLOCK_ROW;
  const valueD = keyT + <usize> headDim * BLOCK_ROW;
  const scores = valueD + <usize> (e8 * BLOCK) * 4;
  const panels = scores + BLOCK * BLOCK_ROW;
  let state = states != 0 ? states : panels + <usize> (e8 * BLOCK) * 4;

  if (states == 0) {
    if (call.initialState != 0) packPanels(call.initialState, call.stateStride, headDim, valueDim, state, d5, 1);
    else memory.fill(state, 0, <usize> (d5 * e8) << 2);
  }

  for (let start = 0; start < length; start += BLOCK) {
    const m = min(BLOCK, length - start), packed = min(PACKED, length - start);
    if (start % FETCHED == 0) {
      const count = min(FETCHED, length - start);
      prefetch(q, qStride, count, headDim);
      prefetch(k, kStride, count, headDim);
      prefetch(v, vStride, count, valueDim);
    }
    packTransposed<f32>(q, qStride, packed, headDim, queryT, BLOCK_ROW, PACKED, 0, scale);

    // Whole tiles are written to the output directly, others by way of panels.
    const direct = m == BLOCK && valueDim == e8;
    const out = direct ? output : panels, outRow = direct ? outputStride : PANEL_ROW;
    const outPanel = direct ? PANEL_ROW : BLOCK * PANEL_ROW;
    interBlock(queryT, decay + RISING + 4, state, d5, headDim, out, outRow, outPanel, direct && accumulate, m, e8);
    if (intra) {
      packTransposed<f32>(k, kStride, packed, headDim, keyT, BLOCK_ROW, PACKED, 0, 1);
      intraBlock(queryT, keyT, v, vStride, scores, out, outRow, outPanel, decay, m, headDim, e8);
    }
    if (states != 0) state += <usize> (d5 * e8) << 2;
    else if (finalState != 0 || start + BLOCK < length) {
      const change = changeOver(decay, m);
      packDecayed(v, vStride, m, valueDim, valueD, decay);
      updateState(k, kStride, valueD, state, keepOf(change), change, m, d5, e8);
    }

    if (!direct) unpackPanels(panels, BLOCK, m, valueDim, output, outputStride, accumulate);
    q += BLOCK * qStride;
    k += BLOCK * kStride;
    v += BLOCK * vStride;
    output += BLOCK * outputStride;
  }
  if (finalState != 0) unpackPanels(state, d5, headDim, valueDim, finalState, call.stateStride, false);
}

/**
 * `O[i] = factors[i] · x_iᵀ S`, or added to O. S is in panels of `stateRows` rows, of which `inner` are used. In the
 * forward `O[i] = λ^(i+1) q_iᵀ S`: the kernel trick of linear attention, the right product.
 */
function interBlock(
  xT: usize, factors: usize, state: usize, stateRows: i32, inner: i32, output: usize, outRow: usize, outPanel: usize,
  accumulate: bool, m: i32, columns: i32,
): void {
  const keep: f32 = accumulate ? 1 : 0;
  for (let c = 0; c < columns; c += TILE_COLUMNS) {
    const panel = state + <usize> (c * stateRows) * 4;
    for (let i = 0; i < m; i += TILE_ROWS) {
      const at = <usize> i << 2;
      tile(xT + at, BLOCK_ROW, panel, PANEL_ROW, inner, output + <usize> i * outRow, outRow, keep, 0, factors + at);
    }
    output += outPanel;
  }
}

/** `O[i] += Σ_{j≤i} λ^(i−j) (q_i·k_j) v_j`: the conventional left product, masked. Skips tiles above the diagonal. */
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

/** `O[i] = Σ_{j≤i} scores[j][i] z_j`, or added to O. Reads no tile above the diagonal. */
function applyScores(
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

/** A tile of scores times λ^(i−j), 0 for i < j. `powers` points at the corner's power; the next row begins one before. */
// @ts-ignore: decorator
@inline
function maskScores(corner: usize, powers: usize): void {
  for (let row = 0; row < TILE_ROWS; row++) {
    v128.store(corner, f32x4.mul(v128.load(corner), v128.load(powers)));
    v128.store(corner, f32x4.mul(v128.load(corner, 16), v128.load(powers, 16)), 16);
    corner += BLOCK_ROW;
    powers -= 4;
  }
}

/** Values of a block in panels, row j times λ^(m−1−j). */
function packDecayed(v: usize, vStride: usize, m: i32, valueDim: i32, valueD: usize, decay: usize): void {
  packScaledPanels(v, vStride, m, valueDim, valueD, BLOCK, decay + FALLING + (<usize> (BLOCK - m + 1) << 2), 1);
}

/** The change of a state over m tokens: see `keepOf`. */
// @ts-ignore: decorator
@inline
function changeOver(decay: usize, m: i32): f32 {
  return load<f32>(decay + CHANGE + (<usize> m << 2));
}

/**
 * `S ← keep·S + change·S + Σ_j k_j (λ^(m−1−j) v_j)ᵀ`, the values in panels, times their decay: λ^m S with `changeOver`.
 */
function updateState(
  k: usize, kStride: usize, valueD: usize, state: usize, keep: f32, change: f32, m: i32, d5: i32, e8: i32,
): void {
  for (let c = 0; c < e8; c += TILE_COLUMNS) {
    const panel = valueD + <usize> (c * BLOCK) * 4, into = state + <usize> (c * d5) * 4;
    for (let i = 0; i < d5; i += TILE_ROWS) {
      tile(k + (<usize> i << 2), kStride, panel, PANEL_ROW, m, into + <usize> i * PANEL_ROW, PANEL_ROW, keep, change, 0);
    }
  }
}

/**
 * First stage of a long sequence in parts: what each block adds to the state, its product with `updateState`, in panels,
 * one block after another.
 */
export function lightningProducts(
  k: usize, kStride: usize, v: usize, vStride: usize, length: i32, headDim: i32, valueDim: i32, decay: usize,
  products: usize, scratch: usize,
): void {
  const d5 = roundUp(headDim, TILE_ROWS), e8 = roundUp(valueDim, TILE_COLUMNS);
  for (let start = 0; start < length; start += BLOCK) {
    const m = min(BLOCK, length - start);
    if (start % FETCHED == 0) {
      const count = min(FETCHED, length - start);
      prefetch(k, kStride, count, headDim);
      prefetch(v, vStride, count, valueDim);
    }
    packDecayed(v, vStride, m, valueDim, scratch, decay);
    updateState(k, kStride, scratch, products, 0, 0, m, d5, e8);
    k += BLOCK * kStride;
    v += BLOCK * vStride;
    products += <usize> (d5 * e8) << 2;
  }
}

/**
 * Second stage: `states`, the state before the first block and then the product of each, becomes the state before each
 * block and the one after the last, by the arithmetic of `updateState`. Columns are independent, so a call may take a part
 * of them: whole panels, of states that are `stateBytes` apart. `lightning` with `states` is the third stage.
 */
export function lightningCarry(
  states: usize, stateBytes: usize, length: i32, headDim: i32, valueDim: i32, decay: usize,
  initialState: usize, finalState: usize, stateStride: usize,
): void {
  const d5 = roundUp(headDim, TILE_ROWS), bytes = <usize> (d5 * roundUp(valueDim, TILE_COLUMNS)) << 2;
  if (initialState != 0) packPanels(initialState, stateStride, headDim, valueDim, states, d5, 1);
  else memory.fill(states, 0, bytes);
  for (let start = 0; start < length; start += BLOCK) {
    const change = changeOver(decay, min(BLOCK, length - start)), next = states + stateBytes;
    const keep = f32x4.splat(keepOf(change)), changed = f32x4.splat(change);
    for (let at: usize = 0; at < bytes; at += 16) {
      const s = v128.load(states + at), product = v128.load(next + at);
      v128.store(next + at, change == 0 ? f32x4.add(s, product) : madd(s, keep, madd(s, changed, product)));
    }
    states = next;
  }
  unpackPanels(states, d5, headDim, valueDim, finalState, stateStride, false);
}

/** `λ S + k vᵀ` on four elements. */
// @ts-ignore: decorator
@inline
function stepState(s: v128, keep: v128, change: v128, k: v128, v: v128): v128 {
  return madd(s, keep, madd(s, change, f32x4.mul(k, v)));
}

/**
 * One token of one sequence and head: `S ← λ S + k vᵀ`, `output = scale · qᵀ S`, in one pass over S.
 * q, k `[headDim]`, v, output `[valueDim]`, state `[headDim, valueDim]`.
 */
export function lightningStep(
  q: usize, k: usize, v: usize, output: usize, state: usize, headDim: i32, valueDim: i32, change: f32, scale: f32,
): void {
  const keep = f32x4.splat(keepOf(change)), changed = f32x4.splat(change), factor = f32x4.splat(scale);
  const row = <usize> valueDim << 2;
  let c = 0;
  // From memory a state comes fastest as a stream, its lines in order.
  prefetch(state, row, headDim, valueDim);
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
    v128.store(output + at, f32x4.mul(factor, o0));
    v128.store(output + at, f32x4.mul(factor, o1), 16);
    v128.store(output + at, f32x4.mul(factor, o2), 32);
    v128.store(output + at, f32x4.mul(factor, o3), 48);
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
    storeLanes(output + at, f32x4.mul(factor, o0), count);
  }
}

// ------------------------------------------------------------------------------------------------ gradients
//
// Two walks over the blocks ("Lightning Attention-2", algorithm 2). With dO the gradient of the output, q times scale, and
// dS the gradient of the state after the block:
//
//   dQ = (dO Vᵀ ⊙ M) K + Λ dO Sᵀ                  from first to last, S carried
//   dK = (dO Vᵀ ⊙ M)ᵀ Q + λ^(m−1−j) V dSᵀ         reversed, dS carried
//   dV = (Q Kᵀ ⊙ M)ᵀ dO + λ^(m−1−j) K dS
//   dS ← λ^m dS + Σ_i λ^(i+1) q_i dO_iᵀ
//
// The reversed walk comes first. It computes everything but what dQ takes from the state: dK needs dO Vᵀ ⊙ M too. What the
// state adds is the forward without `intra`, with (dO, V, K) for (q, k, v) and Sᵀ for S.
//
// Scratch of the reversed walk, in f32 (names as above; P: panels, T: transposed, D: with decay):
//
//   queryT, times scale, keyT [d][W]   outputT, times scale, valueT [e][W]   outputD [e8/8][C][8], times scale
//   scores [W][W]: row i is query i, column j is key j   scoresT [W][W]
//   panels [max(d8, e8)/8][C][8]
//   dStateP [e8/8][d5][8]   dStateT [d8/8][e8][8]

/** Bytes of scratch that `lightningBackward` needs. */
export function lightningBackwardScratch(headDim: i32, valueDim: i32): i32 {
  const d = headDim, d5 = roundUp(d, TILE_ROWS), d8 = roundUp(d, TILE_COLUMNS);
  const e = valueDim, e8 = roundUp(e, TILE_COLUMNS);
  const back = WIDTH * 2 * (d + e + WIDTH) + BLOCK * (e8 + max(d8, e8)) + (d5 + d8) * e8;
  return max(4 * back + 64, 4 * d * e + lightningScratch(e, d));
}

/**
 * Gradients over one sequence and head. Operands and gradients: first row, and bytes between rows. `initialState` and
 * `dState`, either 0 for none, and `dInitialState`: `[headDim, valueDim]`. `addToQ` and `addToK` add to dq and dk,
 * for heads of value that share a query or a key.
 */
export function lightningBackward(
  q: usize, qStride: usize, k: usize, kStride: usize, v: usize, vStride: usize, dOutput: usize, dOutputStride: usize,
  dq: usize, dqStride: usize, dk: usize, dkStride: usize, dv: usize, dvStride: usize, addToQ: bool, addToK: bool,
  length: i32, headDim: i32, valueDim: i32, decay: usize, scale: f32,
  initialState: usize, dState: usize, dInitialState: usize, scratch: usize,
): void {
  const d5 = roundUp(headDim, TILE_ROWS), d8 = roundUp(headDim, TILE_COLUMNS);
  const e8 = roundUp(valueDim, TILE_COLUMNS);
  const keyRows = <usize> headDim * BLOCK_ROW, valueRows = <usize> valueDim * BLOCK_ROW;
  const queryT = scratch;
  const keyT = queryT + keyRows;
  const outputT = keyT + keyRows;
  const valueT = outputT + valueRows;
  const outputD = valueT + valueRows;
  const scores = outputD + <usize> (e8 * BLOCK) * 4;
  const scoresT = scores + WIDTH * BLOCK_ROW;
  const panels = scoresT + WIDTH * BLOCK_ROW;
  const dStateP = panels + <usize> (max(d8, e8) * BLOCK) * 4;
  const dStateT = dStateP + <usize> (d5 * e8) * 4;
  const stateRow = <usize> valueDim << 2;

  if (dState != 0) packPanels(dState, stateRow, headDim, valueDim, dStateP, d5, 1);
  else memory.fill(dStateP, 0, <usize> (d5 * e8) << 2);

  for (let start = (length - 1) / BLOCK * BLOCK; start >= 0 && length > 0; start -= BLOCK) {
    const m = min(BLOCK, length - start), packed = min(PACKED, length - start), first = <usize> start;
    const falling = decay + FALLING + (<usize> (BLOCK - m + 1) << 2); // λ^(m−1) .. λ^0
    const qBlock = q + first * qStride, kBlock = k + first * kStride;
    const vBlock = v + first * vStride, dOutputBlock = dOutput + first * dOutputStride;
    if (start + m == length || (start + BLOCK) % FETCHED == 0) {
      const from = <usize> (start / FETCHED * FETCHED), count = start + m - <i32> from;
      prefetch(q + from * qStride, qStride, count, headDim);
      prefetch(k + from * kStride, kStride, count, headDim);
      prefetch(v + from * vStride, vStride, count, valueDim);
      prefetch(dOutput + from * dOutputStride, dOutputStride, count, valueDim);
      prefetch(dq + from * dqStride, dqStride, count, headDim);
      prefetch(dk + from * dkStride, dkStride, count, headDim);
      prefetch(dv + from * dvStride, dvStride, count, valueDim);
    }
    packTransposed<f32>(qBlock, qStride, packed, headDim, queryT, BLOCK_ROW, PACKED, 0, scale);
    packTransposed<f32>(kBlock, kStride, packed, headDim, keyT, BLOCK_ROW, PACKED, 0, 1);
    packTransposed<f32>(dOutputBlock, dOutputStride, packed, valueDim, outputT, BLOCK_ROW, PACKED, 0, scale);
    packScaledPanels(dOutputBlock, dOutputStride, m, valueDim, outputD, BLOCK, decay + RISING + 4, scale);
    packTransposed<f32>(vBlock, vStride, packed, valueDim, valueT, BLOCK_ROW, PACKED, 0, 1);
    transposePanels(dStateP, dStateT, d5, d8, e8);

    // Whole tiles are written to the gradients directly, others by way of panels.
    const dqBlock = dq + first * dqStride, dkBlock = dk + first * dkStride, dvBlock = dv + first * dvStride;
    // dV = λ^(m−1−j) K dS + (Q Kᵀ ⊙ M)ᵀ dO
    let direct = m == BLOCK && valueDim == e8;
    let out = direct ? dvBlock : panels, outRow = direct ? dvStride : PANEL_ROW;
    let outPanel = direct ? PANEL_ROW : BLOCK * PANEL_ROW;
    interBlock(keyT, falling, dStateP, d5, headDim, out, outRow, outPanel, false, m, e8);
    intraBlockT(queryT, keyT, headDim, scores, decay, dOutputBlock, dOutputStride, out, outRow, outPanel, m, e8);
    if (!direct) unpackPanels(panels, BLOCK, m, valueDim, dvBlock, dvStride, false);
    // dK = λ^(m−1−j) V dSᵀ + (dO Vᵀ ⊙ M)ᵀ Q
    direct = m == BLOCK && headDim == d8;
    out = direct ? dkBlock : panels, outRow = direct ? dkStride : PANEL_ROW;
    outPanel = direct ? PANEL_ROW : BLOCK * PANEL_ROW;
    interBlock(valueT, falling, dStateT, e8, valueDim, out, outRow, outPanel, direct && addToK, m, d8);
    intraBlockT(outputT, valueT, valueDim, scores, decay, qBlock, qStride, out, outRow, outPanel, m, d8);
    if (!direct) unpackPanels(panels, BLOCK, m, headDim, dkBlock, dkStride, addToK);
    // dQ = (dO Vᵀ ⊙ M) K, the scores of dK
    transposeScores(scores, scoresT, m);
    out = direct ? dqBlock : panels, outRow = direct ? dqStride : PANEL_ROW;
    applyScores(scoresT, kBlock, kStride, out, outRow, outPanel, direct && addToQ, m, d8);
    if (!direct) unpackPanels(panels, BLOCK, m, headDim, dqBlock, dqStride, addToQ);
    // dS ← λ^m dS + Σ_i q_i (λ^(i+1) dO_i)ᵀ
    const change = changeOver(decay, m);
    updateState(qBlock, qStride, outputD, dStateP, keepOf(change), change, m, d5, e8);
  }
  unpackPanels(dStateP, d5, headDim, valueDim, dInitialState, stateRow, false);

  const initialStateT = scratch;
  const call = changetype<Walk>(scratch + <usize> (headDim * valueDim) * 4);
  call.q = dOutput, call.qStride = dOutputStride;
  call.k = v, call.kStride = vStride;
  call.v = k, call.vStride = kStride;
  call.output = dq, call.outputStride = dqStride;
  call.length = length, call.headDim = valueDim, call.valueDim = headDim;
  call.decay = decay, call.scale = scale;
  call.states = 0, call.initialState = 0, call.finalState = 0, call.stateStride = <usize> headDim << 2;
  call.accumulate = true, call.intra = false;
  if (initialState != 0) {
    transpose(initialState, initialStateT, headDim, valueDim);
    call.initialState = initialStateT;
  }
  walk(call);
}

/** `G[j] += Σ_{i≥j} λ^(i−j) (x_i·y_j) z_i`: intraBlock with transposed scores. Skips tiles above the diagonal. */
function intraBlockT(
  x: usize, y: usize, inner: i32, scores: usize, decay: usize, z: usize, zStride: usize,
  output: usize, outRow: usize, outPanel: usize, m: i32, columns: i32,
): void {
  for (let i = 0; i < m; i += TILE_ROWS) {
    for (let j = 0; j < min(m, i + TILE_ROWS); j += TILE_COLUMNS) {
      const corner = scores + <usize> i * BLOCK_ROW + (<usize> j << 2);
      tile(x + (<usize> i << 2), BLOCK_ROW, y + (<usize> j << 2), BLOCK_ROW, inner, corner, BLOCK_ROW, 0, 0, 0);
      maskScores(corner, decay + FALLING + (<usize> (BLOCK - i + j) << 2));
    }
  }
  for (let c = 0; c < columns; c += TILE_COLUMNS) {
    for (let j = 0; j < m; j += TILE_ROWS) {
      const diagonal = scores + <usize> j * BLOCK_ROW + (<usize> j << 2);
      tile(diagonal, BLOCK_ROW, z + <usize> j * zStride, zStride, m - j, output + <usize> j * outRow, outRow, 1, 0, 0);
    }
    z += PANEL_ROW;
    output += outPanel;
  }
}

/** Transposes scores, four rows at a time, as far as `applyScores` reads them, rounded up to whole vectors. */
function transposeScores(scores: usize, scoresT: usize, m: i32): void {
  for (let i = 0; i < m; i += 4) {
    packTransposed<f32>(scores + <usize> i * BLOCK_ROW, BLOCK_ROW, 4, roundUp(roundUp(i + 4, TILE_ROWS), 4),
      scoresT + (<usize> i << 2), BLOCK_ROW, 4, 0, 1);
  }
}

/** Panels [e8/8][d5][8] of a matrix to panels [d8/8][e8][8] of its transpose. Columns from d5 on may hold anything. */
function transposePanels(source: usize, target: usize, d5: i32, d8: i32, e8: i32): void {
  for (let c = 0; c < e8; c += TILE_COLUMNS) {
    for (let i = 0; i < d8; i += TILE_COLUMNS) {
      const from = source + <usize> (c * d5 + i * TILE_COLUMNS) * 4;
      const to = target + <usize> (i * e8 + c * TILE_COLUMNS) * 4;
      transpose4(from, to);
      transpose4(from + 16, to + 4 * PANEL_ROW);
      transpose4(from + 4 * PANEL_ROW, to + 16);
      transpose4(from + 4 * PANEL_ROW + 16, to + 4 * PANEL_ROW + 16);
    }
  }
}

/** 4 × 4 elements between rows of panels. */
// @ts-ignore: decorator
@inline
function transpose4(from: usize, to: usize): void {
  const x0 = v128.load(from), x1 = v128.load(from + PANEL_ROW);
  const x2 = v128.load(from + 2 * PANEL_ROW), x3 = v128.load(from + 3 * PANEL_ROW);
  const lo01 = v128.shuffle<f32>(x0, x1, 0, 4, 1, 5), hi01 = v128.shuffle<f32>(x0, x1, 2, 6, 3, 7);
  const lo23 = v128.shuffle<f32>(x2, x3, 0, 4, 1, 5), hi23 = v128.shuffle<f32>(x2, x3, 2, 6, 3, 7);
  v128.store(to, v128.shuffle<f32>(lo01, lo23, 0, 1, 4, 5));
  v128.store(to + PANEL_ROW, v128.shuffle<f32>(lo01, lo23, 2, 3, 6, 7));
  v128.store(to + 2 * PANEL_ROW, v128.shuffle<f32>(hi01, hi23, 0, 1, 4, 5));
  v128.store(to + 3 * PANEL_ROW, v128.shuffle<f32>(hi01, hi23, 2, 3, 6, 7));
}

/** `target[c][r] = source[r][c]`, dense. */
function transpose(source: usize, target: usize, rows: i32, columns: i32): void {
  for (let r = 0; r < rows; r++) {
    for (let c = 0; c < columns; c++) {
      store<f32>(target + (<usize> (c * rows + r) << 2), load<f32>(source + (<usize> (r * columns + c) << 2)));
    }
  }
}
