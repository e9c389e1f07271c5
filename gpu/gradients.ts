/**
 * Gradients on the WebGPU backend.
 *
 * @module
 */
import type { GradientKernels } from "../core/backend.ts";
import { adamw } from "./adamw.ts";
import { crossEntropy } from "./crossEntropy.ts";
import { type Device, storeOf } from "./device.ts";
import { embeddingBackward } from "./embeddingBackward.ts";
import { lightningBackward } from "./lightningBackward.ts";
import { linearBias, linearInput, linearWeight } from "./linearBackward.ts";
import { lrpeBackward } from "./lrpeBackward.ts";
import { normBackward } from "./normBackward.ts";
import { splitHeadsBackward } from "./splitHeadsBackward.ts";
import { sumRows } from "./sumRows.ts";

/** See {@linkcode GradientKernels}. */
export function gradientsOf(device: Device): GradientKernels {
  return {
    lightning: (...call) => lightningBackward(device, ...call),
    linearInput: (...call) => linearInput(device, ...call),
    linearWeight: (...call) => linearWeight(device, ...call),
    linearBias: (...call) => linearBias(device, ...call),
    norm: (...call) => normBackward(device, ...call),
    splitHeads: (...call) => splitHeadsBackward(device, ...call),
    lrpe: (...call) => lrpeBackward(device, ...call),
    embedding: (...call) => embeddingBackward(device, ...call),
    crossEntropy: (...call) => crossEntropy(device, ...call),
    sumSquares: (x, output) => sumRows(device, storeOf(x), 1, storeOf(output), true),
    adamw: (...call) => adamw(device, ...call),
  };
}
