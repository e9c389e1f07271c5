/**
 * What every entry of the attention library exports, whatever the device.
 *
 * @module
 */
export { alibiSlopes, layerSlopes } from "./decay.ts";
export type { DType, FloatType } from "./dtype.ts";
export { BackendError } from "./errors.ts";
export type { BackendInfo, BackendName } from "./machine.ts";
export { lightningAttention, lightningAttentionBackward, lightningAttentionStep } from "./ops/lightning.ts";
export type {
  LightningBackwardOptions,
  LightningGradients,
  LightningOptions,
  LightningResult,
  LightningStepOptions,
} from "./ops/lightning.ts";
export { dequantize, quantize } from "./quantize.ts";
export type { Quantization, QuantizedWeight } from "./quantize.ts";
export { Backend, Tensor } from "./tensor.ts";
