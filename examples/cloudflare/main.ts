/**
 * A Cloudflare Worker that answers from a model: `npx wrangler deploy` in this folder, with `@levin/attention` and
 * `unstorage` installed, the model's files in `model/`, and a KV namespace in `wrangler.jsonc`.
 *
 * Cloudflare allows neither work outside a request nor WebAssembly compiled from bytes. So the kernels are imported as
 * files, and the first request loads the model. Its promise serves all later requests, and a failure is forgotten, so that
 * the next request tries again.
 *
 * KV takes up to a minute to show a write elsewhere: send the requests of one session to one location, or keep sessions
 * in a Durable Object.
 *
 * @module
 */
import { loadKernels } from "@levin/attention/kernels";
import { createHandler, type Handler } from "@levin/attention/serve";
import { TransNormerLLM } from "@levin/attention/tnl";
import { createBackend } from "@levin/attention/wasm";
import { createStorage } from "unstorage";
import kv, { type KVOptions } from "unstorage/drivers/cloudflare-kv-binding";

/** What `wrangler.jsonc` binds. */
interface Env {
  /** The files of `model/`. */
  MODEL: { fetch: typeof fetch };
  /** A KV namespace for sessions. */
  SESSIONS: KVOptions["binding"];
  /** Keys that clients must have one of, separated by commas; a secret. */
  API_KEYS?: string;
}

/** Seconds after which those who wait for the model are told to come again. */
const PATIENCE = 25;

let handler: Promise<Handler> | undefined;

async function load(env: Env): Promise<Handler> {
  const backend = await createBackend({ module: await loadKernels() });
  try {
    const files: typeof fetch = (input, init) => env.MODEL.fetch(input, init);
    return createHandler({
      model: await TransNormerLLM.load("https://model/", { backend, fetch: files }),
      storage: createStorage({ driver: kv({ binding: env.SESSIONS }) }),
      apiKeys: env.API_KEYS?.split(","),
      // What one isolate of 128 MB can carry.
      limits: { batch: 8, queue: 32, maxTokens: 1024, seconds: 60 },
    });
  } catch (error) {
    backend.dispose();
    throw error;
  }
}

export default {
  async fetch(request: Request, env: Env, context: { waitUntil(work: Promise<unknown>): void }) {
    const loading = handler ??= load(env);
    const forget = () => {
      if (handler === loading) handler = undefined;
    };
    loading.catch(forget);
    // The load belongs to the request that began it: it must outlive a client that goes.
    context.waitUntil(loading.catch(() => {}));
    let timer: ReturnType<typeof setTimeout> | undefined;
    // If the runtime ends that request all the same, its promise never settles: nobody waits for it for ever.
    const late = new Promise<never>((_, reject) => {
      timer = setTimeout(() => reject(new Error(`no model after ${PATIENCE} seconds`)), PATIENCE * 1000);
    });
    let answer: Handler;
    try {
      answer = await Promise.race([loading, late]);
    } catch (error) {
      forget();
      console.error(error);
      return Response.json({ error: { message: "The model could not be loaded" } }, {
        status: 503,
        headers: { "retry-after": "5" },
      });
    } finally {
      clearTimeout(timer);
    }
    return await answer(request);
  },
};
