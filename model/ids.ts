/**
 * Token ids as callers give them, checked.
 *
 * @module
 */
import { rangeError, typeError } from "../core/errors.ts";
import type { Tokenizer } from "./tokenizer.ts";

/**
 * Checks token ids.
 *
 * @throws {TypeError} when `ids` is no array
 * @throws {RangeError} when it is empty, unless `mayBeEmpty`, or an id is outside the vocabulary
 */
export function checkIds(
  operation: string,
  ids: ArrayLike<number>,
  vocabSize: number,
  { name = "ids", mayBeEmpty = false } = {},
): Uint32Array {
  if (typeof ids !== "object" || ids === null || !Number.isInteger(ids.length)) {
    typeError(operation, `${name} must be an array of token ids`, ids);
  }
  if (ids.length === 0 && !mayBeEmpty) {
    rangeError(operation, `${name} must hold at least one token`, ids);
  }
  for (let i = 0; i < ids.length; i++) {
    if (!Number.isInteger(ids[i]) || ids[i] < 0 || ids[i] >= vocabSize) {
      rangeError(operation, `${name} must be integers from 0 to ${vocabSize - 1}`, ids[i], `index ${i}`);
    }
  }
  return Uint32Array.from(ids);
}

/** How {@linkcode promptIds} reads a prompt. */
export interface PromptOptions {
  /** What errors call it. Default `"prompt"`. */
  readonly name?: string;
  /** Whether the tokenizer adds what it adds at the beginning of a text. Default true. */
  readonly addSpecialTokens?: boolean;
  /** Whether it may have no token. Default false. */
  readonly mayBeEmpty?: boolean;
}

/**
 * Token ids of a prompt.
 *
 * @throws {TypeError} when the prompt is a string and the model has no tokenizer, or is neither string nor array
 * @throws {RangeError} when the prompt has no token, or an id is outside the vocabulary
 */
export function promptIds(
  operation: string,
  model: { readonly config: { readonly vocabSize: number }; readonly tokenizer: Tokenizer | undefined },
  prompt: string | ArrayLike<number>,
  { name = "prompt", addSpecialTokens = true, mayBeEmpty }: PromptOptions = {},
): Uint32Array {
  if (typeof prompt === "string") {
    if (model.tokenizer === undefined) {
      typeError(operation, `${name} must be token ids for a model without a tokenizer`, prompt);
    }
    prompt = model.tokenizer.encode(prompt, { addSpecialTokens });
  }
  return checkIds(operation, prompt, model.config.vocabSize, { name, mayBeEmpty });
}
