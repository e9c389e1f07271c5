/**
 * How vocabularies write bytes.
 *
 * @module
 */

/** The characters that byte-level vocabularies write bytes as: printable Latin-1 as itself, others from U+0100. */
export const CHARACTER_OF_BYTE: readonly string[] = (() => {
  const printable = (byte: number) => byte > 0x20 && byte < 0x7f || byte > 0xa0 && byte !== 0xad;
  let next = 0x100;
  return Array.from({ length: 256 }, (_, byte) => String.fromCharCode(printable(byte) ? byte : next++));
})();

const BYTE_OF_CHARACTER: ReadonlyMap<string, number> = new Map(
  CHARACTER_OF_BYTE.map((character, byte) => [character, byte]),
);

/** Bytes as a byte-level vocabulary writes them. */
export function levelName(bytes: Uint8Array): string {
  let name = "";
  for (const byte of bytes) name += CHARACTER_OF_BYTE[byte];
  return name;
}

/** The bytes that a token of a byte-level vocabulary represents. */
export function levelBytes(token: string): Uint8Array<ArrayBuffer> {
  const bytes = Array.from(token, (character) => BYTE_OF_CHARACTER.get(character));
  return bytes.every((byte) => byte !== undefined) ? Uint8Array.from(bytes) : new TextEncoder().encode(token);
}

/** The tokens of byte fallback, such as `<0x0A>`, in order. */
export const FALLBACK_NAMES: readonly string[] = Array.from(
  { length: 256 },
  (_, byte) => `<0x${byte.toString(16).toUpperCase().padStart(2, "0")}>`,
);

/** The byte that a token of byte fallback represents. */
export function fallbackByte(token: string): number | undefined {
  const hex = /^<0x([0-9A-Fa-f]{2})>$/.exec(token)?.[1];
  return hex === undefined ? undefined : parseInt(hex, 16);
}
