/**
 * What `precision: "f16"` needs on WebGPU: kernels for matrix units. It stands apart from the machine, so that programs
 * which compute in f32 carry none of it: `createBackend` of `@levin/attention` loads it when it is asked for, that of
 * `@levin/attention/webgpu` takes it.
 *
 * @example
 * ```ts
 * import { BackendError, createBackend } from "@levin/attention/webgpu";
 * import { units } from "@levin/attention/webgpu/units";
 * import assert from "node:assert/strict";
 *
 * try {
 *   using backend = await createBackend({ precision: "f16", units }); // with a `gpu` that grants them: see docs/hosts.md
 *   assert.match(backend.info.units, /^f16 → f32 /);
 * } catch (error) {
 *   assert(error instanceof BackendError && error.reason === "unavailable"); // no matrix units here
 * }
 * ```
 *
 * @module
 */
import type { Operations } from "../../core/machine.ts";
import { FEW_ROWS } from "../../core/sizes.ts";
import type { Device } from "../device.ts";
import type { Units } from "../machine.ts";
import type { WebgpuUnits } from "../options.ts";
import { FEATURES, matricesOf } from "./matrices.ts";
import { holdsWeight, linear, linearBackward } from "./product.ts";

/** Goes to `createBackend({ precision: "f16", units })`. */
export const units: WebgpuUnits = (adapter: GPUAdapter): Units | string => {
  const matrices = matricesOf(adapter);
  if (typeof matrices === "string") return matrices;
  const { M, N, K } = matrices;
  return {
    name: `f16 → f32 ${M}×${N}×${K}`,
    features: FEATURES,
    operations(device: Device, f32: Operations): Partial<Operations> {
      // Few rows are bound by reading the weight, and keep their order of sums: see FEW_ROWS.
      const takes = (call: { rows: number; inDim: number; outDim: number }) =>
        call.rows > FEW_ROWS && call.inDim > 0 && call.outDim > 0 && holdsWeight(device, call);
      return {
        linear: (call) => takes(call) ? linear(device, matrices, call) : f32.linear(call),
        linearBackward: (call) =>
          takes(call) ? linearBackward(device, matrices, call) : f32.linearBackward(call),
      };
    },
  };
};
