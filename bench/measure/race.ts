/**
 * A race of two engines in one page: what is raced, and what each racer can be asked. No racer's code is here, so that
 * the page, its worker and the command all take it.
 *
 * @module
 */
import type { ConfigJson } from "../../tests/reference_model.ts";
import type { LlamaSizes } from "../peers/gguf.ts";

/** A llama of 141.2 M parameters. */
export const LLAMA: LlamaSizes = {
  embed: 768,
  layers: 12,
  heads: 12,
  feedForward: 2304,
  vocab: 32000,
  context: 4096,
};

/** A TransNormerLLM of as many: its gate u has the 256 · 3 · 768 that the llama's feed-forward has more. */
export const TRANSNORMER: ConfigJson = {
  vocab_size: 32000,
  decoder_embed_dim: 768,
  decoder_layers: 12,
  decoder_attention_heads: 12,
  hidden_dim: 768,
  glu_dim: 2048,
  linear_use_lrpe_list: Array.from({ length: 12 }, (_, layer) => layer === 0 ? 1 : 0),
};

/** Tokens of a prefill, and of the contexts that decoding continues. */
export const PREFILL = 512, CONTEXTS = [64, 2000] as const;
/** Tokens that are generated for a measurement; between them lie one interval less. */
export const GENERATED = 33;

/** This library, with weights quantised as it loads them. */
export interface LevinContestant {
  readonly engine: "Levin";
  readonly weights: "f32" | "int8" | "int4";
  readonly threads: number;
}

/** llama.cpp, with keys and values in f16 and flash attention, its defaults, or in f32 without. */
export interface WllamaContestant {
  readonly engine: "wllama";
  readonly weights: "F32" | "Q8_0" | "Q4_K";
  readonly threads: number;
  readonly cache: "F16, flash attention" | "F32";
}

/** One that runs. */
export type Contestant = LevinContestant | WllamaContestant;

/** A contestant, ready to run. */
export interface Racer {
  /** Tokens per second of reading {@linkcode PREFILL} new tokens, up to the first token of an answer. */
  prefill(seed: number): Promise<number>;
  /** Tokens per second of greedy decoding after so many tokens, which are read the first time and kept. */
  decode(context: number): Promise<number>;
  /** Lets go of the model. */
  end(): Promise<void>;
}

/** Tokens of a prompt: none that is special. */
export function prompt(length: number, seed: number, first: number): number[] {
  const ids = [];
  for (let i = 0, x = seed * 7919 + 1; i < length; i++) {
    x = x * 48271 % 2147483647; // Lehmer's generator
    ids.push(first + x % (LLAMA.vocab - first));
  }
  return ids;
}
