/**
 * Choosing the next token from logits. Filters apply in the usual order: repetition penalty, temperature, top k,
 * top p, min p.
 *
 * @module
 */
import { rangeError, typeError } from "../core/errors.ts";

/** How to choose. */
export interface SamplingOptions {
  /** 0 takes the likeliest token, and the lowest id among equals; otherwise logits are divided by it. Default 1. */
  temperature?: number;
  /** Only the `topK` likeliest tokens. Default: all. */
  topK?: number;
  /** Only the likeliest tokens that together reach this probability, from above 0 to 1. Default 1. */
  topP?: number;
  /** Only tokens at least this fraction as likely as the likeliest, from 0 to 1. Default 0. */
  minP?: number;
  /**
   * Logits of tokens that came before are divided by it where positive, multiplied where negative. Default 1: none.
   * ("CTRL: A Conditional Transformer Language Model", section 4.1.)
   */
  repetitionPenalty?: number;
  /** An integer: the same seed gives the same choices. Default: a random one. */
  seed?: number;
}

/** A chosen token. */
export interface Choice {
  /** Token id. */
  readonly token: number;
  /** Its natural log-probability under the model itself, before any filter. */
  readonly logprob: number;
}

/** The likeliest tokens of a row of logits. */
export interface Likeliest {
  /** Token ids, ascending. */
  readonly ids: readonly number[];
  /** Their logits. */
  readonly logits: Float32Array;
  /** log Σ exp of all logits. */
  readonly normalizer: number;
}

/**
 * Chooses tokens one after another.
 *
 * @example
 * ```ts
 * import { Sampler } from "@levin/attention/tnl";
 * import assert from "node:assert/strict";
 *
 * const sampler = new Sampler({ temperature: 0 });
 * assert.equal(sampler.choose(new Float32Array([0.1, 2, -1])).token, 1);
 * ```
 */
export class Sampler {
  readonly #operation: string;
  readonly #options: Required<Omit<SamplingOptions, "seed">>;
  readonly #random: () => number;
  readonly #seen = new Set<number>();

  /**
   * A sampler, which remembers the tokens that it has seen.
   *
   * @param options how to choose
   * @param operation named in errors
   * @throws {TypeError} when an option is no number
   * @throws {RangeError} when an option is out of range
   */
  constructor(options: SamplingOptions = {}, operation = "Sampler") {
    const { temperature = 1, topK = Infinity, topP = 1, minP = 0, repetitionPenalty = 1, seed } = options;
    const check = (name: string, value: unknown, expectation: string, fits: (value: number) => boolean) => {
      if (typeof value !== "number") typeError(operation, `${name} must be a number`, value);
      if (!fits(value)) rangeError(operation, `${name} must be ${expectation}`, value);
    };
    check("temperature", temperature, "a finite number >= 0", (x) => x >= 0 && x < Infinity);
    check("topK", topK, "an integer >= 1", (x) => x === Infinity || Number.isInteger(x) && x >= 1);
    check("topP", topP, "above 0 and at most 1", (x) => x > 0 && x <= 1);
    check("minP", minP, "from 0 to 1", (x) => x >= 0 && x <= 1);
    check("repetitionPenalty", repetitionPenalty, "a finite number > 0", (x) => x > 0 && x < Infinity);
    if (seed !== undefined) check("seed", seed, "an integer within ±(2^53 - 1)", Number.isSafeInteger);
    this.#operation = operation;
    this.#options = { temperature, topK, topP, minP, repetitionPenalty };
    this.#random = randomNumbers(seed);
  }

  /** Tells which tokens the repetition penalty counts: those of the prompt. Chosen tokens count without this. */
  observe(tokens: ArrayLike<number>): void {
    for (let i = 0; i < tokens.length; i++) this.#seen.add(tokens[i]);
  }

  /**
   * The next token.
   *
   * @param logits one value per token of the vocabulary; not changed
   * @throws {RangeError} when a logit is NaN or +∞, or none is above −∞
   */
  choose(logits: Float32Array): Choice {
    const normalizer = logSumExp(logits, this.#operation);
    const { temperature, repetitionPenalty } = this.#options;
    let scores: ArrayLike<number> = logits;
    if (repetitionPenalty !== 1) {
      const penalized = Float64Array.from(logits);
      for (const token of this.#seen) {
        const score = penalized[token];
        penalized[token] = score > 0 ? score / repetitionPenalty : score * repetitionPenalty;
      }
      scores = penalized;
    }
    const token = temperature === 0 ? argmax(scores) : this.#draw(scores);
    this.#seen.add(token);
    return { token, logprob: logits[token] - normalizer };
  }

  /** How many of the likeliest tokens a choice depends on; undefined: on all tokens. */
  get candidates(): number | undefined {
    const { temperature, topK, repetitionPenalty } = this.#options;
    if (repetitionPenalty !== 1) return undefined;
    if (temperature === 0) return 1;
    return topK < Infinity ? topK : undefined;
  }

  /** The next token, from at least as many of the likeliest as {@linkcode Sampler.candidates} says: the same choice. */
  chooseAmong({ ids, logits, normalizer }: Likeliest): Choice {
    const index = this.#options.temperature === 0 ? argmax(logits) : this.#draw(logits);
    this.#seen.add(ids[index]);
    return { token: ids[index], logprob: logits[index] - normalizer };
  }

  #draw(scores: ArrayLike<number>): number {
    const { temperature, topK, topP, minP } = this.#options;
    // Relative to the likeliest, whose weight is 1: no overflow at any temperature.
    const best = scores[argmax(scores)];
    const weights = new Float64Array(scores.length);
    for (let i = 0; i < weights.length; i++) weights[i] = Math.exp((scores[i] - best) / temperature);
    if (topK < weights.length || topP < 1 || minP > 0) this.#filter(weights);
    let total = 0;
    for (let i = 0; i < weights.length; i++) total += weights[i];
    let rest = this.#random() * total, last = 0;
    for (let token = 0; token < weights.length; token++) {
      if (weights[token] === 0) continue;
      rest -= weights[token];
      if (rest < 0) return token;
      last = token;
    }
    return last; // rounding left a remainder
  }

  /** Sets the weights of tokens that top k, top p and min p exclude to 0. */
  #filter(weights: Float64Array): void {
    const { topK, topP, minP } = this.#options;
    const sorted = weights.slice().sort().reverse();
    let count = Math.min(topK, weights.length);
    if (topP < 1) {
      let total = 0;
      for (let i = 0; i < count; i++) total += sorted[i];
      let kept = 0;
      for (let reached = 0; kept < count && !(reached >= topP * total); kept++) reached += sorted[kept];
      count = kept;
    }
    while (count > 1 && sorted[count - 1] < minP) count--;
    // Of tokens as likely as the last one kept, those with the lowest ids.
    const threshold = sorted[count - 1];
    let ties = count - sorted.indexOf(threshold);
    for (let token = 0; token < weights.length; token++) {
      const isKept = weights[token] > threshold || weights[token] === threshold && ties-- > 0;
      if (!isKept) weights[token] = 0;
    }
  }
}

/** Index of the largest value, of equal ones the first. */
export function argmax(values: ArrayLike<number>): number {
  let best = 0;
  for (let i = 1; i < values.length; i++) if (values[i] > values[best]) best = i;
  return best;
}

/**
 * log Σ exp(x), in float64: `logits[i] − logSumExp(logits)` is the log-probability of token i.
 *
 * @throws {RangeError} when a logit is NaN or +∞, or none is above −∞
 */
export function logSumExp(logits: ArrayLike<number>, operation: string): number {
  let max = -Infinity;
  for (let i = 0; i < logits.length; i++) {
    if (!(logits[i] < Infinity)) {
      rangeError(operation, "logits must be numbers below Infinity", logits[i], `token ${i}`);
    }
    if (logits[i] > max) max = logits[i];
  }
  if (max === -Infinity) rangeError(operation, "some logit must be above -Infinity", max);
  let sum = 0;
  for (let i = 0; i < logits.length; i++) sum += Math.exp(logits[i] - max);
  return max + Math.log(sum);
}

/** Uniform numbers in [0, 1) of 32 bits: sfc32 (Doty-Humphrey), seeded with both halves of the seed. */
export function randomNumbers(seed?: number): () => number {
  let [a, b, c, counter] = seed === undefined
    ? crypto.getRandomValues(new Uint32Array(4))
    : [seed >>> 0, Math.floor(seed / 2 ** 32) >>> 0, 0x9e3779b9, 1];
  const next = () => {
    const result = (a + b | 0) + counter | 0;
    counter = counter + 1 | 0;
    a = b ^ b >>> 9;
    b = c + (c << 3) | 0;
    c = (c << 21 | c >>> 11) + result | 0;
    return (result >>> 0) / 2 ** 32;
  };
  for (let i = 0; i < 16; i++) next(); // mixes the seed into all of the state
  return next;
}
