/**
 * Text to token ids and back, by `tokenizer.json`, as the official library does it.
 *
 * Regular expressions and WordPiece come from the package `@huggingface/tokenizers`, templates from `@huggingface/jinja`.
 * All else is in `tokenizer/`: the package computes it differently, takes too long, or decodes no streams. Each file
 * there says which. `tokenizer/files.ts` finds a checkpoint's tokenizer, whichever files it is in.
 *
 * @module
 */
import { rangeError, typeError } from "../core/errors.ts";
import { AddedTokens, readAddedTokens, withConfigTokens } from "./tokenizer/added.ts";
import { fallbackByte, levelBytes } from "./tokenizer/bytes.ts";
import { type ChatMessage, type ChatTemplateOptions, ChatTemplates, templateOf } from "./tokenizer/chat.ts";
import type { Jinja } from "./tokenizer/template.ts";
import { Decoder } from "./tokenizer/decode.ts";
import { type AddedToken, flatten, OPERATION, type TokenizerJson } from "./tokenizer/json.ts";
import { createModel, type Model } from "./tokenizer/model.ts";
import { createNormalizer } from "./tokenizer/normalize.ts";
import type { Hub } from "./tokenizer/pattern.ts";
import { createPostProcessor, type PostProcessor } from "./tokenizer/process.ts";
import { createPreTokenizer, type PreTokenizer } from "./tokenizer/split.ts";

/** See {@linkcode Tokenizer.recent}. */
export const RECENT_TOKENS = 8;

/** A checkpoint's tokenizer. */
export class Tokenizer {
  /**
   * `tokenizer_config.json` as it came: the names of special tokens are here, and the chat template, which a
   * `chat_template.jinja` replaces.
   */
  readonly config: Readonly<Record<string, unknown>>;
  /** `tokenizer.json` as it came. */
  readonly json: unknown;
  readonly #model: Model;
  readonly #added: AddedTokens;
  readonly #preTokenize: PreTokenizer;
  readonly #postProcess: PostProcessor;
  readonly #decoder: Decoder;
  readonly #chats: ChatTemplates;
  /** Types of the decoder's steps. */
  readonly #decoders: ReadonlySet<unknown>;
  readonly #addedById: ReadonlyMap<number, AddedToken>;
  readonly #ids: ReadonlyMap<string, number>;
  readonly #tokens: ReadonlyMap<number, string>;

  private constructor(
    { hub, jinja }: { hub: Hub; jinja: Jinja },
    json: TokenizerJson,
    config: Readonly<Record<string, unknown>>,
  ) {
    const { normalizer = null, pre_tokenizer = null, post_processor = null, decoder = null } = json;
    this.config = config;
    this.json = json;
    this.#chats = new ChatTemplates(jinja);
    this.#model = createModel(hub, json.model);
    const added = withConfigTokens(readAddedTokens(json.added_tokens ?? []), this.#model.ids, config);
    this.#added = new AddedTokens(added, createNormalizer(hub, normalizer));
    this.#preTokenize = createPreTokenizer(hub, pre_tokenizer, normalizer);
    this.#postProcess = createPostProcessor(post_processor);
    this.#decoder = new Decoder(hub, decoder, config.clean_up_tokenization_spaces === true);
    this.#decoders = new Set(flatten(decoder, "decoders").map(({ type }) => type));
    this.#addedById = new Map(added.map((token) => [token.id, token]));
    this.#ids = new Map([...this.#model.ids, ...added.map(({ content, id }) => [content, id] as const)]);
    this.#tokens = new Map([
      ...Array.from(this.#model.ids, ([token, id]) => [id, token] as const),
      ...added.map(({ content, id }) => [id, content] as const),
    ]);
  }

  /**
   * Makes a tokenizer. Features that the official library has and this one does not compute in the same way are refused
   * by their name.
   *
   * @param json parsed `tokenizer.json`
   * @param config parsed `tokenizer_config.json`, if any
   * @throws {TypeError} when one of them is no object
   * @throws {RangeError} when the tokenizer is of a kind that does not exist, or has a feature that is not computed
   */
  static async create(json: unknown, config: unknown = {}): Promise<Tokenizer> {
    for (const [name, value] of Object.entries({ "tokenizer.json": json, "tokenizer_config.json": config })) {
      if (typeof value !== "object" || value === null || Array.isArray(value)) {
        typeError(OPERATION, `${name} must hold an object`, value);
      }
    }
    // Imported when a checkpoint has a tokenizer: token ids alone need none.
    const [hub, jinja] = await Promise.all([import("@huggingface/tokenizers"), import("@huggingface/jinja")]);
    try {
      return new Tokenizer({ hub, jinja }, json as TokenizerJson, config as Record<string, unknown>);
    } catch (error) {
      if (error instanceof RangeError && error.message.startsWith("Cannot run ")) throw error;
      return rangeError(OPERATION, "tokenizer.json must describe a tokenizer", (error as Error).message);
    }
  }

  /**
   * Token ids of a text.
   *
   * @param text any string; lone surrogates count as U+FFFD
   * @param options `addSpecialTokens`: whether the tokenizer adds what it adds to a prompt, such as a begin-of-sequence
   * token; default true
   * @throws {RangeError} when the tokenizer makes a token that its vocabulary lacks
   */
  encode(text: string, options: { addSpecialTokens?: boolean } = {}): number[] {
    const operation = "Tokenizer.encode";
    if (typeof text !== "string") typeError(operation, "text must be a string", text);
    const ids: number[] = [];
    for (const stretch of this.#added.split(text.toWellFormed())) {
      if (stretch.id !== undefined) {
        ids.push(stretch.id);
        continue;
      }
      for (const piece of this.#preTokenize(stretch)) {
        for (const id of this.#model.encode(piece.text)) {
          if (id === undefined) {
            const { unknown } = this.#model;
            rangeError(operation, "every part of text must have a token", unknown, `token ${ids.length}`);
          }
          ids.push(id);
        }
      }
    }
    return options.addSpecialTokens ?? true ? this.#postProcess(ids) : ids;
  }

  /**
   * The text of token ids; ids without a token give none.
   *
   * @param options `specialTokens`: whether special tokens give their name as text; default false, they give none
   */
  decode(ids: ArrayLike<number>, options: { specialTokens?: boolean } = {}): string {
    const stream = this.stream(options);
    return Array.from(ids, (id) => stream.push(id)).join("") + stream.end();
  }

  /** Number of ids that have a token. */
  get size(): number {
    return this.#tokens.size;
  }

  /** The id of a token as the vocabulary spells it, if there is one. */
  idOf(token: string): number | undefined {
    return this.#ids.get(token);
  }

  /** The id of a special token by its name, if there is one. */
  specialIdOf(name: string): number | undefined {
    const id = this.idOf(name);
    return id !== undefined && this.#addedById.get(id)?.special ? id : undefined;
  }

  /** Whether an id has a token that is part of a text: it has one, and that is no special token. */
  hasText(id: number): boolean {
    return this.#tokens.has(id) && !this.#addedById.get(id)?.special;
  }

  /**
   * The last ids that have text, at most eight: no character, no rule about spaces and no text that is held back
   * reaches further.
   */
  recent(ids: ArrayLike<number>, specialTokens = false): number[] {
    const recent: number[] = [];
    for (let i = ids.length - 1; i >= 0 && recent.length < RECENT_TOKENS; i--) {
      if (specialTokens ? this.#tokens.has(ids[i]) : this.hasText(ids[i])) recent.push(ids[i]);
    }
    return recent.reverse();
  }

  /** The token of an id as the vocabulary spells it, if there is one. */
  tokenOf(id: number): string | undefined {
    return this.#tokens.get(id);
  }

  /**
   * The bytes that an id represents within a text: its part of a split character, the space of a word too; for a
   * special token its name.
   */
  bytesOf(id: number): Uint8Array {
    const token = this.#tokens.get(id);
    if (token === undefined) return new Uint8Array();
    const isSpecial = !this.hasText(id);
    if (!isSpecial && this.#decoders.has("ByteLevel")) return levelBytes(token);
    const byte = isSpecial || !this.#decoders.has("ByteFallback") ? undefined : fallbackByte(token);
    if (byte !== undefined) return Uint8Array.of(byte);
    const run = this.#decoder.start(), before = "x"; // anything, so that the token is not the first
    const text = run.push({ text: before, isLiteral: true }) +
      run.push({ text: token, isLiteral: isSpecial }) +
      run.end();
    return new TextEncoder().encode(text.slice(before.length));
  }

  /**
   * The chat template of a name, as Jinja: of the only one, or of `"default"`, where none is given.
   *
   * @returns nothing where the checkpoint brings no such template
   */
  chatTemplate(name = "default"): string | undefined {
    return templateOf(this.config, name);
  }

  /**
   * A chat as text, by the template that the checkpoint brings: `tool_use`, if there are tools and it brings one of that
   * name, else `default`. The text holds its special tokens: `encode` it with `addSpecialTokens: false`.
   *
   * @example
   * ```ts
   * import { Tokenizer } from "@levin/attention/tnl";
   * import assert from "node:assert/strict";
   *
   * const json = { model: { type: "WordLevel", vocab: { Hi: 0, "<end>": 1 }, unk_token: "<end>" } };
   * const chat_template = "{% for m in messages %}{{ m.role }}: {{ m.content }}{{ eos_token }}{% endfor %}" +
   *   "{% if add_generation_prompt %}assistant: {% endif %}";
   * const tokenizer = await Tokenizer.create(json, { chat_template, eos_token: "<end>" });
   * const messages = [{ role: "user", content: "Hi" }];
   * const text = tokenizer.applyChatTemplate(messages, { addGenerationPrompt: true });
   * assert.equal(text, "user: Hi<end>assistant: ");
   * ```
   *
   * @param messages at least one
   * @param options see {@linkcode ChatTemplateOptions}
   * @throws {TypeError} when `messages` is no array of objects with a role
   * @throws {RangeError} when there is no message or no template, or the template refuses the messages: the message says
   * why, and `cause` is what it threw
   */
  applyChatTemplate(messages: readonly ChatMessage[], options: ChatTemplateOptions = {}): string {
    return this.#chats.render(this.config, messages, options);
  }

  /**
   * Decoding token by token.
   *
   * @param options `specialTokens` as for {@linkcode Tokenizer.decode}; `before`: token ids that the text continues,
   * whose own text does not come again. How a text begins depends on them: a word keeps its space, and half a character
   * is completed
   */
  stream(options: { specialTokens?: boolean; before?: ArrayLike<number> } = {}): TokenStream {
    const { specialTokens = false, before = [] } = options;
    const start = () => {
      const run = this.#decoder.start();
      const push = (id: number) => {
        const token = this.#tokens.get(id), isLiteral = !this.hasText(id);
        return token === undefined || isLiteral && !specialTokens ? "" : run.push({ text: token, isLiteral });
      };
      for (const id of this.recent(before, specialTokens)) push(id);
      return { push, end: () => run.end() };
    };
    const stream = start();
    // What is still held back of the text before is part of that text: it must not come again.
    let known = before.length === 0 ? "" : start().end();
    const withoutKnown = (text: string) => {
      if (known === "" || text === "") return text;
      const length = Math.min(known.length, text.length);
      const isKnown = known.slice(0, length) === text.slice(0, length);
      known = isKnown ? known.slice(length) : "";
      return isKnown ? text.slice(length) : text;
    };
    return { push: (id) => withoutKnown(stream.push(id)), end: () => withoutKnown(stream.end()) };
  }
}

/** Text that comes token by token: never half a character. */
export interface TokenStream {
  /** Takes the next token and returns the text that it completes, which may be empty. */
  push(id: number): string;
  /** Ends the text: what is left of an unfinished character, as U+FFFD. */
  end(): string;
}
