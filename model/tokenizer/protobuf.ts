/**
 * Protocol buffers, as far as SentencePiece uses them: fields by number, without a schema.
 *
 * @module
 */
import { refuse } from "./json.ts";

/** A field of a message. */
export interface Field {
  readonly field: number;
  /** Of a varint, as far as a number holds it, or of a float. */
  readonly number?: number;
  /** Of a string, bytes or an inner message. */
  readonly bytes?: Uint8Array<ArrayBuffer>;
}

/**
 * The fields of a message, in order.
 *
 * @throws {RangeError} when the bytes are no message
 */
export function* readFields(bytes: Uint8Array<ArrayBuffer>): Generator<Field, void, void> {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
  let at = 0;
  const end = (length: number) => {
    if (!(at + length <= bytes.length)) refuse("a whole SentencePiece model", `${bytes.length} bytes`);
    return at + length;
  };
  const varint = () => {
    let value = 0;
    for (let power = 1, last = false; !last; power *= 128) {
      if (power > 2 ** 63) refuse("a SentencePiece model", "a number of more than 64 bits");
      end(1);
      const byte = bytes[at++];
      value += (byte & 127) * power;
      last = byte < 128;
    }
    return value;
  };
  while (at < bytes.length) {
    const tag = varint(), field = Math.floor(tag / 8), type = tag % 8;
    if (type === 0) yield { field, number: varint() };
    else if (type === 1) at = end(8);
    else if (type === 2) {
      const length = varint(), start = at;
      at = end(length);
      yield { field, bytes: bytes.subarray(start, at) };
    } else if (type === 5) {
      const start = at;
      at = end(4);
      yield { field, number: view.getFloat32(start, true) };
    } else refuse("a SentencePiece model", `field ${field} of type ${type}`);
  }
}
