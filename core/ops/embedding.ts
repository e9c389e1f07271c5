/**
 * Looking token ids up in a table, and its gradient.
 *
 * @module
 */
import { checkFinite, checkIndices, checkOperand, checkOptions, result } from "../check.ts";
import { F32, WEIGHTS } from "../dtype.ts";
import { rangeError } from "../errors.ts";
import { checkDimensions, elementCount, lastDimension } from "../shape.ts";
import { checkTensor, type Tensor } from "../tensor.ts";

/**
 * Looks token ids up: `output[i] = table[ids[i]] · scale`.
 *
 * @example
 * ```ts
 * import { createBackend } from "@levin/attention";
 * import { embedding } from "@levin/attention/ops";
 * import assert from "node:assert/strict";
 *
 * using backend = await createBackend({ prefer: "wasm" });
 * using table = backend.tensor(new Float32Array([1, 2, 3, 4, 5, 6]), [3, 2]);
 * using rows = embedding(table, [2, 0], { scale: 10 });
 * assert.deepEqual([...await rows.data()], [50, 60, 10, 20]);
 * ```
 *
 * @param table `[vocab, dim]`, quantised or not
 * @param ids token ids, row by row, each an integer from 0 to vocab − 1
 * @param options `scale`: factor of every element, default 1; `shape`: shape of the ids, default `[ids.length]`
 * @returns `[...shape, dim]`, f32
 * @throws {TypeError} when an argument is of the wrong kind
 * @throws {RangeError} when an id is outside the table, or shapes do not match
 */
export function embedding(
  table: Tensor,
  ids: ArrayLike<number>,
  options: { scale?: number; shape?: readonly number[] } = {},
): Tensor {
  const operation = "embedding";
  const [vocab, width] = checkOperand(
    operation,
    "table",
    table,
    WEIGHTS,
    undefined,
    [undefined, undefined],
    "[vocab, dim]",
  );
  const checked = checkIndices(operation, "ids", ids, vocab);
  checkOptions(operation, options);
  const { scale = 1, shape = [checked.length] } = options;
  checkFinite(operation, "scale", scale);
  checkDimensions(operation, shape);
  if (elementCount(shape) !== checked.length) {
    rangeError(operation, "shape must hold as many elements as ids", shape, `${checked.length} ids`);
  }
  const { backend } = table;
  return result(
    backend,
    [...shape, width],
    "f32",
    (output) => backend.machine.operations.embedding({ table, ids: checked, scale, width, output }),
  );
}

/**
 * Gradient of `embedding`: `dTable[ids[i]] += scale · dy[i]`, always in the order of i.
 *
 * @param ids token ids, row by row
 * @param dy `[..., dim]`, one row per id
 * @param dTable added to: `[vocab, dim]`
 * @param options `scale`: that of `embedding`, default 1
 * @throws {TypeError} when an argument is of the wrong kind
 * @throws {RangeError} when an id is outside the table, or shapes do not match
 */
export function embeddingBackward(
  ids: ArrayLike<number>,
  dy: Tensor,
  dTable: Tensor,
  options: { scale?: number } = {},
): void {
  const operation = "embeddingBackward";
  const width = lastDimension(operation, "dy", checkTensor(operation, "dy", dy, F32));
  const { backend } = dy;
  const [vocab] = checkOperand(
    operation,
    "dTable",
    dTable,
    F32,
    backend,
    [undefined, width],
    "[vocab, dim]",
  );
  checkOptions(operation, options);
  const { scale = 1 } = options;
  checkFinite(operation, "scale", scale);
  const checked = checkIndices(operation, "ids", ids, vocab);
  if (checked.length * width !== dy.size) {
    rangeError(operation, "dy must have one row per id", dy.shape, `${checked.length} ids`);
  }
  backend.machine.operations.embeddingBackward({ ids: checked, scale, width, dy, dTable });
}
