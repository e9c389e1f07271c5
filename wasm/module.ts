/**
 * Finding and compiling the embedded kernels.
 *
 * @module
 */
import { BackendError } from "../core/errors.ts";
import { BASELINE, RELAXED } from "./kernels.ts";

/** Hexadecimal, as gzip sees its repetitions and not those of base64, which depend on where a run of bytes begins. */
function decode(text: string): Uint8Array<ArrayBuffer> {
  const bytes = new Uint8Array(text.length / 2);
  for (let i = 0; i < bytes.length; i++) bytes[i] = parseInt(text.slice(2 * i, 2 * i + 2), 16);
  return bytes;
}

/**
 * The bytes of the embedded kernels, for hosts that forbid compiling from bytes at run time. Write them to a file at
 * build time, let the host compile it, and pass the module to `createBackend({ module })`.
 *
 * @example
 * ```ts
 * import { createBackend, wasmKernels } from "@levin/attention/wasm";
 * import assert from "node:assert/strict";
 *
 * const module = new WebAssembly.Module(wasmKernels("baseline"));
 * using backend = await createBackend({ module });
 * assert.equal(backend.info.device, "baseline SIMD");
 * ```
 *
 * @param variant `"relaxed"` needs relaxed SIMD (fused multiply-add), `"baseline"` runs on any SIMD engine
 * @param shared whether the module runs over shared memory, which more than one thread needs; default false
 */
export function wasmKernels(variant: "relaxed" | "baseline", shared = false): Uint8Array<ArrayBuffer> {
  const bytes = decode(variant === "relaxed" ? RELAXED : BASELINE);
  return shared ? withSharedMemory(bytes) : bytes;
}

/** How the module imports its memory: name, kind, and limits with a maximum. */
const MEMORY_IMPORT = [3, ...new TextEncoder().encode("env"), 6, ...new TextEncoder().encode("memory"), 2, 1];

/** The same kernels over shared memory: only the flag in the limits of the imported memory differs. */
function withSharedMemory(bytes: Uint8Array<ArrayBuffer>): Uint8Array<ArrayBuffer> {
  const at = bytes.findIndex((_, i) => MEMORY_IMPORT.every((byte, j) => bytes[i + j] === byte));
  bytes[at + MEMORY_IMPORT.length - 1] = 3;
  return bytes;
}

/** Compiles the variant that this engine can run; `shared` for more than one thread. */
export async function compileKernels(baseline: boolean, shared: boolean): Promise<WebAssembly.Module> {
  const variants = baseline ? ["baseline"] as const : ["relaxed", "baseline"] as const;
  for (const variant of variants) {
    const bytes = wasmKernels(variant, shared);
    // Validation is the feature detection: an engine without relaxed SIMD rejects the whole module.
    if (!WebAssembly.validate(bytes)) continue;
    try {
      return await WebAssembly.compile(bytes);
    } catch (cause) {
      throw new BackendError(
        "unavailable",
        "Cannot create the WASM backend as this host forbids compiling WebAssembly from bytes: " +
          "pass a precompiled module to createBackend({ module })",
        { cause },
      );
    }
  }
  throw new BackendError(
    "unavailable",
    "Cannot create the WASM backend as this engine has no WebAssembly SIMD",
  );
}
