// Everything the module exports. No runtime, no allocator: wasm/memory.ts owns linear memory, kernels get offsets.
export {
  adamw, crossEntropy, linearBias, lrpeBackward, normBackward, scaledAdd, splitHeadsBackward, sumSquares,
} from "./gradients";
export { lrpe, multiply, norm, scaledCopy, splitHeads } from "./layers";
export { lightning, lightningScratch, lightningStep } from "./lightning";
export { lightningBackward, lightningBackwardScratch } from "./lightningBackward";
export { linear, linearInput, linearScratch, linearWeight, matmulScratch } from "./linear";
export { linearQuantized, quantizedScratch, quantizeRows } from "./quantized";

/** 1 in the build with relaxed SIMD, 0 in the baseline build. */
export const RELAXED: i32 = ASC_FEATURE_RELAXED_SIMD ? 1 : 0;
