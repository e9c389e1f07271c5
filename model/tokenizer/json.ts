/**
 * `tokenizer.json` as this library reads it: parts that it computes as the official library (huggingface/tokenizers, in
 * Rust) does, and the refusal of all others by name. Ids that the model was not trained with would silently give wrong
 * answers.
 *
 * @module
 */
import { rangeError } from "../../core/errors.ts";

/** What errors call the operation. */
export const OPERATION = "Tokenizer.create";

/**
 * What other files than `tokenizer.json` may hold: tokens, and characters of each. Every place where a token may be cut is
 * looked at, so the work grows with the square of its length.
 */
export const MAX_TOKENS = 2 ** 21, MAX_TOKEN_CHARACTERS = 1024;

/** A part of the file, such as a normaliser: its type and its settings. */
export type Part = { readonly type?: unknown } & Readonly<Record<string, unknown>>;

/** A `tokenizer.json`. */
export interface TokenizerJson extends Part {
  readonly model?: Part | null;
  readonly normalizer?: Part | null;
  readonly pre_tokenizer?: Part | null;
  readonly post_processor?: Part | null;
  readonly decoder?: Part | null;
  readonly added_tokens?: unknown;
}

/** A string or a regular expression of Oniguruma. */
export interface PatternJson {
  readonly String?: unknown;
  readonly Regex?: unknown;
}

/** An added token. */
export interface AddedToken {
  /** Token id. */
  readonly id: number;
  /** How a text spells it. */
  readonly content: string;
  /** Whether it is not part of the text, such as begin of sequence or end of turn. */
  readonly special: boolean;
  /** Whether it counts only between characters that are no part of a word. */
  readonly single_word: boolean;
  /** Whether it takes the white space before it. */
  readonly lstrip: boolean;
  /** Whether it takes the white space after it. */
  readonly rstrip: boolean;
  /** Whether it is looked for in the normalised text, in its normalised form. */
  readonly normalized: boolean;
}

/** Throws the error for a feature that is not computed. */
export function refuse(feature: string, value: unknown): never {
  return rangeError(
    OPERATION,
    `tokenizer.json must describe a tokenizer of known features, ${feature}`,
    value,
  );
}

/** The parts of a `Sequence`, or the part itself; none for `null`. */
export function flatten(part: Part | null | undefined, members: string): Part[] {
  if (part === null || part === undefined) return [];
  if (part.type !== "Sequence") return [part];
  const parts = part[members];
  if (!Array.isArray(parts)) refuse(`a Sequence with ${members}`, parts);
  return parts.flatMap((inner) => flatten(inner, members));
}

/** Characters of words, as the regular expressions of the official library have them. */
export const WORD = "\\p{Alphabetic}\\p{M}\\p{Nd}\\p{Pc}\\p{Join_Control}";

/** White space, as Rust has it: with U+0085, without U+FEFF. */
export const SPACE = "\\p{White_Space}";

/** A text as a part of a regular expression. */
export function escape(text: string): string {
  return text.replace(/[.*+?^${}()|[\]\\/]/g, "\\$&");
}
