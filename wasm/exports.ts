// Made from assembly/ by `deno task build`: do not edit.

/**
 * What the kernels are called with, by name. Pointers are byte offsets into linear memory; 0 stands for none.
 *
 * @module
 */

/** Arguments of each kernel, without its work space. */
export interface KernelCalls {
  /** See `assembly/activate.ts`. */
  activate: { x: number; output: number; rows: number; width: number; activation: number };
  /** See `assembly/activate.ts`. */
  activateBackward: { x: number; dy: number; dx: number; rows: number; width: number; activation: number };
  /** See `assembly/adamw.ts`. */
  adamw: {
    parameter: number; gradient: number; first: number; second: number; squares: number; count: number;
    keep: number; rate: number; beta1: number; rest1: number; beta2: number; rest2: number;
    correction: number; eps: number; maxNorm: number
  };
  /** See `assembly/crossEntropy.ts`. */
  crossEntropy: {
    logits: number; vocab: number; label: number; scale: number; loss: number; dLogits: number
  };
  /** See `assembly/embedding.ts`. */
  copyBfloat16Row: { source: number; target: number; width: number; scale: number };
  /** See `assembly/embedding.ts`. */
  copyRow: { source: number; target: number; width: number; scale: number };
  /** See `assembly/embedding.ts`. */
  addRow: { source: number; target: number; width: number; scale: number };
  /** See `assembly/lightning.ts`. */
  lightningScratch: { headDim: number; valueDim: number };
  /** See `assembly/lightning.ts`. */
  lightning: {
    q: number; qStride: number; k: number; kStride: number; v: number; vStride: number; output: number;
    outputStride: number; length: number; headDim: number; valueDim: number; decay: number; scale: number;
    states: number; initialState: number; finalState: number; stateStride: number
  };
  /** See `assembly/lightning.ts`. */
  lightningProducts: {
    k: number; kStride: number; v: number; vStride: number; length: number; headDim: number; valueDim: number;
    decay: number; products: number
  };
  /** See `assembly/lightning.ts`. */
  lightningCarry: {
    states: number; stateBytes: number; length: number; headDim: number; valueDim: number; decay: number;
    initialState: number; finalState: number; stateStride: number
  };
  /** See `assembly/lightning.ts`. */
  lightningStep: {
    q: number; k: number; v: number; output: number; state: number; headDim: number; valueDim: number;
    change: number; scale: number
  };
  /** See `assembly/lightning.ts`. */
  lightningBackwardScratch: { headDim: number; valueDim: number };
  /** See `assembly/lightning.ts`. */
  lightningBackward: {
    q: number; qStride: number; k: number; kStride: number; v: number; vStride: number; dOutput: number;
    dOutputStride: number; dq: number; dqStride: number; dk: number; dkStride: number; dv: number;
    dvStride: number; addToQ: number; addToK: number; length: number; headDim: number; valueDim: number;
    decay: number; scale: number; initialState: number; dState: number; dInitialState: number
  };
  /** See `assembly/linear.ts`. */
  matmulScratch: { rows: number; inner: number; columns: number };
  /** See `assembly/linear.ts`. */
  linearScratch: { rows: number; inDim: number; outDim: number };
  /** See `assembly/linear.ts`. */
  linear: {
    x: number; weight: number; bias: number; residual: number; output: number; rows: number; inDim: number;
    outDim: number; stride: number; few: number; weightBytes: number
  };
  /** See `assembly/linear.ts`. */
  linearInput: {
    dy: number; weight: number; residual: number; dx: number; rows: number; outDim: number; inDim: number
  };
  /** See `assembly/linear.ts`. */
  linearWeight: {
    dy: number; x: number; dWeight: number; rows: number; outDim: number; inDim: number; stride: number
  };
  /** See `assembly/lrpe.ts`. */
  lrpe: {
    x: number; theta: number; output: number; seqLen: number; heads: number; headDim: number; stride: number;
    position: number
  };
  /** See `assembly/lrpe.ts`. */
  lrpeBackward: {
    x: number; theta: number; dy: number; dx: number; dTheta: number; seqLen: number; heads: number;
    headDim: number; stride: number; position: number
  };
  /** See `assembly/multiply.ts`. */
  multiply: { x: number; y: number; output: number; count: number };
  /** See `assembly/norm.ts`. */
  norm: {
    x: number; weight: number; bias: number; gate: number; output: number; rows: number; width: number;
    eps: number
  };
  /** See `assembly/norm.ts`. */
  normBackward: {
    x: number; weight: number; bias: number; gate: number; dy: number; residual: number; dx: number;
    dWeight: number; dBias: number; dGate: number; rows: number; width: number; eps: number
  };
  /** See `assembly/quantized.ts`. */
  quantizedScratch: { rows: number; inDim: number; bits: number; group: number };
  /** See `assembly/quantized.ts`. */
  quantizeRows: { x: number; rows: number; inDim: number; bits: number; group: number; target: number };
  /** See `assembly/quantized.ts`. */
  linearQuantized: {
    x: number; weight: number; bias: number; residual: number; output: number; rows: number; inDim: number;
    outDim: number; stride: number; bits: number; group: number
  };
  /** See `assembly/splitHeads.ts`. */
  splitHeads: {
    x: number; q: number; k: number; v: number; u: number; rows: number; hidden: number; headDim: number;
    activation: number
  };
  /** See `assembly/splitHeads.ts`. */
  splitHeadsBackward: {
    x: number; dq: number; dk: number; dv: number; du: number; dx: number; rows: number; hidden: number;
    headDim: number; activation: number
  };
  /** See `assembly/sumRows.ts`. */
  sumRows: { x: number; total: number; rows: number; width: number; stride: number };
  /** See `assembly/sumSquares.ts`. */
  sumSquares: { x: number; count: number; total: number };
}

/** Names of the kernels. */
export type Kernel = keyof KernelCalls;

/** Kernels that return a number; all others return nothing. */
export type Sizing =
  | "lightningScratch" | "lightningBackwardScratch" | "matmulScratch" | "linearScratch" | "quantizedScratch";

/** Kernels that take work space. */
export type WithScratch =
  | "lightning" | "lightningProducts" | "lightningBackward" | "linear" | "linearInput" | "linearWeight";

/** Takes the arguments of a kernel in order: the kernel itself, or what passes them on. */
export type Take = (...args: number[]) => number | void;

/** Hands the arguments of each kernel over in order, work space last. Nothing else knows their positions. */
export const IN_ORDER: { readonly [K in Kernel]: (take: Take, c: KernelCalls[K], scratch: number) => number | void } = {
  activate: (take, c) => take(c.x, c.output, c.rows, c.width, c.activation),
  activateBackward: (take, c) => take(c.x, c.dy, c.dx, c.rows, c.width, c.activation),
  adamw: (take, c) => take(
    c.parameter, c.gradient, c.first, c.second, c.squares, c.count, c.keep, c.rate, c.beta1, c.rest1, c.beta2,
    c.rest2, c.correction, c.eps, c.maxNorm
  ),
  crossEntropy: (take, c) => take(c.logits, c.vocab, c.label, c.scale, c.loss, c.dLogits),
  copyBfloat16Row: (take, c) => take(c.source, c.target, c.width, c.scale),
  copyRow: (take, c) => take(c.source, c.target, c.width, c.scale),
  addRow: (take, c) => take(c.source, c.target, c.width, c.scale),
  lightningScratch: (take, c) => take(c.headDim, c.valueDim),
  lightning: (take, c, scratch) => take(
    c.q, c.qStride, c.k, c.kStride, c.v, c.vStride, c.output, c.outputStride, c.length, c.headDim, c.valueDim,
    c.decay, c.scale, c.states, c.initialState, c.finalState, c.stateStride, scratch
  ),
  lightningProducts: (take, c, scratch) => take(
    c.k, c.kStride, c.v, c.vStride, c.length, c.headDim, c.valueDim, c.decay, c.products, scratch
  ),
  lightningCarry: (take, c) => take(
    c.states, c.stateBytes, c.length, c.headDim, c.valueDim, c.decay, c.initialState, c.finalState,
    c.stateStride
  ),
  lightningStep: (take, c) => take(
    c.q, c.k, c.v, c.output, c.state, c.headDim, c.valueDim, c.change, c.scale
  ),
  lightningBackwardScratch: (take, c) => take(c.headDim, c.valueDim),
  lightningBackward: (take, c, scratch) => take(
    c.q, c.qStride, c.k, c.kStride, c.v, c.vStride, c.dOutput, c.dOutputStride, c.dq, c.dqStride, c.dk,
    c.dkStride, c.dv, c.dvStride, c.addToQ, c.addToK, c.length, c.headDim, c.valueDim, c.decay, c.scale,
    c.initialState, c.dState, c.dInitialState, scratch
  ),
  matmulScratch: (take, c) => take(c.rows, c.inner, c.columns),
  linearScratch: (take, c) => take(c.rows, c.inDim, c.outDim),
  linear: (take, c, scratch) => take(
    c.x, c.weight, c.bias, c.residual, c.output, c.rows, c.inDim, c.outDim, c.stride, c.few, c.weightBytes,
    scratch
  ),
  linearInput: (take, c, scratch) => take(
    c.dy, c.weight, c.residual, c.dx, c.rows, c.outDim, c.inDim, scratch
  ),
  linearWeight: (take, c, scratch) => take(
    c.dy, c.x, c.dWeight, c.rows, c.outDim, c.inDim, c.stride, scratch
  ),
  lrpe: (take, c) => take(c.x, c.theta, c.output, c.seqLen, c.heads, c.headDim, c.stride, c.position),
  lrpeBackward: (take, c) => take(
    c.x, c.theta, c.dy, c.dx, c.dTheta, c.seqLen, c.heads, c.headDim, c.stride, c.position
  ),
  multiply: (take, c) => take(c.x, c.y, c.output, c.count),
  norm: (take, c) => take(c.x, c.weight, c.bias, c.gate, c.output, c.rows, c.width, c.eps),
  normBackward: (take, c) => take(
    c.x, c.weight, c.bias, c.gate, c.dy, c.residual, c.dx, c.dWeight, c.dBias, c.dGate, c.rows, c.width,
    c.eps
  ),
  quantizedScratch: (take, c) => take(c.rows, c.inDim, c.bits, c.group),
  quantizeRows: (take, c) => take(c.x, c.rows, c.inDim, c.bits, c.group, c.target),
  linearQuantized: (take, c) => take(
    c.x, c.weight, c.bias, c.residual, c.output, c.rows, c.inDim, c.outDim, c.stride, c.bits, c.group
  ),
  splitHeads: (take, c) => take(c.x, c.q, c.k, c.v, c.u, c.rows, c.hidden, c.headDim, c.activation),
  splitHeadsBackward: (take, c) => take(
    c.x, c.dq, c.dk, c.dv, c.du, c.dx, c.rows, c.hidden, c.headDim, c.activation
  ),
  sumRows: (take, c) => take(c.x, c.total, c.rows, c.width, c.stride),
  sumSquares: (take, c) => take(c.x, c.count, c.total),
};
