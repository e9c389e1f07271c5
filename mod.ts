/**
 * Lightning Attention: causal linear attention with decay, at constant speed and memory for any sequence length, on
 * WebGPU or WebAssembly SIMD behind one API.
 *
 * @example
 * ```ts
 * import { alibiSlopes, createBackend, lightningAttention } from "@levin/attention";
 *
 * using backend = await createBackend();
 * const shape = [1, 8, 4096, 64]; // batch, heads, tokens, head dimension
 * const random = () => Float32Array.from({ length: 8 * 4096 * 64 }, () => Math.random() - 0.5);
 * using q = backend.tensor(random(), shape);
 * using k = backend.tensor(random(), shape);
 * using v = backend.tensor(random(), shape);
 *
 * const { output, state } = lightningAttention(q, k, v, { slopes: alibiSlopes(8) });
 * console.log(backend.name, (await output.data()).length, state.shape);
 * output.dispose();
 * state.dispose();
 * ```
 *
 * @module
 */
export { createBackend } from "./core/backend.ts";
export type { Backend, BackendInfo, BackendOptions } from "./core/backend.ts";
export { alibiSlopes, layerSlopes } from "./core/decay.ts";
export { BackendError } from "./core/errors.ts";
export { lightningAttention, lightningAttentionBackward, lightningAttentionStep } from "./core/lightning.ts";
export type {
  LightningBackwardOptions,
  LightningGradients,
  LightningOptions,
  LightningResult,
  LightningStepOptions,
} from "./core/lightning.ts";
export { dequantize, quantize } from "./core/quantize.ts";
export type { Quantization, QuantizedWeight } from "./core/quantize.ts";
export { Tensor } from "./core/tensor.ts";
export type { DType } from "./core/tensor.ts";
export { wasmKernels } from "./wasm/module.ts";
