/**
 * {@linkcode hubClient} and {@linkcode hashes} in the package for npm: bundlers see the names. See `packages.ts`.
 *
 * @module
 */

/** The hub's own client. */
export function hubClient(): Promise<typeof import("@huggingface/hub")> {
  return import("@huggingface/hub");
}

/** SHA-1 and SHA-256 in pieces, for hosts that hash only whole buffers. */
export async function hashes(): Promise<
  typeof import("@noble/hashes/sha2.js") & typeof import("@noble/hashes/legacy.js")
> {
  return { ...await import("@noble/hashes/sha2.js"), ...await import("@noble/hashes/legacy.js") };
}
