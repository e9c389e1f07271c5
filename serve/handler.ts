/**
 * The HTTP handler: what every request passes, and the routes behind it.
 *
 * @module
 */
import { type Context, Hono } from "hono";
import { methodNotAllowed } from "hono/method-not-allowed";
import { routePath } from "hono/route";
import { typeError } from "../core/errors.ts";
import type { TransNormerLLM } from "../model/mod.ts";
import { authentication } from "./auth.ts";
import { ApiError, respondError } from "./errors.ts";
import { checkLimits, type Limits } from "./limits.ts";
import { crossOrigin, sameOrigin } from "./origin.ts";
import { modelFiles } from "./page/files.ts";
import { page } from "./page/mod.ts";
import { checkTemplate } from "./prompts.ts";
import { completions } from "./routes/completions.ts";
import { models } from "./routes/models.ts";
import { sessions } from "./routes/sessions.ts";
import { health, metrics } from "./routes/status.ts";
import { tokenizer } from "./routes/tokenizer.ts";
import { type Env, Service } from "./service.ts";
import { lazyStore } from "./stores/mod.ts";
import type { SessionStore } from "./stores/store.ts";
import type { SessionStorage } from "./stores/unstorage.ts";

/** Options of {@linkcode createHandler}. */
export interface HandlerOptions {
  /** The model, or one that is still loading: until then the server is not ready. It stays the caller's. */
  model: TransNormerLLM | Promise<TransNormerLLM>;
  /** What clients call it. Default `"levin"`. */
  name?: string;
  /**
   * Where sessions are kept. Handlers of several processes may share one store: a {@linkcode SessionStore}, or the URL of
   * one, such as `"redis://localhost:6379"`, which is opened when it is needed and closed with the handler; see
   * {@linkcode openStore}. A store of unstorage will do too, but if two processes continue one session within a round trip
   * to it, one of the two turns may be lost. Default: memory, up to `limits.sessionsBytes`.
   */
  storage?: string | SessionStore | SessionStorage;
  /**
   * Seals stored sessions: only those that a server with this secret wrote are continued. For stores that others may
   * write to. Default: sessions are only checked for damage.
   */
  sessionSecret?: string;
  /** Keys that clients must have one of, as `Authorization: Bearer <key>`. Default: none is needed. */
  apiKeys?: readonly string[];
  /**
   * Whether the model's tokenizer and chat template are somebody's who may mean harm: they run in a worker then, which is
   * ended when it takes too much time or memory. Default: the worker only keeps long texts from holding up others.
   */
  untrusted?: boolean;
  /** See {@linkcode Limits}. */
  limits?: Partial<Limits>;
  /**
   * Where the model was loaded from. Clients with a key may then load it too, for the page's "run in this browser".
   * Default: they may not.
   */
  checkpoint?: string | URL;
  /** A Jinja template that makes a text of a chat. Default: the one that the model's tokenizer brings. */
  chatTemplate?: string;
  /**
   * Origins whose pages may use the server from a browser, as `"https://example.com"`; `["*"]`: all. A key is needed
   * as from anywhere. Default: none but the server's own.
   */
  cors?: readonly string[];
  /**
   * Names, without port, by which clients reach a server without keys, besides IP addresses and `localhost`; requests
   * for others are refused. It keeps out web pages whose name their owner lets resolve to this machine. Default: any.
   */
  hosts?: readonly string[];
}

/** What {@linkcode createHandler} returns: a function, and an object with a `fetch`, whichever a host asks for. */
export interface Handler {
  (request: Request): Promise<Response>;
  /** The same function. */
  readonly fetch: (request: Request) => Promise<Response>;
  /** The number of answers in flight. */
  readonly answering: () => number;
  /**
   * Takes no more answers: new ones get 503, and so does `/ready`. Resolves when those in flight have ended; `close()`
   * ends them early.
   */
  readonly drain: () => Promise<void>;
  /** Ends all requests and frees what the handler holds; the model stays. */
  readonly close: () => Promise<void>;
  /** Removes expired sessions from a store that keeps everything, such as a folder. Failures are logged, not thrown. */
  readonly sweep: () => Promise<void>;
}

/**
 * A handler that answers from a model, in OpenAI's protocol.
 *
 * | route | |
 * |---|---|
 * | `POST /v1/completions`, `POST /v1/chat/completions` | answers, whole or streamed; `session` continues an earlier one |
 * | `GET /v1/models`, `GET /v1/models/<name>` | the model |
 * | `GET`, `DELETE /v1/sessions/<id>` | a session of the key that made it |
 * | `POST /v1/sessions/<id>/stop` | ends the answer that is being written in a session; its text so far counts |
 * | `POST /v1/sessions/<id>/fork` | another session, of the id in the body, that continues where this one stands |
 * | `GET /` | a page to try it |
 * | `GET /model/<file>` | the model's files, if `checkpoint` is given |
 * | `POST /tokenize`, `POST /detokenize`, `GET /tokenizer_info` | the tokenizer |
 * | `GET /health`, `GET /ready` | whether the process lives, whether it can answer; without a key |
 * | `GET /metrics` | Prometheus |
 *
 * Spans go to OpenTelemetry if the host has set it up; in Deno by `OTEL_DENO=true`.
 *
 * @example
 * ```ts
 * import assert from "node:assert/strict";
 * import { createBackend } from "@levin/attention";
 * import { createHandler } from "@levin/attention/serve";
 * import { TransNormerLLM } from "@levin/attention/tnl";
 *
 * using backend = await createBackend({ prefer: "wasm" });
 * using model = await TransNormerLLM.load("tests/golden/tnl", { backend });
 * const handler = createHandler({ model });
 * const response = await handler(
 *   new Request("http://localhost/v1/completions", {
 *     method: "POST",
 *     headers: { "content-type": "application/json" },
 *     body: JSON.stringify({ prompt: [5, 17, 9], max_tokens: 4, temperature: 0, session: "mine" }),
 *   }),
 * );
 * assert.equal(response.status, 200);
 * assert.equal((await response.json()).usage.completion_tokens, 4);
 * await handler.close();
 * ```
 *
 * @throws {TypeError} when an option is of the wrong kind @throws {RangeError} when a limit is out of range
 */
export function createHandler(options: HandlerOptions): Handler {
  const { name = "levin", model, checkpoint, chatTemplate, sessionSecret, untrusted } = options;
  const storage = storageOf(options.storage);
  const limits = checkLimits(options.limits, options.apiKeys?.length, storage === undefined);
  if (typeof model !== "object" || model === null) {
    typeError("createHandler", "model must be a TransNormerLLM", model);
  }
  if (chatTemplate !== undefined) checkTemplate(chatTemplate);
  const authenticated = authentication(options.apiKeys);
  if (sessionSecret !== undefined && (typeof sessionSecret !== "string" || sessionSecret === "")) {
    typeError("createHandler", "sessionSecret must be a string that is not empty", typeof sessionSecret);
  }
  const service = new Service({
    name,
    model,
    checkpoint,
    chatTemplate,
    limits,
    storage,
    sessionSecret,
    untrusted,
  });

  const app = new Hono<Env>();
  app.onError(respondError);
  app.notFound((c) =>
    respondError(new ApiError(404, `There is no ${c.req.method} ${c.req.path}`, { code: "not_found" }))
  );
  app.use(async (c, next) => {
    await next();
    c.res.headers.set("x-content-type-options", "nosniff");
    if (!c.res.headers.has("cache-control")) c.res.headers.set("cache-control", "no-store");
    service.metrics.requests.add(1, { route: routePath(c), status: c.res.status });
  });
  if (options.cors !== undefined) app.use(crossOrigin(options.cors));
  app.use(methodNotAllowed({ app, onMethodNotAllowed: respondMethods }));

  app.route("/", health(service));
  app.route("/", page());

  if (options.apiKeys === undefined) app.use(sameOrigin(options.cors ?? [], options.hosts));
  app.use(authenticated);
  app.use(async (c, next) => {
    if (c.req.method === "POST") service.requestRate.take(c.get("owner"), 1);
    try {
      await next();
    } finally {
      c.get("body")?.[Symbol.dispose]();
    }
  });
  app.route("/", metrics(service));
  app.route("/", models(service));
  app.route("/", completions(service));
  app.route("/", sessions(service));
  app.route("/", tokenizer(service));
  if (checkpoint !== undefined) app.route("/model", modelFiles(checkpoint));

  const fetch = async (request: Request) => {
    if (request.method !== "HEAD") return await app.fetch(request);
    // Hono would answer as to GET and forget the body: what it reads from would stay open.
    const response = await app.fetch(new Request(request, { method: "GET" }));
    await response.body?.cancel();
    return new Response(null, response);
  };
  return Object.assign((request: Request) => fetch(request), {
    fetch,
    answering: () => service.answering,
    drain: () => service.drain(),
    async close() {
      await service.close();
      if (typeof options.storage === "string") await service.sessions.close();
    },
    sweep: () => service.sessions.sweep(),
  });
}

function storageOf(storage: HandlerOptions["storage"]): SessionStore | SessionStorage | undefined {
  if (typeof storage === "string") return lazyStore("createHandler", storage);
  const isStore = typeof storage === "object" && storage !== null &&
    ("read" in storage || "getItemRaw" in storage);
  if (storage !== undefined && !isStore) {
    typeError("createHandler", "storage must be a URL, a SessionStore or a Storage of unstorage", storage);
  }
  return storage;
}

/** There is such a path, but not for this method. */
function respondMethods(c: Context, methods: string[]): Response {
  const allowed = methods.join(", ");
  const response = respondError(
    new ApiError(405, `${c.req.path} takes ${allowed}, not ${c.req.method}`, { code: "method_not_allowed" }),
  );
  response.headers.set("allow", allowed);
  return response;
}
