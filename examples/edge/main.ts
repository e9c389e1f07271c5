/**
 * An edge function that answers from a model, for Deno Deploy, Supabase and whatever else runs `Deno.serve`.
 *
 * The model comes from the URL in the first argument or in the environment's `MODEL`, or is deployed with this file in
 * the folder `model/` next to it. Sessions go to Deno KV if the host has it, so that any isolate can continue them, and
 * to memory otherwise. If `API_KEYS` in the environment lists keys, separated by commas, clients need one of them; a
 * function that may not read it does not start, as it would be open to everybody.
 *
 * Cloudflare's runtime is another: see `examples/cloudflare/`.
 *
 * @module
 */
import { createBackend } from "@levin/attention/wasm";
import { createHandler } from "@levin/attention/serve/bare";
import { TransNormerLLM } from "@levin/attention/tnl/bare";

/** A setting of the host; none if it is not set. */
function setting(name: string): string | undefined {
  const { state } = Deno.permissions.querySync({ name: "env", variable: name });
  if (state === "granted") return Deno.env.get(name);
  throw new Error(`Cannot start without permission to read ${name}: --allow-env=API_KEYS,MODEL`);
}

const apiKeys = setting("API_KEYS")?.split(",").map((key) => key.trim());
const location = Deno.args[0] ?? setting("MODEL") ?? new URL("model/", import.meta.url);
const backend = await createBackend();

const handler = createHandler({
  model: TransNormerLLM.load(location, { backend }), // requests wait for it
  storage: "openKv" in Deno ? "kv:" : undefined,
  apiKeys,
  // What one isolate with little memory and one core can carry. Without workers, texts are tokenized in between.
  limits: {
    ...{ batch: 8, queue: 32, maxTokens: 1024, seconds: 60, characters: 2 ** 13, scores: 2 ** 13 },
    ...{ requestTokens: 2 ** 16, totalTokens: 2 ** 18, bodyBytes: 2 ** 19, bodiesBytes: 2 ** 22 },
    ...{ bodyValues: 2 ** 13, sessionsBytes: 2 ** 24, prefixBytes: 2 ** 22 },
  },
});

Deno.serve(handler);
