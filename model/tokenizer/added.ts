/**
 * Added tokens: what a text spells literally, found before anything else is done with it.
 *
 * @module
 */
import { type AddedToken, refuse, SPACE, WORD } from "./json.ts";
import type { Normalizer } from "./normalize.ts";

/** A stretch of a text: an added token, or what lies between. */
export interface Stretch {
  /** Id of the added token; absent for text. */
  readonly id?: number;
  /** The text; normalised, unless it is an added token. */
  readonly text: string;
  /** Whether it begins where the whole text begins. */
  readonly isFirst: boolean;
}

const ENDS_WITH_WORD = new RegExp(`[${WORD}]$`, "u"), STARTS_WITH_WORD = new RegExp(`^[${WORD}]`, "u");
const IS_SPACE = new RegExp(`^${SPACE}$`, "u");

/** Reads `added_tokens`. */
export function readAddedTokens(json: unknown): AddedToken[] {
  if (!Array.isArray(json)) refuse("added_tokens as an array", json);
  return json.map((token: Partial<AddedToken> | null) => {
    const { id, content } = token ?? {};
    if (!Number.isInteger(id) || typeof content !== "string") {
      refuse("added_tokens with id and content", token);
    }
    const flag = (name: "special" | "single_word" | "lstrip" | "rstrip") => token![name] === true;
    const special = flag("special");
    return {
      id: id!,
      content,
      special,
      single_word: flag("single_word"),
      lstrip: flag("lstrip"),
      rstrip: flag("rstrip"),
      normalized: token!.normalized ?? !special,
    };
  });
}

/** Cuts texts at added tokens: first at those that are found as they are, then between them at the normalised ones. */
export class AddedTokens {
  readonly #normalize: Normalizer;
  readonly #asTheyAre: Finder;
  readonly #normalized: Finder;

  constructor(tokens: readonly AddedToken[], normalize: Normalizer) {
    this.#normalize = normalize;
    this.#asTheyAre = new Finder(tokens.filter(({ normalized }) => !normalized), (content) => content);
    this.#normalized = new Finder(tokens.filter(({ normalized }) => normalized), normalize);
  }

  /** The stretches of a text, none of them empty. */
  split(text: string): Stretch[] {
    return this.#asTheyAre.split({ text, isFirst: true }).flatMap((stretch) =>
      stretch.id === undefined
        ? this.#normalized.split({ ...stretch, text: this.#normalize(stretch.text) })
        : [stretch]
    );
  }
}

/** Finds tokens: the leftmost, of those the longest. */
class Finder {
  readonly #tokens = new Map<string, AddedToken>();
  readonly #pattern: RegExp | undefined;

  constructor(tokens: readonly AddedToken[], spell: (content: string) => string) {
    // Of two tokens that normalise to the same, the official library finds the special one, then the first.
    for (const token of [...tokens].sort((a, b) => Number(b.special) - Number(a.special))) {
      const text = spell(token.content);
      if (text === "") refuse("added_tokens that are not empty once normalised", token.content);
      if (!this.#tokens.has(text)) this.#tokens.set(text, token);
    }
    const texts = [...this.#tokens.keys()].sort((a, b) => b.length - a.length);
    const escaped = texts.map((text) => text.replace(/[.*+?^${}()|[\]\\/]/g, "\\$&"));
    this.#pattern = texts.length === 0 ? undefined : new RegExp(escaped.join("|"), "gu");
  }

  split({ text, isFirst }: { readonly text: string; readonly isFirst: boolean }): Stretch[] {
    const stretches: Stretch[] = [];
    const add = (start: number, end: number) => {
      if (start < end) stretches.push({ text: text.slice(start, end), isFirst: isFirst && start === 0 });
    };
    let before = 0;
    for (const { 0: found, index } of this.#pattern === undefined ? [] : text.matchAll(this.#pattern)) {
      const token = this.#tokens.get(found)!;
      let start = Math.max(before, index), end = index + found.length;
      // Two units suffice for one character.
      const isPart = ENDS_WITH_WORD.test(text.slice(Math.max(0, index - 2), index)) ||
        STARTS_WITH_WORD.test(text.slice(end, end + 2));
      if (token.single_word && isPart) continue;
      if (token.lstrip) { while (start > before && IS_SPACE.test(text[start - 1])) start--; }
      if (token.rstrip) { while (end < text.length && IS_SPACE.test(text[end])) end++; }
      add(before, start);
      stretches.push({ id: token.id, text: found, isFirst: false });
      before = end;
    }
    add(before, text.length);
    return stretches;
  }
}
