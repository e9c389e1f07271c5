/**
 * Lightning Attention: causal linear attention with decay, block by block, at constant speed for any length.
 *
 * Recurrence, per sequence and head, with decay λ = exp(−slope):
 * `S_t = λ S_{t−1} + k_t v_tᵀ`, `o_t = scale · q_tᵀ S_t`.
 *
 * It is computed in blocks of tokens ("Various Lengths, Constant Speed", algorithm 3; "Lightning Attention-2",
 * algorithm 1), in three stages that carry the same names everywhere. A GPU that holds S in registers takes blocks of
 * one token; the first two stages are then one product (`gpu/lightning.wgsl`):
 *
 * | stage | for a block of m tokens, S the state before it |
 * |---|---|
 * | `intraBlock` | `O_intra[i] = Σ_{j≤i} λ^(i−j) (q_i·k_j) v_j` |
 * | `interBlock` | `O_inter[i] = λ^(i+1) q_iᵀ S` |
 * | `updateState` | `S ← λ^m S + Σ_j λ^(m−1−j) k_j v_jᵀ` |
 *
 * @module
 */
import {
  checkArray,
  checkDistinct,
  checkFinite,
  checkIndices,
  checkOperand,
  checkOptions,
  result,
  results,
} from "../check.ts";
import { type DType, F32, FLOATS, type FloatType } from "../dtype.ts";
import { rangeError, typeError } from "../errors.ts";
import type { LightningCall, LightningShape, Sequence } from "../machine.ts";
import { checkShape } from "../shape.ts";
import { type Backend, checkTensor, type Tensor } from "../tensor.ts";

/** Options of {@linkcode lightningAttentionStep}, shared with {@linkcode lightningAttention}. */
export interface LightningStepOptions {
  /** Decay per head, `[heads]`, each ≥ 0: λ = exp(−slope) per token. Default: no decay. Heads are those of v. */
  slopes?: ArrayLike<number>;
  /** Factor of every score q·k. Default 1, as in the papers. */
  scale?: number;
  /**
   * Row of the state of each batch element, all different. The state then may have any number of rows, of which only
   * these are read and changed: sessions that come and go share one tensor. Default: batch element b has row b.
   */
  rows?: ArrayLike<number>;
}

/** Options of {@linkcode lightningAttention}. */
export interface LightningOptions extends Omit<LightningStepOptions, "rows"> {
  /** State before the first token, `[batch, heads, headDim, valueDim]`; it is not changed. Default: zero. */
  initialState?: Tensor;
  /**
   * Packed sequences of different lengths: batch 1, non-decreasing offsets `[0, ..., seqLen]`. States then are
   * `[sequences, heads, headDim, valueDim]`.
   */
  cuSeqlens?: ArrayLike<number>;
  /** `"bhnd"` (default): `[batch, heads, seqLen, dim]`; `"bnhd"`: `[batch, seqLen, heads, dim]`. */
  layout?: "bhnd" | "bnhd";
}

/** What {@linkcode lightningAttention} returns; the caller disposes both. */
export interface LightningResult {
  /** The shape of v. */
  output: Tensor;
  /** State after the last token of each sequence, `[batch or sequences, heads, headDim, valueDim]`. */
  state: Tensor;
}

/**
 * Causal linear attention with decay over whole sequences: time and memory linear in the length, and the same speed
 * at every length.
 *
 * Query and key may have fewer heads than value: head h of v then reads head `⌊h / (heads of v / heads of q)⌋`.
 *
 * @example Two segments with a carried state are one sequence
 * ```ts
 * import { alibiSlopes, createBackend, lightningAttention } from "@levin/attention";
 * import assert from "node:assert/strict";
 *
 * using backend = await createBackend({ prefer: "wasm" });
 * const [batch, heads, seqLen, dim] = [1, 4, 1000, 64];
 * const random = () => Float32Array.from({ length: batch * heads * seqLen * dim }, () => Math.random() - 0.5);
 * using q = backend.tensor(random(), [batch, heads, seqLen, dim]);
 * using k = backend.tensor(random(), [batch, heads, seqLen, dim]);
 * using v = backend.tensor(random(), [batch, heads, seqLen, dim]);
 *
 * const slopes = alibiSlopes(heads);
 * const first = lightningAttention(q, k, v, { slopes });
 * const second = lightningAttention(q, k, v, { slopes, initialState: first.state });
 * assert.deepEqual(second.output.shape, v.shape);
 * assert.deepEqual(second.state.shape, [1, 4, 64, 64]); // however long the sequence
 * for (const tensor of [first.output, first.state, second.output, second.state]) tensor.dispose();
 * ```
 *
 * @param q query, `[batch, heads, seqLen, headDim]` (or per `layout`), any length ≥ 0
 * @param k key, like q
 * @param v value, `[batch, heads, seqLen, valueDim]`; its heads a multiple of those of q and k
 * @param options see {@linkcode LightningOptions}
 * @returns output and final state, without a wait for their data
 * @throws {TypeError} when an argument is no tensor, or the tensors belong to different backends
 * @throws {RangeError} when shapes do not match, a slope is negative or NaN, or `cuSeqlens` decreases
 * @throws {BackendError} when a tensor was disposed, or memory is short
 */
export function lightningAttention(
  q: Tensor,
  k: Tensor,
  v: Tensor,
  options: LightningOptions = {},
): LightningResult {
  const operation = "lightningAttention";
  const backend = checkOperands(operation, q, k, v, FLOATS);
  const call = checkCall(operation, q, k, v, options);
  const shapes = { output: v.shape, state: stateShape(call) };
  return results(backend, shapes, { output: v.dtype as FloatType }, ({ output, state }) => {
    backend.machine.operations.lightning({ ...call, output, state });
  });
}

/**
 * One token per sequence: `S ← λ S + k vᵀ`, `o = scale · qᵀ S`. Its cost does not depend on how many tokens came
 * before.
 *
 * @example
 * ```ts
 * import { createBackend, lightningAttentionStep } from "@levin/attention";
 * import assert from "node:assert/strict";
 *
 * using backend = await createBackend({ prefer: "wasm" });
 * using state = backend.zeros([1, 2, 16, 16]);
 * using x = backend.tensor(new Float32Array(2 * 16).fill(0.5), [1, 2, 16]);
 * using output = lightningAttentionStep(x, x, x, state, { slopes: [0.1, 0.2] });
 * assert.deepEqual(output.shape, [1, 2, 16]);
 * assert.equal((await output.data())[0], 2); // q·k v = 16 · 0.5 · 0.5 · 0.5
 * ```
 *
 * @param q query, `[batch, heads, headDim]`
 * @param k key, like q
 * @param v value, `[batch, heads, valueDim]`; its heads a multiple of those of q and k
 * @param state `[batch, heads, headDim, valueDim]`, or any number of rows with `rows`; updated in place
 * @param options see {@linkcode LightningStepOptions}
 * @returns output, `[batch, heads, valueDim]`
 * @throws {TypeError} when an argument is no tensor, or the tensors belong to different backends
 * @throws {RangeError} when shapes do not match, or a slope is negative or NaN
 * @throws {BackendError} when a tensor was disposed, or memory is short
 */
export function lightningAttentionStep(
  q: Tensor,
  k: Tensor,
  v: Tensor,
  state: Tensor,
  options: LightningStepOptions = {},
): Tensor {
  const operation = "lightningAttentionStep";
  const backend = checkOperands(operation, q, k, v, FLOATS);
  checkOptions(operation, options);
  const [batch, queryHeads, headDim] = q.shape;
  const [, keyHeads] = k.shape;
  const [, heads, valueDim] = v.shape;
  checkShape(operation, "q", q.shape, [undefined, undefined, undefined], "[batch, heads, headDim]");
  checkShape(operation, "k", k.shape, [batch, undefined, headDim], "[batch, heads, headDim]");
  checkShape(operation, "v", v.shape, [batch, undefined, undefined], "[batch, heads, valueDim]");
  const shape = { layout: "bhnd" as const, batch, seqLen: 1, heads, queryHeads, keyHeads, headDim, valueDim };
  checkHeads(operation, shape);
  const slopes = checkSlopes(operation, options.slopes, heads);
  const scale = checkScale(operation, options.scale);
  const stateRows = checkStateRows(operation, options.rows, batch, state);
  const states = stateRows === undefined ? batch : state.shape[0];
  checkState(operation, "state", state, backend, [states, heads, headDim, valueDim]);
  return result(backend, v.shape, v.dtype as FloatType, (output) => {
    backend.machine.operations.lightningStep({ shape, q, k, v, slopes, scale, state, stateRows, output });
  });
}

/** Options of {@linkcode lightningAttentionBackward}: those of the forward call, and the gradient of its state. */
export interface LightningBackwardOptions extends LightningOptions {
  /** Gradient of the final state, `[batch or sequences, heads, headDim, valueDim]`. Default: zero. */
  dState?: Tensor;
}

/** What {@linkcode lightningAttentionBackward} returns; the caller disposes all four. */
export interface LightningGradients {
  /** Gradient of q, its shape. */
  dq: Tensor;
  /** Gradient of k, its shape. */
  dk: Tensor;
  /** Gradient of v, its shape. */
  dv: Tensor;
  /** Gradient of the initial state, `[batch or sequences, heads, headDim, valueDim]`. */
  dInitialState: Tensor;
}

/**
 * Gradients of {@linkcode lightningAttention}, block by block like the forward: time and memory linear in the length,
 * nothing kept from the forward but its arguments, no atomics, so the same bits every time ("Various Lengths,
 * Constant Speed", algorithm 4; "Lightning Attention-2", algorithm 2). Slopes are constants and have no gradient.
 *
 * @example
 * ```ts
 * import { createBackend, lightningAttentionBackward } from "@levin/attention";
 * import assert from "node:assert/strict";
 *
 * using backend = await createBackend({ prefer: "wasm" });
 * using x = backend.tensor(new Float32Array(2 * 10 * 8).fill(0.1), [1, 2, 10, 8]);
 * const { dq, dk, dv, dInitialState } = lightningAttentionBackward(x, x, x, x, { slopes: [0.5, 0.25] });
 * assert.deepEqual(dq.shape, x.shape);
 * assert.deepEqual(dInitialState.shape, [1, 2, 8, 8]);
 * for (const tensor of [dq, dk, dv, dInitialState]) tensor.dispose();
 * ```
 *
 * @param q as in the forward call, like k and v
 * @param k see q
 * @param v see q
 * @param dOutput gradient of the output, its shape
 * @param options the options of the forward call, and `dState`
 * @throws {TypeError} when an argument is no tensor, the tensors belong to different backends, or one is stored as f16
 * @throws {RangeError} when shapes do not match, a slope is negative or NaN, or `cuSeqlens` decreases
 * @throws {BackendError} when a tensor was disposed, or memory is short
 */
export function lightningAttentionBackward(
  q: Tensor,
  k: Tensor,
  v: Tensor,
  dOutput: Tensor,
  options: LightningBackwardOptions = {},
): LightningGradients {
  const operation = "lightningAttentionBackward";
  const backend = checkOperands(operation, q, k, v, F32);
  const call = checkCall(operation, q, k, v, options);
  checkOperand(operation, "dOutput", dOutput, F32, backend, v.shape, "of the output");
  const { dState } = options;
  if (dState !== undefined) checkState(operation, "dState", dState, backend, stateShape(call));
  const shapes = { dq: q.shape, dk: k.shape, dv: v.shape, dInitialState: stateShape(call) };
  return results(backend, shapes, {}, (gradients) => {
    backend.machine.operations.lightningBackward({ ...call, dOutput, dState, ...gradients });
  });
}

function checkOperands(
  operation: string,
  q: Tensor,
  k: Tensor,
  v: Tensor,
  dtypes: readonly DType[],
): Backend {
  checkTensor(operation, "q", q, dtypes);
  checkTensor(operation, "k", k, dtypes, q.backend);
  checkTensor(operation, "v", v, dtypes, q.backend);
  if (k.dtype !== q.dtype || v.dtype !== q.dtype) {
    typeError(operation, "q, k and v must have the same dtype", [q.dtype, k.dtype, v.dtype]);
  }
  return q.backend;
}

/** What forward and backward have in common. */
function checkCall(
  operation: string,
  q: Tensor,
  k: Tensor,
  v: Tensor,
  options: LightningOptions,
): Omit<LightningCall, "output" | "state"> {
  checkOptions(operation, options);
  const { layout = "bhnd", initialState } = options;
  const shape = checkAttentionShape(operation, q, k, v, layout);
  const sequences = checkSequences(operation, options.cuSeqlens, shape);
  const slopes = checkSlopes(operation, options.slopes, shape.heads);
  const scale = checkScale(operation, options.scale);
  const call = { shape, q, k, v, slopes, scale, sequences, initialState };
  if (initialState !== undefined) {
    checkState(operation, "initialState", initialState, q.backend, stateShape(call));
  }
  return call;
}

/** Shape of the states of all sequences of a call. */
function stateShape({ sequences, shape }: Pick<LightningCall, "sequences" | "shape">): number[] {
  return [sequences.length, shape.heads, shape.headDim, shape.valueDim];
}

function checkAttentionShape(
  operation: string,
  q: Tensor,
  k: Tensor,
  v: Tensor,
  layout: "bhnd" | "bnhd",
): LightningShape {
  if (layout !== "bhnd" && layout !== "bnhd") {
    rangeError(operation, `layout must be "bhnd" or "bnhd"`, layout);
  }
  const [head, token] = layout === "bhnd" ? [1, 2] : [2, 1];
  const wording = (dim: string) =>
    layout === "bhnd" ? `[batch, heads, seqLen, ${dim}]` : `[batch, seqLen, heads, ${dim}]`;
  const like = (...known: [axis: number, size: number][]) => {
    const expected: (number | undefined)[] = [undefined, undefined, undefined, undefined];
    for (const [axis, size] of known) expected[axis] = size;
    return expected;
  };
  checkShape(operation, "q", q.shape, like(), wording("headDim"));
  const batch = q.shape[0], seqLen = q.shape[token], headDim = q.shape[3];
  checkShape(operation, "k", k.shape, like([0, batch], [token, seqLen], [3, headDim]), wording("headDim"));
  checkShape(operation, "v", v.shape, like([0, batch], [token, seqLen]), wording("valueDim"));
  const shape = {
    layout,
    batch,
    seqLen,
    heads: v.shape[head],
    queryHeads: q.shape[head],
    keyHeads: k.shape[head],
    headDim,
    valueDim: v.shape[3],
  };
  checkHeads(operation, shape);
  return shape;
}

function checkHeads(operation: string, shape: LightningShape): void {
  const { heads, queryHeads, keyHeads, headDim, valueDim } = shape;
  if (headDim < 1) rangeError(operation, "headDim must be >= 1", headDim);
  if (valueDim < 1) rangeError(operation, "valueDim must be >= 1", valueDim);
  for (const [name, size] of [["q", queryHeads], ["k", keyHeads]] as const) {
    if (size < 1 || heads < 1 || heads % size !== 0) {
      rangeError(
        operation,
        `heads of v must be a multiple of heads of ${name}`,
        heads,
        `heads of ${name}: ${size}`,
      );
    }
  }
}

function checkSlopes(operation: string, slopes: ArrayLike<number> | undefined, heads: number): Float64Array {
  if (slopes === undefined) return new Float64Array(heads);
  checkArray(operation, "slopes", slopes, "numbers, one per head of v");
  if (slopes.length !== heads) {
    rangeError(operation, `slopes must have one value per head of v, ${heads}`, slopes.length);
  }
  for (let head = 0; head < heads; head++) {
    const slope: unknown = slopes[head];
    if (typeof slope !== "number") typeError(operation, "slopes must be numbers", slope, `head ${head}`);
    if (!(slope >= 0)) rangeError(operation, "slopes must be >= 0", slope, `head ${head}`);
  }
  return Float64Array.from(slopes);
}

function checkScale(operation: string, scale = 1): number {
  checkFinite(operation, "scale", scale);
  return scale;
}

function checkSequences(
  operation: string,
  cuSeqlens: ArrayLike<number> | undefined,
  { batch, seqLen }: LightningShape,
): Sequence[] {
  if (cuSeqlens === undefined) {
    return Array.from({ length: batch }, (_, index) => ({ batch: index, start: 0, length: seqLen }));
  }
  checkArray(operation, "cuSeqlens", cuSeqlens, "offsets");
  if (batch !== 1) rangeError(operation, "batch must be 1 with cuSeqlens", batch);
  const offsets = Array.from(cuSeqlens);
  if (offsets.length < 1 || offsets[0] !== 0) rangeError(operation, "cuSeqlens must begin with 0", offsets);
  if (offsets.at(-1) !== seqLen) rangeError(operation, `cuSeqlens must end with seqLen, ${seqLen}`, offsets);
  return offsets.slice(1).map((end, index) => {
    const start = offsets[index];
    if (!Number.isInteger(end) || end < start) {
      rangeError(operation, "cuSeqlens must be non-decreasing integers", end, `after ${start}`);
    }
    return { batch: 0, start, length: end - start };
  });
}

function checkStateRows(
  operation: string,
  rows: ArrayLike<number> | undefined,
  batch: number,
  state: Tensor,
): Uint32Array | undefined {
  if (rows === undefined) return undefined;
  const [count = 0] = checkTensor(operation, "state", state, F32);
  const checked = checkIndices(operation, "rows", rows, count);
  if (checked.length !== batch) {
    rangeError(operation, `rows must have one value per batch element, ${batch}`, checked.length);
  }
  checkDistinct(operation, "rows", checked);
  return checked;
}

function checkState(
  operation: string,
  name: string,
  state: Tensor,
  backend: Backend,
  shape: readonly number[],
): void {
  const wording = "[batch or sequences, heads, headDim, valueDim]";
  checkOperand(operation, name, state, F32, backend, shape, wording);
}
