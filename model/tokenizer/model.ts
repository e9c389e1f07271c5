/**
 * Models: pieces to token ids.
 *
 * @module
 */
import { Bpe, type Merge } from "./bpe.ts";
import { FALLBACK_NAMES } from "./bytes.ts";
import { keeping } from "./keep.ts";
import type { Hub } from "./pattern.ts";
import { type Part, refuse } from "./json.ts";
import { createSentencePiece } from "./sentencepiece.ts";
import { Unigram } from "./unigram.ts";

/** A vocabulary, and how a piece is made of its tokens. */
export interface Model {
  /** Ids by token. */
  readonly ids: ReadonlyMap<string, number>;
  /** The token for what has none. */
  readonly unknown: string | undefined;
  /** Token ids of a piece; `undefined` where the piece needs a token for the unknown that the vocabulary lacks. */
  encode(piece: string): readonly (number | undefined)[];
}

/** The model of a file. */
export function createModel(hub: Hub, part: Part | null | undefined): Model {
  if (typeof part !== "object" || part === null) refuse("with a model", part);
  const { vocab } = part;
  if (typeof vocab !== "object" || vocab === null) refuse("with a vocab", vocab);
  switch (typeOf(part)) {
    case "BPE":
      return createBpe(part);
    case "Unigram":
      return createUnigram(part);
    case "SentencePiece":
      return createSentencePiece(part);
    case "WordPiece": {
      const { continuing_subword_prefix = "##", unk_token = "[UNK]" } = part;
      const model = new hub.WordPiece({ ...part, continuing_subword_prefix, unk_token } as never);
      const ids = idsOf(vocab);
      return {
        ids,
        unknown: String(unk_token),
        encode: (piece) => model._call([piece]).map((token) => ids.get(token)),
      };
    }
    case "WordLevel": {
      const ids = idsOf(vocab), unknown = String(part.unk_token);
      return { ids, unknown, encode: (piece) => [ids.get(piece) ?? ids.get(unknown)] };
    }
    default:
      return refuse("with a known model", part.type);
  }
}

/** Old files do not name the type. */
function typeOf(part: Part): unknown {
  if (part.type !== undefined && part.type !== null) return part.type;
  if ("merges" in part) return "BPE";
  if (Array.isArray(part.vocab)) return "Unigram";
  return "continuing_subword_prefix" in part || "max_input_chars_per_word" in part
    ? "WordPiece"
    : "WordLevel";
}

function idsOf(vocab: object): Map<string, number> {
  for (const [token, id] of Object.entries(vocab)) {
    if (!Number.isInteger(id) || id < 0) refuse("with integers >= 0 as ids", `${token}: ${id}`);
  }
  return new Map(Object.entries(vocab));
}

/** Ids of bytes, if all of them have one. */
function byteIds(ids: ReadonlyMap<string, number>): readonly number[] | undefined {
  const bytes = FALLBACK_NAMES.map((name) => ids.get(name));
  return bytes.every((id) => id !== undefined) ? bytes : undefined;
}

/** A symbol for the unknown where the vocabulary has none. */
const NO_TOKEN = 2 ** 30;

function createBpe(part: Part): Model {
  if (part.dropout) refuse("without dropout", part.dropout);
  if (!Array.isArray(part.merges)) refuse("BPE with merges", part.merges);
  const ids = idsOf(part.vocab as object), suffix = String(part.end_of_word_suffix ?? "");
  const prefix = String(part.continuing_subword_prefix ?? "");
  const bpe = new Bpe(readMerges(part.merges, ids, prefix, part.ranks_tokens === true));
  const unknown = typeof part.unk_token === "string" ? part.unk_token : undefined;
  const unknownId = unknown === undefined ? undefined : ids.get(unknown);
  const bytes = part.byte_fallback ? byteIds(ids) : undefined, encoder = new TextEncoder();
  const encode = (piece: string) => {
    const whole = part.ignore_merges ? ids.get(piece) : undefined;
    if (whole !== undefined) return [whole];
    const symbols: number[] = [];
    let isUnknown = false;
    for (let at = 0; at < piece.length;) {
      const character = String.fromCodePoint(piece.codePointAt(at)!), isFirst = at === 0;
      at += character.length;
      const symbol = (isFirst ? "" : prefix) + character + (at === piece.length ? suffix : "");
      const id = ids.get(symbol);
      if (id !== undefined) symbols.push(id);
      else if (bytes !== undefined) { for (const byte of encoder.encode(symbol)) symbols.push(bytes[byte]); }
      else if (unknown !== undefined && !(isUnknown && part.fuse_unk)) symbols.push(unknownId ?? NO_TOKEN);
      isUnknown = id === undefined && bytes === undefined;
    }
    return bpe.merge(symbols).map((id) => id === NO_TOKEN ? undefined : id);
  };
  return { ids, unknown, encode: keeping(encode) };
}

/** @param ranksTokens whether merges rank as the token that they make, so that of equal ones the leftmost comes first */
function readMerges(
  merges: readonly unknown[],
  ids: ReadonlyMap<string, number>,
  prefix: string,
  ranksTokens: boolean,
): Merge[] {
  const ranks = new Map<number, number>();
  return merges.map((merge, index) => {
    const [first, second, ...more] = typeof merge === "string" ? merge.split(" ") : merge as string[];
    const left = ids.get(first), right = ids.get(second);
    const merged = ids.get(`${first}${String(second).slice(prefix.length)}`);
    if (left === undefined || right === undefined || merged === undefined || more.length > 0) {
      refuse("BPE with merges of tokens to tokens", merge);
    }
    if (!ranks.has(merged)) ranks.set(merged, index);
    return { left, right, merged, rank: ranksTokens ? ranks.get(merged)! : index };
  });
}

function createUnigram({ vocab, unk_id, byte_fallback }: Part): Model {
  if (!Array.isArray(vocab) || vocab.length === 0) refuse("Unigram with scores", vocab);
  const pieces = vocab.map((entry, id) => {
    const [text, score] = Array.isArray(entry) ? entry : [];
    if (typeof text !== "string" || typeof score !== "number") refuse("Unigram with scores", entry);
    return { id, text, score };
  });
  const ids = new Map(pieces.map(({ text, id }) => [text, id])),
    unknownId = unk_id as number | null | undefined;
  const unknown = pieces[unknownId ?? -1]?.text, bytes = byte_fallback ? byteIds(ids) : undefined;
  const minScore = pieces.reduce((least, { score }) => Math.min(least, score), Infinity);
  const unigram = new Unigram(pieces, { minScore, precision: "double" });
  const encoder = new TextEncoder();
  const encode = (piece: string) =>
    unigram.segment(piece).flatMap(({ id, start, end }): (number | undefined)[] => {
      if (id !== undefined) return [id];
      if (bytes === undefined) return [unknown === undefined ? undefined : unknownId!];
      return Array.from(encoder.encode(piece.slice(start, end)), (byte) => bytes[byte]);
    });
  return { ids, unknown, encode: keeping(encode) };
}
