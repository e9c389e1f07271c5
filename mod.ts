/**
 * Lightning Attention: causal linear attention with decay, at constant speed and memory for any sequence length, on
 * WebGPU or WebAssembly SIMD behind one API.
 *
 * @example
 * ```ts
 * import { alibiSlopes, createBackend, lightningAttention } from "@levin/attention";
 * import assert from "node:assert/strict";
 *
 * using backend = await createBackend();
 * const shape = [1, 8, 4096, 64]; // batch, heads, tokens, head dimension
 * const random = () => Float32Array.from({ length: 8 * 4096 * 64 }, () => Math.random() - 0.5);
 * using q = backend.tensor(random(), shape);
 * using k = backend.tensor(random(), shape);
 * using v = backend.tensor(random(), shape);
 *
 * const { output, state } = lightningAttention(q, k, v, { slopes: alibiSlopes(8) });
 * assert.deepEqual(output.shape, [1, 8, 4096, 64]);
 * assert.deepEqual(state.shape, [1, 8, 64, 64]); // the same after a million tokens
 * assert((await output.data()).every(Number.isFinite));
 * output.dispose();
 * state.dispose();
 * ```
 *
 * @module
 */
export * from "./core/mod.ts";
export { createBackend } from "./backend.ts";
export type { BackendOptions, BackendPreference, WasmOptions, WebgpuOptions } from "./backend.ts";
