/**
 * The optimiser's step.
 *
 * @module
 */
import { checkFinite, checkOperand, checkOptions } from "../check.ts";
import { F32 } from "../dtype.ts";
import { rangeError } from "../errors.ts";
import { checkTensor, type Tensor } from "../tensor.ts";

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
  /** Added to the root of the second moment, ≥ 0. Default 1e−8. */
  eps?: number;
  /** Decoupled decay, ≥ 0: the parameter shrinks by `learningRate · weightDecay` of itself. Default 0. */
  weightDecay?: number;
  /** Gradients longer than this, all together, are shortened to it, ≥ 0. Default: no limit. */
  maxNorm?: number;
}

/** No limit of the norm: the largest f32, because infinity cannot be passed to a GPU portably. */
const NO_LIMIT = 3.4028234663852886e38;

/**
 * One step of AdamW ("Decoupled Weight Decay Regularization", algorithm 2), in place. The gradient is clipped by the
 * global norm, `min(1, maxNorm / sqrt(squares))`, on the device.
 *
 * @param parameter any shape; changed
 * @param gradient shaped like the parameter
 * @param moments `first` and `second`, shaped like the parameter, zeros before the first step; changed
 * @param squares `[1]`: the sum of squares of all gradients, from {@linkcode sumSquares}
 * @param options see {@linkcode AdamWOptions}
 * @throws {TypeError} when an argument is of the wrong kind, or not stored as f32
 * @throws {RangeError} when shapes do not match or an option is out of range
 */
export function adamw(
  parameter: Tensor,
  gradient: Tensor,
  moments: { first: Tensor; second: Tensor },
  squares: Tensor,
  options: AdamWOptions,
): void {
  const operation = "adamw";
  const shape = checkTensor(operation, "parameter", parameter, F32);
  const { backend } = parameter;
  checkOperand(operation, "gradient", gradient, F32, backend, shape, "of parameter");
  const { first, second } = moments ?? {};
  checkOperand(operation, "moments.first", first, F32, backend, shape, "of parameter");
  checkOperand(operation, "moments.second", second, F32, backend, shape, "of parameter");
  checkOperand(operation, "squares", squares, F32, backend, [1], "[1]");
  checkOptions(operation, options);
  const { count, learningRate, beta1 = 0.9, beta2 = 0.95, eps = 1e-8, weightDecay = 0 } = options;
  const { maxNorm = NO_LIMIT } = options;
  if (!Number.isInteger(count) || count < 1) rangeError(operation, "count must be an integer >= 1", count);
  for (const [name, value] of Object.entries({ learningRate, eps, weightDecay, maxNorm })) {
    checkFinite(operation, name, value);
    if (value < 0) rangeError(operation, `${name} must be >= 0`, value);
  }
  for (const [name, value] of Object.entries({ beta1, beta2 })) {
    if (!(value >= 0 && value < 1)) rangeError(operation, `${name} must be >= 0 and < 1`, value);
  }
  const numbers = { count, learningRate, beta1, beta2, eps, weightDecay, maxNorm };
  backend.machine.operations.adamw({ parameter, gradient, first, second, squares, ...numbers });
}
