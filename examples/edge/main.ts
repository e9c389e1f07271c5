/**
 * An edge function that answers from a model, for Deno Deploy, Supabase and whatever else runs `Deno.serve`.
 *
 * The model comes from the URL in the first argument or in the environment's `MODEL`, or is deployed with this file in
 * the folder `model/` next to it. Sessions go to Deno KV if the host has it, so that any isolate can continue them, and
 * to memory otherwise. If `API_KEYS` in the environment lists keys, separated by commas, clients need one of them.
 *
 * Cloudflare's runtime is another: see `examples/cloudflare/`.
 *
 * @module
 */
// TODO(lead): from "@levin/attention/wasm" once that entry exists, so that the bundle holds no WGSL.
import { createBackend } from "@levin/attention";
import { createHandler } from "@levin/attention/serve";
import { TransNormerLLM } from "@levin/attention/tnl";
import { createStorage } from "unstorage";
import kv from "unstorage/drivers/deno-kv";

/** A setting of the host; none if the function may not read it. */
function setting(name: string): string | undefined {
  const { state } = Deno.permissions.querySync({ name: "env", variable: name });
  return state === "granted" ? Deno.env.get(name) : undefined;
}

const location = Deno.args[0] ?? setting("MODEL") ?? new URL("model/", import.meta.url);
const backend = await createBackend({ prefer: "wasm" });

const handler = createHandler({
  model: TransNormerLLM.load(location, { backend }), // requests wait for it
  checkpoint: location,
  storage: "openKv" in Deno ? createStorage({ driver: kv({}) }) : undefined,
  apiKeys: setting("API_KEYS")?.split(",").map((key) => key.trim()),
  // What one isolate with little memory and one core can carry.
  limits: { batch: 8, queue: 32, maxTokens: 1024, seconds: 60 },
});

Deno.serve(handler);
