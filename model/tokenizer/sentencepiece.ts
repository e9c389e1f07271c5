/**
 * SentencePiece's `tokenizer.model`: as the parts of a `tokenizer.json` where these compute the same, and as parts of
 * its own type, `"SentencePiece"`, where they do not. The official library refuses that type by its name.
 *
 * What its parts differ in: user-defined pieces are found after the dummy prefix was added and stay whole; the longest
 * entry of a charsmap counts; white space is trimmed and joined; pieces may be unused; equal scores go by place; sums of
 * unigrams are in single precision.
 *
 * @module
 */
import { Bpe, type Merge } from "./bpe.ts";
import { FALLBACK_NAMES } from "./bytes.ts";
import { Charsmap, fromBase64 } from "./charsmap.ts";
import { escape, MAX_TOKEN_CHARACTERS, MAX_TOKENS, type Part, refuse, type TokenizerJson } from "./json.ts";
import { keeping } from "./keep.ts";
import type { Model } from "./model.ts";
import { readFields } from "./protobuf.ts";
import { Unigram } from "./unigram.ts";

/** What SentencePiece writes spaces as. */
const SPACE = "▁";

/** Kinds of pieces, as the file numbers them from 1. */
const KINDS = ["normal", "unknown", "control", "user-defined", "unused", "byte"] as const;
type Kind = typeof KINDS[number];

/** A piece: its text, its score, and what it is. */
type Piece = readonly [text: string, score: number, kind: Kind];

const ALGORITHMS: Readonly<Record<number, Algorithm>> = { 1: "Unigram", 2: "BPE", 4: "Char" };
type Algorithm = "Unigram" | "BPE" | "Char";

/** A part of this type, as a normaliser. */
interface NormalizerPart extends Part {
  readonly type: "SentencePiece";
  /** In base64, or null for none. */
  readonly precompiled_charsmap: string | null;
  readonly add_dummy_prefix: boolean;
  readonly remove_extra_whitespaces: boolean;
  readonly escape_whitespaces: boolean;
  readonly treat_whitespace_as_suffix: boolean;
  /** Pieces that stay as they are. */
  readonly user_defined: readonly string[];
}

/** A part of this type, as a model. */
interface ModelPart extends Part {
  readonly type: "SentencePiece";
  readonly algorithm: Algorithm;
  readonly byte_fallback: boolean;
  readonly vocab: readonly Piece[];
}

/** How SentencePiece decodes. The official decoders, which stand next to it in the file, cannot say all of it. */
export interface SpaceRules {
  /** What goes of the spaces before a text: none, the dummy prefix, or one of each token until a text comes. */
  readonly strips: "none" | "first" | "all";
  /** Texts of pieces that have another: none for control pieces, a mark for the unknown. */
  readonly surfaces: Readonly<Record<string, string>>;
}

/**
 * Reads a model.
 *
 * @throws {RangeError} when the bytes are no model, or of a kind that is not computed
 */
export function readSentencePiece(bytes: Uint8Array<ArrayBuffer>): TokenizerJson {
  const pieces: Piece[] = [];
  let trainer = new Uint8Array(0), normalizer = new Uint8Array(0), denormalizer = new Uint8Array(0);
  for (const { field, bytes: message } of readFields(bytes)) {
    if (message === undefined) continue;
    if (field === 1) pieces.push(readPiece(message, pieces.length));
    if (pieces.length > MAX_TOKENS) refuse(`SentencePiece with at most ${MAX_TOKENS} pieces`, "more");
    if (field === 2) trainer = message;
    if (field === 3) normalizer = message;
    if (field === 5) denormalizer = message;
  }
  if (pieces.length === 0) refuse("a SentencePiece model with pieces", `${bytes.length} bytes`);
  for (const { field, bytes } of readFields(denormalizer)) {
    if (field === 2 && bytes!.length > 0) refuse("SentencePiece without a denormalizer_spec", bytes!.length);
  }
  const trained = readTrainer(trainer);
  const { algorithm, byte_fallback, unknownSurface } = trained;
  const normalizerPart: NormalizerPart = {
    ...readNormalizer(normalizer),
    treat_whitespace_as_suffix: trained.treat_whitespace_as_suffix,
    user_defined: textsOf(pieces, "user-defined"),
  };
  const { add_dummy_prefix, remove_extra_whitespaces } = normalizerPart;
  const modelPart: ModelPart = { type: "SentencePiece", algorithm, byte_fallback, vocab: pieces };
  createSentencePiece(modelPart); // refuses what is wrong
  const rules: SpaceRules = {
    strips: remove_extra_whitespaces ? "all" : add_dummy_prefix ? "first" : "none",
    surfaces: Object.fromEntries([
      ...textsOf(pieces, "control").map((text) => [text, ""]),
      ...textsOf(pieces, "unknown").map((text) => [text, unknownSurface]),
    ]),
  };
  const plain = plainBpe(normalizerPart, modelPart);
  return {
    version: "1.0",
    truncation: null,
    padding: null,
    added_tokens: [],
    normalizer: plain === undefined ? normalizerPart : {
      type: "Sequence",
      normalizers: [
        ...add_dummy_prefix ? [{ type: "Prepend", prepend: SPACE }] : [],
        { type: "Replace", pattern: { String: " " }, content: SPACE },
      ],
    },
    pre_tokenizer: plain !== undefined && isOfWords(pieces)
      ? { type: "Split", pattern: { Regex: WORDS }, behavior: "Isolated", invert: false }
      : null,
    post_processor: null,
    decoder: {
      type: "Sequence",
      decoders: [
        { type: "Replace", pattern: { String: SPACE }, content: " " },
        ...byte_fallback ? [{ type: "ByteFallback" }] : [],
        { type: "Fuse" },
        ...rules.strips === "none" ? [] : [{ type: "Strip", content: " ", start: 1, stop: 0 }],
      ],
      sentencepiece: rules,
    },
    model: plain ?? modelPart,
  };
}

function readPiece(message: Uint8Array<ArrayBuffer>, id: number): Piece {
  let text: string | undefined, score = 0, kind: Kind | undefined = "normal";
  for (const { field, bytes, number } of readFields(message)) {
    if (field === 1) text = asText(bytes, id);
    if (field === 2) score = number!;
    if (field === 3) kind = KINDS[number! - 1];
  }
  if (kind === undefined) refuse("SentencePiece with known kinds of pieces", `piece ${id}`);
  if (text === undefined || text === "") refuse("SentencePiece without empty pieces", `piece ${id}`);
  if (text.length > MAX_TOKEN_CHARACTERS) {
    refuse(`SentencePiece with pieces of at most ${MAX_TOKEN_CHARACTERS} characters`, `piece ${id}`);
  }
  if (!Number.isFinite(score)) refuse("SentencePiece with finite scores", `${score}, piece ${id}`);
  return [text, score, kind];
}

function asText(bytes: Uint8Array | undefined, id: number): string {
  try {
    return new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(bytes);
  } catch {
    return refuse("SentencePiece with pieces in UTF-8", `piece ${id}`);
  }
}

/** Defaults are those of the format. */
function readTrainer(message: Uint8Array<ArrayBuffer>) {
  let algorithm: Algorithm | undefined = "Unigram", byte_fallback = false, unknownSurface = " \u2047 ";
  let treat_whitespace_as_suffix = false;
  for (const { field, number, bytes } of readFields(message)) {
    if (field === 3) {
      algorithm = ALGORITHMS[number!] ?? refuse("SentencePiece of BPE, unigrams or characters", number);
    }
    if (field === 24) treat_whitespace_as_suffix = number !== 0;
    if (field === 35) byte_fallback = number !== 0;
    if (field === 44) unknownSurface = new TextDecoder().decode(bytes);
  }
  return { algorithm, byte_fallback, unknownSurface, treat_whitespace_as_suffix };
}

function readNormalizer(message: Uint8Array<ArrayBuffer>) {
  let precompiled_charsmap: string | null = null;
  let [add_dummy_prefix, remove_extra_whitespaces, escape_whitespaces] = [true, true, true];
  for (const { field, number, bytes } of readFields(message)) {
    if (field === 2 && bytes!.length > 0) precompiled_charsmap = toBase64(bytes!);
    if (field === 3) add_dummy_prefix = number !== 0;
    if (field === 4) remove_extra_whitespaces = number !== 0;
    if (field === 5) escape_whitespaces = number !== 0;
  }
  const type = "SentencePiece" as const;
  return { type, precompiled_charsmap, add_dummy_prefix, remove_extra_whitespaces, escape_whitespaces };
}

function toBase64(bytes: Uint8Array): string {
  let text = "";
  for (const byte of bytes) text += String.fromCharCode(byte);
  return btoa(text);
}

function textsOf(pieces: readonly Piece[], wanted: Kind): string[] {
  return pieces.filter(([, , kind]) => kind === wanted).map(([text]) => text);
}

/** Words, each with the spaces before it. */
const WORDS = "▁*[^▁]+|▁+";

/** Whether words are encoded one by one as they are together: no piece reaches from one into the next. */
function isOfWords(vocab: readonly Piece[]): boolean {
  return vocab.some(([text, , kind]) => text === SPACE && kind === "normal") &&
    vocab.every(([text, , kind]) =>
      kind === "control" || kind === "unknown" || kind === "byte" || !/[^▁]▁/.test(text)
    );
}

/** The model as the official library's BPE, where that computes the same. */
function plainBpe(
  normalizer: NormalizerPart,
  { algorithm, vocab, byte_fallback }: ModelPart,
): Part | undefined {
  const isPlain = algorithm === "BPE" && normalizer.precompiled_charsmap === null &&
    normalizer.escape_whitespaces && !normalizer.remove_extra_whitespaces &&
    !(normalizer.treat_whitespace_as_suffix && normalizer.add_dummy_prefix) &&
    vocab.every(([text, , kind]) =>
      kind === "normal" || kind === "byte" || (kind === "control" || kind === "unknown") && text.length > 1
    );
  if (!isPlain) return undefined;
  const { merges, texts, scores } = mergesOf(vocab);
  if (texts.length > vocab.length || new Set(scores).size < scores.length) return undefined;
  return {
    type: "BPE",
    dropout: null,
    unk_token: textsOf(vocab, "unknown")[0],
    continuing_subword_prefix: null,
    end_of_word_suffix: null,
    fuse_unk: true,
    byte_fallback,
    ignore_merges: false,
    vocab: Object.fromEntries(vocab.map(([text], id) => [text, id])),
    merges: [...merges].sort((a, b) => a.rank - b.rank).map(({ left, right }) => [texts[left], texts[right]]),
    ranks_tokens: true,
  };
}

/**
 * What may be merged: every two neighbours that are a piece together. Characters without a piece of their own may be
 * part of one; they get ids beyond the vocabulary.
 */
function mergesOf(vocab: readonly Piece[]): { merges: Merge[]; texts: string[]; scores: number[] } {
  const texts = vocab.map(([text]) => text), ids = new Map<string, number>();
  vocab.forEach(([text, , kind], id) => {
    if (kind === "normal" || kind === "unused") ids.set(text, id);
  });
  const isWhole = new Set([...textsOf(vocab, "user-defined")]);
  const idOf = (text: string): number | undefined => {
    const id = ids.get(text);
    if (id !== undefined || isWhole.has(text) || Array.from(text).length > 1) return id;
    ids.set(text, texts.push(text) - 1);
    return texts.length - 1;
  };
  const pairs: { left: number; right: number; merged: number; score: number }[] = [];
  vocab.forEach(([text, score], merged) => {
    if (ids.get(text) !== merged) return;
    let at = 0;
    for (const character of text) {
      at += character.length;
      if (at === text.length) break;
      const left = idOf(text.slice(0, at)), right = left === undefined ? undefined : idOf(text.slice(at));
      if (left !== undefined && right !== undefined) pairs.push({ left, right, merged, score });
    }
  });
  const scores = [...new Map(pairs.map(({ merged, score }) => [merged, score])).values()];
  const ranks = new Map([...new Set(scores)].sort((a, b) => b - a).map((score, rank) => [score, rank]));
  return {
    merges: pairs.map(({ left, right, merged, score }) => ({ left, right, merged, rank: ranks.get(score)! })),
    texts,
    scores,
  };
}

/** The normaliser of a part of this type. */
export function createSpaces(part: Part): (text: string) => string {
  const {
    precompiled_charsmap,
    add_dummy_prefix,
    remove_extra_whitespaces: joins,
    escape_whitespaces,
    treat_whitespace_as_suffix,
    user_defined,
  } = part as NormalizerPart;
  const charsmap = precompiled_charsmap === null
    ? undefined
    : new Charsmap(fromBase64(precompiled_charsmap, "a charsmap"));
  const whole = prefixes(user_defined), space = escape_whitespaces ? SPACE : " ";
  const [before, after] = !add_dummy_prefix
    ? ["", ""]
    : treat_whitespace_as_suffix
    ? ["", space]
    : [space, ""];
  const escaped = (text: string) => escape_whitespaces ? text.replaceAll(" ", SPACE) : text;
  return (text) => {
    if (text === "") return "";
    if (charsmap === undefined && !joins) return before + escaped(text) + after;
    let result = "", isInside = false, isAfterSpace = joins;
    for (let unit of units(text, whole, charsmap)) {
      if (joins && !isInside && unit === " ") continue;
      isInside = true;
      while (isAfterSpace && unit.startsWith(" ")) unit = unit.slice(1);
      if (unit === "") continue;
      result += unit;
      isAfterSpace = joins && unit.endsWith(" ");
    }
    if (!isInside) return "";
    result = before + escaped(result);
    let end = result.length;
    while (joins && result[end - 1] === space) end--;
    return result.slice(0, end) + after;
  };
}

/** A text character by character, or by what is mapped, or stays, as a whole. */
function* units(text: string, whole: RegExp, charsmap: Charsmap | undefined): Generator<string, void, void> {
  const bytes = charsmap === undefined ? undefined : new TextEncoder().encode(text);
  for (let at = 0, byte = 0; at < text.length;) {
    whole.lastIndex = at;
    let unit = whole.exec(text)?.[0], length = unit?.length ?? 0;
    if (unit === undefined && bytes !== undefined) {
      const mapped = charsmap!.find(bytes, byte, "longest");
      if (mapped !== undefined) {
        unit = mapped.text;
        for (let i = byte; i < byte + mapped.bytes; i++) {
          length += bytes[i] >= 0xf0 ? 2 : Number((bytes[i] & 0xc0) !== 0x80);
        }
      }
    }
    if (unit === undefined) {
      unit = String.fromCodePoint(text.codePointAt(at)!);
      length = unit.length;
    }
    yield unit;
    for (let i = at; i < at + length; i++) byte += utf8Length(text.charCodeAt(i));
    at += length;
  }
}

/** Bytes of a code unit; of half a surrogate pair half of its four. */
function utf8Length(unit: number): number {
  return unit < 0x80 ? 1 : unit < 0x800 || unit >= 0xd800 && unit < 0xe000 ? 2 : 3;
}

/** Finds the longest of some texts at a place. */
function prefixes(texts: readonly string[]): RegExp {
  const longestFirst = [...texts].sort((a, b) => b.length - a.length);
  return new RegExp(texts.length === 0 ? "(?!)" : longestFirst.map(escape).join("|"), "uy");
}

/** The model of a part of this type. */
export function createSentencePiece(part: Part): Model {
  const { vocab, byte_fallback, algorithm } = part as ModelPart;
  const ids = new Map<string, number>();
  vocab.forEach(([text], id) => {
    if (ids.has(text)) refuse("SentencePiece without equal pieces", text);
    ids.set(text, id);
  });
  const unknown = vocab.findIndex(([, , kind]) => kind === "unknown");
  if (unknown === -1) refuse("SentencePiece with an unknown piece", unknown);
  const bytes = byte_fallback
    ? FALLBACK_NAMES.map((name) => ids.get(name) ?? refuse("all bytes as pieces", name))
    : undefined;
  const encoder = new TextEncoder();
  const addUnknown = (tokens: number[], text: string) => {
    if (bytes !== undefined) { for (const byte of encoder.encode(text)) tokens.push(bytes[byte]); }
    else if (tokens.at(-1) !== unknown) tokens.push(unknown);
  };
  const encode = algorithm === "Unigram"
    ? unigramEncoder(vocab, addUnknown)
    : bpeEncoder(algorithm === "BPE" ? vocab : withoutMerges(vocab), addUnknown);
  return { ids, unknown: vocab[unknown][0], encode };
}

type AddUnknown = (tokens: number[], text: string) => void;

function unigramEncoder(vocab: readonly Piece[], addUnknown: AddUnknown): Model["encode"] {
  const normal = vocab.filter(([, , kind]) => kind === "normal").map(([, score]) => score);
  const smallest = 2 ** -126; // of single precision: what the reference begins with
  const unigram = new Unigram(
    vocab.flatMap(([text, score, kind], id) =>
      kind === "normal" || kind === "user-defined"
        ? [{ id, text, score, isUserDefined: kind === "user-defined" }]
        : []
    ),
    {
      minScore: normal.reduce((least, score) => Math.min(least, score), Infinity),
      maxScore: normal.reduce((most, score) => Math.max(most, score), smallest),
      precision: "single",
    },
  );
  return (text) => {
    const tokens: number[] = [];
    for (const { id, start, end } of unigram.segment(text)) {
      if (id === undefined) addUnknown(tokens, text.slice(start, end));
      else tokens.push(id);
    }
    return tokens;
  };
}

function withoutMerges(vocab: readonly Piece[]): readonly Piece[] {
  return vocab.map(([text, score, kind]) =>
    [text, score, kind === "normal" && Array.from(text).length > 1 ? "control" : kind] as const
  );
}

function bpeEncoder(vocab: readonly Piece[], addUnknown: AddUnknown): Model["encode"] {
  const { merges, texts } = mergesOf(vocab), bpe = new Bpe(merges);
  const idOf = new Map(texts.map((text, id) => [text, id])), size = vocab.length;
  const whole = prefixes(textsOf(vocab, "user-defined"));
  const words = isOfWords(vocab) ? new RegExp(WORDS, "gu") : undefined;
  const isUnused = new Set(vocab.flatMap(([, , kind], id) => kind === "unused" ? [id] : []));
  const encode = (text: string) => {
    const symbols: number[] = [], strangers: string[] = [];
    for (let at = 0; at < text.length;) {
      whole.lastIndex = at;
      const symbol = whole.exec(text)?.[0] ?? String.fromCodePoint(text.codePointAt(at)!);
      symbols.push(idOf.get(symbol) ?? texts.length + strangers.push(symbol) - 1);
      at += symbol.length;
    }
    const parts = new Map<number, readonly [number, number]>(), tokens: number[] = [];
    const merged = bpe.merge(
      symbols,
      isUnused.size === 0 ? undefined : (merged, left, right) => {
        if (isUnused.has(merged)) parts.set(merged, [left, right]);
      },
    );
    const add = (id: number) => {
      const unused = parts.get(id);
      if (unused !== undefined) unused.forEach(add);
      else if (id < size) tokens.push(id);
      else addUnknown(tokens, texts[id] ?? strangers[id - texts.length]);
    };
    merged.forEach(add);
    return tokens;
  };
  if (words === undefined) return encode;
  const encodeWord = keeping(encode);
  return (text) => (text.match(words) ?? []).flatMap(encodeWord);
}
