// Lightning Attention, backward: one (sequence, head) per call, in two walks over the blocks ("Lightning Attention-2",
// algorithm 2). With dO the gradient of the output and dS that of the state after the block, q times scale:
//
//   dQ = (dO Vᵀ ⊙ M) K + Λ dO Sᵀ                  from first to last, S carried
//   dK = (dO Vᵀ ⊙ M)ᵀ Q + λ^(m−1−j) V dSᵀ         from last to first, dS carried
//   dV = (Q Kᵀ ⊙ M)ᵀ dO + λ^(m−1−j) K dS
//   dS ← λ^m dS + Σ_i λ^(i+1) q_i dO_iᵀ
//
// The first line is the forward itself with (dO, V, K) for (q, k, v) and Sᵀ for S: `walk` adds what comes out of the
// state. The walk back, which goes first, computes the rest; dQ shares dO Vᵀ ⊙ M with dK there, transposed.
//
// Scratch of the walk back, in f32 (names as in lightning.ts; P: panels, T: transposed, D: with decay):
//
//   queryT, times scale, keyT [d][W]   outputT, times scale, valueT [e][W]   outputD [e8/8][C][8], times scale
//   scores [W][W]: row i is query i, column j is key j   scoresT [W][W]
//   result [max(d8, e8)/8][C][8]
//   dState [e8/8][d5][8]   dStateT [d8/8][e8][8]
import { BLOCK, TILE_COLUMNS, TILE_ROWS } from "../core/tile";
import {
  applyScores, BLOCK_ROW, CHANGE, FALLING, FETCHED, interBlock, lightningScratch, maskScores, PACKED, RISING,
  updateState, walk, WIDTH,
} from "./lightning";
import { touch } from "./simd";
import { packPanels, packScaledPanels, packTransposed, PANEL_ROW, roundUp, tile, unpackPanels } from "./tile";

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
  q: usize, qStride: usize, k: usize, kStride: usize, v: usize, vStride: usize, dO: usize, dOStride: usize,
  dq: usize, dqStride: usize, dk: usize, dkStride: usize, dv: usize, dvStride: usize, addToQ: bool, addToK: bool,
  length: i32, headDim: i32, valueDim: i32, decay: usize, scale: f32,
  initialState: usize, dState: usize, dInitialState: usize, scratch: usize,
): void {
  walkBack(q, qStride, k, kStride, v, vStride, dO, dOStride, dq, dqStride, dk, dkStride, dv, dvStride, addToQ, addToK,
    length, headDim, valueDim, decay, scale, dState, dInitialState, scratch);
  let initialStateT: usize = 0;
  if (initialState != 0) {
    initialStateT = scratch;
    transpose(initialState, initialStateT, headDim, valueDim);
  }
  walk(dO, dOStride, v, vStride, k, kStride, dq, dqStride, length, valueDim, headDim, decay, scale,
    initialStateT, 0, <usize> headDim << 2, true, false, scratch + <usize> (headDim * valueDim) * 4);
}

/** Everything but what dQ takes from the state: writes dq and dk, or adds to them, and dv. */
function walkBack(
  q: usize, qStride: usize, k: usize, kStride: usize, v: usize, vStride: usize, dO: usize, dOStride: usize,
  dq: usize, dqStride: usize, dk: usize, dkStride: usize, dv: usize, dvStride: usize, addToQ: bool, addToK: bool,
  length: i32, headDim: i32, valueDim: i32, decay: usize, scale: f32,
  dState: usize, dInitialState: usize, scratch: usize,
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
  const result = scoresT + WIDTH * BLOCK_ROW;
  const state = result + <usize> (max(d8, e8) * BLOCK) * 4;
  const stateT = state + <usize> (d5 * e8) * 4;
  const stateRow = <usize> valueDim << 2;

  if (dState != 0) packPanels(dState, stateRow, headDim, valueDim, state, d5, 1);
  else memory.fill(state, 0, <usize> (d5 * e8) << 2);

  for (let start = (length - 1) / BLOCK * BLOCK; start >= 0 && length > 0; start -= BLOCK) {
    const m = min(BLOCK, length - start), packed = min(PACKED, length - start), first = <usize> start;
    const falling = decay + FALLING + (<usize> (BLOCK - m + 1) << 2); // λ^(m−1) .. λ^0
    const qBlock = q + first * qStride, kBlock = k + first * kStride;
    const vBlock = v + first * vStride, dOBlock = dO + first * dOStride;
    if (start + m == length || (start + BLOCK) % FETCHED == 0) {
      const from = <usize> (start / FETCHED * FETCHED), count = start + m - <i32> from;
      store<i32>(scores,
        touch(q + from * qStride, qStride, count, headDim) + touch(k + from * kStride, kStride, count, headDim) +
        touch(v + from * vStride, vStride, count, valueDim) + touch(dO + from * dOStride, dOStride, count, valueDim) +
        touch(dq + from * dqStride, dqStride, count, headDim) + touch(dk + from * dkStride, dkStride, count, headDim) +
        touch(dv + from * dvStride, dvStride, count, valueDim));
    }
    packTransposed(qBlock, qStride, packed, headDim, queryT, BLOCK_ROW, PACKED, 0, scale);
    packTransposed(kBlock, kStride, packed, headDim, keyT, BLOCK_ROW, PACKED, 0, 1);
    packTransposed(dOBlock, dOStride, packed, valueDim, outputT, BLOCK_ROW, PACKED, 0, scale);
    packScaledPanels(dOBlock, dOStride, m, valueDim, outputD, BLOCK, decay + RISING + 4, scale);
    packTransposed(vBlock, vStride, packed, valueDim, valueT, BLOCK_ROW, PACKED, 0, 1);
    transposePanels(state, stateT, d5, d8, e8);

    // Whole tiles go to where they belong at once, others by way of panels.
    const dqBlock = dq + first * dqStride, dkBlock = dk + first * dkStride, dvBlock = dv + first * dvStride;
    // dV = λ^(m−1−j) K dS + (Q Kᵀ ⊙ M)ᵀ dO
    let direct = m == BLOCK && valueDim == e8;
    let out = direct ? dvBlock : result, outRow = direct ? dvStride : PANEL_ROW, outPanel = direct ? PANEL_ROW : BLOCK * PANEL_ROW;
    interBlock(keyT, falling, state, d5, headDim, out, outRow, outPanel, false, m, e8);
    intraBlockT(queryT, keyT, headDim, scores, decay, dOBlock, dOStride, out, outRow, outPanel, m, e8);
    if (!direct) unpackPanels(result, BLOCK, m, valueDim, dvBlock, dvStride, false);
    // dK = λ^(m−1−j) V dSᵀ + (dO Vᵀ ⊙ M)ᵀ Q
    direct = m == BLOCK && headDim == d8;
    out = direct ? dkBlock : result, outRow = direct ? dkStride : PANEL_ROW, outPanel = direct ? PANEL_ROW : BLOCK * PANEL_ROW;
    interBlock(valueT, falling, stateT, e8, valueDim, out, outRow, outPanel, direct && addToK, m, d8);
    intraBlockT(outputT, valueT, valueDim, scores, decay, qBlock, qStride, out, outRow, outPanel, m, d8);
    if (!direct) unpackPanels(result, BLOCK, m, headDim, dkBlock, dkStride, addToK);
    // dQ = (dO Vᵀ ⊙ M) K, the scores of dK
    transposeScores(scores, scoresT, m);
    out = direct ? dqBlock : result, outRow = direct ? dqStride : PANEL_ROW;
    applyScores(scoresT, kBlock, kStride, out, outRow, outPanel, direct && addToQ, m, d8);
    if (!direct) unpackPanels(result, BLOCK, m, headDim, dqBlock, dqStride, addToQ);
    // dS ← λ^m dS + Σ_i q_i (λ^(i+1) dO_i)ᵀ
    updateState(qBlock, qStride, outputD, state, load<f32>(decay + CHANGE + (<usize> m << 2)), m, d5, e8);
  }
  unpackPanels(state, d5, headDim, valueDim, dInitialState, stateRow, false);
}

/** `G[j] += Σ_{i≥j} λ^(i−j) (x_i·y_j) z_i`: intraBlock with scores turned; tiles above the diagonal are left out. */
function intraBlockT(
  x: usize, y: usize, depth: i32, scores: usize, decay: usize, z: usize, zStride: usize,
  output: usize, outRow: usize, outPanel: usize, m: i32, columns: i32,
): void {
  for (let i = 0; i < m; i += TILE_ROWS) {
    for (let j = 0; j < min(m, i + TILE_ROWS); j += TILE_COLUMNS) {
      const corner = scores + <usize> i * BLOCK_ROW + (<usize> j << 2);
      tile(x + (<usize> i << 2), BLOCK_ROW, y + (<usize> j << 2), BLOCK_ROW, depth, corner, BLOCK_ROW, 0, 0, 0);
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

/** Transposes scores, four rows at a time, as far as `applyScores` reads them and on to whole vectors. */
function transposeScores(scores: usize, scoresT: usize, m: i32): void {
  for (let i = 0; i < m; i += 4) {
    packTransposed(scores + <usize> i * BLOCK_ROW, BLOCK_ROW, 4, roundUp(roundUp(i + 4, TILE_ROWS), 4),
      scoresT + (<usize> i << 2), BLOCK_ROW, 4, 0, 1);
  }
}

/** Panels [e8/8][d5][8] of a matrix to panels [d8/8][e8][8] of its transpose; columns from d5 on hold anything. */
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
