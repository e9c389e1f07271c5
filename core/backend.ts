/**
 * The seam between the library and the machine: what a backend offers, and the only place that chooses one.
 *
 * @module
 */
import type { DType, Tensor } from "./tensor.ts";
import { createWebgpuBackend, selfTest } from "../gpu/backend.ts";
import { createWasmBackend } from "../wasm/backend.ts";
import { BackendError, rangeError } from "./errors.ts";
import type { QuantizedWeight } from "./quantize.ts";

/** What a backend runs on, for people and for bug reports. */
export interface BackendInfo {
  /** Why this backend was chosen, as a sentence. */
  readonly reason: string;
  /** The adapter or instruction set, for example `"NVIDIA H100 80GB HBM3"` or `"relaxed SIMD"`. */
  readonly device: string;
  /** Threads that compute; 1 on WebGPU. */
  readonly threads: number;
}

/**
 * A device with memory and kernels. Tensors belong to the backend that made them.
 *
 * Operations enqueue work and return at once; work runs in the order in which it was enqueued, and
 * `await tensor.data()` waits for it. Disposing the backend frees everything it holds.
 */
export interface Backend extends Disposable {
  /** Which backend this is. */
  readonly name: "webgpu" | "wasm";
  /** What it runs on and why it was chosen. */
  readonly info: BackendInfo;
  /** The operations. Arguments were checked by the functions that call them: `core/lightning.ts`, `core/ops.ts`. */
  readonly kernels: Kernels;
  /** Gradients of the operations, for training. */
  readonly gradients: GradientKernels;
  /** Bytes that the backend's tensors hold now. */
  readonly bytesInUse: number;
  /** Bytes that the backend holds of the machine: live tensors, work space, and what it keeps for reuse. */
  readonly bytesReserved: number;

  /**
   * A tensor with the given elements.
   *
   * @param data as many elements as `shape` says, row-major
   * @param shape dimensions, outermost first, each an integer ≥ 0
   * @param options `dtype`: how to store them, default `"f32"`; `"f16"` needs a WebGPU device with `shader-f16`
   * @throws {TypeError} when `data` is no `Float32Array`
   * @throws {RangeError} when a dimension is no integer ≥ 0 or the number of elements differs
   */
  tensor(data: Float32Array, shape: readonly number[], options?: { dtype?: DType }): Tensor;
  /**
   * A quantised weight, as `quantize()` makes it: the weight of `linear`, or the table of `embedding`.
   *
   * Its products are sums of integers where that is faster: on WASM rows of x are quantised too, group by group, to 16
   * bits beside a weight of 8 and to 8 bits beside one of 4.
   *
   * @throws {TypeError} when the weight is of the wrong kind
   * @throws {RangeError} when bits, group, shape and sizes do not fit
   */
  quantized(weight: QuantizedWeight): Tensor;
  /** A tensor whose elements are not yet written, for results of {@linkcode Kernels}. */
  empty(shape: readonly number[], dtype?: DType): Tensor;
  /** A tensor of zeros. */
  zeros(shape: readonly number[], dtype?: DType): Tensor;
  /** The elements of a tensor; see {@linkcode Tensor.data}. */
  read(tensor: Tensor): Promise<Float32Array>;
  /** Overwrites a tensor's elements in place. */
  write(tensor: Tensor, data: Float32Array): void;
  /** Takes back what a disposed tensor held; see {@linkcode Tensor.dispose}. */
  release(storage: unknown): void;
  /** Ends the backend and frees its memory; its tensors are then disposed. Twice does nothing. */
  dispose(): void;
}

/** One sequence of a call: `length` tokens from token `start` of batch element `batch`. */
export interface Sequence {
  /** Batch element. */
  readonly batch: number;
  /** First token. */
  readonly start: number;
  /** Number of tokens; 0 is a sequence too. */
  readonly length: number;
}

/** Sizes of an attention call, checked. `heads` counts value heads; query and key heads divide it. */
export interface LightningShape {
  /** `"bhnd"`: `[batch, heads, seqLen, dim]`; `"bnhd"`: `[batch, seqLen, heads, dim]`. */
  readonly layout: "bhnd" | "bnhd";
  /** Batch elements. */
  readonly batch: number;
  /** Tokens per batch element. */
  readonly seqLen: number;
  /** Heads of value, output and state. */
  readonly heads: number;
  /** Heads of query; head h of value reads head `⌊h · queryHeads / heads⌋`. */
  readonly queryHeads: number;
  /** Heads of key, likewise. */
  readonly keyHeads: number;
  /** d: size of a query and of a key. */
  readonly headDim: number;
  /** e: size of a value. */
  readonly valueDim: number;
}

/** A checked call of `lightningAttention`. */
export interface LightningCall {
  /** Sizes. */
  readonly shape: LightningShape;
  /** Query. */
  readonly q: Tensor;
  /** Key. */
  readonly k: Tensor;
  /** Value. */
  readonly v: Tensor;
  /** One slope per head, ≥ 0; zeros where there is no decay. */
  readonly slopes: Float64Array;
  /** Factor of every score. */
  readonly scale: number;
  /** Sequences, in the order of the states. */
  readonly sequences: readonly Sequence[];
  /** State before the first token, `[sequences, heads, headDim, valueDim]`; left out: zero. */
  readonly initialState: Tensor | undefined;
  /** Written: `v`'s shape with `heads`. */
  readonly output: Tensor;
  /** Written: state after the last token, `[sequences, heads, headDim, valueDim]`. */
  readonly state: Tensor;
}

/** A checked call of `lightningAttentionStep`. Vectors are `[batch, heads, dim]`. */
export interface LightningStepCall {
  /** Sizes; `seqLen` is 1. */
  readonly shape: LightningShape;
  /** Query. */
  readonly q: Tensor;
  /** Key. */
  readonly k: Tensor;
  /** Value. */
  readonly v: Tensor;
  /** One slope per head, ≥ 0. */
  readonly slopes: Float64Array;
  /** Factor of every score. */
  readonly scale: number;
  /** Read and written in place, `[batch, heads, headDim, valueDim]`, or as many rows as `rows` chooses from. */
  readonly state: Tensor;
  /** Row of `state` of each batch element, no two the same; left out: batch element b has row b. */
  readonly rows: Uint32Array | undefined;
  /** Written: `[batch, heads, valueDim]`. */
  readonly output: Tensor;
}

/** Activations of TransNormerLLM's query and key (`linear_act_fun`). */
export type Activation =
  | "identity"
  | "silu"
  | "1+elu"
  | "2+elu"
  | "elu"
  | "relu"
  | "gelu"
  | "leak"
  | "sigmoid"
  | "sine"
  | "exp";

/**
 * The operations of a backend. Tensors and numbers come checked; results are written to tensors made by
 * {@linkcode Backend.empty}. A "row" is what the last dimension holds.
 */
export interface Kernels {
  /** Causal linear attention with decay over whole sequences, block by block. */
  lightning(call: LightningCall): void;
  /** The same for one token per sequence. */
  lightningStep(call: LightningStepCall): void;
  /** `output[i] = table[ids[i]] · scale`; `table` is `[vocab, dim]`, quantised or not. */
  embedding(table: Tensor, ids: Uint32Array, scale: number, output: Tensor): void;
  /** `output = x weightᵀ + bias + residual`; x `[rows, in]`, weight `[out, in]`, quantised or not, bias `[out]`, residual `[rows, out]`. */
  linear(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | undefined,
    residual: Tensor | undefined,
    output: Tensor,
  ): void;
  /**
   * Each row of `width` elements of x: without weight SRMSNorm `x / sqrt(mean(x²) + eps)`, with weight and bias
   * LayerNorm `(x − mean) / sqrt(var + eps) · weight + bias`; then times `gate`, where there is one.
   */
  norm(
    x: Tensor,
    width: number,
    affine: { weight: Tensor; bias: Tensor } | undefined,
    eps: number,
    gate: Tensor | undefined,
    output: Tensor,
  ): void;
  /**
   * Splits rows of x, `[rows, 4 · hidden]`, into query, key, value and gate, `[rows, hidden]` each, and applies the
   * activation to query and key. `heads` matters to `"exp"` alone, which subtracts the maximum of each head.
   */
  splitHeads(
    x: Tensor,
    heads: number,
    activation: Activation,
    output: { q: Tensor; k: Tensor; v: Tensor; u: Tensor },
  ): void;
  /**
   * LRPE: `output[b, t, h] = [x·cos(θ_h·p), x·sin(θ_h·p)]` with `p = positions[b] + t`.
   * x `[batch, seqLen, heads, headDim]`, theta `[heads, headDim]`, output `[batch, seqLen, heads, 2 · headDim]`.
   */
  lrpe(x: Tensor, theta: Tensor, positions: Float64Array, output: Tensor): void;
  /** `output = x ⊙ y`. */
  multiply(x: Tensor, y: Tensor, output: Tensor): void;
  /** `output[i] = x[rows[i]]`; output is `[rows, width]`, x taken as `[count, width]`. */
  gatherRows(x: Tensor, rows: Uint32Array, output: Tensor): void;
  /** `target[rows[i]] = x[i]` in place, the other rows as they are; rows of `width` elements. */
  scatterRows(x: Tensor, rows: Uint32Array, width: number, target: Tensor): void;
}

/** A checked call of `lightningAttentionBackward`: the forward's call, the gradients that come in and those that go out. */
export interface LightningBackwardCall extends Omit<LightningCall, "output" | "state"> {
  /** Gradient of the output, shaped like it. */
  readonly dOutput: Tensor;
  /** Gradient of the final state; left out: zero. */
  readonly dState: Tensor | undefined;
  /** Written: shaped like q. */
  readonly dq: Tensor;
  /** Written: shaped like k. */
  readonly dk: Tensor;
  /** Written: shaped like v. */
  readonly dv: Tensor;
  /** Written: `[sequences, heads, headDim, valueDim]`. */
  readonly dInitialState: Tensor;
}

/**
 * Gradients of the operations in {@linkcode Kernels}, and what an optimiser needs. Gradients of activations are
 * written; gradients of parameters (`dWeight`, `dBias`, `dTheta`, `dTable`) are added to what is there, so that
 * micro-batches accumulate. `residual`, where given, is added to the written gradient.
 */
export interface GradientKernels {
  /** Gradients of {@linkcode Kernels.lightning}. */
  lightning(call: LightningBackwardCall): void;
  /** `dx = dy weight + residual`; dy `[rows, out]`, weight `[out, in]`, dx `[rows, in]`. */
  linearInput(dy: Tensor, weight: Tensor, residual: Tensor | undefined, dx: Tensor): void;
  /** `dWeight += dyᵀ x`; dWeight `[out, in]`. */
  linearWeight(dy: Tensor, x: Tensor, dWeight: Tensor): void;
  /** `dBias += Σ_rows dy`, rows of dBias's size: with one element, the sum of all of dy. */
  linearBias(dy: Tensor, dBias: Tensor): void;
  /** Gradients of {@linkcode Kernels.norm}; `dGate` is written where there is a gate. */
  norm(
    x: Tensor,
    width: number,
    affine: { weight: Tensor; bias: Tensor; dWeight: Tensor; dBias: Tensor } | undefined,
    eps: number,
    gate: { gate: Tensor; dGate: Tensor } | undefined,
    dy: Tensor,
    residual: Tensor | undefined,
    dx: Tensor,
  ): void;
  /** Gradient of {@linkcode Kernels.splitHeads}; `"exp"` takes its maximum as a constant, as the authors do. */
  splitHeads(
    x: Tensor,
    heads: number,
    activation: Activation,
    gradients: { dq: Tensor; dk: Tensor; dv: Tensor; du: Tensor },
    dx: Tensor,
  ): void;
  /** Gradients of {@linkcode Kernels.lrpe}. */
  lrpe(
    x: Tensor,
    theta: Tensor,
    positions: Float64Array,
    dy: Tensor,
    dx: Tensor,
    dTheta: Tensor,
  ): void;
  /** `dTable[ids[i]] += scale · dy[i]`, in the order of i. */
  embedding(ids: Uint32Array, scale: number, dy: Tensor, dTable: Tensor): void;
  /**
   * Cross entropy of each row of logits `[rows, vocab]`: `loss[row] = logsumexp(logits) − logits[label]`, and
   * `dLogits = (softmax(logits) − onehot(label)) · scale`; both 0 where the label is negative (ignored).
   */
  crossEntropy(logits: Tensor, labels: Int32Array, scale: number, loss: Tensor, dLogits: Tensor): void;
  /** `output[0] += Σ x²`, the sum in float64 or in a tree, the same bits every time. */
  sumSquares(x: Tensor, output: Tensor): void;
  /**
   * One step of AdamW with decoupled decay and bias correction; the gradient is first multiplied by
   * `min(1, maxNorm / sqrt(squares[0]))`, without a wait.
   */
  adamw(
    parameter: Tensor,
    gradient: Tensor,
    moments: { first: Tensor; second: Tensor },
    squares: Tensor,
    step: AdamWStep,
  ): void;
}

/** The numbers of one step of AdamW. */
export interface AdamWStep {
  /** Number of this step, from 1: what the bias correction goes by. */
  readonly count: number;
  /** Learning rate. */
  readonly learningRate: number;
  /** Decay of the first moment. */
  readonly beta1: number;
  /** Decay of the second moment. */
  readonly beta2: number;
  /** Added to the root of the second moment. */
  readonly eps: number;
  /** Decoupled weight decay: the parameter shrinks by `learningRate · weightDecay`. */
  readonly weightDecay: number;
  /** Largest global norm of the gradients; above it they are scaled down. */
  readonly maxNorm: number;
}

/** Options of {@linkcode createBackend}. */
export interface BackendOptions {
  /**
   * `"auto"` (default) takes WebGPU when a hardware adapter is present and its self-test agrees with WASM, else WASM.
   * A backend asked for by name is the one you get, or an error that says why not.
   */
  prefer?: "auto" | "webgpu" | "wasm";
  /**
   * WASM: a module compiled beforehand from `wasmKernels("relaxed")` or `wasmKernels("baseline")`, for hosts that
   * forbid compiling from bytes. Which of the two it is, the module says itself.
   */
  module?: WebAssembly.Module;
  /**
   * WASM: threads that compute, the calling one among them; default 1, `"auto"`: as many as there are cores, or 1 where
   * the host has no workers or no shared memory. Results have the same bits for any number. Workers live until the
   * backend is disposed, and keep the process alive until then.
   */
  threads?: number | "auto";
  /** WASM: use baseline SIMD even where relaxed SIMD exists. For comparison; default false. */
  baseline?: boolean;
  /** Stops the creation: its reason is thrown. */
  signal?: AbortSignal;
}

/**
 * Makes a backend. The caller disposes it, or declares it with `using`.
 *
 * @example
 * ```ts
 * import { createBackend } from "@levin/attention";
 *
 * using backend = await createBackend({ prefer: "auto" });
 * console.log(backend.name, backend.info.reason);
 * ```
 *
 * @throws {RangeError} when an option has a value that does not exist
 * @throws {BackendError} `"unavailable"` when the backend asked for cannot be had
 */
export async function createBackend(options: BackendOptions = {}): Promise<Backend> {
  const { prefer = "auto", signal } = options;
  if (prefer !== "auto" && prefer !== "webgpu" && prefer !== "wasm") {
    rangeError("createBackend", `prefer must be "auto", "webgpu" or "wasm"`, prefer);
  }
  signal?.throwIfAborted();
  if (prefer === "wasm") return await createWasmBackend(options, "asked for by name");
  if (prefer === "webgpu") return await createWebgpuBackend(options, "asked for by name");

  let webgpu: Backend | undefined;
  try {
    const reason = "a GPU is present, and its self-test agrees with WASM";
    webgpu = await createWebgpuBackend(options, reason, { hardware: true });
    using reference = await createWasmBackend(options, "reference of the self-test of WebGPU");
    await selfTest(webgpu, reference);
    signal?.throwIfAborted();
    return webgpu;
  } catch (error) {
    webgpu?.dispose();
    if (!(error instanceof BackendError)) throw error;
    return await createWasmBackend(options, error.message);
  }
}
