/**
 * The seam between the library and a device. A {@linkcode Machine} holds memory and implements the operations; each
 * operation takes one *call*: its arguments by name, checked by the function of the same name in `core/ops/`.
 *
 * A call is spelled here and in the kernel, nowhere else. Tensors in a call are live, belong to this machine, are stored
 * as the operation demands, and have the shapes that their comments state. Results are allocated; the operation writes
 * them. `rows` counts everything but the last dimension.
 *
 * @module
 */
import type { FloatType } from "./dtype.ts";
import type { QuantizedWeight } from "./quantize.ts";
import type { Tensor } from "./tensor.ts";

/** The devices that the library runs on. */
export type BackendName = "webgpu" | "wasm";

/** What a backend runs on, for people and for bug reports. */
export interface BackendInfo {
  /** Why this backend was chosen, as a sentence. */
  readonly reason: string;
  /** The adapter or instruction set, for example `"NVIDIA H100 80GB HBM3"` or `"relaxed SIMD"`. */
  readonly device: string;
  /** Threads that compute; 1 on WebGPU. */
  readonly threads: number;
  /** What large products are made of: `"f32"`, or matrices, for example `"f16 → f32 16×16×16"`. */
  readonly units: string;
}

/** Memory and kernels of one device, for implementors. Users hold a `Backend`, which owns one. */
export interface Machine {
  /** Which machine this is. */
  readonly name: BackendName;
  /** What it runs on and why it was chosen. */
  readonly info: BackendInfo;
  /** How it can store plain elements. */
  readonly dtypes: readonly FloatType[];
  /** Bytes that live tensors hold. */
  readonly bytesInUse: number;
  /** Bytes held of the device: live tensors, scratch, and what is kept for reuse. */
  readonly bytesReserved: number;
  /** The operations. Each enqueues its work and returns without waiting; work runs in the order of the calls. */
  readonly operations: Operations;
  /** What several operations do in one; undefined where that gains nothing. */
  readonly fused?: Fused;

  /** Memory for the elements of a tensor, not yet written. What it returns becomes `tensor.storage`. */
  allocate(shape: readonly number[], dtype: FloatType): unknown;
  /** Memory for a quantised weight, with its elements. */
  allocateQuantized(weight: QuantizedWeight): unknown;
  /** Takes back what `allocate` gave. */
  free(storage: unknown): void;
  /**
   * Overwrites elements of a plain tensor, from element `start` on; `data` ends within the tensor. 16-bit words are the
   * bits of elements of f16 or bf16, as the tensor stores them; then start and, unless it ends there, end are even.
   */
  write(tensor: Tensor, data: Float32Array | Uint16Array, start: number): void;
  /** Sets the elements of a plain tensor to zero. */
  clear(tensor: Tensor): void;
  /**
   * The elements as f32, quantised or not, once all operations that lead to them are done. What the caller enqueues
   * before it waits is not waited for, and begun when the elements are there. They go into `into`, which has their number,
   * or into a new array.
   */
  read(tensor: Tensor, into?: Float32Array): Promise<Float32Array>;
  /** Begins what is enqueued, for callers that wait for something else; undefined where it begins by itself. */
  begin?(): void;
  /** Ends the machine and frees all memory. Twice does nothing. */
  dispose(): void;
}

/** Every operation of a machine, by the name of its function in `core/ops/`. */
export interface Operations {
  /** Causal linear attention with decay over whole sequences, block by block. */
  lightning(call: LightningCall): void;
  /** The same for one token per sequence. */
  lightningStep(call: LightningStepCall): void;
  /** Gradients of `lightning`. */
  lightningBackward(call: LightningBackwardCall): void;
  /** `output[i] = scale · table[ids[i]]`. */
  embedding(call: EmbeddingCall): void;
  /** `dTable[ids[i]] += scale · dy[i]`, in the order of i. */
  embeddingBackward(call: EmbeddingBackwardCall): void;
  /** `output = x weightᵀ + bias + residual`. */
  linear(call: LinearCall): void;
  /** `dx = dy weight + residual`, `dWeight += dyᵀ x`. */
  linearBackward(call: LinearBackwardCall): void;
  /**
   * Without affine SRMSNorm, `x / sqrt(mean(x²) + eps)`; with a weight alone RMSNorm, that times the weight; with a bias
   * LayerNorm, `(x − mean) / sqrt(var + eps) · weight + bias`. Then times `gate`.
   */
  norm(call: NormCall): void;
  /** Gradients of `norm`: `dx` and `dGate` are written, `dWeight` and `dBias` are added to. */
  normBackward(call: NormBackwardCall): void;
  /** Splits rows of x into query, key, value and gate, and applies the activation to query and key. */
  splitHeads(call: SplitHeadsCall): void;
  /** Gradient of `splitHeads`; `"exp"` takes its maximum as a constant, as the authors do. */
  splitHeadsBackward(call: SplitHeadsBackwardCall): void;
  /** `output = activation(x)`, element by element. */
  activate(call: ActivateCall): void;
  /** Gradient of `activate`; `"exp"` takes its maximum as a constant. */
  activateBackward(call: ActivateBackwardCall): void;
  /** LRPE: `output[b, t, h] = [x·cos(θ_h·p), x·sin(θ_h·p)]` with `p = positions[b] + t`. */
  lrpe(call: LrpeCall): void;
  /** Gradients of `lrpe`: `dx` is written, `dTheta` is added to. */
  lrpeBackward(call: LrpeBackwardCall): void;
  /** `output = x ⊙ y`. */
  multiply(call: MultiplyCall): void;
  /** `output[i] = x[indices[i]]`. */
  gatherRows(call: GatherRowsCall): void;
  /** `target[indices[i]] = x[i]` in place, the other rows unchanged. */
  scatterRows(call: ScatterRowsCall): void;
  /** Cross entropy of each row and its gradient. */
  crossEntropy(call: CrossEntropyCall): void;
  /** `total[j] += Σ_rows x[row, j]`. */
  sumRows(call: SumRowsCall): void;
  /** `total[0] += Σ x²`, the sum in float64 or in a tree: the same bits every time. */
  sumSquares(call: SumSquaresCall): void;
  /** One step of AdamW with decoupled decay and bias correction, in place. */
  adamw(call: AdamWCall): void;
}

/** The operations that only training needs. A machine may lack them: see `gpu/gradients.ts`. */
export type Gradients = Pick<
  Operations,
  | "lightningBackward"
  | "embeddingBackward"
  | "linearBackward"
  | "normBackward"
  | "splitHeadsBackward"
  | "activateBackward"
  | "lrpeBackward"
  | "crossEntropy"
  | "sumRows"
  | "sumSquares"
  | "adamw"
>;

/**
 * Operations for one token per sequence, each of which does what several others do: for machines on which beginning an
 * operation costs more than the work of a small one. A row's bits do not depend on the number of rows.
 */
export interface Fused {
  /** Whether these operations take such a layer. */
  fits(sizes: StepSizes): boolean;
  /**
   * Hands tokens to `enqueue`, which enqueues a step with them and returns the storage of the one tensor that is left. A
   * machine may keep what was enqueued, and later enqueue the same for other tokens without calling `enqueue`.
   *
   * @param key what the step depends on, apart from the tokens and how many they are: the same object for the same step
   */
  repeat(key: object, tokens: StepTokens, enqueue: (tokens: HeldTokens) => unknown): unknown;
  /** `output[b] = table[id of sequence b] · scale` */
  embedding(call: StepEmbeddingCall): void;
  /**
   * `output = f(x weightᵀ) + residual`, where f divides by `sqrt(mean(normed²) + eps)` and adds the bias; with a gate
   * `f(x weightᵀ) ⊙ f(x gateᵀ)`.
   */
  normLinear(call: NormLinearCall): void;
  /** From a joint projection through activations, LRPE and one step of attention to `attended` and `u ⊙ attended`. */
  mixerStep(call: MixerStepCall): void;
  /** The largest of each row of logits in descending order, of equal ones the first. */
  topLogits(call: TopLogitsCall): void;
}

// ------------------------------------------------------------------------------------------------- attention

/** One sequence of a call: `length` tokens from token `start` of batch element `batch`. */
export interface Sequence {
  /** Batch element. */
  readonly batch: number;
  /** First token. */
  readonly start: number;
  /** Number of tokens; 0 is a sequence too. */
  readonly length: number;
}

/** Sizes of an attention call. `heads` counts value heads; query and key heads divide it. */
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
  /** Heads of key; read in the same way. */
  readonly keyHeads: number;
  /** d: size of a query and of a key. */
  readonly headDim: number;
  /** e: size of a value. */
  readonly valueDim: number;
}

/** A call of `lightning`: f32 or f16, states f32. */
export interface LightningCall {
  /** Sizes. */
  readonly shape: LightningShape;
  /** Query, `[batch, queryHeads, seqLen, headDim]` or per `layout`. */
  readonly q: Tensor;
  /** Key, `[batch, keyHeads, seqLen, headDim]` or per `layout`. */
  readonly k: Tensor;
  /** Value, `[batch, heads, seqLen, valueDim]` or per `layout`. */
  readonly v: Tensor;
  /** One slope per head, ≥ 0; zero means no decay. */
  readonly slopes: Float64Array;
  /** Factor of every score. */
  readonly scale: number;
  /** Sequences, in the order of the states. */
  readonly sequences: readonly Sequence[];
  /** State before the first token, `[sequences, heads, headDim, valueDim]`; undefined: zero. */
  readonly initialState: Tensor | undefined;
  /** Written: v's shape. */
  readonly output: Tensor;
  /** Written: state after the last token, `[sequences, heads, headDim, valueDim]`. */
  readonly state: Tensor;
}

/** A call of `lightningStep`. */
export interface LightningStepCall {
  /** Sizes; `seqLen` is 1. */
  readonly shape: LightningShape;
  /** Query, `[batch, queryHeads, headDim]`. */
  readonly q: Tensor;
  /** Key, `[batch, keyHeads, headDim]`. */
  readonly k: Tensor;
  /** Value, `[batch, heads, valueDim]`. */
  readonly v: Tensor;
  /** One slope per head, ≥ 0. */
  readonly slopes: Float64Array;
  /** Factor of every score. */
  readonly scale: number;
  /** Read and written in place, `[batch, heads, headDim, valueDim]`, or any number of rows with `stateRows`. */
  readonly state: Tensor;
  /** Row of `state` of each batch element, all different; undefined: batch element b has row b. */
  readonly stateRows: Uint32Array | undefined;
  /** Written: `[batch, heads, valueDim]`. */
  readonly output: Tensor;
}

/** A call of `lightningBackward`: the forward's call, the gradients that come in and those that go out, all f32. */
export interface LightningBackwardCall extends Omit<LightningCall, "output" | "state"> {
  /** Gradient of the output, v's shape. */
  readonly dOutput: Tensor;
  /** Gradient of the final state; undefined: zero. */
  readonly dState: Tensor | undefined;
  /** Written: q's shape. */
  readonly dq: Tensor;
  /** Written: k's shape. */
  readonly dk: Tensor;
  /** Written: v's shape. */
  readonly dv: Tensor;
  /** Written: `[sequences, heads, headDim, valueDim]`. */
  readonly dInitialState: Tensor;
}

// ------------------------------------------------------------------------------------------ rows of a table

/** A call of `embedding`. */
export interface EmbeddingCall {
  /** `[vocab, width]`, any `DType`. */
  readonly table: Tensor;
  /** Rows of the table, each below vocab. */
  readonly ids: Uint32Array;
  /** Factor of every element. */
  readonly scale: number;
  /** Elements of a row. */
  readonly width: number;
  /** Written: `[ids.length, width]`, f32. */
  readonly output: Tensor;
}

/** A call of `embeddingBackward`. */
export interface EmbeddingBackwardCall {
  /** Rows of the table. */
  readonly ids: Uint32Array;
  /** Factor of the forward. */
  readonly scale: number;
  /** Elements of a row. */
  readonly width: number;
  /** Gradient of the result, `[ids.length, width]`. */
  readonly dy: Tensor;
  /** Added to: `[vocab, width]`. */
  readonly dTable: Tensor;
}

/** A call of `gatherRows`. */
export interface GatherRowsCall {
  /** `[count, width]`, f32 or f16. */
  readonly x: Tensor;
  /** Rows of x. */
  readonly indices: Uint32Array;
  /** Elements of a row. */
  readonly width: number;
  /** Written: `[indices.length, width]`, stored as x. */
  readonly output: Tensor;
}

/** A call of `scatterRows`. */
export interface ScatterRowsCall {
  /** `[indices.length, width]`, f32 or f16. */
  readonly x: Tensor;
  /** Rows of target, all different. */
  readonly indices: Uint32Array;
  /** Elements of a row. */
  readonly width: number;
  /** Changed in place: `[count, width]`, stored as x. */
  readonly target: Tensor;
}

// --------------------------------------------------------------------------------------------------- layers

/** A call of `linear`. */
export interface LinearCall {
  /** `[rows, inDim]`, f32 or f16. */
  readonly x: Tensor;
  /** `[outDim, inDim]`, any `DType`. */
  readonly weight: Tensor;
  /** `[outDim]`. */
  readonly bias: Tensor | undefined;
  /** Added to the result: `[rows, outDim]`. */
  readonly residual: Tensor | undefined;
  /** Rows of x. */
  readonly rows: number;
  /** Size of a row of x. */
  readonly inDim: number;
  /** Size of a row of output. */
  readonly outDim: number;
  /** Written: `[rows, outDim]`, stored as x. */
  readonly output: Tensor;
}

/** What decides whether a machine can fuse the operations of a layer. */
export interface StepSizes {
  /** Sequences. */
  readonly rows: number;
  /** Size of the residual stream. */
  readonly embedDim: number;
  /** Size of each of q, k, v and u. */
  readonly hiddenDim: number;
  /** Heads, which divide `hiddenDim`. */
  readonly heads: number;
  /** Of query and key. */
  readonly activation: Activation;
}

/** One token of each sequence, of 64 sequences at most. */
export interface StepTokens {
  /** Token ids, `[batch]`. */
  readonly ids: Uint32Array;
  /** Position of each token. */
  readonly positions: readonly number[];
  /** Row of the states of each sequence; undefined: sequence b has row b. */
  readonly rows: readonly number[] | undefined;
}

/** {@linkcode StepTokens} as the machine holds them while a step is enqueued. */
export interface HeldTokens {
  /** Sequences. */
  readonly batch: number;
  /** Whether each sequence has a row of the states. */
  readonly hasRows: boolean;
  /** The machine's. */
  readonly storage: unknown;
}

/** A call of `embedding` of a step. */
export interface StepEmbeddingCall extends Omit<EmbeddingCall, "ids"> {
  /** Whose ids are rows of the table. */
  readonly tokens: HeldTokens;
}

/** A call of `normLinear`. Of a gate and a residual it has one at most. */
export interface NormLinearCall extends LinearCall {
  /** Whose mean square divides the product, `[rows, inDim]`: x itself, or another tensor stored as x. */
  readonly normed: Tensor;
  /** Added to the mean square. */
  readonly eps: number;
  /** A second layer of the same sizes and type, quantised alike, which the result is multiplied by. */
  readonly gate: { readonly weight: Tensor; readonly bias: Tensor | undefined } | undefined;
}

/** A call of `mixerStep`, all f32. */
export interface MixerStepCall {
  /** Query, key, value and gate, `[batch, 4, heads, headDim]`. */
  readonly x: Tensor;
  /** Position and row of the state of each sequence. */
  readonly tokens: HeldTokens;
  /** Heads. */
  readonly heads: number;
  /** Size of a head of each part of x. */
  readonly headDim: number;
  /** Applied to query and key; not `"exp"`. */
  readonly activation: Activation;
  /** One slope per head. */
  readonly slopes: readonly number[];
  /** Angles of LRPE, `[heads, headDim]`; undefined: none. */
  readonly theta: Tensor | undefined;
  /** Changed in place, as that of `lightningStep`. */
  readonly state: Tensor;
  /** Written: what attention gives, `[batch, heads · headDim]`. */
  readonly attended: Tensor;
  /** Written: that times the gate, shaped like it. */
  readonly gated: Tensor;
}

/** A call of `topLogits`. */
export interface TopLogitsCall {
  /** `[rows, vocab]`, fewer than 2^24 in a row, f32. */
  readonly logits: Tensor;
  /** Rows of logits. */
  readonly rows: number;
  /** How many of each row, from 1 to 64. */
  readonly count: number;
  /**
   * Written: `[rows, 4 + 2 · count]`, of each row: the largest logit, `Σ exp(logit − largest)`, above 0 if a logit is NaN or +∞, one unused; then
   * each logit with its id. Where there are fewer, the rest are −3.4e38.
   */
  readonly output: Tensor;
}

/** A call of `linearBackward`. */
export interface LinearBackwardCall {
  /** `[rows, inDim]`. */
  readonly x: Tensor;
  /** `[outDim, inDim]`. */
  readonly weight: Tensor;
  /** Gradient of the result, `[rows, outDim]`. */
  readonly dy: Tensor;
  /** Added to dx: `[rows, inDim]`. */
  readonly residual: Tensor | undefined;
  /** Rows of x. */
  readonly rows: number;
  /** Size of a row of x. */
  readonly inDim: number;
  /** Size of a row of dy. */
  readonly outDim: number;
  /** Written: `[rows, inDim]`. */
  readonly dx: Tensor;
  /** Added to: `[outDim, inDim]`; undefined: not wanted. */
  readonly dWeight: Tensor | undefined;
}

/** A call of `norm`. */
export interface NormCall {
  /** `[rows, width]`, f32 or f16. */
  readonly x: Tensor;
  /** Parameters, `[width]` each: LayerNorm's, or without a bias RMSNorm's; undefined: SRMSNorm. */
  readonly affine: { readonly weight: Tensor; readonly bias: Tensor | undefined } | undefined;
  /** Added to the mean square or variance. */
  readonly eps: number;
  /** Factor of each element, `[rows, width]`. */
  readonly gate: Tensor | undefined;
  /** Rows of x. */
  readonly rows: number;
  /** Elements normed together. */
  readonly width: number;
  /** Written: `[rows, width]`, stored as x. */
  readonly output: Tensor;
}

/** A call of `normBackward`. */
export interface NormBackwardCall extends Omit<NormCall, "affine" | "gate" | "output"> {
  /** Parameters and where their gradients are added, `[width]` each; RMSNorm's have no bias. */
  readonly affine:
    | {
      readonly weight: Tensor;
      readonly bias: Tensor | undefined;
      readonly dWeight: Tensor;
      readonly dBias: Tensor | undefined;
    }
    | undefined;
  /** The gate, and where its gradient is written, `[rows, width]` each. */
  readonly gate: { readonly gate: Tensor; readonly dGate: Tensor } | undefined;
  /** Gradient of the result, `[rows, width]`. */
  readonly dy: Tensor;
  /** Added to dx: `[rows, width]`. */
  readonly residual: Tensor | undefined;
  /** Written: `[rows, width]`. */
  readonly dx: Tensor;
}

/** Activations, those of TransNormerLLM's query and key (`linear_act_fun`); `core/activations.ts` numbers them. */
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

/** A call of `activate`. */
export interface ActivateCall {
  /** `[rows, width]`, f32 or f16. */
  readonly x: Tensor;
  /** Applied to each element; `"exp"` subtracts the maximum of each row. */
  readonly activation: Activation;
  /** Rows of x. */
  readonly rows: number;
  /** Elements of a row. */
  readonly width: number;
  /** Written: `[rows, width]`, stored as x. */
  readonly output: Tensor;
}

/** A call of `activateBackward`. */
export interface ActivateBackwardCall extends Omit<ActivateCall, "output"> {
  /** Gradient of the result, `[rows, width]`. */
  readonly dy: Tensor;
  /** Written: `[rows, width]`. */
  readonly dx: Tensor;
}

/** A call of `splitHeads`. */
export interface SplitHeadsCall {
  /** `[rows, 4 · hidden]`, f32 or f16; `[rows, 3 · hidden]` without a gate. */
  readonly x: Tensor;
  /** Tokens. */
  readonly rows: number;
  /** Size of each of q, k, v and u. */
  readonly hidden: number;
  /** Size of a head; matters to `"exp"` alone, which subtracts the maximum of each head. */
  readonly headDim: number;
  /** Applied to query and key. */
  readonly activation: Activation;
  /** Written: query, `[rows, hidden]`. */
  readonly q: Tensor;
  /** Written: key, `[rows, hidden]`. */
  readonly k: Tensor;
  /** Written: value, `[rows, hidden]`. */
  readonly v: Tensor;
  /** Written: gate, `[rows, hidden]`; undefined where x has none. */
  readonly u: Tensor | undefined;
}

/** A call of `splitHeadsBackward`. */
export interface SplitHeadsBackwardCall extends Omit<SplitHeadsCall, "q" | "k" | "v" | "u"> {
  /** Gradient of the query, `[rows, hidden]`. */
  readonly dq: Tensor;
  /** Gradient of the key, `[rows, hidden]`. */
  readonly dk: Tensor;
  /** Gradient of the value, `[rows, hidden]`. */
  readonly dv: Tensor;
  /** Gradient of the gate, `[rows, hidden]`; undefined where x has none. */
  readonly du: Tensor | undefined;
  /** Written: shaped like x. */
  readonly dx: Tensor;
}

/** A call of `lrpe`. */
export interface LrpeCall {
  /** `[batch, seqLen, heads, headDim]`, f32 or f16. */
  readonly x: Tensor;
  /** Angles per position, `[heads, headDim]`. */
  readonly theta: Tensor;
  /** Position of the first token of each batch element, `[batch]`. */
  readonly positions: Float64Array;
  /** Written: `[batch, seqLen, heads, 2 · headDim]`, stored as x. */
  readonly output: Tensor;
}

/** A call of `lrpeBackward`. */
export interface LrpeBackwardCall extends Omit<LrpeCall, "output"> {
  /** Gradient of the result, `[batch, seqLen, heads, 2 · headDim]`. */
  readonly dy: Tensor;
  /** Written: x's shape. */
  readonly dx: Tensor;
  /** Added to: `[heads, headDim]`. */
  readonly dTheta: Tensor;
}

/** A call of `multiply`: any shape, the same for all three. */
export interface MultiplyCall {
  /** First factor, f32 or f16. */
  readonly x: Tensor;
  /** Second factor, f32 or f16. */
  readonly y: Tensor;
  /** Written; stored as x. */
  readonly output: Tensor;
}

// ------------------------------------------------------------------------------------------------- training

/** A call of `crossEntropy`: `loss[row] = logsumexp(logits) − logits[label]`. */
export interface CrossEntropyCall {
  /** `[rows, vocab]`. */
  readonly logits: Tensor;
  /** One per row, below vocab; negative: ignored, loss and gradient are 0. */
  readonly labels: Int32Array;
  /** Factor of the gradient. */
  readonly scale: number;
  /** Size of a row. */
  readonly vocab: number;
  /** Written: `[rows]`. */
  readonly loss: Tensor;
  /** Written: `(softmax(logits) − onehot(label)) · scale`, `[rows, vocab]`. */
  readonly dLogits: Tensor;
}

/** A call of `sumRows`. */
export interface SumRowsCall {
  /** `[rows, width]`. */
  readonly x: Tensor;
  /** Rows of x. */
  readonly rows: number;
  /** Elements of a row. */
  readonly width: number;
  /** Added to: `[width]`. */
  readonly total: Tensor;
}

/** A call of `sumSquares`. */
export interface SumSquaresCall {
  /** Any shape. */
  readonly x: Tensor;
  /** Added to: `[1]`. */
  readonly total: Tensor;
}

/** A call of `adamw`. */
export interface AdamWCall {
  /** Changed. */
  readonly parameter: Tensor;
  /** The parameter's shape; first multiplied by `min(1, maxNorm / sqrt(squares[0]))`, on the device. */
  readonly gradient: Tensor;
  /** Changed: first moment, the parameter's shape. */
  readonly first: Tensor;
  /** Changed: second moment, the parameter's shape. */
  readonly second: Tensor;
  /** Sum of squares of all gradients, `[1]`. */
  readonly squares: Tensor;
  /** Number of this step, from 1: what the bias correction depends on. */
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
