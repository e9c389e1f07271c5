/**
 * Attention on WebAssembly alone: what `@levin/attention` exports, in bundles that hold nothing of WebGPU.
 *
 * @example
 * ```ts
 * import { createBackend } from "@levin/attention/wasm";
 * import assert from "node:assert/strict";
 *
 * using backend = await createBackend();
 * assert.equal(backend.name, "wasm");
 * ```
 *
 * @module
 */
import { Backend } from "../core/tensor.ts";
import { createMachine } from "./machine.ts";
import type { WasmOptions } from "./options.ts";

export * from "../core/mod.ts";
export type { WasmOptions } from "./options.ts";
export { wasmKernels } from "./module.ts";

/**
 * Makes a backend on WebAssembly. The caller disposes it, or declares it with `using`.
 *
 * @throws {RangeError} when an option has a value that does not exist
 * @throws {BackendError} `"unavailable"` when this host cannot run it
 */
export async function createBackend(options: WasmOptions = {}): Promise<Backend> {
  return new Backend(await createMachine(options, "the only backend of this entry"));
}
