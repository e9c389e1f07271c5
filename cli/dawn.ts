/**
 * Dawn, Chromium's WebGPU in npm's `webgpu`: what commands compute on for `--precision f16`, as no other runtime here grants
 * matrix units. It is a native library, so it needs `--allow-ffi`.
 *
 * @module
 */

/** The version is that of `imports.json`; no literal names the package, as Deno fetches what one names before it starts. */
const DAWN = "webgpu@0.6.2";

/**
 * What grants matrix units: `allow_unsafe_apis`, as the standard has none yet, and on NVIDIA's cards f16, which Dawn withholds
 * from Vulkan for tests of conformance that fail.
 */
export const FEATURES = "enable-dawn-features=allow_unsafe_apis,vulkan_enable_f16_on_nvidia";

/** The package: what makes `GPU` objects, and the globals of WebGPU that are of its kind. */
export async function dawnPackage(): Promise<typeof import("webgpu")> {
  return await import(`npm:/${DAWN}`); // the slash tells publishing that no import map of ours is needed
}

/** What a backend of this precision computes on, for `createBackend`. */
export async function precisionOptions(precision: "f32" | "f16") {
  return precision === "f32" ? { precision } : { precision, gpu: await dawn() };
}

let isLoaded = false;

/** Whether {@linkcode dawn} was called: Dawn keeps the process alive. */
export const keepsProcess = (): boolean => isLoaded;

/** Dawn's `GPU` object. It keeps the process alive: end with `Deno.exit()`, as `cli` does. */
export async function dawn() {
  const { create } = await dawnPackage();
  isLoaded = true;
  return create([FEATURES]);
}
