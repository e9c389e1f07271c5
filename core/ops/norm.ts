/**
 * SRMSNorm, RMSNorm and LayerNorm, with an output gate, and their gradients.
 *
 * @module
 */
import { checkFinite, checkOperand, checkOptions, result, results } from "../check.ts";
import { type DType, F32, FLOATS, type FloatType } from "../dtype.ts";
import { rangeError, typeError } from "../errors.ts";
import { joinTo, lastDimension } from "../shape.ts";
import { checkTensor, type Tensor } from "../tensor.ts";

/** What SRMSNorm adds to the mean square, unless told otherwise. */
export const SRMS_EPS = 1e-6;

/** Options of {@linkcode norm}. */
export interface NormOptions {
  /** Weight, `[width]`: alone RMSNorm's, with a bias LayerNorm's. Default: the norm is SRMSNorm, without parameters. */
  weight?: Tensor;
  /** LayerNorm's bias, `[width]`; comes with `weight`. */
  bias?: Tensor;
  /** Added to the mean square or variance, ≥ 0. Default 1e−5 for LayerNorm, 1e−6 for the others. */
  eps?: number;
  /** The result is multiplied by it, element by element: `[..., width]`, TNL's output gate. */
  gate?: Tensor;
  /** Elements normed together; default: the last dimension. A multiple of it joins dimensions, such as heads. */
  width?: number;
}

/**
 * SRMSNorm, `x / sqrt(mean(x²) + eps)` ("Scaling TransNormer to 175 Billion Parameters", section 3.1.4); with a weight
 * RMSNorm, that times the weight; with weight and bias LayerNorm.
 *
 * @example
 * ```ts
 * import { createBackend } from "@levin/attention";
 * import { norm } from "@levin/attention/ops";
 * import assert from "node:assert/strict";
 *
 * using backend = await createBackend({ prefer: "wasm" });
 * using x = backend.tensor(new Float32Array([3, -3, 3, 3]), [1, 4]);
 * using y = norm(x, { eps: 0 });
 * assert.deepEqual([...await y.data()], [1, -1, 1, 1]);
 * ```
 *
 * @param x any shape whose last dimensions multiply to `width`
 * @param options see {@linkcode NormOptions}
 * @returns `[..., width]`, stored as x
 * @throws {TypeError} when an argument is of the wrong kind
 * @throws {RangeError} when shapes do not match
 */
export function norm(x: Tensor, options: NormOptions = {}): Tensor {
  const operation = "norm";
  checkTensor(operation, "x", x, FLOATS);
  const { rows, width, shape, eps } = checkNorm(operation, x, options, FLOATS);
  const { backend } = x, { weight, bias, gate } = options;
  if (weight === undefined && bias !== undefined) typeError(operation, "bias must come with weight", bias);
  if (bias !== undefined) checkOperand(operation, "bias", bias, FLOATS, backend, [width], "[width]");
  const affine = weight === undefined ? undefined : { weight, bias };
  return result(
    backend,
    shape,
    x.dtype as FloatType,
    (output) => backend.machine.operations.norm({ x, affine, eps, gate, rows, width, output }),
  );
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
 * @returns `dx`, shaped like x, and `dGate`, shaped like `gate`; without gate undefined
 * @throws {TypeError} when an argument is of the wrong kind, or not stored as f32
 * @throws {RangeError} when shapes do not match
 */
export function normBackward(
  x: Tensor,
  dy: Tensor,
  options: NormBackwardOptions = {},
): { dx: Tensor; dGate: Tensor | undefined } {
  const operation = "normBackward";
  checkTensor(operation, "x", x, F32);
  const { rows, width, shape, eps } = checkNorm(operation, x, options, F32);
  const { backend } = x, { weight, bias, dWeight, dBias, gate, residual } = options;
  checkOperand(operation, "dy", dy, F32, backend, shape, "of the norm's result");
  if (weight === undefined && bias !== undefined) typeError(operation, "bias must come with weight", bias);
  const parameters = Object.entries({ weight, dWeight, bias, dBias });
  for (const [i, [name, tensor]] of parameters.entries()) {
    if ((tensor === undefined) !== ((i < 2 ? weight : bias) === undefined)) {
      typeError(operation, "a parameter and where its gradient goes must come together", tensor, name);
    }
    if (tensor !== undefined) checkOperand(operation, name, tensor, F32, backend, [width], "[width]");
  }
  if (residual !== undefined) {
    checkOperand(operation, "residual", residual, F32, backend, x.shape, "of x");
  }
  const affine = weight === undefined ? undefined : { weight, bias, dWeight: dWeight!, dBias };
  const call = { x, affine, eps, dy, residual, rows, width };
  const { operations } = backend.machine;
  if (gate === undefined) {
    const dx = result(backend, x.shape, "f32", (dx) => {
      operations.normBackward({ ...call, gate: undefined, dx });
    });
    return { dx, dGate: undefined };
  }
  return results(backend, { dx: x.shape, dGate: gate.shape }, {}, ({ dx, dGate }) => {
    operations.normBackward({ ...call, gate: { gate, dGate }, dx });
  });
}

/** What forward and backward have in common; `shape` is that of the result. */
function checkNorm(
  operation: string,
  x: Tensor,
  options: NormOptions,
  dtypes: readonly DType[],
): { rows: number; width: number; shape: number[]; eps: number } {
  checkOptions(operation, options);
  const { weight, bias, gate } = options;
  const width = options.width ?? lastDimension(operation, "x", x.shape);
  const shape = joinTo(operation, x.shape, width);
  const eps = options.eps ?? (bias === undefined ? SRMS_EPS : 1e-5);
  checkFinite(operation, "eps", eps);
  if (eps < 0) rangeError(operation, "eps must be >= 0", eps);
  if (weight !== undefined) checkOperand(operation, "weight", weight, dtypes, x.backend, [width], "[width]");
  if (gate !== undefined) checkOperand(operation, "gate", gate, dtypes, x.backend, shape, "of the result");
  return { rows: width === 0 ? 0 : x.size / width, width, shape, eps };
}
