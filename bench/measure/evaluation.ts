/**
 * A model on a text: how well it predicts it, and how fast it reads and writes, by the length of the context.
 *
 * @module
 */
import { createHash } from "node:crypto";
import { message, rangeError } from "../../core/errors.ts";
import { yieldToEventLoop } from "../../core/eventLoop.ts";
import type { TransNormerLLM } from "../../model/mod.ts";
import { scores } from "../../model/score.ts";
import { PREFILL_TOKENS } from "../../model/session.ts";
import { type Document, readDocuments, SOTU, split } from "../../train/data.ts";
import { median, warmUp } from "./timing.ts";

const OPERATION = "evaluate";

/** What models are evaluated on. */
export interface EvaluationText {
  /** Documents, none of them empty. */
  readonly documents: readonly string[];
  /** Bytes of all documents in UTF-8. */
  readonly bytes: number;
  /** SHA-256 of the documents, in hexadecimal digits: tells whether two evaluations are of one text. */
  readonly sha256: string;
}

/**
 * Reads a text: of `"sotu"` what training holds out, of files and folders all of it.
 *
 * @param sources as for `readDocuments`
 * @param options `heldOut`: of files and folders, too, only what training on these sources holds out; `bytes`: no more
 * than the first so many
 * @throws {RangeError} when a source is missing, the text is not UTF-8, or nothing is left of it
 */
export async function readEvaluationText(
  sources: readonly string[],
  { heldOut = false, bytes: most = Infinity }: { heldOut?: boolean; bytes?: number } = {},
): Promise<EvaluationText> {
  const parts: { name: string; bytes: Uint8Array }[] = [];
  const add = (documents: readonly Document[], isSplit: boolean) => {
    const name = documents[0].name;
    parts.push(...(isSplit ? split(documents).heldOut.map((bytes) => ({ name, bytes })) : documents));
  };
  if (heldOut) add(await readDocuments(sources, OPERATION), true);
  else for (const source of sources) add(await readDocuments([source], OPERATION), source === SOTU);
  const documents: string[] = [], hash = createHash("sha256");
  let bytes = 0, left = most;
  for (const part of parts) {
    const begun = whole(part.bytes), taken = begun.subarray(0, left);
    left -= taken.length;
    const text = decode(part.name, taken, { isCut: taken.length < begun.length });
    if (text === "") continue;
    const encoded = new TextEncoder().encode(text);
    documents.push(text);
    bytes += encoded.length;
    hash.update(encoded).update(Uint8Array.of(0xff)); // which is in no UTF-8
  }
  if (documents.length === 0) rangeError(OPERATION, "data must hold text", sources);
  return { documents, bytes, sha256: hash.digest("hex") };
}

/** Bytes without the rest of a character that they begin with, where a document was split within it. */
function whole(bytes: Uint8Array): Uint8Array {
  let start = 0;
  while (start < Math.min(3, bytes.length) && (bytes[start] & 0xc0) === 0x80) start++;
  return bytes.subarray(start);
}

function decode(name: string, bytes: Uint8Array, { isCut }: { isCut: boolean }): string {
  try {
    // With `stream` the part of a character at the end is dropped.
    return new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(bytes, { stream: isCut });
  } catch (cause) {
    throw new RangeError(message(OPERATION, "data must be UTF-8", name), { cause });
  }
}

/** A text as a model reads it. */
export interface EvaluationTokens {
  /** Documents one after another, each as the tokenizer begins a text, each with the model's end-of-sequence token. */
  readonly ids: Uint32Array;
  /** Indices of special tokens that begin a document: which one comes next is not to be predicted. */
  readonly beginnings: ReadonlySet<number>;
  /** Bytes of text that are predicted: all, but for a first token that nothing precedes. */
  readonly bytes: number;
}

/**
 * Token ids of a text.
 *
 * @throws {TypeError} when the model has no tokenizer
 */
export function evaluationTokens(
  { tokenizer, config }: TransNormerLLM,
  { documents, bytes }: EvaluationText,
  name: string,
): EvaluationTokens {
  if (tokenizer === undefined) {
    throw new TypeError(message(OPERATION, "a model must have a tokenizer", name));
  }
  const parts: number[][] = [], beginnings = new Set<number>(), [end] = config.eosTokenIds;
  let length = 0;
  for (const document of documents) {
    const ids = tokenizer.encode(document);
    if (end !== undefined && ids.at(-1) !== end) ids.push(end);
    if (!tokenizer.hasText(ids[0])) beginnings.add(length);
    parts.push(ids);
    length += ids.length;
  }
  const ids = new Uint32Array(length);
  let at = 0;
  for (const part of parts) {
    ids.set(part, at);
    at += part.length;
  }
  return { ids, beginnings, bytes: bytes - (beginnings.has(0) ? 0 : tokenizer.bytesOf(ids[0]).length) };
}

/** How well a model predicts a text. */
export interface Loss {
  /** Mean negative log-likelihood of a token, in nats. */
  readonly loss: number;
  /** The same of all tokens, in bits, over the bytes of the text: it compares models of different tokenizers. */
  readonly bitsPerByte: number;
}

/**
 * Loss on a text in windows of `length` tokens, each read from a state of zero, as training evaluates. Every token but
 * the first is predicted once, whatever the length, so that lengths differ by their contexts only.
 *
 * @param options `onTokens`: called with the number of tokens that were read; `signal`: stops, its reason is thrown
 */
export async function lossAt(
  model: TransNormerLLM,
  { ids, beginnings, bytes }: EvaluationTokens,
  length: number,
  { onTokens, signal }: { onTokens?: (count: number) => void; signal?: AbortSignal } = {},
): Promise<Loss> {
  let nats = 0, labels = 0;
  for (let first = 0; first < ids.length - 1; first += length) {
    const window = ids.subarray(first, first + length + 1);
    for await (const { start, logprobs } of scores(OPERATION, model, window, 1)) {
      logprobs.forEach((logprob, i) => {
        if (beginnings.has(first + start + i)) return;
        nats -= logprob;
        labels++;
      });
      onTokens?.(logprobs.length);
      await yieldToEventLoop();
      signal?.throwIfAborted();
    }
  }
  return { loss: nats / labels, bitsPerByte: nats / Math.LN2 / bytes };
}

/** A speed that was measured several times. */
export interface Speed {
  /** The middle one of the turns. */
  readonly median: number;
  /** The slowest. */
  readonly least: number;
  /** The fastest. */
  readonly most: number;
  /** Tokens per second, turn by turn. */
  readonly turns: readonly number[];
}

/** How fast a model is with a context of some length, in tokens per second. */
export interface Speeds {
  /** Reading a prompt of that length. */
  readonly read: Speed;
  /** Writing after it, token by token. */
  readonly write: Speed;
}

/** What is written in a turn: so many tokens, and for so many seconds, at least. */
const LEAST_TOKENS = 16, LEAST_SECONDS = 0.1;

/**
 * Speeds of models at one length, in turns: a slow moment of the machine meets all of them. Every other turn begins with the
 * last model, so that none always comes after the same.
 *
 * @param models each with its tokens, more than `length`
 * @param options `repeats`: turns; `onTurn`: called after each turn of each model; `signal`: stops, its reason is thrown
 */
export async function speedsAt(
  models: readonly { readonly model: TransNormerLLM; readonly tokens: EvaluationTokens }[],
  length: number,
  { repeats, onTurn, signal }: { repeats: number; onTurn?: () => void; signal?: AbortSignal },
): Promise<Speeds[]> {
  const found = models.map(() => ({ read: [] as number[], write: [] as number[] }));
  for (const { model, tokens } of models) {
    // Kernels are compiled, and memory is taken.
    const least = Math.min(length, 4 * PREFILL_TOKENS[model.backend.name]);
    await warmUp(() => speedOnce(model, tokens, least, signal));
  }
  for (let turn = 0; turn < repeats; turn++) {
    const order = [...models.keys()];
    for (const i of turn % 2 === 0 ? order : order.reverse()) {
      const { read, write } = await speedOnce(models[i].model, models[i].tokens, length, signal);
      found[i].read.push(read);
      found[i].write.push(write);
      onTurn?.();
    }
  }
  return found.map(({ read, write }) => ({ read: summary(read), write: summary(write) }));
}

/** Reads so many tokens, then writes some: tokens per second of both. */
async function speedOnce(
  model: TransNormerLLM,
  { ids }: EvaluationTokens,
  length: number,
  signal: AbortSignal | undefined,
): Promise<{ read: number; write: number }> {
  using session = model.session();
  const begin = performance.now();
  const piece = PREFILL_TOKENS[model.backend.name];
  for (let start = 0; start < length; start += piece) {
    using logits = session.prefill(ids.subarray(start, Math.min(length, start + piece)));
    if (start + piece >= length) await logits.data();
    await yieldToEventLoop();
    signal?.throwIfAborted();
  }
  const middle = performance.now();
  let written = 0, seconds = 0;
  while (written < LEAST_TOKENS || seconds < LEAST_SECONDS) {
    using logits = session.step(ids[(length + written++) % ids.length]);
    await logits.data(); // as the choice of the next token does
    seconds = (performance.now() - middle) / 1000;
  }
  return { read: 1000 * length / (middle - begin), write: written / seconds };
}

function summary(turns: readonly number[]): Speed {
  return { median: median(turns), least: Math.min(...turns), most: Math.max(...turns), turns };
}
