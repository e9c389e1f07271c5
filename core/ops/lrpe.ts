/**
 * Linearized relative positional encoding and its gradient.
 *
 * @module
 */
import { checkArray, checkIndices, checkOperand, result } from "../check.ts";
import { type DType, F32, FLOATS, type FloatType } from "../dtype.ts";
import { rangeError } from "../errors.ts";
import type { Tensor } from "../tensor.ts";

/**
 * Linearized relative positional encoding: `[x·cos(θp), x·sin(θp)]` at position p, so that a product of two encoded
 * vectors depends on the distance of their positions ("Linearized Relative Positional Encoding", TMLR 2023).
 *
 * @example
 * ```ts
 * import { createBackend } from "@levin/attention";
 * import { lrpe } from "@levin/attention/ops";
 * import assert from "node:assert/strict";
 *
 * using backend = await createBackend({ prefer: "wasm" });
 * using x = backend.tensor(new Float32Array([2, 3]), [1, 2, 1, 1]);
 * using theta = backend.tensor(new Float32Array([0.5]), [1, 1]);
 * using y = lrpe(x, theta, [0]);
 * assert.deepEqual(y.shape, [1, 2, 1, 2]);
 * const [cos0, sin0] = await y.data();
 * assert.deepEqual([cos0, sin0], [2, 0]); // position 0 is not rotated
 * ```
 *
 * @param x `[batch, seqLen, heads, headDim]`
 * @param theta angle per position, in radians, `[heads, headDim]`
 * @param positions position of the first token of each batch element, `[batch]`, integers from 0 to 2^31 − 1
 * @returns `[batch, seqLen, heads, 2 · headDim]`, stored as x
 * @throws {TypeError} when an argument is of the wrong kind
 * @throws {RangeError} when shapes do not match or a position is not a valid index
 */
export function lrpe(x: Tensor, theta: Tensor, positions: ArrayLike<number>): Tensor {
  const { doubled, checked } = checkLrpe("lrpe", x, theta, positions, FLOATS);
  const { backend } = x;
  return result(
    backend,
    doubled,
    x.dtype as FloatType,
    (output) => backend.machine.operations.lrpe({ x, theta, positions: checked, output }),
  );
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
 * @throws {TypeError} when an argument is of the wrong kind, or not stored as f32
 * @throws {RangeError} when shapes do not match or a position is not a valid index
 */
export function lrpeBackward(
  x: Tensor,
  theta: Tensor,
  positions: ArrayLike<number>,
  dy: Tensor,
  dTheta: Tensor,
): Tensor {
  const operation = "lrpeBackward";
  const { doubled, checked } = checkLrpe(operation, x, theta, positions, F32);
  const { backend } = x;
  checkOperand(operation, "dTheta", dTheta, F32, backend, theta.shape, "[heads, headDim]");
  checkOperand(operation, "dy", dy, F32, backend, doubled, "[batch, seqLen, heads, 2 * headDim]");
  return result(backend, x.shape, "f32", (dx) => {
    backend.machine.operations.lrpeBackward({ x, theta, positions: checked, dy, dx, dTheta });
  });
}

/** What forward and backward have in common; `doubled` is the shape of the result. */
function checkLrpe(
  operation: string,
  x: Tensor,
  theta: Tensor,
  positions: ArrayLike<number>,
  dtypes: readonly DType[],
): { doubled: number[]; checked: Float64Array } {
  const [batch, seqLen, heads, headDim] = checkOperand(
    operation,
    "x",
    x,
    dtypes,
    undefined,
    [undefined, undefined, undefined, undefined],
    "[batch, seqLen, heads, headDim]",
  );
  checkOperand(operation, "theta", theta, dtypes, x.backend, [heads, headDim], "[heads, headDim]");
  checkArray(operation, "positions", positions, "integers, one per batch element");
  if (positions.length !== batch) {
    rangeError(
      operation,
      "positions must have one value per batch element",
      positions.length,
      `batch ${batch}`,
    );
  }
  const checked = checkIndices(operation, "positions", positions, 2 ** 31 - seqLen);
  return { doubled: [batch, seqLen, heads, 2 * headDim], checked: Float64Array.from(checked) };
}
