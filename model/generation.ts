/**
 * Generating text: prompt in, tokens out, one readback per token.
 *
 * @module
 */
import { rangeError, show, typeError } from "../core/errors.ts";
import type { TransNormerLLM } from "./model.ts";
import { Sampler, type SamplingOptions } from "./sampling.ts";
import { checkIds, PREFILL_TOKENS } from "./session.ts";

/** Options of `model.generate()`. */
export interface GenerateOptions extends SamplingOptions {
  /** At most so many tokens; an integer ≥ 0, or `Infinity`. Default 256. */
  maxTokens?: number;
  /** Generation ends before the first of these strings; the string itself is not part of the text. */
  stop?: string | readonly string[];
  /** Ends generation at the next token: its reason is thrown. */
  signal?: AbortSignal;
}

/** One generated token. */
export interface GeneratedToken {
  /** Token id. */
  readonly token: number;
  /**
   * Text that this token completes: empty where a character is not whole yet, where the text may be the beginning of
   * a stop string, for special tokens, and for models without a tokenizer. All texts together are the whole.
   */
  readonly text: string;
  /** Natural log-probability of the token under the model, before any filter. */
  readonly logprob: number;
  /**
   * Why this token is the last: `"eos"` (it is an end-of-sequence token), `"stop"` (a stop string) or `"length"`
   * (`maxTokens`). Left out of all others.
   */
  readonly finish?: "eos" | "stop" | "length";
}

/** See `TransNormerLLM.generate`. */
export async function* generate(
  model: TransNormerLLM,
  prompt: string | ArrayLike<number>,
  options: GenerateOptions,
): AsyncGenerator<GeneratedToken, void, void> {
  const operation = "TransNormerLLM.generate";
  const { maxTokens = 256, signal } = options;
  if (typeof maxTokens !== "number") typeError(operation, "maxTokens must be a number", maxTokens);
  if (maxTokens !== Infinity && !(Number.isInteger(maxTokens) && maxTokens >= 0)) {
    rangeError(operation, "maxTokens must be an integer >= 0 or Infinity", maxTokens);
  }
  const sampler = new Sampler(options, operation);
  const stops = checkStops(operation, options.stop);
  if (stops.length > 0 && model.tokenizer === undefined) {
    typeError(operation, "stop strings need a model with a tokenizer", options.stop);
  }
  const ids = promptIds(operation, model, prompt);
  signal?.throwIfAborted();
  if (maxTokens === 0) return;

  sampler.observe(ids);
  const pause = pauses();
  using session = model.session();
  let logits = session.prefill(ids.subarray(0, PREFILL_TOKENS));
  for (let start = PREFILL_TOKENS; start < ids.length; start += PREFILL_TOKENS) {
    await pause();
    signal?.throwIfAborted();
    logits.dispose();
    logits = session.prefill(ids.subarray(start, start + PREFILL_TOKENS));
  }

  const characters = model.tokenizer?.stream();
  const text = new StopText(stops);
  for (let count = 1;; count++) {
    const { token, logprob } = sampler.choose(await logits.data());
    logits.dispose();
    await pause();
    signal?.throwIfAborted();
    const isEos = model.config.eosTokenIds.includes(token);
    let ready = text.push(isEos ? "" : characters?.push(token) ?? "");
    const isLast = isEos || count === maxTokens;
    if (isLast && !text.stopped) ready += text.push(characters?.end() ?? "");
    if (text.stopped) return yield { token, text: ready, logprob, finish: "stop" };
    if (isLast) {
      return yield { token, text: ready + text.end(), logprob, finish: isEos ? "eos" : "length" };
    }
    yield { token, text: ready, logprob };
    signal?.throwIfAborted();
    logits = session.step(token);
  }
}

/**
 * Token ids of a prompt.
 *
 * @throws {TypeError} when the prompt is a string and the model has no tokenizer, or is neither string nor array
 * @throws {RangeError} when the prompt has no token, or an id is outside the vocabulary
 */
export function promptIds(
  operation: string,
  model: TransNormerLLM,
  prompt: string | ArrayLike<number>,
  name = "prompt",
): Uint32Array {
  if (typeof prompt === "string") {
    if (model.tokenizer === undefined) {
      typeError(operation, `${name} must be token ids for a model without a tokenizer`, prompt);
    }
    prompt = model.tokenizer.encode(prompt);
  }
  return checkIds(operation, prompt, model.config.vocabSize, name);
}

/** Text on its way out, held back while it may be the beginning of a stop string. */
export class StopText {
  readonly #stops: readonly string[];
  #held = "";
  /** Whether a stop string came: there is no more text then. */
  stopped = false;

  /** @param stops none of them empty */
  constructor(stops: readonly string[]) {
    this.#stops = stops;
  }

  /** Takes text and returns what is certain to stand before any stop string. */
  push(text: string): string {
    this.#held += text;
    const found = this.#stops.map((stop) => this.#held.indexOf(stop)).filter((index) => index >= 0);
    this.stopped = found.length > 0;
    const end = this.stopped ? Math.min(...found) : this.#held.length - this.#undecided();
    const ready = this.#held.slice(0, end);
    this.#held = this.stopped ? "" : this.#held.slice(end);
    return ready;
  }

  /** The text held back, when no more comes. */
  end(): string {
    const rest = this.#held;
    this.#held = "";
    return rest;
  }

  /** Length of the longest end of the held text that begins a stop string. */
  #undecided(): number {
    const longest = Math.max(0, ...this.#stops.map((stop) => stop.length - 1));
    for (let length = Math.min(longest, this.#held.length); length > 0; length--) {
      const end = this.#held.slice(-length);
      if (this.#stops.some((stop) => stop.startsWith(end))) return length;
    }
    return 0;
  }
}

function checkStops(operation: string, stop: unknown): string[] {
  const stops: unknown[] = stop === undefined ? [] : Array.isArray(stop) ? stop : [stop];
  for (const text of stops) {
    if (typeof text !== "string") typeError(operation, "stop must be a string or strings", text);
    if (text === "") rangeError(operation, "stop strings must not be empty", stops.map(show).join(", "));
  }
  return stops as string[];
}

/**
 * Lets the event loop turn now and then. A backend that computes in place answers in microtasks, and without a pause
 * no timer, request or abort would be heard until the last token.
 */
function pauses(): () => Promise<void> {
  const interval = 50; // milliseconds: a turn costs about one
  let last = performance.now();
  return async () => {
    if (performance.now() - last < interval) return;
    await new Promise((resolve) => setTimeout(resolve, 0));
    last = performance.now();
  };
}
