/**
 * A linear layer and its gradient.
 *
 * @module
 */
import { checkOperand, checkOptions, result } from "../check.ts";
import { type DType, F32, FLOATS, type FloatType, WEIGHTS } from "../dtype.ts";
import { lastDimension } from "../shape.ts";
import { checkTensor, type Tensor } from "../tensor.ts";

/**
 * A linear layer: `y = x weightᵀ + bias + residual`.
 *
 * @example
 * ```ts
 * import { createBackend } from "@levin/attention";
 * import { linear } from "@levin/attention/ops";
 * import assert from "node:assert/strict";
 *
 * using backend = await createBackend({ prefer: "wasm" });
 * using x = backend.tensor(new Float32Array([1, 2, 3]), [1, 3]);
 * using weight = backend.tensor(new Float32Array([1, 0, 0, 0, 1, 1]), [2, 3]);
 * using y = linear(x, weight);
 * assert.deepEqual([...await y.data()], [1, 5]);
 * ```
 *
 * @param x `[..., in]`
 * @param weight `[out, in]`, as PyTorch stores it; quantised or not
 * @param options `bias` `[out]`; `residual`, shaped like the result, is added
 * @returns `[..., out]`, stored as x
 * @throws {TypeError} when an argument is of the wrong kind
 * @throws {RangeError} when shapes do not match
 */
export function linear(
  x: Tensor,
  weight: Tensor,
  options: { bias?: Tensor; residual?: Tensor } = {},
): Tensor {
  const operation = "linear";
  const { inDim, outDim, rows, shape } = checkLayer(operation, x, weight, FLOATS, WEIGHTS);
  checkOptions(operation, options);
  const { backend } = x, { bias, residual } = options;
  if (bias !== undefined) checkOperand(operation, "bias", bias, FLOATS, backend, [outDim], "[out]");
  if (residual !== undefined) {
    checkOperand(operation, "residual", residual, FLOATS, backend, shape, "of the result");
  }
  return result(
    backend,
    shape,
    x.dtype as FloatType,
    (output) => backend.machine.operations.linear({ x, weight, bias, residual, rows, inDim, outDim, output }),
  );
}

/**
 * Gradient of `linear`: `dx = dy weight + residual`, `dWeight += dyᵀ x`, `dBias += Σ_rows dy`.
 *
 * @param x `[..., in]`, what `linear` was given
 * @param weight `[out, in]`
 * @param dy `[..., out]`
 * @param options `dWeight` and `dBias`, added to if given; `residual`, shaped like x, is added to the result
 * @returns `dx`, `[..., in]`
 * @throws {TypeError} when an argument is of the wrong kind, or not stored as f32
 * @throws {RangeError} when shapes do not match
 */
export function linearBackward(
  x: Tensor,
  weight: Tensor,
  dy: Tensor,
  options: { dWeight?: Tensor; dBias?: Tensor; residual?: Tensor } = {},
): Tensor {
  const operation = "linearBackward";
  const { inDim, outDim, rows, shape } = checkLayer(operation, x, weight, F32, F32);
  const { backend } = x;
  checkOperand(operation, "dy", dy, F32, backend, shape, "[..., out]");
  checkOptions(operation, options);
  const { dWeight, dBias, residual } = options;
  if (dWeight !== undefined) {
    checkOperand(operation, "dWeight", dWeight, F32, backend, weight.shape, "of weight");
  }
  if (dBias !== undefined) checkOperand(operation, "dBias", dBias, F32, backend, [outDim], "[out]");
  if (residual !== undefined) {
    checkOperand(operation, "residual", residual, F32, backend, x.shape, "of x");
  }
  const { operations } = backend.machine;
  return result(backend, x.shape, "f32", (dx) => {
    operations.linearBackward({ x, weight, dy, residual, rows, inDim, outDim, dx, dWeight });
    if (dBias !== undefined) operations.sumRows({ x: dy, rows, width: outDim, total: dBias });
  });
}

/** What forward and backward have in common; `shape` is that of the result. */
function checkLayer(
  operation: string,
  x: Tensor,
  weight: Tensor,
  activations: readonly DType[],
  weights: readonly DType[],
): { inDim: number; outDim: number; rows: number; shape: number[] } {
  const inDim = lastDimension(operation, "x", checkTensor(operation, "x", x, activations));
  checkOperand(operation, "weight", weight, weights, x.backend, [undefined, inDim], "[out, in]");
  const outDim = weight.shape[0];
  const shape = [...x.shape];
  shape[shape.length - 1] = outDim;
  let rows = 1;
  for (let axis = 0; axis < shape.length - 1; axis++) rows *= shape[axis];
  return { inDim, outDim, rows, shape };
}
