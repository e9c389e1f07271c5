/**
 * Text to token ids and back, by `tokenizer.json`.
 *
 * @module
 */
import type { Tokenizer as HubTokenizer } from "@huggingface/tokenizers";
import { rangeError, typeError } from "../core/errors.ts";

/** The characters that byte-level vocabularies write bytes as: printable Latin-1 as itself, the others from U+0100 on. */
export const BYTE_OF_CHARACTER: ReadonlyMap<string, number> = (() => {
  const printable = (byte: number) => byte > 0x20 && byte < 0x7f || byte > 0xa0 && byte !== 0xad;
  let next = 0x100;
  return new Map(
    Array.from({ length: 256 }, (_, byte) => [String.fromCharCode(printable(byte) ? byte : next++), byte]),
  );
})();

/** What this module reads of `tokenizer.json`. */
interface DecoderJson {
  type?: string;
  decoders?: DecoderJson[];
}

/** A checkpoint's tokenizer. */
export class Tokenizer {
  readonly #hub: HubTokenizer;
  /** Decoders that make bytes of tokens, `"ByteLevel"` and `"ByteFallback"`. */
  readonly #decoders: ReadonlySet<string>;
  readonly #added: ReadonlyMap<number, { content: string; special: boolean }>;
  readonly #cleanUp: boolean;
  /** `tokenizer_config.json` as it came: the chat template and the names of special tokens are here. */
  readonly config: Readonly<Record<string, unknown>>;

  private constructor(
    hub: HubTokenizer,
    decoder: DecoderJson | null,
    cleanUp: boolean,
    config: Readonly<Record<string, unknown>>,
  ) {
    this.config = config;
    this.#hub = hub;
    this.#decoders = new Set([decoder, ...decoder?.decoders ?? []].map((step) => step?.type ?? ""));
    this.#added = hub.get_added_tokens_decoder();
    this.#cleanUp = cleanUp;
  }

  /**
   * Makes a tokenizer.
   *
   * @param json parsed `tokenizer.json`
   * @param config parsed `tokenizer_config.json`, where there is one
   * @throws {RangeError} when the tokenizer is of a kind that does not exist
   */
  static async create(json: unknown, config: unknown = {}): Promise<Tokenizer> {
    const operation = "Tokenizer.create";
    for (const [name, value] of Object.entries({ "tokenizer.json": json, "tokenizer_config.json": config })) {
      if (typeof value !== "object" || value === null || Array.isArray(value)) {
        typeError(operation, `${name} must hold an object`, value);
      }
    }
    const whole = {
      normalizer: null,
      pre_tokenizer: null,
      post_processor: null,
      decoder: null as DecoderJson | null,
      added_tokens: [],
      ...json as Record<string, unknown>,
    };
    // Imported when a checkpoint has a tokenizer: token ids alone need none.
    const { Tokenizer: Hub } = await import("@huggingface/tokenizers");
    try {
      // The package "cleans up" spaces before punctuation unless told otherwise, which changes the text.
      const cleanUp = (config as Record<string, unknown>).clean_up_tokenization_spaces === true;
      const settings = config as Record<string, unknown>;
      return new Tokenizer(new Hub(whole, settings), whole.decoder, cleanUp, settings);
    } catch (error) {
      return rangeError(operation, "tokenizer.json must describe a tokenizer", (error as Error).message);
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
    const { ids, tokens } = this.#hub.encode(text.toWellFormed(), {
      add_special_tokens: options.addSpecialTokens ?? true,
    });
    ids.forEach((id, index) => {
      if (!Number.isInteger(id)) {
        rangeError(operation, "every part of text must have a token", tokens[index], `token ${index}`);
      }
    });
    return ids;
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
    return this.#hub.get_vocab().size;
  }

  /** The id of a token as the vocabulary spells it, where there is one. */
  idOf(token: string): number | undefined {
    return this.#hub.token_to_id(token);
  }

  /** The id of a special token by its name, where there is one. */
  specialIdOf(name: string): number | undefined {
    const id = this.idOf(name);
    return id !== undefined && this.#added.get(id)?.special ? id : undefined;
  }

  /** Whether an id has a token that is part of a text: it has one, and that is no special token. */
  hasText(id: number): boolean {
    return this.#hub.id_to_token(id) !== undefined && !this.#added.get(id)?.special;
  }

  /** The token of an id as the vocabulary spells it, where there is one. */
  tokenOf(id: number): string | undefined {
    return this.#hub.id_to_token(id);
  }

  /** The bytes that an id stands for within a text: of a split character its part; of a special token its name. */
  bytesOf(id: number): Uint8Array {
    const token = this.#hub.id_to_token(id);
    const bytes = token === undefined || this.#added.has(id) ? undefined : this.#bytesOf(token);
    // Within a text: of the first token decoders drop the space.
    return bytes ?? new TextEncoder().encode(this.stream({ specialTokens: true, before: [id] }).push(id));
  }

  /**
   * Decoding token by token.
   *
   * @param options `specialTokens` as for {@linkcode Tokenizer.decode}; `before`: token ids that the text continues,
   * whose own text does not come again. How a text begins depends on them: a word keeps its space, and half a character
   * is completed
   */
  stream(options: { specialTokens?: boolean; before?: ArrayLike<number> } = {}): TokenStream {
    const stream = this.#stream(options.specialTokens ?? false);
    const { before = [] } = options;
    for (let i = 0; i < before.length; i++) stream.push(before[i]);
    return stream;
  }

  #stream(specialTokens: boolean): TokenStream {
    // A character's bytes may be spread over tokens: the decoder keeps them until the character is whole.
    const utf8 = new TextDecoder("utf-8", { ignoreBOM: true });
    let previous: number | undefined;
    return {
      push: (id) => {
        const token = this.#hub.id_to_token(id);
        const added = this.#added.get(id);
        if (token === undefined || added?.special && !specialTokens) return "";
        const bytes = added === undefined ? this.#bytesOf(token) : undefined;
        const before = previous;
        previous = id;
        if (bytes !== undefined) return utf8.decode(bytes, { stream: true });
        return utf8.decode() + (added?.content ?? this.#textAfter(before, id));
      },
      end: () => utf8.decode(),
    };
  }

  /** The bytes that a token stands for, where its decoder reads tokens as bytes. */
  #bytesOf(token: string): Uint8Array | undefined {
    if (this.#decoders.has("ByteLevel")) {
      const bytes = Array.from(token, (character) => BYTE_OF_CHARACTER.get(character));
      return bytes.every((byte) => byte !== undefined)
        ? Uint8Array.from(bytes)
        : new TextEncoder().encode(token);
    }
    const hex = this.#decoders.has("ByteFallback") ? /^<0x([0-9A-Fa-f]{2})>$/.exec(token) : null;
    return hex === null ? undefined : Uint8Array.of(parseInt(hex[1], 16));
  }

  /** What a token adds to a text: decoders treat spaces and word parts by what stands before. */
  #textAfter(before: number | undefined, id: number): string {
    const text = (ids: number[]) =>
      this.#hub.decode(ids, { clean_up_tokenization_spaces: this.#cleanUp, skip_special_tokens: true });
    return before === undefined ? text([id]) : text([before, id]).slice(text([before]).length);
  }
}

/** Text that comes token by token: never half a character. */
export interface TokenStream {
  /** Takes the next token and returns the text that it completes, which may be empty. */
  push(id: number): string;
  /** Ends the text: what is left of an unfinished character, as U+FFFD. */
  end(): string;
}
