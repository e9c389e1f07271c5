/**
 * The product of two tensors, element by element, and its gradient.
 *
 * @module
 */
import { checkOperand, result, results } from "../check.ts";
import { F32, FLOATS, type FloatType } from "../dtype.ts";
import { checkTensor, type Tensor } from "../tensor.ts";

/**
 * `x ⊙ y`, the gate of SGLU ("Scaling TransNormer to 175 Billion Parameters", section 3.1.3: no activation).
 *
 * @example
 * ```ts
 * import { createBackend } from "@levin/attention";
 * import { multiply } from "@levin/attention/ops";
 * import assert from "node:assert/strict";
 *
 * using backend = await createBackend({ prefer: "wasm" });
 * using x = backend.tensor(new Float32Array([1, 2, 3]), [3]);
 * using y = multiply(x, x);
 * assert.deepEqual([...await y.data()], [1, 4, 9]);
 * ```
 *
 * @param x any shape @param y the same shape
 * @returns shaped and stored like x
 * @throws {TypeError} when an argument is no tensor
 * @throws {RangeError} when the shapes differ
 */
export function multiply(x: Tensor, y: Tensor): Tensor {
  const operation = "multiply";
  const shape = checkTensor(operation, "x", x, FLOATS);
  const { backend } = x;
  checkOperand(operation, "y", y, FLOATS, backend, shape, "of x");
  return result(
    backend,
    shape,
    x.dtype as FloatType,
    (output) => backend.machine.operations.multiply({ x, y, output }),
  );
}

/**
 * Gradient of `multiply`: `dx = dOutput ⊙ y`, `dy = dOutput ⊙ x`.
 *
 * @param x any shape @param y the same shape @param dOutput the same shape
 * @throws {TypeError} when an argument is no tensor, or not stored as f32
 * @throws {RangeError} when the shapes differ
 */
export function multiplyBackward(x: Tensor, y: Tensor, dOutput: Tensor): { dx: Tensor; dy: Tensor } {
  const operation = "multiplyBackward";
  const shape = checkTensor(operation, "x", x, F32);
  const { backend } = x;
  checkOperand(operation, "y", y, F32, backend, shape, "of x");
  checkOperand(operation, "dOutput", dOutput, F32, backend, shape, "of x");
  return results(backend, { dx: shape, dy: shape }, {}, ({ dx, dy }) => {
    const { operations } = backend.machine;
    operations.multiply({ x: dOutput, y, output: dx });
    operations.multiply({ x: dOutput, y: x, output: dy });
  });
}
