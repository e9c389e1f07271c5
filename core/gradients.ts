/**
 * Gradients of the operations in `ops.ts`, cross entropy, and the optimiser's step: what training is made of.
 *
 * Gradients of activations are returned. Gradients of parameters (`dWeight`, `dBias`, `dTheta`, `dTable`) are added to
 * tensors that the caller made with `backend.zeros`, so that micro-batches accumulate.
 *
 * @example One step of gradient descent towards smaller cross entropy
 * ```ts
 * import { createBackend } from "@levin/attention";
 * import { adamw, crossEntropy, linearBackward, sumSquares } from "@levin/attention/gradients";
 * import { linear } from "@levin/attention/ops";
 *
 * using backend = await createBackend({ prefer: "wasm" });
 * using x = backend.tensor(new Float32Array([1, -1, 0.5, 2]), [2, 2]);
 * using weight = backend.zeros([3, 2]);
 * using dWeight = backend.zeros([3, 2]), first = backend.zeros([3, 2]), second = backend.zeros([3, 2]);
 * using squares = backend.zeros([1]);
 *
 * using logits = linear(x, weight);
 * const { loss, dLogits } = crossEntropy(logits, [2, 0], { scale: 1 / 2 });
 * using dx = linearBackward(x, weight, dLogits, { dWeight });
 * sumSquares(dWeight, squares);
 * adamw(weight, dWeight, { first, second }, squares, { count: 1, learningRate: 0.01 });
 * console.log(await loss.data(), dx.shape); // Float32Array [ 1.0986123, 1.0986123 ], [2, 2]
 * loss.dispose();
 * dLogits.dispose();
 * ```
 *
 * @module
 */
import type { Activation, Backend } from "./backend.ts";
import { checkFinite, checkIndices, checkRows, checkShape, checkTensor, joinTo } from "./check.ts";
import { rangeError, typeError } from "./errors.ts";
import { ACTIVATIONS, type NormOptions } from "./ops.ts";
import type { Tensor } from "./tensor.ts";

/**
 * Gradient of `linear`: `dx = dy weight + residual`, `dWeight += dyᵀ x`, `dBias += Σ_rows dy`.
 *
 * @param x `[..., in]`, what `linear` was given
 * @param weight `[out, in]`
 * @param dy `[..., out]`
 * @param options `dWeight` and `dBias`, added to where given; `residual`, shaped like x, is added to the result
 * @returns `dx`, `[..., in]`
 * @throws {RangeError} when shapes do not fit
 */
export function linearBackward(
  x: Tensor,
  weight: Tensor,
  dy: Tensor,
  options: { dWeight?: Tensor; dBias?: Tensor; residual?: Tensor } = {},
): Tensor {
  const operation = "linearBackward";
  checkTensor(operation, "x", x);
  const { backend } = x;
  const { gradients: kernels } = backend;
  const inner = checkRows(operation, "x", x);
  const [out] = checkOperand(operation, "weight", weight, backend, [undefined, inner], "[out, in]");
  checkOperand(operation, "dy", dy, backend, [...x.shape.slice(0, -1), out], "[..., out]");
  const { dWeight, dBias, residual } = options;
  if (dWeight !== undefined) checkOperand(operation, "dWeight", dWeight, backend, weight.shape, "of weight");
  if (dBias !== undefined) checkOperand(operation, "dBias", dBias, backend, [out], "[out]");
  if (residual !== undefined) checkOperand(operation, "residual", residual, backend, x.shape, "of x");
  if (dWeight !== undefined) kernels.linearWeight(dy, x, dWeight);
  if (dBias !== undefined) kernels.linearBias(dy, dBias);
  return results(backend, { dx: x.shape }, ({ dx }) => kernels.linearInput(dy, weight, residual, dx)).dx;
}

/** Options of {@linkcode normBackward}: those of the norm, and where its gradients go. */
export interface NormBackwardOptions extends NormOptions {
  /** Added to: gradient of `weight`; comes with it. */
  dWeight?: Tensor;
  /** Added to: gradient of `bias`; comes with it. */
  dBias?: Tensor;
  /** Added to the result: the gradient that flows past the norm. Shaped like x. */
  residual?: Tensor;
}

/**
 * Gradient of `norm`.
 *
 * @param x what `norm` was given
 * @param dy `[..., width]`, shaped like the norm's result
 * @param options see {@linkcode NormBackwardOptions}
 * @returns `dx`, shaped like x, and `dGate`, shaped like `gate`, where there is one
 * @throws {RangeError} when shapes do not fit
 */
export function normBackward(
  x: Tensor,
  dy: Tensor,
  options: NormBackwardOptions = {},
): { dx: Tensor; dGate: Tensor | undefined } {
  const operation = "normBackward";
  checkTensor(operation, "x", x);
  const { backend } = x;
  const { gradients: kernels } = backend;
  const { weight, bias, dWeight, dBias, gate, residual } = options;
  const width = options.width ?? checkRows(operation, "x", x);
  const shape = joinTo(operation, x.shape, width);
  checkOperand(operation, "dy", dy, backend, shape, "of the norm's result");
  const eps = options.eps ?? (weight === undefined ? 1e-6 : 1e-5);
  checkFinite(operation, "eps", eps);
  if (eps < 0) rangeError(operation, "eps must be >= 0", eps);
  const parameters = Object.entries({ weight, bias, dWeight, dBias });
  for (const [name, tensor] of parameters) {
    if ((tensor === undefined) !== (weight === undefined)) {
      typeError(operation, "weight, bias, dWeight and dBias must come together", tensor, name);
    }
    if (tensor !== undefined) checkOperand(operation, name, tensor, backend, [width], "[width]");
  }
  if (gate !== undefined) checkOperand(operation, "gate", gate, backend, shape, "of the norm's result");
  if (residual !== undefined) checkOperand(operation, "residual", residual, backend, x.shape, "of x");
  const affine = weight === undefined ? undefined : { weight, bias: bias!, dWeight: dWeight!, dBias: dBias! };
  if (gate === undefined) {
    const { dx } = results(backend, { dx: x.shape }, ({ dx }) => {
      kernels.norm(x, width, affine, eps, undefined, dy, residual, dx);
    });
    return { dx, dGate: undefined };
  }
  return results(backend, { dx: x.shape, dGate: gate.shape }, ({ dx, dGate }) => {
    kernels.norm(x, width, affine, eps, { gate, dGate }, dy, residual, dx);
  });
}

/**
 * Gradient of `splitHeads`. The maximum that `"exp"` subtracts counts as a constant, as in the authors' code.
 *
 * @param x `[batch, seqLen, 4 · hidden]`, what `splitHeads` was given
 * @param heads number of heads
 * @param activation the activation of query and key
 * @param gradients `dq`, `dk`, `dv` `[batch, seqLen, heads, hidden / heads]` and `du` `[batch, seqLen, hidden]`
 * @returns `dx`, shaped like x
 * @throws {RangeError} when shapes do not fit or the activation does not exist
 */
export function splitHeadsBackward(
  x: Tensor,
  heads: number,
  activation: Activation,
  gradients: { dq: Tensor; dk: Tensor; dv: Tensor; du: Tensor },
): Tensor {
  const operation = "splitHeadsBackward";
  checkTensor(operation, "x", x);
  const { backend } = x;
  const { gradients: kernels } = backend;
  checkShape(operation, "x", x.shape, [undefined, undefined, undefined], "[batch, seqLen, 4 * hidden]");
  const [batch, seqLen, joint] = x.shape;
  if (!Number.isInteger(heads) || heads < 1 || joint % (4 * heads) !== 0) {
    rangeError(
      operation,
      "heads must be an integer >= 1 that divides hidden",
      heads,
      `4 * hidden = ${joint}`,
    );
  }
  if (!ACTIVATIONS.includes(activation)) {
    rangeError(operation, `activation must be one of ${ACTIVATIONS.join(", ")}`, activation);
  }
  const headed = [batch, seqLen, heads, joint / 4 / heads];
  for (const name of ["dq", "dk", "dv"] as const) {
    checkOperand(operation, name, gradients[name], backend, headed, "[batch, seqLen, heads, hidden / heads]");
  }
  checkOperand(operation, "du", gradients.du, backend, [batch, seqLen, joint / 4], "[batch, seqLen, hidden]");
  return results(backend, { dx: x.shape }, ({ dx }) => {
    kernels.splitHeads(x, heads, activation, gradients, dx);
  }).dx;
}

/**
 * Gradient of `lrpe`: with `[a, b] = dy`, `dx = a·cos(θp) + b·sin(θp)` and
 * `dTheta += Σ p · x · (b·cos(θp) − a·sin(θp))`.
 *
 * @param x `[batch, seqLen, heads, headDim]`, what `lrpe` was given
 * @param theta `[heads, headDim]`
 * @param positions position of the first token of each batch element
 * @param dy `[batch, seqLen, heads, 2 · headDim]`
 * @param dTheta added to: `[heads, headDim]`
 * @returns `dx`, shaped like x
 * @throws {RangeError} when shapes do not fit or a position is none
 */
export function lrpeBackward(
  x: Tensor,
  theta: Tensor,
  positions: ArrayLike<number>,
  dy: Tensor,
  dTheta: Tensor,
): Tensor {
  const operation = "lrpeBackward";
  checkTensor(operation, "x", x);
  const { backend } = x;
  const { gradients: kernels } = backend;
  const wording = "[batch, seqLen, heads, headDim]";
  checkShape(operation, "x", x.shape, [undefined, undefined, undefined, undefined], wording);
  const [batch, seqLen, heads, headDim] = x.shape;
  checkOperand(operation, "theta", theta, backend, [heads, headDim], "[heads, headDim]");
  checkOperand(operation, "dTheta", dTheta, backend, [heads, headDim], "[heads, headDim]");
  const doubled = [batch, seqLen, heads, 2 * headDim];
  checkOperand(operation, "dy", dy, backend, doubled, "[batch, seqLen, heads, 2 * headDim]");
  if (positions.length !== batch) {
    rangeError(
      operation,
      "positions must have one value per batch element",
      positions.length,
      `batch ${batch}`,
    );
  }
  checkIndices(operation, "positions", positions, 2 ** 31 - seqLen);
  return results(backend, { dx: x.shape }, ({ dx }) => {
    kernels.lrpe(x, theta, Float64Array.from(positions), dy, dx, dTheta);
  }).dx;
}

/**
 * Gradient of `multiply`: `dx = dOutput ⊙ y`, `dy = dOutput ⊙ x`.
 *
 * @param x any shape @param y the same shape @param dOutput the same shape
 * @throws {RangeError} when the shapes differ
 */
export function multiplyBackward(x: Tensor, y: Tensor, dOutput: Tensor): { dx: Tensor; dy: Tensor } {
  const operation = "multiplyBackward";
  checkTensor(operation, "x", x);
  const { backend } = x;
  checkOperand(operation, "y", y, backend, x.shape, "of x");
  checkOperand(operation, "dOutput", dOutput, backend, x.shape, "of x");
  return results(backend, { dx: x.shape, dy: x.shape }, ({ dx, dy }) => {
    backend.kernels.multiply(dOutput, y, dx);
    backend.kernels.multiply(dOutput, x, dy);
  });
}

/**
 * Gradient of `embedding`: `dTable[ids[i]] += scale · dy[i]`, always in the order of i.
 *
 * @param ids token ids, row by row
 * @param dy `[..., dim]`, one row per id
 * @param dTable added to: `[vocab, dim]`
 * @param options `scale`: that of `embedding`, default 1
 * @throws {RangeError} when an id is outside the table, or shapes do not fit
 */
export function embeddingBackward(
  ids: ArrayLike<number>,
  dy: Tensor,
  dTable: Tensor,
  options: { scale?: number } = {},
): void {
  const operation = "embeddingBackward";
  checkTensor(operation, "dy", dy);
  const { backend } = dy;
  const { gradients: kernels } = backend;
  const dim = checkRows(operation, "dy", dy);
  const [vocab] = checkOperand(operation, "dTable", dTable, backend, [undefined, dim], "[vocab, dim]");
  const { scale = 1 } = options;
  checkFinite(operation, "scale", scale);
  const checked = checkIndices(operation, "ids", ids, vocab);
  if (checked.length * dim !== dy.size) {
    rangeError(operation, "dy must have one row per id", dy.shape, `${checked.length} ids`);
  }
  kernels.embedding(checked, scale, dy, dTable);
}

/**
 * Cross entropy of each row, `loss = logsumexp(logits) − logits[label]`, and its gradient,
 * `dLogits = scale · (softmax(logits) − onehot(label))`. A negative label is ignored: loss and gradient are 0.
 *
 * @param logits `[..., vocab]`
 * @param labels one integer per row, below vocab
 * @param options `scale`: factor of the gradient, default 1; 1 / (labels that count) makes it that of the mean
 * @returns `loss`, one value per row, `[labels.length]`, and `dLogits`, shaped like logits
 * @throws {RangeError} when a label is outside the vocabulary, or shapes do not fit
 */
export function crossEntropy(
  logits: Tensor,
  labels: ArrayLike<number>,
  options: { scale?: number } = {},
): { loss: Tensor; dLogits: Tensor } {
  const operation = "crossEntropy";
  checkTensor(operation, "logits", logits);
  const { backend } = logits;
  const { gradients: kernels } = backend;
  const vocab = checkRows(operation, "logits", logits);
  const { scale = 1 } = options;
  checkFinite(operation, "scale", scale);
  if (labels.length * vocab !== logits.size) {
    rangeError(operation, "labels must have one value per row of logits", labels.length, `[${logits.shape}]`);
  }
  for (let i = 0; i < labels.length; i++) {
    if (!Number.isInteger(labels[i]) || labels[i] >= vocab || labels[i] < -(2 ** 31)) {
      rangeError(operation, `labels must be integers below ${vocab}`, labels[i], `index ${i}`);
    }
  }
  return results(backend, { loss: [labels.length], dLogits: logits.shape }, ({ loss, dLogits }) => {
    kernels.crossEntropy(logits, Int32Array.from(labels), scale, loss, dLogits);
  });
}

/**
 * `total[0] += Σ x`, without a wait.
 *
 * @param x any shape @param total `[1]`
 * @throws {RangeError} when total has another shape
 */
export function sum(x: Tensor, total: Tensor): void {
  const operation = "sum";
  checkTensor(operation, "x", x);
  checkOperand(operation, "total", total, x.backend, [1], "[1]");
  x.backend.gradients.linearBias(x, total);
}

/**
 * `total[0] += Σ x²`, without a wait: the gradients of all parameters give their global norm.
 *
 * @param x any shape @param total `[1]`
 * @throws {RangeError} when total has another shape
 */
export function sumSquares(x: Tensor, total: Tensor): void {
  const operation = "sumSquares";
  checkTensor(operation, "x", x);
  checkOperand(operation, "total", total, x.backend, [1], "[1]");
  x.backend.gradients.sumSquares(x, total);
}

/** Options of {@linkcode adamw}. */
export interface AdamWOptions {
  /** Number of this step, counted from 1: corrects the bias of the moments. */
  count: number;
  /** Step size, ≥ 0. */
  learningRate: number;
  /** Share of the first moment that stays, 0 ≤ β1 < 1. Default 0.9. */
  beta1?: number;
  /** Share of the second moment that stays, 0 ≤ β2 < 1. Default 0.95. */
  beta2?: number;
  /** Added to the root of the second moment. Default 1e−8. */
  eps?: number;
  /** Decoupled decay: the parameter shrinks by `learningRate · weightDecay` of itself. Default 0. */
  weightDecay?: number;
  /** Gradients longer than this, all together, are shortened to it. Default: no limit. */
  maxNorm?: number;
}

/**
 * One step of AdamW ("Decoupled Weight Decay Regularization", algorithm 2), in place. The gradient is clipped by the
 * global norm, `min(1, maxNorm / sqrt(squares))`, on the device.
 *
 * @param parameter any shape; changed
 * @param gradient shaped like the parameter
 * @param moments `first` and `second`, shaped like the parameter, zeros before the first step; changed
 * @param squares `[1]`: the sum of squares of all gradients, from {@linkcode sumSquares}
 * @param options see {@linkcode AdamWOptions}
 * @throws {RangeError} when shapes do not fit or an option is out of range
 */
export function adamw(
  parameter: Tensor,
  gradient: Tensor,
  moments: { first: Tensor; second: Tensor },
  squares: Tensor,
  options: AdamWOptions,
): void {
  const operation = "adamw";
  checkTensor(operation, "parameter", parameter);
  const { backend, shape } = parameter;
  const { gradients: kernels } = backend;
  checkOperand(operation, "parameter", parameter, backend, shape, "");
  checkOperand(operation, "gradient", gradient, backend, shape, "of parameter");
  checkOperand(operation, "moments.first", moments.first, backend, shape, "of parameter");
  checkOperand(operation, "moments.second", moments.second, backend, shape, "of parameter");
  checkOperand(operation, "squares", squares, backend, [1], "[1]");
  const { count, learningRate, beta1 = 0.9, beta2 = 0.95, eps = 1e-8, weightDecay = 0 } = options;
  // No limit is the largest f32: infinity cannot be passed to a GPU portably.
  const { maxNorm = 3.4028234663852886e38 } = options;
  if (!Number.isInteger(count) || count < 1) rangeError(operation, "count must be an integer >= 1", count);
  for (const [name, value] of Object.entries({ learningRate, eps, weightDecay, maxNorm })) {
    checkFinite(operation, name, value);
    if (value < 0) rangeError(operation, `${name} must be >= 0`, value);
  }
  for (const [name, value] of Object.entries({ beta1, beta2 })) {
    if (!(value >= 0 && value < 1)) rangeError(operation, `${name} must be >= 0 and < 1`, value);
  }
  const step = { count, learningRate, beta1, beta2, eps, weightDecay, maxNorm };
  kernels.adamw(parameter, gradient, moments, squares, step);
}

/** Checks a tensor, its shape and its storage: gradients are computed from and in f32. */
function checkOperand(
  operation: string,
  name: string,
  tensor: Tensor,
  backend: Backend,
  expected: readonly (number | undefined)[],
  wording: string,
): readonly number[] {
  const shape = checkTensor(operation, name, tensor, backend);
  checkShape(operation, name, shape, expected, wording);
  if (tensor.dtype !== "f32") typeError(operation, `${name} must be stored as f32`, tensor.dtype);
  return shape;
}

/** Makes results, has them written, and gives them back if that fails. */
function results<K extends string>(
  backend: Backend,
  shapes: Record<K, readonly number[]>,
  write: (outputs: Record<K, Tensor>) => void,
): Record<K, Tensor> {
  const outputs = {} as Record<K, Tensor>;
  try {
    for (const name in shapes) outputs[name] = backend.empty(shapes[name]);
    write(outputs);
    return outputs;
  } catch (error) {
    for (const name in outputs) outputs[name].dispose();
    throw error;
  }
}
