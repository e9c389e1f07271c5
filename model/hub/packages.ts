/**
 * Packages that only models from the hub need. Deno fetches every package that a program names, before it runs; so no
 * literal names these. `package/build.ts` puts `packages.npm.ts` in this module's place, as bundlers need literals.
 *
 * @module
 */

/** Versions are those of `imports.json`; `tests/hub_test.ts` compares. */
const CLIENT = "@huggingface/hub@2.17.5", HASHES = "@noble/hashes@2.4.0";

/** The functions of the hub's own client that are called. */
export type Client = Pick<typeof import("@huggingface/hub"), "downloadFile" | "listFiles" | "modelInfo">;

/** The hub's own client. */
export async function hubClient(): Promise<Client> {
  return await load(CLIENT);
}

/** SHA-1 and SHA-256 in pieces, for hosts that hash only whole buffers. */
export async function hashes(): Promise<
  typeof import("@noble/hashes/sha2.js") & typeof import("@noble/hashes/legacy.js")
> {
  return { ...await load(HASHES, "/sha2.js"), ...await load(HASHES, "/legacy.js") };
}

// deno-lint-ignore no-explicit-any -- the functions above say what it is
async function load(versioned: string, module = ""): Promise<any> {
  // Elsewhere than in Deno, sources run where packages are installed, or a page's import map names them.
  const specifier = "Deno" in globalThis ? `npm:${versioned}${module}` : versioned.replace(/@[^@]+$/, module);
  return await import(specifier);
}
