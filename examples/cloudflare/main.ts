/**
 * A Cloudflare Worker that answers from a model: `npx wrangler deploy` in this folder, with `@levin/attention` installed
 * and the model's files in `model/`.
 *
 * Cloudflare allows neither work outside a request nor WebAssembly compiled from bytes, and it ends the timers and
 * promises of a request with that request. So the kernels are imported as files, and the model lives in a Durable Object,
 * whose requests share their work. The first one loads the model. A load that fails is forgotten, so that the next request
 * tries again. Each session is in a Durable Object of its own: whatever was answered is stored there, and several objects
 * with a model, such as one for each continent, may continue the same sessions.
 *
 * @module
 */
import { loadKernels } from "@levin/attention/kernels";
import {
  createHandler,
  type Handler,
  type ObjectNamespace,
  objectStore,
  SessionObject,
} from "@levin/attention/serve/bare";
import { TransNormerLLM } from "@levin/attention/tnl/bare";
import { createBackend } from "@levin/attention/wasm";

/** What `wrangler.jsonc` binds. */
interface Env {
  /** The Durable Object below. */
  LEVIN: ObjectNamespace;
  /** One `SessionObject` for each session. */
  SESSIONS: ObjectNamespace;
  /** The files of `model/`. */
  MODEL: { fetch: typeof fetch };
  /** Keys that clients must have one of, separated by commas; a secret. */
  API_KEYS?: string;
}

export { SessionObject };

/** Holds the model. */
export class Levin {
  readonly #env: Env;
  #handler: Promise<Handler> | undefined;

  constructor(_state: unknown, env: Env) {
    this.#env = env;
  }

  async fetch(request: Request): Promise<Response> {
    try {
      const handler = await this.#ready();
      return await handler(request);
    } catch (error) {
      console.error(error);
      const body = { error: { message: "The model could not be loaded" } };
      return Response.json(body, { status: 503, headers: { "retry-after": "5" } });
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
        storage: objectStore(this.#env.SESSIONS),
        apiKeys: this.#env.API_KEYS?.split(","),
        // What one isolate of 128 MB and one thread can carry: texts are tokenized in between.
        limits: {
          ...{ batch: 8, queue: 32, maxTokens: 1024, seconds: 60, characters: 2 ** 13, scores: 2 ** 13 },
          ...{ requestTokens: 2 ** 16, totalTokens: 2 ** 18, bodyBytes: 2 ** 19, bodiesBytes: 2 ** 22 },
          ...{ bodyValues: 2 ** 13, prefixBytes: 2 ** 22, sessions: 2 ** 12, sessionsBytes: 2 ** 30 },
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
