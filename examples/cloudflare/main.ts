/**
 * A Cloudflare Worker that answers from a model: `npx wrangler deploy` in this folder, with `@levin/attention` installed
 * and the model's files in `model/`.
 *
 * Cloudflare allows neither work outside a request nor WebAssembly compiled from bytes, and it ends the timers and
 * promises of a request with that request. So the kernels are imported as files, and the model lives in a Durable Object,
 * whose requests share their work. The first one loads the model. A load that fails is forgotten, so that the next request
 * tries again. Sessions are in the object's storage: whatever it has answered, it has stored.
 *
 * @module
 */
import { loadKernels } from "@levin/attention/kernels";
import { createHandler, type Handler, type SessionStorage } from "@levin/attention/serve";
import { TransNormerLLM } from "@levin/attention/tnl";
import { createBackend } from "@levin/attention/wasm";

/** What `wrangler.jsonc` binds. */
interface Env {
  /** The Durable Object below. */
  LEVIN: { getByName(name: string): { fetch(request: Request): Promise<Response> } };
  /** The files of `model/`. */
  MODEL: { fetch: typeof fetch };
  /** Keys that clients must have one of, separated by commas; a secret. */
  API_KEYS?: string;
}

/** What is used of an object's storage. */
interface Storage {
  get(key: string): Promise<unknown>;
  put(key: string, value: Uint8Array): Promise<void>;
  delete(key: string): Promise<boolean>;
  list(options: { prefix: string }): Promise<Map<string, unknown>>;
}

/** Holds the model and all sessions. */
export class Levin {
  readonly #env: Env;
  readonly #storage: SessionStorage;
  #handler: Promise<Handler> | undefined;

  constructor({ storage }: { storage: Storage }, env: Env) {
    this.#env = env;
    this.#storage = {
      getItemRaw: async (key) => await storage.get(key) ?? null,
      setItemRaw: (key, value) => storage.put(key, value),
      removeItem: async (key) => void await storage.delete(key),
      getKeys: async (prefix) => [...(await storage.list({ prefix })).keys()],
    };
  }

  async fetch(request: Request): Promise<Response> {
    const loading = this.#handler ??= this.#load();
    try {
      return await (await loading)(request);
    } catch (error) {
      if (this.#handler === loading) this.#handler = undefined;
      console.error(error);
      const body = { error: { message: "The model could not be loaded" } };
      return Response.json(body, { status: 503, headers: { "retry-after": "5" } });
    }
  }

  async #load(): Promise<Handler> {
    const backend = await createBackend({ module: await loadKernels() });
    try {
      const model = await TransNormerLLM.load("https://model/", {
        backend,
        fetch: (input, init) => this.#env.MODEL.fetch(input, init),
        signal: AbortSignal.timeout(25_000), // those who wait are not kept for ever
      });
      return createHandler({
        model,
        storage: this.#storage,
        apiKeys: this.#env.API_KEYS?.split(","),
        // What one isolate of 128 MB can carry.
        limits: { batch: 8, queue: 32, maxTokens: 1024, seconds: 60 },
      });
    } catch (error) {
      backend.dispose();
      throw error;
    }
  }
}

export default {
  fetch: (request: Request, env: Env): Promise<Response> => env.LEVIN.getByName("levin").fetch(request),
};
