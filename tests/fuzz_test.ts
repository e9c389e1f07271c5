import { fuzzBodies, fuzzFiles, fuzzStores } from "./fuzz.ts";

/** `deno task attack` takes longer, and sends random HTTP to a server in its own process. */
const SECONDS = 2;

Deno.test("random JSON at the handler", () => fuzzBodies(SECONDS));
Deno.test("random damage in the store of sessions", () => fuzzStores(SECONDS));
Deno.test("random damage in the files of a model", () => fuzzFiles(SECONDS));
