/**
 * The writer of GGUF is held to llama.cpp itself: wllama loads what it writes, and finds the probabilities that float64
 * finds for the weights that were to be written.
 *
 * @module
 */
import assert from "node:assert/strict";
import { openTrack } from "../bench/measure/raceTrack.ts";
import { EPSILON, llamaGguf, type LlamaSizes, SPECIAL_TOKENS, tokenText } from "../bench/peers/gguf.ts";
import type { Written } from "./browser/gguf.ts";
import { seeded } from "./numbers.ts";
import { findBrowser, MAY_LEAVE_OUT } from "./setup.ts";

const TEXTS = 61, EMBED = 256;
const SIZES: LlamaSizes = {
  embed: EMBED,
  layers: 1,
  heads: 4,
  feedForward: 256,
  vocab: SPECIAL_TOKENS + TEXTS,
  context: 128,
};

/** Differences of log-probabilities: rows of x have 8 bits with all but F32. */
const LIMITS = { F32: 1e-4, Q8_0: 0.01, Q4_K: 0.05 } as const;

/** After the text with this number the likeliest is: all texts in a circle. */
const next = (text: number) => (text + 7) % TEXTS;

/**
 * Embeddings whose magnitude differs from one group of 16 elements to the next, so that no scale may stand for another;
 * the head has the embedding of a text in the row of the next.
 */
const embeddings = (() => {
  const random = seeded(3);
  return Array.from(
    { length: TEXTS },
    () => Float32Array.from({ length: EMBED }, (_, i) => (0.2 + (i >> 4) * 7 % 16 / 16) * (2 * random() - 1)),
  );
})();
const head = (text: number) => embeddings[text].map((x) => x / 21);

/** The tensors that count; all others are 0, so that a token's own embedding reaches the head. */
function weight(name: string, shape: readonly number[]): Float32Array {
  const data = new Float32Array(shape.reduce((product, n) => product * n, 1));
  if (name.endsWith("norm.weight")) return data.fill(1);
  for (let text = 0; text < TEXTS; text++) {
    const at = (id: number) => (SPECIAL_TOKENS + id) * EMBED;
    if (name === "token_embd.weight") data.set(embeddings[text], at(text));
    if (name === "output.weight") data.set(head(text), at(next(text)));
  }
  return data;
}

/** Log-probability of the next text after a text, in float64. */
function logprob(text: number): number {
  const x = embeddings[text];
  const scale = 1 / Math.sqrt(x.reduce((sum, value) => sum + value ** 2, 0) / EMBED + EPSILON);
  const logits = embeddings.map((_, other) =>
    head(other).reduce((sum, value, i) => sum + value * x[i], 0) * scale
  );
  const others = SPECIAL_TOKENS; // rows of 0
  return logits[text] - Math.log(others + logits.reduce((sum, logit) => sum + Math.exp(logit), 0));
}

Deno.test({
  name: "llama.cpp reads what the writer of GGUF writes: F32, Q8_0, Q4_K with a head of Q6_K",
  ignore: MAY_LEAVE_OUT && findBrowser() === undefined,
  fn: async () => {
    const types = Object.keys(LIMITS) as (keyof typeof LIMITS)[];
    await using track = await openTrack(
      new URL("browser/gguf.ts", import.meta.url),
      Object.fromEntries(types.map((type) => [`/model/${type}`, () => llamaGguf(SIZES, type, weight)])),
    );
    for (const type of types) {
      const written = await track.call<Written[]>("write", type, tokenText(SPECIAL_TOKENS), 12);
      assert.equal(written.length, 12);
      let text = 0;
      for (const { token, logprob: actual } of written) {
        const expected = logprob(text);
        text = next(text);
        assert.equal(token, tokenText(SPECIAL_TOKENS + text), type);
        const error = Math.abs(actual - expected);
        assert(error <= LIMITS[type], `${type}: log-probability ${actual} in place of ${expected}`);
      }
    }
  },
});
