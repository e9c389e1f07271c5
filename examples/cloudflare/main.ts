/**
 * A Cloudflare Worker that answers from a model: `npx wrangler deploy` in this folder, with `@levin/attention` installed
 * and the model's files in `model/`.
 *
 * Cloudflare allows neither work outside a request nor WebAssembly compiled from bytes, and it ends the timers and
 * promises of a request with that request. So the kernels are imported as files, and the model lives in a Durable Object,
 * whose requests share their work. The first one loads the model. A load that fails is forgotten, so that the next request
 * tries again. Sessions are in the object's storage: whatever it has answered, it has stored. An alarm removes those that
 * have expired.
 *
 * @module
 */
import { loadKernels } from "@levin/attention/kernels";
import { createHandler, type Handler, type SessionStorage } from "@levin/attention/serve/bare";
import { TransNormerLLM } from "@levin/attention/tnl/bare";
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
  getAlarm(): Promise<number | null>;
  setAlarm(time: number): Promise<void>;
  get(key: string): Promise<unknown>;
  put(key: string, value: Uint8Array): Promise<void>;
  delete(key: string): Promise<boolean>;
  list(options: { prefix: string; limit?: number }): Promise<Map<string, unknown>>;
}

/** Milliseconds between two looks for sessions that have expired. */
const SWEEP = 6 * 3600_000;

/** Holds the model and all sessions. */
export class Levin {
  readonly #env: Env;
  readonly #object: Storage;
  readonly #storage: SessionStorage;
  #handler: Promise<Handler> | undefined;

  constructor({ storage }: { storage: Storage }, env: Env) {
    this.#env = env;
    this.#object = storage;
    this.#storage = {
      getItemRaw: async (key) => await storage.get(key) ?? null,
      setItemRaw: (key, value) => storage.put(key, value),
      removeItem: async (key) => void await storage.delete(key),
      getKeys: async (prefix) => [...(await storage.list({ prefix })).keys()],
    };
  }

  async fetch(request: Request): Promise<Response> {
    try {
      const handler = await this.#ready();
      if (await this.#object.getAlarm() === null) await this.#object.setAlarm(Date.now() + SWEEP);
      return await handler(request);
    } catch (error) {
      console.error(error);
      const body = { error: { message: "The model could not be loaded" } };
      return Response.json(body, { status: 503, headers: { "retry-after": "5" } });
    }
  }

  /** The host calls it at the time that was set. It is set again while there are sessions; requests set it otherwise. */
  async alarm(): Promise<void> {
    const handler = await this.#ready();
    await handler.sweep();
    if ((await this.#object.list({ prefix: "", limit: 1 })).size > 0) {
      await this.#object.setAlarm(Date.now() + SWEEP);
    }
  }

  /** The handler, once for all requests; a load that fails is forgotten. */
  async #ready(): Promise<Handler> {
    const loading = this.#handler ??= this.#load();
    try {
      return await loading;
    } catch (error) {
      if (this.#handler === loading) this.#handler = undefined;
      throw error;
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
        // What one isolate of 128 MB and one thread can carry: texts are tokenized in between.
        limits: {
          ...{ batch: 8, queue: 32, maxTokens: 1024, seconds: 60, characters: 2 ** 13, scores: 2 ** 13 },
          ...{ requestTokens: 2 ** 16, totalTokens: 2 ** 18, bodyBytes: 2 ** 19, bodiesBytes: 2 ** 22 },
          ...{ bodyValues: 2 ** 13, sessions: 2 ** 12, sessionsBytes: 2 ** 30 },
        },
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
