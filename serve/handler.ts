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

/** Options of `createHandler`. */
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

/** What `createHandler` returns: a function, and an object with a `fetch`, whichever a host asks for. */
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
 * Puts a handler together; see `createHandler`.
 *
 * @param page what there is at `/`, if anything
 */
export function makeHandler(options: HandlerOptions, page?: Hono): Handler {
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
  if (page !== undefined) app.route("/", page);

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
