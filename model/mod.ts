/**
 * TransNormerLLM: language models whose memory is a state of fixed size.
 *
 * @example
 * ```ts
 * import { createBackend } from "@levin/attention";
 * import { TransNormerLLM } from "@levin/attention/tnl";
 * import assert from "node:assert/strict";
 *
 * using backend = await createBackend({ prefer: "wasm" });
 * using model = await TransNormerLLM.load("tests/golden/tnl", { backend });
 * using logits = model.forward([[5, 17, 9]]);
 * assert.deepEqual(logits.shape, [1, 3, 256]);
 * ```
 *
 * @module
 */
export * from "./bare.ts";
export { TransNormerLLM } from "./auto.ts";
