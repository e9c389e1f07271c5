/**
 * How likely a model finds a given text.
 *
 * @module
 */
import { rangeError, typeError } from "../core/errors.ts";
import { promptIds } from "./ids.ts";
import type { TransNormerLLM } from "./model.ts";
import { argmax, logSumExp } from "./sampling.ts";
import { PREFILL_TOKENS } from "./session.ts";

/** What {@linkcode loglikelihood} returns. */
export interface Likelihood {
  /** Natural log-probability of the continuation: the sum over its tokens. */
  readonly logprob: number;
  /** Whether each of its tokens is the likeliest one at its place. */
  readonly greedy: boolean;
  /** Number of its tokens. */
  readonly tokens: number;
}

/** See `TransNormerLLM.loglikelihood`. */
export async function loglikelihood(
  model: TransNormerLLM,
  context: string | ArrayLike<number>,
  continuation: string | ArrayLike<number>,
): Promise<Likelihood> {
  const operation = "TransNormerLLM.loglikelihood";
  if ((typeof context === "string") !== (typeof continuation === "string")) {
    typeError(operation, "context and continuation must both be strings or both be token ids", continuation);
  }
  if (typeof context !== "string") {
    const before = promptIds(operation, model, context, { name: "context" });
    const after = promptIds(operation, model, continuation, { name: "continuation" });
    return await score(operation, model, join(before, after), before.length);
  }
  // Spaces at the border belong to the continuation's first token, as vocabularies write them.
  const border = context.trimEnd().length;
  const whole = promptIds(operation, model, context + continuation, { name: "context and continuation" });
  const before = promptIds(operation, model, context.slice(0, border), { name: "context" });
  if (before.length >= whole.length) {
    rangeError(operation, "continuation must hold at least one token", continuation);
  }
  return await score(operation, model, whole, before.length);
}

/** See `TransNormerLLM.perplexity`. */
export async function perplexity(model: TransNormerLLM, text: string | ArrayLike<number>): Promise<number> {
  const operation = "TransNormerLLM.perplexity";
  const ids = promptIds(operation, model, text, { name: "text" });
  if (ids.length < 2) rangeError(operation, "text must hold at least two tokens", ids.length);
  const { logprob, tokens } = await score(operation, model, ids, 1);
  return Math.exp(-logprob / tokens);
}

/** Log-probabilities of neighbouring tokens. */
export interface Scores {
  /** Index of the first of them. */
  readonly start: number;
  /** Natural logarithms, one per token. */
  readonly logprobs: Float64Array;
  /** Whether each of the tokens is the likeliest one at its place. */
  readonly greedy: boolean;
}

/**
 * Log-probabilities of the ids from index `from` on, each after all ids before it: some at a time, at most 16 MiB of
 * logits, however many ids there are.
 */
export async function* scores(
  operation: string,
  model: TransNormerLLM,
  ids: Uint32Array,
  from: number,
): AsyncGenerator<Scores, void, void> {
  const { vocabSize } = model.config;
  const piece = Math.max(1, Math.min(PREFILL_TOKENS[model.backend.name], Math.floor(2 ** 22 / vocabSize)));
  using session = model.session();
  if (from > 1) session.prefill(ids.subarray(0, from - 1)).dispose();
  for (let start = from - 1; start < ids.length - 1; start += piece) {
    const end = Math.min(start + piece, ids.length - 1);
    using logits = session.prefill(ids.subarray(start, end), { logits: "all" });
    const data = await logits.data();
    const logprobs = new Float64Array(end - start);
    let greedy = true;
    for (let i = start; i < end; i++) {
      const row = data.subarray((i - start) * vocabSize, (i - start + 1) * vocabSize);
      logprobs[i - start] = row[ids[i + 1]] - logSumExp(row, operation);
      greedy &&= argmax(row) === ids[i + 1];
    }
    yield { start: start + 1, logprobs, greedy };
  }
}

/** Log-probability of the ids from index `from` on together. */
async function score(
  operation: string,
  model: TransNormerLLM,
  ids: Uint32Array,
  from: number,
): Promise<Likelihood> {
  let logprob = 0, greedy = true;
  for await (const some of scores(operation, model, ids, from)) {
    for (const one of some.logprobs) logprob += one;
    greedy &&= some.greedy;
  }
  return { logprob, greedy, tokens: ids.length - from };
}

function join(a: Uint32Array, b: Uint32Array): Uint32Array {
  const joined = new Uint32Array(a.length + b.length);
  joined.set(a);
  joined.set(b, a.length);
  return joined;
}
