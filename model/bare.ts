/**
 * TransNormerLLM without a backend: what `@levin/attention/tnl` exports, but `load` takes the backend that you bring. So a
 * bundle holds the kernels of that backend alone.
 *
 * @example
 * ```ts
 * import { TransNormerLLM } from "@levin/attention/tnl/bare";
 * import { createBackend } from "@levin/attention/wasm";
 * import assert from "node:assert/strict";
 *
 * using backend = await createBackend();
 * using model = await TransNormerLLM.load("tests/golden/tnl", { backend });
 * using logits = model.forward([[5, 17, 9]]);
 * assert.deepEqual(logits.shape, [1, 3, 256]);
 * ```
 *
 * @module
 */
export { Batch, type BatchModel } from "./batch.ts";
export type { TransNormerConfig } from "./config.ts";
export { Decoding, readLogits } from "./decoding.ts";
export type { DecodingModel, DecodingOptions, GeneratedToken, GenerateOptions } from "./decoding.ts";
export type { Checkpoint, LoadOptions, LoadProgress } from "./load.ts";
export { type ChatOptions, TransNormerLLM } from "./model.ts";
export { type Choice, type Likeliest, Sampler, type SamplingOptions } from "./sampling.ts";
export type { Likelihood } from "./score.ts";
export type { DownloadProgress, HubOptions } from "./source.ts";
export { Session, type SessionModel } from "./session.ts";
export { Tokenizer, type TokenStream } from "./tokenizer.ts";
export type { ChatMessage, ChatTemplateOptions } from "./tokenizer/chat.ts";
export type { Network } from "./transnormer.ts";
export type { LayerWeights, LinearWeights, NormWeights, Weights } from "./weights.ts";
