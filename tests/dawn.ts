/**
 * Dawn with its matrix units, as npm's `webgpu` has it. Imported only where it is wanted: it is a native library.
 *
 * @module
 */
import { create } from "webgpu";
import type { GpuObject } from "../backend.ts";

/** Dawn, asked for all that it grants; see docs/hosts.md. */
export function dawn(): GpuObject {
  return create(["backend=vulkan", "enable-dawn-features=allow_unsafe_apis,vulkan_enable_f16_on_nvidia"]);
}
