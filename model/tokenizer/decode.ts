/**
 * Decoders: tokens to text, one token at a time; the package decodes whole texts only. Each step takes and gives pieces
 * in order, and keeps what it must know of those before. So the text of a stream is that of the whole, and a text that
 * continues another begins as it must.
 *
 * @module
 */
import { fallbackByte, levelBytes } from "./bytes.ts";
import { compilePattern, type Hub } from "./pattern.ts";
import { flatten, type Part, type PatternJson, refuse } from "./json.ts";
import type { SpaceRules } from "./sentencepiece.ts";
import { prependScheme } from "./split.ts";

/** A token that becomes text. */
export interface DecoderPiece {
  readonly text: string;
  /** Whether it stays as it is: the name of a special token. */
  readonly isLiteral: boolean;
}

/** A step of decoding, for one text. */
interface Step {
  push(piece: DecoderPiece): DecoderPiece[];
  /** What was held back, when no more comes. */
  end(): DecoderPiece[];
}

/** Makes a step for a new text. */
type StepMaker = () => Step;

/** Text of tokens, one after another. */
export class Decoder {
  readonly #makers: readonly StepMaker[];

  /** @param cleansUp whether spaces before punctuation go, as `clean_up_tokenization_spaces` says */
  constructor(hub: Hub, part: Part | null, cleansUp: boolean) {
    const parts = flatten(part, "decoders");
    const fuse = parts.findIndex(({ type }) => type === "Fuse");
    const rules = part?.sentencepiece as SpaceRules | undefined, bytes = parts.find(isByteFallback);
    const makers = rules !== undefined
      ? [() => new SentencePieces(rules, bytes !== undefined), ...bytes ? [maker(hub, bytes, false)] : []]
      : parts.length === 0
      ? [spacesBetween]
      : parts.map((part, i) => maker(hub, part, fuse >= 0 && i > fuse));
    this.#makers = [...makers, ...cleansUp ? CLEAN_UP : []];
  }

  /** A new text. */
  start(): DecoderRun {
    return new DecoderRun(this.#makers.map((make) => make()));
  }
}

/** A text in progress. */
export class DecoderRun {
  readonly #steps: readonly Step[];

  constructor(steps: readonly Step[]) {
    this.#steps = steps;
  }

  /** Takes a token and returns the text that is certain. */
  push(piece: DecoderPiece): string {
    return this.#from(0, [piece]);
  }

  /** The text that was held back. */
  end(): string {
    return this.#steps.map((step, i) => this.#from(i + 1, step.end())).join("");
  }

  #from(first: number, pieces: DecoderPiece[]): string {
    for (let i = first; i < this.#steps.length && pieces.length > 0; i++) {
      const step = this.#steps[i];
      pieces = pieces.length === 1 ? step.push(pieces[0]) : pieces.flatMap((piece) => step.push(piece));
    }
    return pieces.length === 1 ? pieces[0].text : pieces.map(({ text }) => text).join("");
  }
}

/** @param isFused whether a `Fuse` precedes the step, so that all tokens are one to it */
function maker(hub: Hub, part: Part, isFused: boolean): StepMaker {
  const { type } = part;
  if (isFused && type !== "Strip" && type !== "Fuse" && !isCharacter(part)) {
    refuse("without this decoder behind Fuse", type);
  }
  switch (type) {
    case "Fuse":
      return each((text) => text);
    case "Replace": {
      const pattern = compilePattern(hub, part.pattern as PatternJson), content = String(part.content);
      return each((text) => text.replace(pattern, () => content));
    }
    case "Strip": {
      const { content, start, stop } = part as { content?: string; start?: number; stop?: number };
      if (typeof content !== "string" || !Number.isInteger(start) || !Number.isInteger(stop)) {
        refuse("Strip with content, start and stop", content);
      }
      return isFused
        ? () => new StripText(content, start!, stop!)
        : each((text) => stripStop(stripStart(text, content, start!), content, stop!));
    }
    case "ByteLevel": {
      const known = new Map<string, Uint8Array<ArrayBuffer> | string>();
      const bytesOf = (token: string) => {
        let bytes = known.get(token);
        if (bytes === undefined) known.set(token, bytes = asciiOrBytes(levelBytes(token)));
        return bytes;
      };
      return () => new Utf8(bytesOf, "\ufffd of a cut character");
    }
    case "ByteFallback":
      return () =>
        new Utf8((token) => {
          const byte = fallbackByte(token);
          return byte === undefined ? undefined : Uint8Array.of(byte);
        }, "\ufffd of each byte");
    case "Metaspace": {
      const { replacement = "▁" } = part, scheme = prependScheme(part);
      if (typeof replacement !== "string") refuse("Metaspace with a replacement", replacement);
      return byPlace((text, isFirst) =>
        text.replaceAll(replacement, isFirst && scheme !== "never" ? "" : " ")
      );
    }
    case "WordPiece": {
      const { prefix = "##", cleanup = true } = part;
      if (typeof prefix !== "string") refuse("WordPiece with a prefix", prefix);
      return byPlace((text, isFirst) => {
        const isInside = text.startsWith(prefix);
        const word = isFirst ? text : isInside ? text.slice(prefix.length) : ` ${text}`;
        return cleanup ? cleanUp(word) : word;
      });
    }
    case "BPEDecoder": {
      const { suffix = "</w>" } = part;
      if (typeof suffix !== "string" || suffix === "") refuse("BPEDecoder with a suffix", suffix);
      return () => new WordEnds(suffix);
    }
    default:
      return refuse("without this decoder", type);
  }
}

/** Whether a step treats each character on its own, so that it does not matter how a text is cut. */
function isCharacter({ type, pattern }: Part): boolean {
  const text = (pattern as PatternJson | undefined)?.String;
  return type === "Replace" && typeof text === "string" && Array.from(text).length === 1;
}

/** A step that treats every token alike. */
function each(change: (text: string) => string): StepMaker {
  return byPlace((text) => change(text));
}

/** A step that treats the first token of a text in another way. */
function byPlace(change: (text: string, isFirst: boolean) => string): StepMaker {
  return () => {
    let isFirst = true;
    return {
      push(piece) {
        const result = piece.isLiteral ? piece : { text: change(piece.text, isFirst), isLiteral: false };
        isFirst = false;
        return [result];
      },
      end: () => [],
    };
  };
}

/**
 * SentencePiece's own way: a text begins anew behind a special token whose name is shown, and bytes count as text. The
 * official decoders strip the beginning of the whole, whatever it is.
 */
class SentencePieces implements Step {
  readonly #strips: SpaceRules["strips"];
  readonly #surfaces: ReadonlyMap<string, string>;
  readonly #hasBytes: boolean;
  #isBeginning = true;

  constructor({ strips, surfaces }: SpaceRules, hasBytes: boolean) {
    this.#strips = strips;
    this.#surfaces = new Map(Object.entries(surfaces));
    this.#hasBytes = hasBytes;
  }

  push(piece: DecoderPiece): DecoderPiece[] {
    if (piece.isLiteral) this.#isBeginning = true;
    if (piece.isLiteral) return [piece];
    let text = this.#surfaces.get(piece.text);
    if (text === undefined) {
      text = piece.text;
      if (this.#hasBytes && fallbackByte(text) !== undefined) {
        this.#isBeginning = false;
        return [piece];
      }
      const strips = this.#isBeginning && this.#strips !== "none" && text.startsWith("▁");
      if (strips) text = text.slice(1);
      if (strips && this.#strips === "first") this.#isBeginning = false;
      text = text.replaceAll("▁", " ");
    }
    if (text !== "") this.#isBeginning = false;
    // Literal: a piece that looks like a byte is none. Empty ones end a character, too.
    return [{ text, isLiteral: true }];
  }

  end(): DecoderPiece[] {
    return [];
  }
}

function isByteFallback({ type }: Part): boolean {
  return type === "ByteFallback";
}

/** What a file without a decoder does. */
const spacesBetween: StepMaker = () => {
  let isFirst = true;
  return {
    push({ text, isLiteral }) {
      const spaced = isFirst ? text : ` ${text}`;
      isFirst = false;
      return [{ text: spaced, isLiteral }];
    },
    end: () => [],
  };
};

function stripStart(text: string, content: string, count: number): string {
  let at = 0;
  while (at < count && text[at] === content) at++;
  return text.slice(at);
}

function stripStop(text: string, content: string, count: number): string {
  let end = text.length;
  while (text.length - end < count && text[end - 1] === content) end--;
  return text.slice(0, end);
}

/** Strips the whole text: its end is held back while more may come. */
class StripText implements Step {
  readonly #content: string;
  readonly #stop: number;
  #start: number;
  #held = "";

  constructor(content: string, start: number, stop: number) {
    this.#content = content;
    this.#start = start;
    this.#stop = stop;
  }

  push({ text, isLiteral }: DecoderPiece): DecoderPiece[] {
    const rest = isLiteral ? text : stripStart(text, this.#content, this.#start);
    this.#start = rest === "" ? this.#start - text.length : 0;
    if (rest === "") return [];
    const whole = this.#held + rest;
    const ready = isLiteral ? whole : stripStop(whole, this.#content, this.#stop);
    this.#held = whole.slice(ready.length);
    return [{ text: ready, isLiteral: false }];
  }

  end(): DecoderPiece[] {
    return [];
  }
}

/** Bytes to characters. */
class Utf8 implements Step {
  readonly #bytesOf: (token: string) => Uint8Array<ArrayBuffer> | string | undefined;
  readonly #marksEachByte: boolean;
  readonly #decoder = new TextDecoder("utf-8", { ignoreBOM: true });
  /** Whether the decoder may hold a part of a character. */
  #mayBeCut = false;
  /** With byte fallback: bytes of a character that is not whole. */
  #pending: number[] = [];

  /**
   * @param bytesOf the bytes of a token, as a string if they are ASCII @param marks what replaces bytes that are no UTF-8, as
   * in the official library
   */
  constructor(
    bytesOf: (token: string) => Uint8Array<ArrayBuffer> | string | undefined,
    marks: "\ufffd of each byte" | "\ufffd of a cut character",
  ) {
    this.#bytesOf = bytesOf;
    this.#marksEachByte = marks === "\ufffd of each byte";
  }

  push(piece: DecoderPiece): DecoderPiece[] {
    const bytes = piece.isLiteral ? undefined : this.#bytesOf(piece.text);
    if (bytes === undefined) return [...this.end(), piece];
    if (typeof bytes === "string") return [...this.end(), { text: bytes, isLiteral: false }];
    if (!this.#marksEachByte) {
      this.#mayBeCut = true;
      return text(this.#decoder.decode(bytes, { stream: true }));
    }
    this.#pending.push(...bytes);
    return text(this.#ready());
  }

  end(): DecoderPiece[] {
    if (!this.#mayBeCut && this.#pending.length === 0) return []; // most tokens are ASCII, and the decoder's call costs
    this.#mayBeCut = false;
    const rest = this.#marksEachByte ? "\ufffd".repeat(this.#pending.length) : this.#decoder.decode();
    this.#pending = [];
    return text(rest);
  }

  /** The characters that are whole, and a mark for each byte that can be part of none. */
  #ready(): string {
    let ready = "";
    while (this.#pending.length > 0) {
      const [first, ...rest] = this.#pending;
      const length = first < 0x80 ? 1 : first >= 0xf0 ? 4 : first >= 0xe0 ? 3 : 2;
      const isCut = first >= 0xc2 && first < 0xf5 && this.#pending.length < length &&
        rest.every((byte) => byte >= 0x80 && byte < 0xc0);
      if (isCut) break;
      const bytes = Uint8Array.from(this.#pending.slice(0, length));
      const character = new TextDecoder("utf-8", { ignoreBOM: true }).decode(bytes);
      const isWhole = !character.includes("\ufffd") || bytes.join() === "239,191,189"; // U+FFFD itself
      ready += isWhole ? character : "\ufffd";
      this.#pending.splice(0, isWhole ? length : 1);
    }
    return ready;
  }
}

/** Bytes, as a string if all of them are ASCII. */
function asciiOrBytes(bytes: Uint8Array<ArrayBuffer>): Uint8Array<ArrayBuffer> | string {
  return bytes.every((byte) => byte < 0x80) ? String.fromCharCode(...bytes) : bytes;
}

function text(text: string): DecoderPiece[] {
  return text === "" ? [] : [{ text, isLiteral: false }];
}

/** Ends of words are spaces, but not at the end of the text. */
class WordEnds implements Step {
  readonly #suffix: string;
  #last: DecoderPiece | undefined;

  constructor(suffix: string) {
    this.#suffix = suffix;
  }

  push(piece: DecoderPiece): DecoderPiece[] {
    const last = this.#last;
    this.#last = piece;
    return last === undefined ? [] : [this.#ended(last, " ")];
  }

  end(): DecoderPiece[] {
    const last = this.#last;
    this.#last = undefined;
    return last === undefined ? [] : [this.#ended(last, "")];
  }

  #ended({ text, isLiteral }: DecoderPiece, end: string): DecoderPiece {
    return { text: isLiteral ? text : text.replaceAll(this.#suffix, end), isLiteral };
  }
}

/** What transformers calls cleaning up: one after another. */
const REPLACEMENTS: readonly (readonly [from: string, to: string])[] = [
  [" .", "."],
  [" ?", "?"],
  [" !", "!"],
  [" ,", ","],
  [" ' ", "'"],
  [" n't", "n't"],
  [" 'm", "'m"],
  [" 's", "'s"],
  [" 've", "'ve"],
  [" 're", "'re"],
];

function cleanUp(text: string): string {
  return REPLACEMENTS.reduce((result, [from, to]) => result.replaceAll(from, to), text);
}

const CLEAN_UP: readonly StepMaker[] = REPLACEMENTS.map(([from, to]) => () => new ReplaceText(from, to));

/** Replaces in the whole text: what may be the beginning of a match is held back. */
class ReplaceText implements Step {
  readonly #from: string;
  readonly #to: string;
  #held = "";

  constructor(from: string, to: string) {
    this.#from = from;
    this.#to = to;
  }

  push(piece: DecoderPiece): DecoderPiece[] {
    const parts = (this.#held + piece.text).split(this.#from);
    const last = parts.pop()!;
    let length = Math.min(this.#from.length - 1, last.length);
    while (length > 0 && !this.#from.startsWith(last.slice(-length))) length--;
    this.#held = last.slice(last.length - length);
    return text([...parts, last.slice(0, last.length - length)].join(this.#to));
  }

  end(): DecoderPiece[] {
    const rest = this.#held;
    this.#held = "";
    return text(rest);
  }
}
