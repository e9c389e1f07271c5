/**
 * What training needs on WebGPU. It stands apart from the machine, so that programs that only compute forward carry none
 * of its shaders: `createBackend` of `@levin/attention` brings it, that of `@levin/attention/webgpu` takes it.
 *
 * @example
 * ```ts
 * import { BackendError, createBackend } from "@levin/attention/webgpu";
 * import { gradients } from "@levin/attention/webgpu/gradients";
 * import { linearBackward } from "@levin/attention/gradients";
 * import assert from "node:assert/strict";
 *
 * try {
 *   using backend = await createBackend({ gradients });
 *   using x = backend.tensor(new Float32Array([1, 2, 3, 4]), [2, 2]);
 *   using dx = linearBackward(x, x, x);
 *   assert.deepEqual([...await dx.data()], [7, 10, 15, 22]);
 * } catch (error) {
 *   assert(error instanceof BackendError && error.reason === "unavailable"); // no GPU here
 * }
 * ```
 *
 * @module
 */
import type { Gradients } from "../core/machine.ts";
import { activateBackward } from "./activate.ts";
import { adamw } from "./adamw.ts";
import { crossEntropy } from "./crossEntropy.ts";
import type { Device } from "./device.ts";
import { embeddingBackward } from "./embedding.ts";
import { lightningBackward } from "./lightningBackward.ts";
import { linearBackward } from "./linear.ts";
import { lrpeBackward } from "./lrpe.ts";
import { normBackward } from "./norm.ts";
import type { WebgpuGradients } from "./options.ts";
import { splitHeadsBackward } from "./splitHeads.ts";
import { sumRows, sumSquares } from "./sums.ts";

/** Goes to `createBackend({ gradients })`. */
export const gradients: WebgpuGradients = (device: Device): Gradients => ({
  lightningBackward: (call) => lightningBackward(device, call),
  embeddingBackward: (call) => embeddingBackward(device, call),
  linearBackward: (call) => linearBackward(device, call),
  normBackward: (call) => normBackward(device, call),
  splitHeadsBackward: (call) => splitHeadsBackward(device, call),
  activateBackward: (call) => activateBackward(device, call),
  lrpeBackward: (call) => lrpeBackward(device, call),
  crossEntropy: (call) => crossEntropy(device, call),
  sumRows: (call) => sumRows(device, call),
  sumSquares: (call) => sumSquares(device, call),
  adamw: (call) => adamw(device, call),
});
