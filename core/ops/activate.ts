/**
 * An activation of each element, and its gradient.
 *
 * @module
 */
import { checkOperand, result } from "../check.ts";
import { type DType, F32, FLOATS, type FloatType } from "../dtype.ts";
import { rangeError } from "../errors.ts";
import type { Activation } from "../machine.ts";
import { lastDimension } from "../shape.ts";
import { checkTensor, type Tensor } from "../tensor.ts";
import { ACTIVATIONS } from "./splitHeads.ts";

/**
 * An activation of each element, such as the one in a gated linear unit: `multiply(activate(l1, "silu"), l2)`. TNL's
 * has none; "Various Lengths, Constant Speed", table 8, compares.
 *
 * @example
 * ```ts
 * import { createBackend } from "@levin/attention";
 * import { activate } from "@levin/attention/ops";
 * import assert from "node:assert/strict";
 *
 * using backend = await createBackend({ prefer: "wasm" });
 * using x = backend.tensor(new Float32Array([-2, 0, 3]), [3]);
 * using y = activate(x, "relu");
 * assert.deepEqual([...await y.data()], [0, 0, 3]);
 * ```
 *
 * @param x `[..., width]`
 * @param activation `"exp"` is `exp(x − max)` with the maximum over each row
 * @returns shaped and stored like x
 * @throws {TypeError} when x is no tensor
 * @throws {RangeError} when the activation does not exist
 */
export function activate(x: Tensor, activation: Activation): Tensor {
  const { rows, width } = checkActivation("activate", x, activation, FLOATS);
  const { backend } = x;
  return result(
    backend,
    x.shape,
    x.dtype as FloatType,
    (output) => backend.machine.operations.activate({ x, activation, rows, width, output }),
  );
}

/**
 * Gradient of `activate`: `dx = dy ⊙ activation'(x)`. The maximum that `"exp"` subtracts counts as a constant.
 *
 * @param x `[..., width]`, what `activate` was given
 * @param activation the activation
 * @param dy the same shape
 * @returns `dx`, shaped like x
 * @throws {TypeError} when an argument is no tensor, or not stored as f32
 * @throws {RangeError} when the shapes differ or the activation does not exist
 */
export function activateBackward(x: Tensor, activation: Activation, dy: Tensor): Tensor {
  const operation = "activateBackward";
  const { rows, width } = checkActivation(operation, x, activation, F32);
  const { backend } = x;
  checkOperand(operation, "dy", dy, F32, backend, x.shape, "of x");
  return result(backend, x.shape, "f32", (dx) => {
    backend.machine.operations.activateBackward({ x, activation, rows, width, dy, dx });
  });
}

/** What forward and backward have in common. */
function checkActivation(
  operation: string,
  x: Tensor,
  activation: Activation,
  dtypes: readonly DType[],
): { rows: number; width: number } {
  const width = lastDimension(operation, "x", checkTensor(operation, "x", x, dtypes));
  if (!ACTIVATIONS.includes(activation)) {
    rangeError(operation, `activation must be one of ${ACTIVATIONS.join(", ")}`, activation);
  }
  return { rows: width === 0 ? 0 : x.size / width, width };
}
