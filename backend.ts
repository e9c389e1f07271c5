/**
 * Choosing a backend: WebGPU or WebAssembly. Each is imported when it is wanted, so a page with a GPU starts no
 * WebAssembly. Programs that know their device import `@levin/attention/webgpu` or `@levin/attention/wasm` instead, and
 * their bundles hold nothing of the other.
 *
 * @module
 */
import { checkThreads } from "./core/check.ts";
import { BackendError, rangeError } from "./core/errors.ts";
import type { BackendName } from "./core/machine.ts";
import { Backend } from "./core/tensor.ts";
import type { WebgpuOptions } from "./gpu/options.ts";
import type { WasmOptions } from "./wasm/options.ts";

export { Backend } from "./core/tensor.ts";
export type * from "./core/machine.ts"; // for whoever implements a machine
export type { GpuObject, WebgpuOptions } from "./gpu/options.ts";
export type { WasmOptions } from "./wasm/options.ts";

/** Which backend is wanted; see {@linkcode BackendOptions}. */
export type BackendPreference = "auto" | BackendName;

/** Options of {@linkcode createBackend}; those of WASM also hold where `"auto"` ends there. */
export interface BackendOptions extends WasmOptions, WebgpuOptions {
  /**
   * `"auto"` (default) takes WebGPU when a hardware adapter is present and passes its self-test, else WASM. A backend
   * asked for by name is the one you get, or an error that says why not.
   */
  prefer?: BackendPreference;
}

/**
 * Makes a backend. The caller disposes it, or declares it with `using`.
 *
 * @example
 * ```ts
 * import { createBackend } from "@levin/attention";
 * import assert from "node:assert/strict";
 *
 * using backend = await createBackend({ prefer: "auto" });
 * assert(backend.name === "webgpu" || backend.name === "wasm");
 * assert.notEqual(backend.info.reason, ""); // why it was chosen, as a sentence
 * ```
 *
 * @throws {RangeError} when an option has a value that does not exist
 * @throws {TypeError} when `gpu` is no `GPU` object
 * @throws {BackendError} `"unavailable"` when the backend asked for cannot be had
 */
export async function createBackend(options: BackendOptions = {}): Promise<Backend> {
  const { prefer = "auto", precision = "f32", threads, signal } = options;
  if (prefer !== "auto" && prefer !== "webgpu" && prefer !== "wasm") {
    rangeError("createBackend", `prefer must be "auto", "webgpu" or "wasm"`, prefer);
  }
  checkThreads("createBackend", threads); // also where a GPU makes them unnecessary
  if (precision !== "f32" && precision !== "f16") {
    rangeError("createBackend", `precision must be "f32" or "f16"`, precision);
  }
  if (precision === "f16" && prefer === "wasm") {
    rangeError("createBackend", `precision must be "f32" on WebAssembly`, precision);
  }
  signal?.throwIfAborted();
  if (prefer === "wasm") return await wasm(options, "asked for by name");
  const [{ createMachine }, { gradients }] = await Promise.all([
    import("./gpu/machine.ts"),
    import("./gpu/gradients.ts"),
  ]);
  if (precision === "f16") { // nothing takes the place of what was asked for
    const { units } = await import("./gpu/units/mod.ts");
    const machine = await createMachine(options, "asked for by its precision", { gradients, units });
    return await checked(new Backend(machine));
  }
  if (prefer === "webgpu") {
    return new Backend(await createMachine(options, "asked for by name", { gradients }));
  }

  try {
    const reason = "a GPU is present, and its self-test agrees with the recurrence in float64";
    const webgpu = await checked(
      new Backend(await createMachine(options, reason, { hardware: true, gradients })),
    );
    if (signal?.aborted) webgpu.dispose();
    signal?.throwIfAborted();
    return webgpu;
  } catch (error) {
    if (!(error instanceof BackendError)) throw error;
    return await wasm(options, error.message);
  }
}

/** A backend on WebGPU that has passed its self-test, or is disposed. */
async function checked(backend: Backend): Promise<Backend> {
  try {
    const { selfTest } = await import("./gpu/selfTest.ts");
    await selfTest(backend);
    return backend;
  } catch (error) {
    backend.dispose();
    throw error;
  }
}

async function wasm(options: WasmOptions, reason: string): Promise<Backend> {
  const { createMachine } = await import("./wasm/machine.ts");
  return new Backend(await createMachine(options, reason));
}
