/**
 * Hashes that the hub names contents by, computed as bytes come.
 *
 * @module
 */
import { builtin } from "../../core/builtin.ts";
import type { HubFile } from "./client.ts";
import { hashes } from "./packages.ts";

/** A hash under way. */
export interface Digest {
  update(bytes: Uint8Array): void;
  /** In hexadecimal digits. The last call. */
  hex(): string;
}

/** The hash of a file's contents that its `oid` must equal. */
export async function digestOf({ algorithm, size }: HubFile): Promise<Digest> {
  const digest = await begin(algorithm);
  // git hashes a blob with its kind and size.
  if (algorithm === "sha1") digest.update(new TextEncoder().encode(`blob ${size}\0`));
  return digest;
}

/** The host's own hash, which is the fastest, where it takes bytes in pieces. */
async function begin(algorithm: HubFile["algorithm"]): Promise<Digest> {
  const crypto = builtin("node:crypto") as typeof import("node:crypto") | undefined;
  if (crypto !== undefined) {
    const hash = crypto.createHash(algorithm);
    return { update: (bytes) => void hash.update(bytes), hex: () => hash.digest("hex") };
  }
  const hash = (await hashes())[algorithm].create();
  return {
    update: (bytes) => void hash.update(bytes),
    hex: () => Array.from(hash.digest(), (byte) => byte.toString(16).padStart(2, "0")).join(""),
  };
}
