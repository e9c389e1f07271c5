/**
 * SentencePiece's map of characters: a double-array trie (Darts) from UTF-8 to the places of strings that end with a
 * zero.
 *
 * @module
 */
import { refuse } from "./json.ts";

/** What a text begins with, and what becomes of it. */
export interface Mapped {
  /** UTF-8 bytes that it takes. */
  readonly bytes: number;
  readonly text: string;
}

/** A map of characters. */
export class Charsmap {
  readonly #trie: Uint32Array;
  readonly #strings: Uint8Array<ArrayBuffer>;
  readonly #decoder = new TextDecoder("utf-8", { ignoreBOM: true });

  constructor(bytes: Uint8Array<ArrayBuffer>) {
    const trieBytes = bytes.length < 4 ? -1 : new DataView(bytes.buffer, bytes.byteOffset).getUint32(0, true);
    if (trieBytes < 4 || trieBytes % 4 !== 0 || 4 + trieBytes > bytes.length) {
      refuse("a whole charsmap", bytes.length);
    }
    this.#trie = new Uint32Array(bytes.slice(4, 4 + trieBytes).buffer);
    this.#strings = bytes.subarray(4 + trieBytes);
  }

  /** The shortest or the longest entry that the bytes from `start` on begin with, if there is one. */
  find(bytes: Uint8Array, start: number, which: "shortest" | "longest"): Mapped | undefined {
    const trie = this.#trie;
    let place = offsetOf(trie[0]), value = -1, length = 0;
    for (let i = start; i < bytes.length && bytes[i] !== 0; i++) {
      place ^= bytes[i];
      const unit = trie[place] ?? 0;
      if ((unit & (1 << 31 | 0xff)) !== bytes[i]) break;
      place ^= offsetOf(unit);
      if ((unit >>> 8 & 1) === 0) continue;
      value = (trie[place] ?? 0) & 0x7fffffff;
      length = i + 1 - start;
      if (which === "shortest") break;
    }
    if (value === -1) return undefined;
    const end = this.#strings.indexOf(0, value);
    return {
      bytes: length,
      text: this.#decoder.decode(this.#strings.subarray(value, end === -1 ? undefined : end)),
    };
  }
}

function offsetOf(unit: number): number {
  return unit >>> 10 << ((unit & 1 << 9) >>> 6);
}

/** Bytes that a file holds in base64. */
export function fromBase64(text: string, what: string): Uint8Array<ArrayBuffer> {
  try {
    return Uint8Array.from(atob(text), (character) => character.charCodeAt(0));
  } catch {
    return refuse(`${what} in base64`, text.length > 64 ? `${text.slice(0, 64)}...` : text);
  }
}
