/**
 * What users choose of a backend on WebGPU. It stands apart from the machine, so that the types of the public API lead to
 * nothing inside.
 *
 * @module
 */
import type { Gradients } from "../core/machine.ts";

/** What training needs of the GPU: the value that `@levin/attention/webgpu/gradients` exports. */
export type WebgpuGradients = (device: never) => Gradients;

/** What products on matrix units need: the value that `@levin/attention/webgpu/units` exports. */
export type WebgpuUnits = (adapter: never) => object | string;

/** A `GPU` object, whoever made it: what a backend asks of it. Structural, as not every program has WebGPU's types. */
export interface GpuObject {
  /** As in WebGPU: resolves to a `GPUAdapter`, or to null. */
  requestAdapter(options?: { powerPreference?: "high-performance" }): Promise<object | null>;
}

/** Options of a backend on WebGPU. */
export interface WebgpuOptions {
  /**
   * Where adapters come from: `navigator.gpu` by default. Node.js has none, but what `create([])` of npm's `webgpu`
   * returns is one; see docs/hosts.md. The library keeps a reference for good: Dawn ends the process when it is collected.
   */
  gpu?: GpuObject;
  /**
   * `"f32"` (default) computes in f32 everywhere. `"f16"` has matrix units multiply: large products and their
   * gradients round their operands to f16, scaled by powers of two, and add up in f32; attention stays in f32. Tensors stay as they are
   * stored. It is the precision you get, or an error: no runtime grants matrix units without being asked to, see
   * docs/hosts.md. `backend.info.units` says what computes.
   */
  precision?: "f32" | "f16";
  /** Stops the creation: it then rejects with the signal's reason. */
  signal?: AbortSignal;
}
