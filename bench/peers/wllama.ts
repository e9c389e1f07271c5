/**
 * llama.cpp in WebAssembly, in a page: `@wllama/wllama`, on the CPU. It runs in a worker; speeds are those that llama.cpp
 * measures there.
 *
 * @module
 */
// @ts-types="./wllama.d.ts"
import { Wllama } from "@wllama/wllama/esm/index.js";
import type { Completion } from "./wllama.d.ts";
import { GENERATED, PREFILL, prompt, type Racer, type WllamaContestant } from "../measure/race.ts";
import { SPECIAL_TOKENS, tokenText } from "./gguf.ts";

/** The version of llama.cpp in it. */
export const LLAMA_CPP: string = Wllama.getLibllamaVersion();

/** A model under way, and its library for what only tests need. */
export interface WllamaRacer extends Racer {
  readonly wllama: Wllama;
}

/** Loads a model; `wasm` is where the library's kernels are served. */
export async function startWllama(
  { threads, cache }: Pick<WllamaContestant, "threads" | "cache">,
  model: string,
  wasm: string,
): Promise<WllamaRacer> {
  const wllama = new Wllama({ default: wasm }, { suppressNativeLog: true });
  const file = await (await fetch(model)).blob();
  await wllama.loadModel([file], {
    n_threads: threads,
    n_gpu_layers: 0,
    n_ctx: 4096,
    // One sequence: others' tokens in the cache would have to be passed over.
    n_parallel: 1,
    ...cache === "F32" && { flash_attn: false, cache_type_k: "f32", cache_type_v: "f32" },
  });
  if (wllama.getNumThreads() !== threads) {
    throw new Error(`wllama has ${wllama.getNumThreads()} threads, not ${threads}`);
  }
  const complete = async (length: number, seed: number, most: number): Promise<Required<Completion>> => {
    const text = prompt(length, seed, SPECIAL_TOKENS).map(tokenText).join("");
    const { choices, usage, timings } = await wllama.createCompletion({
      prompt: text,
      max_tokens: most,
      temperature: 0,
      stream: false,
    });
    if (timings === undefined) throw new Error("wllama does not tell its times");
    if (usage.prompt_tokens !== length || usage.completion_tokens !== most) {
      throw new Error(
        `wllama read ${usage.prompt_tokens} of ${length} tokens, and wrote ${usage.completion_tokens} of ${most}`,
      );
    }
    return { choices, usage, timings };
  };
  return {
    wllama,
    async prefill(seed) {
      const { timings: { prompt_n, prompt_ms } } = await complete(PREFILL, seed, 1);
      if (prompt_n !== PREFILL) throw new Error(`wllama had read all but ${prompt_n} tokens before`);
      return 1000 * PREFILL / prompt_ms;
    },
    // A prompt that it has just read it does not read again. Its clock starts with the first token.
    async decode(context) {
      const { timings } = await complete(context, context, GENERATED);
      return 1000 * (GENERATED - 1) / timings.predicted_ms;
    },
    end: () => wllama.exit(),
  };
}
