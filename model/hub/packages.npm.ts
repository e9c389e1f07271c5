/**
 * {@linkcode hubClient} and {@linkcode hashes} in the package for npm: bundlers see the names. See `packages.ts`.
 *
 * @module
 */

import type { Client } from "./packages.ts";

/** The hub's own client, which the build puts into the package: its published form stops some bundlers. */
export function hubClient(): Promise<Client> {
  return import("@huggingface/hub");
}

/** SHA-1 and SHA-256 in pieces, for hosts that hash only whole buffers. */
export async function hashes(): Promise<
  typeof import("@noble/hashes/sha2.js") & typeof import("@noble/hashes/legacy.js")
> {
  return { ...await import("@noble/hashes/sha2.js"), ...await import("@noble/hashes/legacy.js") };
}
