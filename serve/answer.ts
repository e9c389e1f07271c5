/**
 * One answer: its tokens and text as they are decoded, and the log-probabilities of answer and prompt.
 *
 * @module
 */
import { Decoding } from "../model/decoding.ts";
import type { DecodingOptions, Likeliest, TokenStream, TransNormerLLM } from "../model/mod.ts";
import { logSumExp } from "../model/sampling.ts";
import type { Branch } from "./scheduler.ts";

/** A token with its log-probability. */
export interface Scored {
  /** Token id. */
  readonly id: number;
  /** Natural logarithm of its probability, a finite number. */
  readonly logprob: number;
}

/** A token in its place, and what else might have stood there. */
export interface Entry {
  /** Token id. */
  readonly id: number;
  /** As {@linkcode Scored.logprob}; `null` for the first token of a text, which has nothing before it. */
  readonly logprob: number | null;
  /** The likeliest tokens, the likeliest first; `null` for the first token. */
  readonly top: readonly Scored[] | null;
  /** Where its text begins, in UTF-16 units. */
  readonly offset: number;
}

/** A piece of an answer. */
export interface Part {
  /** Index of the choice. */
  readonly index: number;
  /** Text that became certain. */
  readonly text: string;
  /** Tokens, if log-probabilities are asked for. */
  readonly entries: readonly Entry[];
  /** Tokens that were generated; 0 for the echo of the prompt. */
  readonly tokens: number;
  /** Why it is the last: an end-of-sequence token or stop string, or `maxTokens`. */
  readonly finish?: "stop" | "length";
}

/** Takes the parts of answers. */
export interface PartSink {
  /** Takes a part, also when it is full. */
  push(part: Part): void;
  /** Whether answers are to pause. */
  readonly isFull: boolean;
}

/** What an answer is to be. */
export interface AnswerOptions extends DecodingOptions {
  /** Index of the choice. */
  readonly index: number;
  /** Token ids that stand before the prompt, of earlier turns of a session: the last few suffice. */
  readonly before: readonly number[];
  /** How many alternatives to name; undefined: no log-probabilities. */
  readonly logprobs: number | undefined;
  /**
   * Whether the special token that ends an answer counts as read, of the model's or one that `stop` names: chat
   * templates close an answer with it, plain text has none.
   */
  readonly keepEnd: boolean;
  /** Length of the text before the answer, for offsets. */
  readonly offset: number;
  /** Whether the answer pauses for now. */
  readonly isBlocked: () => boolean;
  /** When aborted, the next token is the last, and counts like any other. */
  readonly end: AbortSignal | undefined;
}

/** An answer that is being written. */
export class Answer implements Branch {
  readonly #model: TransNormerLLM;
  readonly #options: AnswerOptions;
  readonly #emit: (part: Part) => void;
  readonly #decoding: Decoding;
  /** The token that was generated last, if the session has yet to read it. */
  pending: number[] = [];

  /** An answer to a prompt, whose parts go to `emit`. */
  constructor(
    model: TransNormerLLM,
    prompt: Uint32Array,
    options: AnswerOptions,
    emit: (part: Part) => void,
  ) {
    this.#model = model;
    this.#options = options;
    this.#emit = emit;
    this.#decoding = new Decoding(model, prompt, options, "Answer");
  }

  /** See {@linkcode Branch.isBlocked}. */
  get isBlocked(): boolean {
    return this.#options.isBlocked();
  }

  /** See {@linkcode Branch.candidates}. */
  get candidates(): number | undefined {
    return this.#options.logprobs === undefined ? this.#decoding.candidates : undefined;
  }

  /** See {@linkcode Branch.next}. */
  next(logits: Float32Array | Likeliest): number | undefined {
    const { index, logprobs, keepEnd, end } = this.#options;
    const offset = this.#options.offset + this.#decoding.length;
    const { token, text, finish } = this.#decoding.next(logits, end?.aborted);
    const entries = logprobs === undefined || !(logits instanceof Float32Array)
      ? []
      : [{ ...score(logits, token, logprobs), offset }];
    const isNamed = finish === "stop" && !end?.aborted && this.#model.tokenizer?.hasText(token) === false;
    const isEnd = isNamed || this.#model.config.eosTokenIds.includes(token);
    if (finish !== undefined && (keepEnd || !isEnd)) this.pending = [token];
    this.#emit({ index, text, entries, tokens: 1, finish: finish === "eos" ? "stop" : finish });
    return finish === undefined ? token : undefined;
  }
}

/** JSON has no −Infinity. */
const LEAST = -9999;

/**
 * A token among its alternatives. It is as likely as the first of them exactly when it is the first. Of tokens that are
 * equally likely, the greedy choice has the lowest id; the others are reported as less likely by the last bit.
 */
export function score(
  logits: Float32Array,
  token: number,
  count: number,
): Omit<Entry, "offset" | "logprob"> & Scored {
  const normalizer = logSumExp(logits, "score");
  const best = likeliest(logits, Math.max(1, count));
  const finite = (value: number) => Math.max(LEAST, value);
  const first = finite(logits[best[0]] - normalizer);
  const logprobOf = (id: number) => {
    const logprob = finite(logits[id] - normalizer);
    return id !== best[0] && logprob >= first
      ? first - Math.max(Math.abs(first) * 2 ** -52, 5e-324)
      : logprob;
  };
  const top = best.slice(0, count).map((id) => ({ id, logprob: logprobOf(id) }));
  return { id: token, logprob: logprobOf(token), top };
}

/** Ids of the `count` likeliest tokens; of equally likely ones the lowest id comes first. */
function likeliest(logits: Float32Array, count: number): number[] {
  const best: number[] = [];
  for (let id = 0; id < logits.length; id++) {
    if (best.length === count && !(logits[id] > logits[best[count - 1]])) continue;
    let at = best.length;
    while (at > 0 && logits[id] > logits[best[at - 1]]) at--;
    best.splice(at, 0, id);
    if (best.length > count) best.pop();
  }
  return best;
}

/** Collects the entries of a prompt, piece by piece: the logits after token i score token i + 1. */
export class PromptEntries {
  /** One per token so far. */
  readonly entries: Entry[] = [];
  readonly #vocabSize: number;
  readonly #prompt: Uint32Array;
  readonly #count: number;
  readonly #characters: TokenStream | undefined;
  readonly #text: string;
  /** Ids that a tokenizer may add to a text without being part of it. */
  readonly #added: readonly (number | undefined)[];
  #offset = 0;

  /** @param prompt token ids, at least one @param text the same as text @param count alternatives to name */
  constructor(model: TransNormerLLM, prompt: Uint32Array, text: string, count: number) {
    this.#vocabSize = model.config.vocabSize;
    this.#prompt = prompt;
    this.#text = text;
    this.#added = [model.config.bosTokenId, ...model.config.eosTokenIds];
    this.#count = count;
    this.#characters = model.tokenizer?.stream({ specialTokens: true });
    this.#push({ id: prompt[0], logprob: null, top: null });
  }

  /** Takes the logits after the tokens from index `start`. */
  take(logits: Float32Array, start: number): void {
    const end = Math.min(start + logits.length / this.#vocabSize, this.#prompt.length - 1);
    for (let i = start; i < end; i++) {
      const row = logits.subarray((i - start) * this.#vocabSize, (i - start + 1) * this.#vocabSize);
      this.#push(score(row, this.#prompt[i + 1], this.#count));
    }
  }

  #push(scored: Omit<Entry, "offset">): void {
    const characters = this.#characters?.push(scored.id) ?? "";
    const start = this.#find(characters);
    this.entries.push({ ...scored, offset: start ?? this.#offset });
    const isAdded = this.#added.includes(scored.id) && start === undefined;
    if (!isAdded) this.#offset = (start ?? this.#offset) + characters.length;
  }

  /** Where characters come next in the text. Decoders drop spaces that encoders add, such as the first one. */
  #find(characters: string): number | undefined {
    for (let start = this.#offset; start < this.#text.length; start++) {
      if (this.#text.startsWith(characters, start)) return start;
      if (this.#text[start].trim() !== "") return undefined;
    }
    return this.#text.startsWith(characters, this.#offset) ? this.#offset : undefined;
  }
}
