/**
 * Picking rows of a tensor and putting them back: how sessions join and leave a batch.
 *
 * @module
 */
import { checkDistinct, checkIndices, checkOptions, result } from "../check.ts";
import { FLOATS, type FloatType } from "../dtype.ts";
import { typeError } from "../errors.ts";
import { checkShape, elementCount, joinTo, lastDimension } from "../shape.ts";
import { checkTensor, type Tensor } from "../tensor.ts";

/**
 * Picks rows: `output[i] = x[rows[i]]`, x taken as `[count, width]`.
 *
 * @example
 * ```ts
 * import { createBackend } from "@levin/attention";
 * import { gatherRows, scatterRows } from "@levin/attention/ops";
 * import assert from "node:assert/strict";
 *
 * using backend = await createBackend({ prefer: "wasm" });
 * using x = backend.tensor(new Float32Array([1, 2, 3, 4, 5, 6]), [3, 2]);
 * using last = gatherRows(x, [2]);
 * assert.deepEqual([...await last.data()], [5, 6]);
 * scatterRows(last, [0], x);
 * assert.deepEqual([...await x.data()], [5, 6, 3, 4, 5, 6]);
 * ```
 *
 * @param x `[..., width]`
 * @param rows indices from 0 to count − 1
 * @param options `width`: elements of a row; default: the last dimension. A multiple of it joins dimensions
 * @returns `[rows.length, width]`, stored as x
 * @throws {TypeError} when an argument is of the wrong kind
 * @throws {RangeError} when an index is outside x, or the last dimensions do not multiply to `width`
 */
export function gatherRows(x: Tensor, rows: ArrayLike<number>, options: { width?: number } = {}): Tensor {
  const operation = "gatherRows";
  checkTensor(operation, "x", x, FLOATS);
  checkOptions(operation, options);
  const width = options.width ?? lastDimension(operation, "x", x.shape);
  joinTo(operation, x.shape, width);
  const indices = checkIndices(operation, "rows", rows, width === 0 ? 0 : x.size / width);
  const { backend } = x;
  return result(
    backend,
    [indices.length, width],
    x.dtype as FloatType,
    (output) => backend.machine.operations.gatherRows({ x, indices, width, output }),
  );
}

/**
 * Puts rows in their places: `target[rows[i]] = x[i]`, the other rows of target unchanged.
 *
 * @param x `[rows.length, ...]`
 * @param rows indices into the first dimension of target, all different
 * @param target `[count, ...]`, rows of x's size; changed in place
 * @throws {TypeError} when an argument is of the wrong kind, or x and target are stored differently
 * @throws {RangeError} when an index is outside target or comes twice, or shapes do not match
 */
export function scatterRows(x: Tensor, rows: ArrayLike<number>, target: Tensor): void {
  const operation = "scatterRows";
  checkTensor(operation, "x", x, FLOATS);
  const { backend } = x;
  const [count = 0, ...row] = checkTensor(operation, "target", target, FLOATS, backend);
  const indices = checkIndices(operation, "rows", rows, count);
  checkDistinct(operation, "rows", indices);
  checkShape(operation, "x", x.shape, [indices.length, ...row], "[rows.length, ...] of target");
  if (x.dtype !== target.dtype) typeError(operation, "x must be stored as target is", x.dtype, target.dtype);
  backend.machine.operations.scatterRows({ x, indices, width: elementCount(row), target });
}
