/**
 * Attention on WebGPU alone: what `@levin/attention` exports, in bundles that hold no WASM kernels.
 *
 * @example
 * ```ts
 * import { BackendError, createBackend } from "@levin/attention/webgpu";
 * import assert from "node:assert/strict";
 *
 * try {
 *   using backend = await createBackend();
 *   assert.equal(backend.name, "webgpu");
 * } catch (error) {
 *   assert(error instanceof BackendError && error.reason === "unavailable"); // no GPU here
 * }
 * ```
 *
 * @module
 */
import { Backend } from "../core/tensor.ts";
import { createMachine } from "./machine.ts";
import type { WebgpuGradients, WebgpuOptions, WebgpuUnits } from "./options.ts";

export * from "../core/mod.ts";
export type { GpuObject, WebgpuGradients, WebgpuOptions, WebgpuUnits } from "./options.ts";

/**
 * Makes a backend on WebGPU. The caller disposes it, or declares it with `using`.
 *
 * @param options `gradients`: what `@levin/attention/webgpu/gradients` exports, for programs that train; without it
 * gradients are refused, and their shaders are not in the bundle; `units`: what `@levin/attention/webgpu/units` exports, for
 * `precision: "f16"`
 *
 * @throws {TypeError} when `gpu` is no `GPU` object
 * @throws {BackendError} `"unavailable"` when there is no WebGPU, no adapter or no device
 */
export async function createBackend(
  { gradients, units, ...options }: WebgpuOptions & { gradients?: WebgpuGradients; units?: WebgpuUnits } = {},
): Promise<Backend> {
  return new Backend(await createMachine(options, "the only backend of this entry", { gradients, units }));
}
