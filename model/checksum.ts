/**
 * CRC-32 (ISO 3309, as in zlib): finds bytes that were damaged or mixed up. It is no defence against forgery.
 *
 * @module
 */

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

  /** Adds at most 1024 elements, evenly spread: enough to tell one training run's weights from another's. */
  sample(values: ArrayLike<number>): this {
    const count = Math.min(values.length, 1024);
    const picked = Float32Array.from(
      { length: count },
      (_, i) => values[Math.floor(i * values.length / count)],
    );
    return this.bytes(new Uint8Array(picked.buffer));
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
