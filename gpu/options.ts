/**
 * What users choose of a backend on WebGPU. It stands apart from the machine, so that the types of the public API lead to
 * nothing inside.
 *
 * @module
 */

/** Options of a backend on WebGPU. */
export interface WebgpuOptions {
  /** Stops the creation: it then rejects with the signal's reason. */
  signal?: AbortSignal;
}
