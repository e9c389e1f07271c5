/**
 * The page of `gguf_test.ts`: wllama with a model that the test serves. It hands over what wllama says, and judges
 * nothing.
 *
 * @module
 */
import { startWllama } from "../../bench/peers/wllama.ts";

/** A token as wllama writes it. */
export interface Written {
  readonly token: string;
  readonly logprob: number;
}

/** What the page offers, as `globalThis.race`. */
export interface GgufPage {
  /** The likeliest tokens after a prompt, one after another. */
  write(type: string, prompt: string, tokens: number): Promise<Written[]>;
}

const page: GgufPage = {
  async write(type, prompt, tokens) {
    const racer = await startWllama(
      { threads: 1, cache: "F16, flash attention" },
      `/model/${type}`,
      "/wllama.wasm",
    );
    try {
      const { choices: [{ logprobs }] } = await racer.wllama.createCompletion({
        prompt,
        max_tokens: tokens,
        temperature: 0,
        logprobs: 1,
        stream: false,
      });
      return logprobs.content.map(({ token, logprob }) => ({ token, logprob }));
    } finally {
      await racer.end();
    }
  },
};

(globalThis as unknown as { race: GgufPage }).race = page;
