/**
 * Added tokens: what a text spells literally, found before anything else is done with it. The package ignores
 * `single_word`, takes white space at the sides in another order, and does not say which stretch begins the text.
 *
 * @module
 */
import { type AddedToken, escape, refuse, SPACE, WORD } from "./json.ts";
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

/** Reads `added_tokens`, or a field of another name. */
export function readAddedTokens(json: unknown, field = "added_tokens"): AddedToken[] {
  if (!Array.isArray(json)) refuse(`${field} as an array`, json);
  return json.map((token: Partial<AddedToken> | null) => {
    const { id, content } = token ?? {};
    if (!Number.isInteger(id) || typeof content !== "string") {
      refuse(`${field} with id and content`, token);
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

/** A token that a configuration describes: its name, or an object with it. */
type TokenJson = string | (Partial<AddedToken> & { readonly content?: unknown });

/** Tokens that have a name in a configuration, in the order in which new ones get ids. */
const NAMED = ["bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token"];

/**
 * Added tokens of `tokenizer.json`, completed by those of `tokenizer_config.json` as transformers does: what
 * `added_tokens_decoder` says replaces them, and special tokens that the configuration names are added, if they lack.
 *
 * @param ids of the model
 */
export function withConfigTokens(
  tokens: readonly AddedToken[],
  ids: ReadonlyMap<string, number>,
  config: Readonly<Record<string, unknown>>,
): AddedToken[] {
  // A token of the vocabulary keeps its id, whatever the file says.
  const byContent = new Map(
    tokens.map((token) => [token.content, { ...token, id: ids.get(token.content) ?? token.id }]),
  );
  const { added_tokens_decoder, ...fields } = config;
  for (const [id, token] of Object.entries(added_tokens_decoder ?? {})) {
    const [added] = readAddedTokens([{ ...token, id: Number(id) }], "added_tokens_decoder");
    byContent.set(added.content, added);
  }
  for (const token of namedTokens(fields)) {
    const content = contentOf(token);
    if (content === undefined || content === "" || byContent.has(content)) continue;
    const beyond = Math.max(ids.size, ...Array.from(byContent.values(), ({ id }) => id + 1));
    const id = ids.get(content) ?? beyond;
    const [added] = readAddedTokens([{
      ...typeof token === "string" ? {} : token,
      id,
      content,
      special: true,
    }]);
    byContent.set(content, added);
  }
  return [...byContent.values()];
}

/** Special tokens that a configuration names. */
export function namedTokens(config: Readonly<Record<string, unknown>>): TokenJson[] {
  const others = Object.keys(config).filter((key) => key.endsWith("_token") && !NAMED.includes(key));
  const { extra_special_tokens, additional_special_tokens } = config;
  const extra = [extra_special_tokens, additional_special_tokens].flatMap((value) =>
    typeof value === "object" && value !== null ? Object.values(value) : []
  );
  return [...[...NAMED, ...others].map((key) => config[key]), ...extra]
    .filter((token) => contentOf(token) !== undefined) as TokenJson[];
}

/** The text of a token that a configuration describes. */
export function contentOf(token: unknown): string | undefined {
  const content = typeof token === "object" && token !== null
    ? (token as { content?: unknown }).content
    : token;
  return typeof content === "string" ? content : undefined;
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

/** Whether a character of a word is next to a stretch. */
function isPartOfWord(text: string, start: number, end: number): boolean {
  // Two units suffice for one character.
  return ENDS_WITH_WORD.test(text.slice(Math.max(0, start - 2), start)) ||
    STARTS_WITH_WORD.test(text.slice(end, end + 2));
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
    this.#pattern = texts.length === 0 ? undefined : new RegExp(texts.map(escape).join("|"), "gu");
  }

  split({ text, isFirst }: { readonly text: string; readonly isFirst: boolean }): Stretch[] {
    const stretches: Stretch[] = [];
    const add = (start: number, end: number) => {
      if (start < end) stretches.push({ text: text.slice(start, end), isFirst: isFirst && start === 0 });
    };
    let before = 0;
    for (const { 0: found, index } of this.#pattern === undefined ? [] : text.matchAll(this.#pattern)) {
      const token = this.#tokens.get(found)!;
      let start = index, end = index + found.length;
      if (token.single_word && isPartOfWord(text, index, end)) continue;
      if (token.rstrip) { while (end < text.length && IS_SPACE.test(text[end])) end++; }
      if (token.lstrip) {
        while (start > before && IS_SPACE.test(text[start - 1])) start--;
        start = Math.max(start, before);
      }
      add(before, start);
      // White space that the token before has taken counts again, but not for a token that takes some itself.
      if (start < end) stretches.push({ id: token.id, text: found, isFirst: false });
      before = end;
    }
    add(before, text.length);
    return stretches;
  }
}
