/**
 * Packages that only models from the hub need. Deno fetches every package that a program names, before it runs; so no
 * literal names these. `package/build.ts` puts `packages.npm.ts` in this module's place, as bundlers need literals.
 *
 * @module
 */

/** Versions are those of `imports.json`; `tests/hub_test.ts` compares. */
const CLIENT = "hub@2.17.5", HASHES = "hashes@2.4.0";

// Elsewhere than in Deno, sources run where packages are installed, or a page's import map names them. What stands before
// a name tells publishing that no import map of ours is needed.
const isDeno = "Deno" in globalThis;
const bare = (versioned: string) => versioned.replace(/@.*$/, "");

/** The functions of the hub's own client that are called. */
export type Client = Pick<typeof import("@huggingface/hub"), "downloadFile" | "listFiles" | "modelInfo">;

/** The hub's own client. */
export async function hubClient(): Promise<Client> {
  return isDeno ? await import(`npm:@huggingface/${CLIENT}`) : await import(`@huggingface/${bare(CLIENT)}`);
}

/** SHA-1 and SHA-256 in pieces, for hosts that hash only whole buffers. */
export async function hashes(): Promise<
  typeof import("@noble/hashes/sha2.js") & typeof import("@noble/hashes/legacy.js")
> {
  const load = (module: string) =>
    isDeno ? import(`npm:@noble/${HASHES}/${module}`) : import(`@noble/${bare(HASHES)}/${module}`);
  return { ...await load("sha2.js"), ...await load("legacy.js") };
}
