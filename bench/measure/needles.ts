/**
 * Needles in a text: sentences that give a random name a random number, planted where sentences of the text end, and
 * planted once more some distance later. Who remembers the first can predict the number in the second; nobody else can.
 *
 * @module
 */
import { randomNumbers } from "../../model/sampling.ts";

/** Digits of a number. */
export const DIGITS = 5;
const CONSONANTS = "bdfgklmnprstvz", VOWELS = "aeiou";
/** Syllables of a name. */
const SYLLABLES = 3;

/** A number that can be predicted. */
export interface Needle {
  /** Index of its first digit. */
  readonly at: number;
  /** Bytes from its first digit in the first sentence to that in the second. */
  readonly distance: number;
}

/** How to plant. */
export interface Planting {
  /** Bytes of text for each needle, on average. */
  readonly every: number;
  /** Bytes from a sentence to its repetition, the logarithm uniform; it comes at the next end of a sentence. */
  readonly distances: readonly [least: number, most: number];
  /** Needles in all. Default: no limit. */
  readonly count?: number;
}

/** A text with needles. */
export interface Planted {
  readonly bytes: Uint8Array;
  /** Those that have been repeated, in the order of their repetitions. */
  readonly needles: readonly Needle[];
}

/** Plants needles into a text. Those whose repetition would come after its end are not repeated. */
export function plant(text: Uint8Array, planting: Planting, seed: number): Planted {
  const { every, distances: [least, most], count = Infinity } = planting;
  const random = randomNumbers(seed);
  const parts: Uint8Array[] = [], needles: Needle[] = [];
  let waiting: { sentence: Uint8Array; first: number; due: number }[] = [], length = 0, planted = 0;
  const add = (part: Uint8Array) => {
    parts.push(part);
    length += part.length;
  };
  let start = 0;
  for (const end of sentenceEnds(text)) {
    add(text.subarray(start, end));
    const isPlanted = planted < count && random() < (end - start) / every;
    start = end;
    for (const { sentence, first } of waiting.filter(({ due }) => due <= length)) {
      const at = length + valueAt(sentence);
      needles.push({ at, distance: at - first });
      add(sentence);
    }
    waiting = waiting.filter(({ due }) => due > length);
    if (!isPlanted) continue;
    planted++;
    const sentence = new TextEncoder().encode(`The number of ${name(random)} is ${number(random)}. `);
    const distance = least * (most / least) ** random();
    waiting.push({ sentence, first: length + valueAt(sentence), due: length + distance });
    add(sentence);
  }
  add(text.subarray(start));
  const bytes = new Uint8Array(length);
  let at = 0;
  for (const part of parts) {
    bytes.set(part, at);
    at += part.length;
  }
  return { bytes, needles };
}

/** Where a sentence's number begins: it ends with a full stop and a space. */
function valueAt(sentence: Uint8Array): number {
  return sentence.length - DIGITS - 2;
}

function name(random: () => number): string {
  const one = (letters: string) => letters[Math.floor(letters.length * random())];
  const text = Array.from({ length: SYLLABLES }, () => one(CONSONANTS) + one(VOWELS)).join("");
  return text[0].toUpperCase() + text.slice(1);
}

function number(random: () => number): string {
  return String(Math.floor(10 ** DIGITS * random())).padStart(DIGITS, "0");
}

/** Indices after each full stop and the space or line break that follows it. */
function* sentenceEnds(text: Uint8Array): Generator<number> {
  const [STOP, SPACE, BREAK] = [46, 32, 10];
  for (let i = 1; i < text.length; i++) {
    if (text[i - 1] === STOP && (text[i] === SPACE || text[i] === BREAK)) yield i + 1;
  }
}
