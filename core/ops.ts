/**
 * The operations around attention that TransNormerLLM is made of. Each checks its arguments, makes its result on the
 * backend of its input and enqueues one operation of the machine.
 *
 * @example
 * ```ts
 * import { createBackend } from "@levin/attention";
 * import { linear, norm } from "@levin/attention/ops";
 * import assert from "node:assert/strict";
 *
 * using backend = await createBackend({ prefer: "wasm" });
 * using x = backend.tensor(new Float32Array([1, 2, 3, 4, 5, 6]), [2, 3]);
 * using weight = backend.tensor(new Float32Array([1, 0, 0, 0, 1, 0]), [2, 3]);
 * using h = norm(x);
 * using y = linear(h, weight);
 * assert.deepEqual(y.shape, [2, 2]);
 * ```
 *
 * @module
 */
export type { Activation } from "./machine.ts";
export { activate } from "./ops/activate.ts";
export { embedding } from "./ops/embedding.ts";
export { linear } from "./ops/linear.ts";
export { lrpe } from "./ops/lrpe.ts";
export { multiply } from "./ops/multiply.ts";
export { norm, type NormOptions } from "./ops/norm.ts";
export { gatherRows, scatterRows } from "./ops/rows.ts";
export { ACTIVATIONS, splitHeads } from "./ops/splitHeads.ts";
