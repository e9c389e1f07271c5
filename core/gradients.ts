/**
 * Gradients of the operations in `ops.ts`, cross entropy, and the optimiser's step: what training is made of.
 *
 * Gradients of activations are returned. Gradients of parameters (`dWeight`, `dBias`, `dTheta`, `dTable`) are added to
 * tensors that the caller made with `backend.zeros`, so that micro-batches accumulate.
 *
 * @example One step of gradient descent towards smaller cross entropy
 * ```ts
 * import { createBackend } from "@levin/attention";
 * import { adamw, crossEntropy, linearBackward, sumSquares } from "@levin/attention/gradients";
 * import { linear } from "@levin/attention/ops";
 * import assert from "node:assert/strict";
 *
 * using backend = await createBackend({ prefer: "wasm" });
 * using x = backend.tensor(new Float32Array([1, -1, 0.5, 2]), [2, 2]);
 * using weight = backend.zeros([3, 2]);
 * using dWeight = backend.zeros([3, 2]), first = backend.zeros([3, 2]), second = backend.zeros([3, 2]);
 * using squares = backend.zeros([1]);
 *
 * using logits = linear(x, weight);
 * const { loss, dLogits } = crossEntropy(logits, [2, 0], { scale: 1 / 2 });
 * using dx = linearBackward(x, weight, dLogits, { dWeight });
 * sumSquares(dWeight, squares);
 * adamw(weight, dWeight, { first, second }, squares, { count: 1, learningRate: 0.01 });
 *
 * using better = linear(x, weight);
 * const after = crossEntropy(better, [2, 0]);
 * const [before, now] = [await loss.data(), await after.loss.data()];
 * assert(Math.abs(before[0] - Math.log(3)) < 1e-6); // three classes, all equally likely
 * assert(now[0] < before[0] && now[1] < before[1]);
 * assert.deepEqual(dx.shape, x.shape);
 * for (const tensor of [loss, dLogits, after.loss, after.dLogits]) tensor.dispose();
 * ```
 *
 * @module
 */
export { activateBackward } from "./ops/activate.ts";
export { adamw, type AdamWOptions } from "./ops/adamw.ts";
export { crossEntropy } from "./ops/crossEntropy.ts";
export { embeddingBackward } from "./ops/embedding.ts";
export { linearBackward } from "./ops/linear.ts";
export { lrpeBackward } from "./ops/lrpe.ts";
export { multiplyBackward } from "./ops/multiply.ts";
export { normBackward, type NormBackwardOptions } from "./ops/norm.ts";
export { splitHeadsBackward } from "./ops/splitHeads.ts";
export { sum, sumSquares } from "./ops/sums.ts";
