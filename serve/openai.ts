/**
 * Answers in OpenAI's shapes: text completions and chat completions, whole and as chunks of a stream.
 *
 * @module
 */
import type { Tokenizer } from "../model/mod.ts";
import type { Entry, Part, Scored } from "./answer.ts";
import type { Outcome } from "./completion.ts";

/** JSON. */
export type Json = Record<string, unknown>;

/** How one kind of request is answered. */
export interface Shape {
  /** The whole answer; `parts` of each choice in order. */
  whole(choices: readonly (readonly Part[])[], outcome: Outcome): Json;
  /** Chunks of a stream before the first part of a choice. */
  opening(index: number): Json[];
  /** A part as a chunk. */
  chunk(part: Part): Json;
  /** The last chunk, for `stream_options.include_usage` and for sessions. */
  closing(outcome: Outcome): Json[];
}

/** What a shape is made for. */
export interface ShapeOptions {
  /** What clients call the model. */
  readonly model: string;
  /** Names tokens. */
  readonly tokenizer: Tokenizer | undefined;
  /** Whether log-probabilities are asked for. */
  readonly withLogprobs: boolean;
  /** Whether a stream ends with the usage: every other chunk then says `usage: null`. */
  readonly withUsage: boolean;
}

interface Header {
  readonly id: string;
  readonly model: string;
  readonly created: number;
}

/** `POST /v1/completions`. */
export function textShape({ model, tokenizer, withLogprobs, withUsage }: ShapeOptions): Shape {
  const header = { ...newHeader("cmpl", model), object: "text_completion" };
  const frame = { ...header, ...(withUsage ? { usage: null } : {}) };
  const choice = (index: number, parts: readonly Part[]) => ({
    index,
    text: parts.map(({ text }) => text).join(""),
    logprobs: withLogprobs ? textLogprobs(tokenizer, parts.flatMap(({ entries }) => entries)) : null,
    finish_reason: finishOf(parts),
  });
  return {
    whole: (choices, outcome) => ({
      ...header,
      choices: choices.map((parts, index) => choice(index, parts)),
      usage: usage(outcome),
      ...session(outcome),
    }),
    opening: () => [],
    chunk: (part) => ({ ...frame, choices: [choice(part.index, [part])] }),
    closing: (outcome) => closing(frame, outcome, withUsage),
  };
}

/** `POST /v1/chat/completions`. */
export function chatShape({ model, tokenizer, withLogprobs, withUsage }: ShapeOptions): Shape {
  const header = newHeader("chatcmpl", model);
  const logprobs = (parts: readonly Part[]) =>
    withLogprobs
      ? { content: parts.flatMap(({ entries }) => entries).map((entry) => chatLogprob(tokenizer, entry)) }
      : null;
  const frame = { ...header, object: "chat.completion.chunk", ...(withUsage ? { usage: null } : {}) };
  return {
    whole: (choices, outcome) => ({
      ...header,
      object: "chat.completion",
      choices: choices.map((parts, index) => ({
        index,
        message: { role: "assistant", content: parts.map(({ text }) => text).join(""), refusal: null },
        logprobs: logprobs(parts),
        finish_reason: finishOf(parts),
      })),
      usage: usage(outcome),
      ...session(outcome),
    }),
    opening: (index) => [{
      ...frame,
      choices: [{ index, delta: { role: "assistant", content: "" }, logprobs: null, finish_reason: null }],
    }],
    chunk: (part) => ({
      ...frame,
      choices: [{
        index: part.index,
        delta: part.text === "" ? {} : { content: part.text },
        logprobs: logprobs([part]),
        finish_reason: finishOf([part]),
      }],
    }),
    closing: (outcome) => closing(frame, outcome, withUsage),
  };
}

function newHeader(prefix: string, model: string): Header {
  const id = `${prefix}-${crypto.randomUUID().replaceAll("-", "")}`;
  return { id, created: Math.floor(Date.now() / 1000), model };
}

function finishOf(parts: readonly Part[]): "stop" | "length" | null {
  return parts.at(-1)?.finish ?? null;
}

function usage({ promptTokens, completionTokens }: Outcome): Json {
  return {
    prompt_tokens: promptTokens,
    completion_tokens: completionTokens,
    total_tokens: promptTokens + completionTokens,
  };
}

/** Levin's own field, if a session was asked for. */
function session({ session }: Outcome): Json {
  return session === undefined ? {} : { session };
}

function closing(frame: Json, outcome: Outcome, withUsage: boolean): Json[] {
  if (!withUsage && outcome.session === undefined) return [];
  return [{ ...frame, choices: [], ...(withUsage ? { usage: usage(outcome) } : {}), ...session(outcome) }];
}

const decoder = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true });
/** Names of tokens that were asked for. */
const names = new WeakMap<Tokenizer, Map<number, string>>();

/**
 * A token's name: its text within a text if that is valid UTF-8, else its bytes as OpenAI writes them, or its id if
 * there is no tokenizer.
 */
export function tokenName(tokenizer: Tokenizer | undefined, id: number): string {
  if (tokenizer === undefined) return `token_id:${id}`;
  let known = names.get(tokenizer);
  if (known === undefined) names.set(tokenizer, known = new Map());
  let name = known.get(id);
  if (name === undefined) known.set(id, name = makeName(tokenizer.bytesOf(id), id));
  return name;
}

function makeName(bytes: Uint8Array, id: number): string {
  if (bytes.length === 0) return `token_id:${id}`;
  try {
    return decoder.decode(bytes);
  } catch {
    return `bytes:${Array.from(bytes, (byte) => `\\x${byte.toString(16).padStart(2, "0")}`).join("")}`;
  }
}

function textLogprobs(tokenizer: Tokenizer | undefined, entries: readonly Entry[]): Json {
  return {
    tokens: entries.map(({ id }) => tokenName(tokenizer, id)),
    token_logprobs: entries.map(({ logprob }) => logprob),
    top_logprobs: entries.map((entry) => alternatives(tokenizer, entry)),
    text_offset: entries.map(({ offset }) => offset),
  };
}

/** The likeliest tokens and the token itself, by name; of two with one name, the likelier. */
function alternatives(
  tokenizer: Tokenizer | undefined,
  { id, logprob, top }: Entry,
): Record<string, number> | null {
  if (top === null || logprob === null || top.length === 0) return null;
  const named = new Map<string, number>();
  for (const token of [...top, { id, logprob }]) {
    const name = tokenName(tokenizer, token.id);
    if (!named.has(name)) named.set(name, token.logprob);
  }
  return Object.fromEntries(named);
}

function chatLogprob(tokenizer: Tokenizer | undefined, { id, logprob, top }: Entry): Json {
  const named = (token: Scored) => ({
    token: tokenName(tokenizer, token.id),
    logprob: token.logprob,
    bytes: tokenizer === undefined ? null : [...tokenizer.bytesOf(token.id)],
  });
  return { ...named({ id, logprob: logprob ?? 0 }), top_logprobs: (top ?? []).map(named) };
}
