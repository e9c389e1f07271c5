/**
 * The kernels as files instead of text inside the library: for hosts that forbid compiling from bytes, and for pages
 * that stream and cache them. The module goes to `createBackend({ module })`.
 *
 * @module
 */

/**
 * Compiles the kernels, or takes them from the host that compiled them.
 *
 * @param variant `"relaxed"` needs relaxed SIMD; `"baseline"` runs on any SIMD engine. Default: the best that this engine
 * has
 * @throws {Error} when the file cannot be loaded or compiled
 */
export function loadKernels(variant?: "relaxed" | "baseline"): Promise<WebAssembly.Module>;
