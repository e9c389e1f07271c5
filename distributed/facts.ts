/**
 * What ranks compare before they compute together.
 *
 * @module
 */
import config from "../deno.json" with { type: "json" };

/** Version of this library. */
export const VERSION: string = config.version;

/** SHA-256 of some memory, in hexadecimal digits. */
export async function fingerprint(data: Uint32Array): Promise<string> {
  const bytes = new Uint8Array(data.buffer as ArrayBuffer, data.byteOffset, data.byteLength);
  return new Uint8Array(await crypto.subtle.digest("SHA-256", bytes)).toHex();
}
