/**
 * Gradients on the WASM backend.
 *
 * @module
 */
import type { Activation, GradientKernels, LightningBackwardCall } from "../core/backend.ts";
import { ACTIVATIONS } from "../core/ops.ts";
import type { Tensor } from "../core/tensor.ts";
import type { KernelExports } from "./module.ts";
import type { Crew } from "./crew.ts";
import { headRows, optionalPointer, pointer, roundUp, TABLE_BYTES } from "./operands.ts";

/** What the gradients share with the backend's other operations: its work space. */
export interface WorkSpace {
  /** At least `bytes` bytes, valid until the next call. */
  reserve(bytes: number): number;
  /** Decay tables of all heads, followed by `bytes` of work space. */
  decayTables(slopes: Float64Array, bytes: number): [decay: number, scratch: number];
}

/** See {@linkcode GradientKernels}. */
export class WasmGradients implements GradientKernels {
  readonly #exports: KernelExports;
  readonly #crew: Crew;
  readonly #space: WorkSpace;

  constructor(exports: KernelExports, crew: Crew, space: WorkSpace) {
    this.#exports = exports;
    this.#crew = crew;
    this.#space = space;
  }

  lightning(call: LightningBackwardCall): void {
    const { shape, slopes, scale, sequences, initialState, dState, dOutput, dq, dk, dv, dInitialState } =
      call;
    const { heads, queryHeads, keyHeads, headDim, valueDim } = shape;
    const scratchBytes = roundUp(this.#exports.lightningBackwardScratch(headDim, valueDim), 64);
    const [decay, scratch] = this.#space.decayTables(slopes, this.#crew.threads * scratchBytes);
    // Heads of value that share a query or key add up their gradients, in the order of the heads, on one thread.
    const queryGroup = heads / queryHeads, keyGroup = heads / keyHeads;
    const chain = Math.max(queryGroup, keyGroup) % Math.min(queryGroup, keyGroup) === 0
      ? Math.max(queryGroup, keyGroup)
      : heads;
    const calls = sequences.flatMap((sequence, index) =>
      Array.from({ length: heads }, (_, head) => {
        const stateOffset = 4 * (index * heads + head) * headDim * valueDim;
        return [
          ...headRows(call, "q", call.q, sequence, head),
          ...headRows(call, "k", call.k, sequence, head),
          ...headRows(call, "v", call.v, sequence, head),
          ...headRows(call, "v", dOutput, sequence, head),
          ...headRows(call, "q", dq, sequence, head),
          ...headRows(call, "k", dk, sequence, head),
          ...headRows(call, "v", dv, sequence, head),
          head % queryGroup === 0 ? 0 : 1,
          head % keyGroup === 0 ? 0 : 1,
          sequence.length,
          headDim,
          valueDim,
          decay + head * TABLE_BYTES,
          scale,
          initialState === undefined ? 0 : pointer(initialState) + stateOffset,
          dState === undefined ? 0 : pointer(dState) + stateOffset,
          pointer(dInitialState) + stateOffset,
        ];
      })
    );
    const work = call.v.size * headDim;
    this.#crew.run("lightningBackward", calls, { work, chain, scratch, scratchBytes });
  }

  linearInput(dy: Tensor, weight: Tensor, residual: Tensor | undefined, dx: Tensor): void {
    const [outs, depth] = weight.shape;
    const rows = depth === 0 ? 0 : dx.size / depth;
    const scratch = this.#space.reserve(this.#exports.matmulScratch(rows, outs, depth));
    this.#exports.linearInput(
      pointer(dy),
      pointer(weight),
      optionalPointer(residual),
      pointer(dx),
      rows,
      outs,
      depth,
      scratch,
    );
  }

  linearWeight(dy: Tensor, x: Tensor, dWeight: Tensor): void {
    const [outs, depth] = dWeight.shape;
    const rows = depth === 0 ? 0 : x.size / depth;
    const scratch = this.#space.reserve(this.#exports.matmulScratch(outs, rows, depth));
    this.#exports.linearWeight(pointer(dy), pointer(x), pointer(dWeight), rows, outs, depth, scratch);
  }

  linearBias(dy: Tensor, dBias: Tensor): void {
    this.#exports.linearBias(pointer(dy), pointer(dBias), rowsOf(dy, dBias.size), dBias.size);
  }

  norm(
    x: Tensor,
    width: number,
    affine: { weight: Tensor; bias: Tensor; dWeight: Tensor; dBias: Tensor } | undefined,
    eps: number,
    gate: { gate: Tensor; dGate: Tensor } | undefined,
    dy: Tensor,
    residual: Tensor | undefined,
    dx: Tensor,
  ): void {
    this.#exports.normBackward(
      pointer(x),
      optionalPointer(affine?.weight),
      optionalPointer(affine?.bias),
      optionalPointer(gate?.gate),
      pointer(dy),
      optionalPointer(residual),
      pointer(dx),
      optionalPointer(affine?.dWeight),
      optionalPointer(affine?.dBias),
      optionalPointer(gate?.dGate),
      rowsOf(x, width),
      width,
      eps,
    );
  }

  splitHeads(
    x: Tensor,
    heads: number,
    activation: Activation,
    { dq, dk, dv, du }: { dq: Tensor; dk: Tensor; dv: Tensor; du: Tensor },
    dx: Tensor,
  ): void {
    const [batch, seqLen, joint] = x.shape;
    const hidden = joint / 4;
    this.#exports.splitHeadsBackward(
      pointer(x),
      pointer(dq),
      pointer(dk),
      pointer(dv),
      pointer(du),
      pointer(dx),
      batch * seqLen,
      hidden,
      hidden / heads,
      ACTIVATIONS.indexOf(activation),
    );
  }

  lrpe(x: Tensor, theta: Tensor, positions: Float64Array, dy: Tensor, dx: Tensor, dTheta: Tensor): void {
    const [batch, seqLen, heads, headDim] = x.shape;
    const bytes = 4 * seqLen * heads * headDim;
    for (let b = 0; b < batch; b++) {
      this.#exports.lrpeBackward(
        pointer(x) + b * bytes,
        pointer(theta),
        pointer(dy) + 2 * b * bytes,
        pointer(dx) + b * bytes,
        pointer(dTheta),
        seqLen,
        heads,
        headDim,
        positions[b],
      );
    }
  }

  embedding(ids: Uint32Array, scale: number, dy: Tensor, dTable: Tensor): void {
    const dim = dTable.shape[1];
    ids.forEach((id, i) => {
      this.#exports.scaledAdd(pointer(dy) + 4 * i * dim, pointer(dTable) + 4 * id * dim, dim, scale);
    });
  }

  crossEntropy(logits: Tensor, labels: Int32Array, scale: number, loss: Tensor, dLogits: Tensor): void {
    const vocab = labels.length === 0 ? 0 : logits.size / labels.length;
    labels.forEach((label, row) => {
      this.#exports.crossEntropy(
        pointer(logits) + 4 * row * vocab,
        vocab,
        label,
        scale,
        pointer(loss) + 4 * row,
        pointer(dLogits) + 4 * row * vocab,
      );
    });
  }

  sumSquares(x: Tensor, output: Tensor): void {
    this.#exports.sumSquares(pointer(x), x.size, pointer(output));
  }

  adamw(
    parameter: Tensor,
    gradient: Tensor,
    { first, second }: { first: Tensor; second: Tensor },
    squares: Tensor,
    { count, learningRate, beta1, beta2, eps, weightDecay, maxNorm }: Parameters<GradientKernels["adamw"]>[4],
  ): void {
    this.#exports.adamw(
      pointer(parameter),
      pointer(gradient),
      pointer(first),
      pointer(second),
      pointer(squares),
      parameter.size,
      1 - learningRate * weightDecay,
      learningRate / (1 - beta1 ** count),
      beta1,
      1 - beta1,
      beta2,
      1 - beta2,
      1 / Math.sqrt(1 - beta2 ** count),
      eps,
      maxNorm,
    );
  }
}

/** Rows of `width` elements. */
function rowsOf(x: Tensor, width: number): number {
  return width === 0 ? 0 : x.size / width;
}
