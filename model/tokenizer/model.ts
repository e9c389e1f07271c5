/**
 * Models: pieces to tokens.
 *
 * @module
 */
import type { Hub } from "./pattern.ts";
import { type Part, refuse } from "./json.ts";

/** A vocabulary, and how a piece is made of its tokens. */
export interface Model {
  /** Ids by token. */
  readonly ids: ReadonlyMap<string, number>;
  /** Tokens of a piece. One that is in no vocabulary, such as a name for the unknown, is not yet refused here. */
  encode(piece: string): string[];
}

/** The model of a file. */
export function createModel(hub: Hub, part: Part | null | undefined): Model {
  if (typeof part !== "object" || part === null) refuse("with a model", part);
  const { vocab } = part;
  if (typeof vocab !== "object" || vocab === null) refuse("with a vocab", vocab);
  const config = part as never; // the package checks nothing; what it cannot do is refused here
  switch (typeOf(part)) {
    case "BPE": {
      if (part.dropout) refuse("without dropout", part.dropout);
      if (part.continuing_subword_prefix) {
        refuse("BPE without continuing_subword_prefix", part.continuing_subword_prefix);
      }
      if (!Array.isArray(part.merges)) refuse("BPE with merges", part.merges);
      const model = asModel(new hub.BPE(config));
      return part.unk_token === null || part.unk_token === undefined ? dropping(model, part) : model;
    }
    case "Unigram":
      if (!Array.isArray(vocab)) refuse("Unigram with scores", vocab);
      if (part.byte_fallback) refuse("Unigram without byte_fallback", part.byte_fallback);
      return named(asModel(new hub.Unigram(config, "")), vocab[part.unk_id as number]?.[0]);
    case "WordPiece": {
      const { continuing_subword_prefix = "##", unk_token = "[UNK]" } = part;
      return asModel(new hub.WordPiece({ ...part, continuing_subword_prefix, unk_token } as never));
    }
    case "WordLevel": {
      const ids = new Map(Object.entries(vocab as Record<string, number>)), unknown = String(part.unk_token);
      return { ids, encode: (piece) => [ids.has(piece) ? piece : unknown] };
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

/** Without a token for the unknown, unknown characters go before anything is merged. */
function dropping({ ids, encode }: Model, { byte_fallback, end_of_word_suffix }: Part): Model {
  const byteTokens = Array.from(
    { length: 256 },
    (_, byte) => `<0x${byte.toString(16).toUpperCase().padStart(2, "0")}>`,
  );
  const hasBytes = byte_fallback === true && byteTokens.every((token) => ids.has(token));
  if (hasBytes) return { ids, encode };
  if (end_of_word_suffix || byte_fallback) refuse("BPE with an unk_token", null);
  return {
    ids,
    encode: (piece) => encode(Array.from(piece).filter((character) => ids.has(character)).join("")),
  };
}

/** The package gives unknown characters as they are. */
function named({ ids, encode }: Model, unknown: string | undefined): Model {
  return { ids, encode: (piece) => encode(piece).map((token) => ids.has(token) ? token : unknown ?? token) };
}

/** One piece at a time: unknown characters are fused within a piece, not beyond. */
function asModel(model: { tokens_to_ids: Map<string, number>; _call(pieces: string[]): string[] }): Model {
  return { ids: new Map(model.tokens_to_ids), encode: (piece) => model._call([piece]) };
}
