/**
 * What users choose of a backend on WebAssembly. It stands apart from the machine, so that the types of the public API lead to
 * nothing inside.
 *
 * @module
 */

/** Options of a backend on WebAssembly. */
export interface WasmOptions {
  /**
   * A module compiled beforehand from `wasmKernels("relaxed")` or `wasmKernels("baseline")`, for hosts that forbid
   * compiling from bytes. The module itself says which of the two it is.
   */
  module?: WebAssembly.Module;
  /**
   * Threads that compute, the calling one among them; default 1. `"auto"` starts one per core, or one thread alone where
   * the host has no workers or no shared memory, or does not let them start; `info.reason` then says why. A number is
   * what you get, or an error. Results have the same bits for any number. Workers sleep while there is nothing to do; they
   * live until the backend is disposed, and keep the process alive until then. In a page, create the backend in a worker:
   * the calling thread computes too, and a page that computes draws nothing meanwhile.
   */
  threads?: number | "auto";
  /**
   * Where the worker script of this library is served, `wasm/worker.ts` as a bundle, for pages whose content security
   * policy forbids `blob:` workers. Default: workers start from a `blob:` URL.
   */
  workerUrl?: string | URL;
  /** Uses baseline SIMD even if the host has relaxed SIMD. For comparison; default false. */
  baseline?: boolean;
  /** Stops the creation: its reason is thrown. */
  signal?: AbortSignal;
}
