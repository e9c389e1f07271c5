/**
 * Decoding: from logits to tokens and text, until an end-of-sequence token, a stop string or a number of tokens.
 *
 * {@linkcode Decoding} is one answer, whoever computes its logits. {@linkcode decode} is the loop of one session: it
 * reads a prompt, then steps. A server that steps many sessions together has its own loop and the same answers.
 *
 * @module
 */
import { rangeError, show, typeError } from "../core/errors.ts";
import { pauses } from "../core/eventLoop.ts";
import { gatherRows } from "../core/ops.ts";
import { MOST_LOGITS, topLogits } from "../core/ops/fused.ts";
import type { Tensor } from "../core/tensor.ts";
import type { TransNormerConfig } from "./config.ts";
import { type Likeliest, Sampler, type SamplingOptions } from "./sampling.ts";
import type { Session } from "./session.ts";
import type { Tokenizer, TokenStream } from "./tokenizer.ts";

/** What one answer is to be. */
export interface DecodingOptions extends SamplingOptions {
  /** Maximum number of tokens; an integer ≥ 0, or `Infinity`. Default 256. */
  maxTokens?: number;
  /**
   * Generation ends before the first of these strings; the string itself is not part of the text. The name of a special
   * token, which gives no text, ends it as well.
   */
  stop?: string | readonly string[];
}

/** Options of `model.generate()` and `session.generate()`. */
export interface GenerateOptions extends DecodingOptions {
  /** Ends generation at the next token: its reason is thrown. */
  signal?: AbortSignal;
  /**
   * Tokens of the prompt that are read between two turns of the event loop; an integer ≥ 1, default 800, on WebGPU 2,048. Fewer
   * keep a page on a slow device alive.
   */
  prefillTokens?: number;
}

/** One generated token. */
export interface GeneratedToken {
  /** Token id. */
  readonly token: number;
  /**
   * Text that this token completes: empty where a character is not whole yet, where the text may be the beginning of
   * a stop string, for special tokens, and for models without a tokenizer. All texts together are the whole: what
   * prompt and answer give together, less what the prompt gives alone.
   */
  readonly text: string;
  /** Natural log-probability of the token under the model, before any filter. */
  readonly logprob: number;
  /**
   * Why this token is the last: `"eos"` (it is an end-of-sequence token), `"stop"` (a stop string) or `"length"`
   * (`maxTokens`). Absent from all others.
   */
  readonly finish?: "eos" | "stop" | "length";
}

/** A model as decoding sees it. */
export interface DecodingModel {
  /** Checked configuration: the end-of-sequence tokens are here. */
  readonly config: TransNormerConfig;
  /** Without one, tokens have no text and stop strings are refused. */
  readonly tokenizer: Tokenizer | undefined;
  /** How to choose where options do not say. Default: as {@linkcode SamplingOptions} says. */
  readonly sampling?: SamplingOptions;
}

/**
 * One answer in progress. It takes the logits after the prompt, then those after each of its tokens. It says which
 * token is next, which text is certain, and whether the answer ends.
 *
 * @example
 * ```ts
 * import { createBackend } from "@levin/attention";
 * import { Decoding, TransNormerLLM } from "@levin/attention/tnl";
 * import assert from "node:assert/strict";
 *
 * using backend = await createBackend({ prefer: "wasm" });
 * using model = await TransNormerLLM.load("tests/golden/tnl", { backend });
 * using session = model.session();
 * const prompt = [205, 7, 19];
 * const decoding = new Decoding(model, prompt, { maxTokens: 2, temperature: 0 });
 * using first = session.prefill(prompt);
 * const { token, finish } = decoding.next(await first.data());
 * assert.equal(finish, undefined);
 * using second = session.step(token);
 * assert.equal(decoding.next(await second.data()).finish, "length");
 * ```
 */
export class Decoding {
  /** Maximum number of tokens. */
  readonly maxTokens: number;
  readonly #eosTokenIds: readonly number[];
  readonly #sampler: Sampler;
  readonly #text: StopText;
  /** Special tokens that stop strings name. */
  readonly #stopIds: readonly number[];
  readonly #characters: TokenStream | undefined;
  #tokens = 0;
  #length = 0;

  /**
   * An answer that has no token yet.
   *
   * @param model whose logits these are
   * @param prompt token ids that the repetition penalty counts, and that the text continues
   * @param options see {@linkcode DecodingOptions}; `before`: token ids before the prompt, of earlier turns. The last
   * few suffice: `session.recent`
   * @param operation named in errors
   * @throws {TypeError} when an option is of the wrong kind, or the model has no tokenizer for stop strings
   * @throws {RangeError} when an option is out of range
   */
  constructor(
    model: DecodingModel,
    prompt: ArrayLike<number>,
    options: DecodingOptions & { before?: ArrayLike<number> } = {},
    operation = "Decoding",
  ) {
    const { maxTokens = 256, stop, before = [] } = options;
    if (typeof maxTokens !== "number") typeError(operation, "maxTokens must be a number", maxTokens);
    if (maxTokens !== Infinity && !(Number.isInteger(maxTokens) && maxTokens >= 0)) {
      rangeError(operation, "maxTokens must be an integer >= 0 or Infinity", maxTokens);
    }
    const { tokenizer, config } = model;
    this.maxTokens = maxTokens;
    this.#eosTokenIds = config.eosTokenIds;
    this.#sampler = new Sampler(withDefaults(options, model.sampling), operation);
    this.#sampler.observe(prompt);
    const stops = checkStops(operation, stop);
    if (stops.length > 0 && tokenizer === undefined) {
      typeError(operation, "stop strings need a model with a tokenizer", stop);
    }
    this.#text = new StopText(stops);
    this.#stopIds = stops.flatMap((name) => tokenizer?.specialIdOf(name) ?? []);
    this.#characters = tokenizer?.stream({
      before: [...tokenizer.recent(before), ...tokenizer.recent(prompt)],
    });
  }

  /** Tokens so far. */
  get tokens(): number {
    return this.#tokens;
  }

  /** Length of the text of all tokens so far in UTF-16 units, including text that is held back. */
  get length(): number {
    return this.#length;
  }

  /** How many of the likeliest tokens the next one depends on; undefined: on all. */
  get candidates(): number | undefined {
    return this.#sampler.candidates;
  }

  /**
   * The next token.
   *
   * @param logits one value per token of the vocabulary, not changed; or as many of the likeliest as `candidates` says
   * @param isLast ends the answer with this token: `finish` is then `"stop"`, or `"eos"`
   * @throws {RangeError} when a logit is NaN or +∞, or none is above −∞
   */
  next(logits: Float32Array | Likeliest, isLast = false): GeneratedToken {
    const { token, logprob } = logits instanceof Float32Array
      ? this.#sampler.choose(logits)
      : this.#sampler.chooseAmong(logits);
    this.#tokens++;
    const isEos = this.#eosTokenIds.includes(token);
    const isStop = this.#stopIds.includes(token);
    const characters = isEos || isStop ? "" : this.#characters?.push(token) ?? "";
    this.#length += characters.length;
    let text = this.#text.push(characters);
    const ends = isEos || isStop || isLast || this.#tokens >= this.maxTokens;
    if (ends && !this.#text.stopped) {
      const rest = this.#characters?.end() ?? "";
      this.#length += rest.length;
      text += this.#text.push(rest);
    }
    if (this.#text.stopped) return { token, text, logprob, finish: "stop" };
    if (!ends) return { token, text, logprob };
    text += this.#text.end();
    return { token, text, logprob, finish: isEos ? "eos" : isStop || isLast ? "stop" : "length" };
  }
}

/** Options of {@linkcode decode}. */
export interface DecodeOptions {
  /** Its reason is thrown at the next token or piece of the prompt. */
  readonly signal?: AbortSignal;
  /** Tokens of the prompt per pass. */
  readonly prefillTokens: number;
  /**
   * Whether the session reads every token that was yielded, whatever ends the loop, so that the next turn continues
   * from there. Without it the last token is not read.
   */
  readonly readsAll: boolean;
}

/** Milliseconds between two turns of the event loop: a frame. */
const TURN_MILLISECONDS = 16;

/**
 * Lets a session read a prompt in pieces, and generates from there: one step and one readback per token.
 *
 * @param ids the prompt; empty only if `logits` are given
 * @param logits what the session gave after its last token, taken over; the answer to an empty prompt begins with them
 */
export async function* decode(
  session: Session,
  ids: Uint32Array,
  decoding: Decoding,
  { signal, prefillTokens, readsAll }: DecodeOptions,
  logits?: Tensor,
): AsyncGenerator<GeneratedToken, void, void> {
  const pause = pauses(TURN_MILLISECONDS);
  let unread: number | undefined, position = session.position;
  try {
    signal?.throwIfAborted();
    for (let start = 0; start < ids.length; start += prefillTokens) {
      if (start > 0) {
        await pause();
        signal?.throwIfAborted();
      }
      logits?.dispose();
      logits = session.prefill(ids.subarray(start, start + prefillTokens));
    }
    position = session.position;
    while (logits !== undefined && decoding.tokens < decoding.maxTokens) {
      const [data] = await readLogits(logits, [decoding.candidates]);
      logits.dispose();
      await pause();
      signal?.throwIfAborted();
      const item = decoding.next(data);
      unread = item.token;
      yield item;
      if (item.finish !== undefined) return;
      signal?.throwIfAborted();
      if (session.position !== position) {
        rangeError("Session.generate", `only the loop may read on, from token ${position}`, session.position);
      }
      unread = undefined;
      logits = session.step(item.token);
      position++;
    }
  } finally {
    logits?.dispose();
    const isLeft = readsAll && !session.disposed && session.position === position;
    if (isLeft && unread !== undefined) session.readLast(unread);
  }
}

/** What {@linkcode topLogits} gives where there are no more logits: the lowest number of f32. */
const NO_LOGIT = -3.4028234663852886e38;

/**
 * Of each row of logits what the next token depends on: all of it, or the likeliest, which are found on the device where
 * that is faster. So a step of a batch reads back few numbers.
 *
 * @example
 * ```ts
 * import { createBackend } from "@levin/attention";
 * import { Decoding, readLogits, TransNormerLLM } from "@levin/attention/tnl";
 * import assert from "node:assert/strict";
 *
 * using backend = await createBackend({ prefer: "wasm" });
 * using model = await TransNormerLLM.load("tests/golden/tnl", { backend });
 * using batch = model.batch(2);
 * using session = model.session();
 * const slots = [batch.join(session), batch.join(session)];
 * const answers = [{ temperature: 0 }, { topK: 5, seed: 1 }].map((options) => new Decoding(model, [205], options));
 * using logits = batch.step(slots, [205, 205]);
 * const rows = await readLogits(logits, answers.map(({ candidates }) => candidates));
 * const tokens = answers.map((answer, i) => answer.next(rows[i]).token);
 * assert.equal(tokens.length, 2);
 * ```
 *
 * @param logits `[rows, vocab]`, or one row `[vocab]`
 * @param candidates of each row: `decoding.candidates`
 * @returns what `decoding.next()` takes, of each row
 * @throws {RangeError} when there is not one value per row
 */
export async function readLogits(
  logits: Tensor,
  candidates: readonly (number | undefined)[],
): Promise<(Float32Array | Likeliest)[]> {
  const vocab = logits.shape.at(-1)!, rows = vocab === 0 ? 0 : logits.size / vocab;
  if (candidates.length !== rows) {
    rangeError("readLogits", `candidates must have one value per row, ${rows}`, candidates.length);
  }
  const counts = candidates.filter((count) => count !== undefined && count <= MOST_LOGITS) as number[];
  using top = counts.length === 0 ? undefined : topLogits(logits, Math.max(...counts));
  if (top === undefined) {
    const data = await logits.data();
    return candidates.map((_, row) => data.subarray(row * vocab, (row + 1) * vocab));
  }
  const isWhole = (count: number | undefined) => count === undefined || count > MOST_LOGITS;
  const whole = [...candidates.keys()].filter((row) => isWhole(candidates[row]));
  const reading = readRows(logits, whole, vocab); // is enqueued before anything is waited for
  reading.catch(() => {}); // where the other fails first
  const width = top.size / rows, data = await top.data(), wholes = await reading;
  const likeliest = candidates.map((_, row) => likeliestOf(data.subarray(row * width, (row + 1) * width)));
  // Choosing from the whole row says which logit is wrong.
  const wrong = [...candidates.keys()].filter((row) => likeliest[row] === undefined && !whole.includes(row));
  const wrongs = await readRows(logits, wrong, vocab);
  return candidates.map((_, row) => {
    if (whole.includes(row)) return wholes[whole.indexOf(row)];
    return likeliest[row] ?? wrongs[wrong.indexOf(row)];
  });
}

/** Some rows of logits, read back. */
async function readRows(logits: Tensor, rows: readonly number[], vocab: number): Promise<Float32Array[]> {
  if (rows.length === 0) return [];
  using some = gatherRows(logits, rows, { width: vocab });
  const data = await some.data();
  return rows.map((_, i) => data.subarray(i * vocab, (i + 1) * vocab));
}

/** A row of {@linkcode topLogits}; undefined if a logit is NaN or +∞, or none is above −∞. */
function likeliestOf([max, sum, faults, , ...pairs]: Float32Array): Likeliest | undefined {
  if (faults > 0 || max <= NO_LOGIT) return undefined;
  const likeliest = Array.from(
    { length: pairs.length / 2 },
    (_, i) => [pairs[2 * i + 1], pairs[2 * i]] as const,
  )
    .filter(([, logit]) => logit > NO_LOGIT)
    .sort(([a], [b]) => a - b);
  return {
    ids: likeliest.map(([id]) => id),
    logits: Float32Array.from(likeliest, ([, logit]) => logit),
    normalizer: max + Math.log(sum),
  };
}

/** Text, held back while it may be the beginning of a stop string. */
export class StopText {
  readonly #stops: readonly string[];
  #held = "";
  /** Whether a stop string came: there is no more text then. */
  stopped = false;

  /** @param stops none of them empty */
  constructor(stops: readonly string[]) {
    this.#stops = stops;
  }

  /** Takes text and returns what is certain to precede any stop string. */
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

/** Options that are given count, `undefined` counts as not given. */
function withDefaults(options: SamplingOptions, defaults: SamplingOptions = {}): SamplingOptions {
  const given = Object.entries(options).filter(([, value]) => value !== undefined);
  return { ...defaults, ...Object.fromEntries(given) };
}

function checkStops(operation: string, stop: unknown): string[] {
  const stops: unknown[] = stop === undefined ? [] : Array.isArray(stop) ? stop : [stop];
  for (const text of stops) {
    if (typeof text !== "string") typeError(operation, "stop must be a string or strings", text);
    if (text === "") rangeError(operation, "stop strings must not be empty", stops.map(show).join(", "));
  }
  return stops as string[];
}
