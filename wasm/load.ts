/**
 * The kernels as a compiled module, under one name on every host: on Cloudflare, which forbids compiling from bytes, the
 * npm package imports them as files; everywhere else they are compiled from what the library embeds.
 *
 * @example
 * ```ts
 * import { createBackend } from "@levin/attention/wasm";
 * import { loadKernels } from "@levin/attention/kernels";
 * import assert from "node:assert/strict";
 *
 * using backend = await createBackend({ module: await loadKernels("baseline") });
 * assert.equal(backend.info.device, "baseline SIMD");
 * ```
 *
 * @module
 */
import { compileKernels } from "./module.ts";

/**
 * The kernels, for `createBackend({ module })`.
 *
 * @param variant `"baseline"` runs on any SIMD engine; `"relaxed"`, the default, on those with relaxed SIMD, and elsewhere
 * gives the baseline
 * @throws {BackendError} `"unavailable"` when this host cannot compile them
 */
export async function loadKernels(variant: "relaxed" | "baseline" = "relaxed"): Promise<WebAssembly.Module> {
  return await compileKernels(variant === "baseline", false);
}
