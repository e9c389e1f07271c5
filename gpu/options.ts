/**
 * What users choose of a backend on WebGPU. It stands apart from the machine, so that the types of the public API lead to
 * nothing inside.
 *
 * @module
 */
import type { Gradients } from "../core/machine.ts";

/** What training needs of the GPU: the value that `@levin/attention/webgpu/gradients` exports. */
export type WebgpuGradients = (device: never) => Gradients;

/** Options of a backend on WebGPU. */
export interface WebgpuOptions {
  /** Stops the creation: it then rejects with the signal's reason. */
  signal?: AbortSignal;
}
