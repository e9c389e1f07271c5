/**
 * Checksums: CRC-32 for what is stored, a fast hash of 128 bits for what is large. Both find bytes that were damaged or
 * mixed up; neither is a defence against forgery.
 *
 * @module
 */

/** Primes of xxHash. */
const PRIME_1 = 0x9e3779b1, PRIME_2 = 0x85ebca77, PRIME_3 = 0xc2b2ae3d;

/** A {@linkcode Hash} of bytes that are all there. */
export function hash(bytes: Uint8Array<ArrayBuffer>): string {
  return new Hash().add(bytes).hex();
}

/**
 * A hash of all bytes, in 32 hexadecimal digits: the four lanes of xxHash32 (Collet), kept apart, so that 128 bits come
 * out at the price of 32. Plain JavaScript computes it at several GB/s, so weights are hashed on their way to the
 * device; SHA-256 of the platform reaches 1 GB/s at best, and pages without TLS lack it.
 */
export class Hash {
  readonly #lanes = Int32Array.of(PRIME_1 + PRIME_2, PRIME_2, 0, -PRIME_1);
  /** Bytes that do not fill 16, and how many there are. */
  readonly #rest = new Uint8Array(16);
  #length = 0;

  /** Adds bytes. Only the last ones may end between multiples of 16. */
  add(bytes: Uint8Array<ArrayBuffer>): this {
    const aligned = bytes.byteOffset % 4 === 0 ? bytes : bytes.slice();
    const whole = aligned.length & ~15;
    addWords(this.#lanes, new Int32Array(aligned.buffer, aligned.byteOffset, whole / 4));
    this.#rest.set(aligned.subarray(whole));
    this.#length += bytes.length;
    return this;
  }

  /** The hash of what was added; nothing can be added any more. */
  hex(): string {
    const lanes = this.#lanes, length = this.#length;
    addWords(lanes, new Int32Array(this.#rest.buffer));
    // The length: zeros at the end count. Then each lane reaches all digits.
    addWords(lanes, Int32Array.of(length, length / 2 ** 32, length, length / 2 ** 32));
    const mixed = lanes.map((lane, i) => avalanche(lane + Math.imul(lanes[(i + 1) % 4], PRIME_3)));
    return Array.from(mixed, (lane) => (lane >>> 0).toString(16).padStart(8, "0")).join("");
  }
}

/** The inner loop of xxHash32. */
function addWords(lanes: Int32Array, words: Int32Array): void {
  let [a, b, c, d] = lanes;
  for (let i = 0; i < words.length; i += 4) {
    a = a + Math.imul(words[i], PRIME_2) | 0;
    a = Math.imul(a << 13 | a >>> 19, PRIME_1);
    b = b + Math.imul(words[i + 1], PRIME_2) | 0;
    b = Math.imul(b << 13 | b >>> 19, PRIME_1);
    c = c + Math.imul(words[i + 2], PRIME_2) | 0;
    c = Math.imul(c << 13 | c >>> 19, PRIME_1);
    d = d + Math.imul(words[i + 3], PRIME_2) | 0;
    d = Math.imul(d << 13 | d >>> 19, PRIME_1);
  }
  lanes.set([a, b, c, d]);
}

/** The end of xxHash32. */
function avalanche(x: number): number {
  x = Math.imul(x ^ x >>> 15, PRIME_2);
  x = Math.imul(x ^ x >>> 13, PRIME_3);
  return x ^ x >>> 16;
}

const TABLE = Uint32Array.from({ length: 256 }, (_, byte) => {
  let crc = byte;
  for (let bit = 0; bit < 8; bit++) crc = crc & 1 ? crc >>> 1 ^ 0xedb88320 : crc >>> 1;
  return crc;
});

/** A running checksum. */
export class Checksum {
  #crc = 0xffffffff;

  /** Adds bytes. */
  bytes(bytes: Uint8Array): this {
    let crc = this.#crc;
    for (let i = 0; i < bytes.length; i++) crc = crc >>> 8 ^ TABLE[(crc ^ bytes[i]) & 0xff];
    this.#crc = crc;
    return this;
  }

  /** Adds a string. */
  text(text: string): this {
    return this.bytes(new TextEncoder().encode(text));
  }

  /** The checksum of what was added so far, an integer from 0 to 2^32 − 1. */
  value(): number {
    return ~this.#crc >>> 0;
  }

  /** The same in 8 hexadecimal digits. */
  hex(): string {
    return this.value().toString(16).padStart(8, "0");
  }
}
