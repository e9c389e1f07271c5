/**
 * The HTTP handler: routes, keys, limits, streams.
 *
 * @module
 */
import { Template } from "@huggingface/jinja";
import { SpanStatusCode, trace } from "@opentelemetry/api";
import { type Context, Hono } from "hono";
import { bodyLimit } from "hono/body-limit";
import { cors } from "hono/cors";
import { typeError } from "../core/errors.ts";
import { elementCount } from "../core/tensor.ts";
import type { TransNormerLLM } from "../model/mod.ts";
import { stateShapes } from "../model/transnormer.ts";
import type { Part } from "./answer.ts";
import { begin, type Completion, type Engine, type Outcome, type Prompt } from "./completion.ts";
import { ApiError, invalid, publicError } from "./errors.ts";
import { modelFiles, page } from "./page/mod.ts";
import { checkLimits, type Limits } from "./limits.ts";
import { Metrics } from "./metrics.ts";
import { chatShape, type Shape, textShape, tokenName } from "./openai.ts";
import { Scheduler } from "./scheduler.ts";
import {
  chatSchema,
  completionSchema,
  detokenizeSchema,
  type Generation,
  type Message,
  parseBody,
  tokenizeSchema,
} from "./schema.ts";
import { digest, type SessionStorage, SessionStore } from "./sessions.ts";

/** Options of {@linkcode createHandler}. */
export interface HandlerOptions {
  /** The model, or one that is still loading: until then the server is not ready. It stays the caller's. */
  model: TransNormerLLM | Promise<TransNormerLLM>;
  /** What clients call it. Default `"levin"`. */
  name?: string;
  /** Where sessions are kept: any store of unstorage. Default: memory. */
  storage?: SessionStorage;
  /** Keys that clients must have one of, as `Authorization: Bearer <key>`. Default: none is needed. */
  apiKeys?: readonly string[];
  /** See {@linkcode Limits}. */
  limits?: Partial<Limits>;
  /** Where the model was loaded from: given, those with a key may load it too, for the page's "run in this browser". */
  checkpoint?: string | URL;
  /** Origins whose pages may use the server from a browser; `["*"]`: all. Default: none but its own. */
  cors?: readonly string[];
}

/** What {@linkcode createHandler} returns: a function, and an object with a `fetch`, whichever a host asks for. */
export interface Handler {
  (request: Request): Promise<Response>;
  /** The same function. */
  readonly fetch: (request: Request) => Promise<Response>;
  /** Ends all requests and frees what the handler holds; the model stays. */
  readonly close: () => Promise<void>;
  /** Removes expired sessions from a store that keeps everything, such as a folder. */
  readonly sweep: () => Promise<void>;
}

interface Variables {
  /** Whose sessions a request may use. */
  owner: string;
}

const tracer = trace.getTracer("@levin/attention/serve");

/**
 * A handler that answers from a model, in OpenAI's protocol.
 *
 * | route | |
 * |---|---|
 * | `POST /v1/completions`, `POST /v1/chat/completions` | answers, whole or streamed; `session` goes on with an earlier one |
 * | `GET /v1/models` | the model |
 * | `GET`, `DELETE /v1/sessions/<id>` | a session of the key that made it |
 * | `POST /v1/sessions/<id>/stop` | ends the answer that is being written in a session; what there is of it counts |
 * | `GET /` | a page to try it |
 * | `GET /model/<file>` | the model's files, where `checkpoint` is given |
 * | `POST /tokenize`, `POST /detokenize`, `GET /tokenizer_info` | the tokenizer |
 * | `GET /health`, `GET /ready` | whether the process lives, whether it can answer; without a key |
 * | `GET /metrics` | Prometheus |
 *
 * Spans go to OpenTelemetry where the host has set it up; in Deno by `OTEL_DENO=true`.
 *
 * @example
 * ```ts
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
 *     body: JSON.stringify({ prompt: [5, 17, 9], max_tokens: 4, temperature: 0, session: "mine" }),
 *   }),
 * );
 * console.log(response.status, (await response.json()).usage.completion_tokens); // 200 4
 * await handler.close();
 * ```
 *
 * @throws {TypeError} when an option is of the wrong kind @throws {RangeError} when a limit is out of range
 */
export function createHandler(options: HandlerOptions): Handler {
  const { name = "levin", apiKeys, storage } = options;
  const limits = checkLimits(options.limits);
  if (typeof options.model !== "object" || options.model === null) {
    typeError("createHandler", "model must be a TransNormerLLM", options.model);
  }
  const keys = checkKeys(apiKeys);
  const metrics = new Metrics();
  const sessions = new SessionStore(storage, limits);
  const created = Math.floor(Date.now() / 1000);
  const completionBody = completionSchema(limits), chatBody = chatSchema(limits); // costly to make: once

  /** What ends the answer of a session, by owner and id. */
  const finishing = new Map<string, AbortController>();

  let ready: Engine | undefined;
  let failed = false;
  const engine: Promise<Engine> = Promise.resolve(options.model).then((model) => {
    const stateBytes = stateShapes(model.config, 1)
      .reduce((sum, shape) => sum + 4 * elementCount(shape), 0);
    return ready = { model, scheduler: new Scheduler(model, limits, metrics), limits, metrics, stateBytes };
  }).catch((error) => {
    failed = true;
    report(error);
    throw new ApiError(503, "The model could not be loaded", { code: "model_not_loaded" });
  });
  engine.catch(() => {}); // whoever waits for it gets the error
  metrics.gauge("levin_waiting", "Prompts that wait.", () => ready?.scheduler.load.waiting ?? 0);
  metrics.gauge("levin_reading", "Prompts that are being read.", () => ready?.scheduler.load.reading ?? 0);
  metrics.gauge("levin_writing", "Answers that are being written.", () => ready?.scheduler.load.writing ?? 0);
  metrics.gauge("levin_state_bytes", "Bytes of the state of one session.", () => ready?.stateBytes ?? 0);
  metrics.gauge("levin_backend_bytes", "Bytes that model and states hold.", () => {
    return ready?.model.backend.bytesInUse ?? 0;
  });

  const app = new Hono<{ Variables: Variables }>();
  app.use(async (c, next) => {
    await next();
    metrics.requests.add(1, { route: c.req.routePath, status: c.res.status });
  });
  app.onError((error) => respondError(error));
  app.notFound((c) =>
    respondError(new ApiError(404, `There is no ${c.req.method} ${c.req.path}`, { code: "not_found" }))
  );
  if (options.cors !== undefined) {
    app.use(cors({ origin: [...options.cors], allowHeaders: ["Authorization", "Content-Type"] }));
  }

  app.get("/health", (c) => c.json({ status: "ok" }));
  app.get("/ready", (c) => {
    const { waiting } = ready?.scheduler.load ?? { waiting: Infinity };
    const status = failed
      ? "failed"
      : ready === undefined
      ? "loading"
      : waiting >= limits.queue
      ? "full"
      : "ready";
    return c.json({ status }, status === "ready" ? 200 : 503);
  });

  app.route("/", page());

  app.use(async (c, next) => {
    c.set("owner", await authenticate(c.req.header("authorization"), keys));
    await next();
  });
  app.use(bodyLimit({
    maxSize: limits.bodyBytes,
    onError: () => {
      throw new ApiError(413, `The body must be at most ${limits.bodyBytes} bytes`, {
        code: "body_too_large",
      });
    },
  }));

  app.get("/metrics", (c) => c.text(metrics.render(), 200, { "content-type": "text/plain; version=0.0.4" }));

  if (options.checkpoint !== undefined) app.route("/model", modelFiles(options.checkpoint));

  const card = async () => {
    const { model, stateBytes } = await engine;
    const { vocabSize } = model.config;
    return {
      id: name,
      object: "model",
      created,
      owned_by: "levin",
      parameters: model.parameterCount,
      vocab_size: vocabSize,
      state_bytes: stateBytes,
      // What softmax attention of the same size would keep of each token: key and value of every layer, in f32.
      cache_bytes_per_token: 2 * 4 * model.config.layers * model.config.hiddenDim,
      backend: model.backend.name,
      files: options.checkpoint !== undefined,
    };
  };
  app.get("/v1/models", async (c) => c.json({ object: "list", data: [await card()] }));
  app.get("/v1/models/:id", async (c) => {
    checkName(c.req.param("id"), name);
    return c.json(await card());
  });

  app.post("/v1/completions", async (c) => {
    const body = parseBody(completionBody, await readBody(c));
    checkName(body.model, name);
    const ready = await engine;
    if (body.stop.length > 0) tokenizerOf(ready.model);
    const shape = textShape(name, ready.model.tokenizer, body.logprobs !== undefined);
    return await answer(c, ready, shape, body, (isContinued) => ({
      options: body,
      prompts: textPrompts(ready.model, body.prompt, !isContinued, limits),
      maxTokens: body.max_tokens,
      echo: body.echo,
      logprobs: body.logprobs,
      keepEnd: false,
    }));
  });

  app.post("/v1/chat/completions", async (c) => {
    const body = parseBody(chatBody, await readBody(c));
    checkName(body.model, name);
    const ready = await engine;
    const text = renderChat(ready.model, body.messages, true);
    checkTexts([text], limits);
    const ids = Uint32Array.from(encode(ready.model, text, false));
    const logprobs = body.logprobs ? body.top_logprobs ?? 0 : undefined;
    const shape = chatShape(name, ready.model.tokenizer, logprobs !== undefined);
    return await answer(c, ready, shape, body, () => ({
      options: body,
      prompts: [{ ids, text }],
      maxTokens: body.max_completion_tokens ?? body.max_tokens ?? Math.min(1024, limits.maxTokens),
      echo: false,
      logprobs,
      keepEnd: true,
    }));
  });

  app.get("/v1/sessions/:id", async (c) => {
    const { stateBytes } = await engine;
    const id = c.req.param("id");
    using lease = await sessions.open(c.get("owner"), id);
    if (lease.stored === undefined) throw noSession();
    const { tokens } = lease.stored;
    return c.json({ id, tokens, state_bytes: stateBytes, expires: new Date(lease.expires).toISOString() });
  });
  app.delete("/v1/sessions/:id", async (c) => {
    using lease = await sessions.open(c.get("owner"), c.req.param("id"));
    if (lease.stored === undefined) throw noSession();
    await lease.remove();
    return c.json({ id: c.req.param("id"), deleted: true });
  });

  app.post("/v1/sessions/:id/stop", (c) => {
    const finish = finishing.get(`${c.get("owner")}\0${c.req.param("id")}`);
    finish?.abort();
    return c.json({ id: c.req.param("id"), stopped: finish !== undefined });
  });

  app.post("/tokenize", async (c) => {
    const body = parseBody(tokenizeSchema, await readBody(c));
    const { model } = await engine;
    const [text, addSpecialTokens] = "messages" in body
      ? [renderChat(model, body.messages, body.add_generation_prompt ?? true), false]
      : [body.prompt, body.add_special_tokens ?? true];
    checkTexts([text], limits);
    const tokens = encode(model, text, addSpecialTokens);
    // Others give a model's longest sequence here; a state of fixed size has none but the server's limit.
    return c.json({ count: tokens.length, max_model_len: limits.requestTokens, tokens });
  });
  app.post("/detokenize", async (c) => {
    const { tokens } = parseBody(detokenizeSchema, await readBody(c));
    const { model } = await engine;
    const outside = tokens.find((id) => id >= model.config.vocabSize);
    if (outside !== undefined) {
      throw invalid("tokens", `tokens: must be below ${model.config.vocabSize}, not ${outside}`);
    }
    return c.json({ prompt: tokenizerOf(model).decode(tokens, { specialTokens: true }) });
  });
  app.get("/tokenizer_info", async (c) => {
    const { model } = await engine;
    const { bosTokenId, eosTokenIds } = model.config;
    const tokenizer = tokenizerOf(model);
    const nameOf = (id: number | undefined) => id === undefined ? null : tokenName(tokenizer, id);
    return c.json({ bos_token: nameOf(bosTokenId), eos_token: nameOf(eosTokenIds[0]), ...tokenizer.config });
  });

  /** Answers a checked request: with its session, in a span, whole or streamed, stopped by time and by going clients. */
  async function answer(
    c: Context<{ Variables: Variables }>,
    engine: Engine,
    shape: Shape,
    options: Generation,
    request: (isContinued: boolean) => Omit<Completion, "lease" | "finish">,
  ): Promise<Response> {
    const span = tracer.startSpan(c.req.path, {
      attributes: { "gen_ai.operation.name": "text_completion", "gen_ai.request.model": name },
    });
    const stop = new AbortController();
    const gone = () => stop.abort(new ApiError(499, "The client is gone", { code: "client_gone" }));
    const timer = setTimeout(() => {
      stop.abort(new ApiError(504, `The request took more than ${limits.seconds} s`, { code: "timeout" }));
    }, 1000 * limits.seconds);
    const { signal } = c.req.raw;
    signal.addEventListener("abort", gone);
    if (signal.aborted) gone();
    let lease: Completion["lease"];
    const finish = new AbortController();
    const place = `${c.get("owner")}\0${options.session}`;
    const end = (outcome: Outcome | undefined, error?: unknown) => {
      clearTimeout(timer);
      signal.removeEventListener("abort", gone);
      lease?.[Symbol.dispose]();
      if (lease !== undefined) finishing.delete(place);
      if (outcome !== undefined) {
        span.setAttributes({
          "gen_ai.usage.input_tokens": outcome.promptTokens,
          "gen_ai.usage.output_tokens": outcome.completionTokens,
        });
      }
      if (error !== undefined) {
        span.setStatus({ code: SpanStatusCode.ERROR, message: publicError(error).message });
        report(error);
      }
      span.end();
    };
    try {
      lease = options.session === undefined
        ? undefined
        : await sessions.open(c.get("owner"), options.session);
      if (lease !== undefined) finishing.set(place, finish);
      const completion = { ...request(lease?.stored !== undefined), lease, finish: finish.signal };
      let emit: (part: Part) => void = () => {};
      const parts: Part[][] = completion.prompts.flatMap(() =>
        Array.from({ length: options.n }, (): Part[] => [])
      );
      let isFirst = true;
      const outcome = begin(engine, completion, (part) => {
        if (isFirst) span.addEvent("first token");
        isFirst = false;
        emit(part);
      }, stop.signal);
      if (options.stream) {
        const withUsage = options.stream_options?.include_usage ?? false;
        const body = eventStream(shape, outcome, withUsage, parts.length, (sink) => emit = sink, gone);
        outcome.then((outcome) => end(outcome), (error) => end(undefined, error));
        return new Response(body, {
          headers: { "content-type": "text/event-stream; charset=utf-8", "cache-control": "no-store" },
        });
      }
      emit = (part) => parts[part.index].push(part);
      const result = await outcome;
      end(result);
      return c.json(shape.whole(parts, result));
    } catch (error) {
      end(undefined, error);
      throw error;
    }
  }

  const fetch = async (request: Request) => await app.fetch(request);
  return Object.assign((request: Request) => fetch(request), {
    fetch,
    close: async () => await ready?.scheduler.dispose(),
    sweep: () => sessions.sweep(),
  });
}

/** Server-sent events of an answer; whoever stops reading them is gone. */
function eventStream(
  shape: Shape,
  outcome: Promise<Outcome>,
  withUsage: boolean,
  choices: number,
  connect: (emit: (part: Part) => void) => void,
  gone: () => void,
): ReadableStream<Uint8Array> {
  const encoder = new TextEncoder();
  let open = true;
  return new ReadableStream({
    start(controller) {
      const send = (data: unknown) => {
        if (!open) return;
        const text = typeof data === "string" ? data : JSON.stringify(data);
        controller.enqueue(encoder.encode(`data: ${text}\n\n`));
      };
      for (let index = 0; index < choices; index++) shape.opening(index).forEach(send);
      connect((part) => {
        if (part.text !== "" || part.entries.length > 0 || part.finish !== undefined) send(shape.chunk(part));
      });
      outcome.then((outcome) => {
        shape.closing(outcome, withUsage).forEach(send);
        send("[DONE]");
      }, (error) => send(publicError(error))).then(() => {
        if (open) controller.close();
        open = false;
      });
    },
    cancel() {
      open = false;
      gone();
    },
  });
}

/** What an error looks like outside; what it is goes to the log of the host. */
function respondError(error: unknown): Response {
  const visible = publicError(error);
  const { status, retryAfter } = visible;
  report(error);
  return Response.json(visible, {
    status,
    headers: {
      ...(retryAfter === undefined ? {} : { "retry-after": String(retryAfter) }),
      ...(status === 401 ? { "www-authenticate": "Bearer" } : {}),
    },
  });
}

/** The host's log gets what clients must not see: errors that nobody expected. */
function report(error: unknown): void {
  if (!(error instanceof ApiError)) console.error(error);
}

function checkKeys(apiKeys: readonly string[] | undefined): Promise<string[]> | undefined {
  if (apiKeys === undefined) return undefined;
  if (!Array.isArray(apiKeys) || apiKeys.length === 0) {
    typeError("createHandler", "apiKeys must hold at least one key, or be left out", apiKeys);
  }
  for (const key of apiKeys) {
    if (typeof key !== "string" || key === "") {
      // Not shown: a key never stands in a message.
      typeError("createHandler", "apiKeys must be strings that are not empty", typeof key);
    }
  }
  return Promise.all(apiKeys.map(digest));
}

/**
 * The owner that a request's key stands for. Digests are compared, all of them to their last character, so that the time
 * it takes tells nothing of the keys.
 */
async function authenticate(
  header: string | undefined,
  keys: Promise<string[]> | undefined,
): Promise<string> {
  if (keys === undefined) return "everybody";
  const given = await digest(/^Bearer +(.+)$/i.exec(header ?? "")?.[1] ?? "");
  let owner = "";
  for (const key of await keys) {
    let difference = 0;
    for (let i = 0; i < key.length; i++) difference |= key.charCodeAt(i) ^ given.charCodeAt(i);
    if (difference === 0) owner = key;
  }
  if (owner === "") {
    throw new ApiError(401, "The key is missing or wrong", {
      type: "authentication_error",
      code: "invalid_api_key",
    });
  }
  return owner;
}

function checkName(asked: string | undefined, name: string): void {
  if (asked !== undefined && asked !== name) {
    throw new ApiError(404, `There is no model ${JSON.stringify(asked)}`, {
      param: "model",
      code: "model_not_found",
    });
  }
}

function noSession(): ApiError {
  return new ApiError(404, "There is no such session", { code: "session_not_found" });
}

async function readBody(c: Context): Promise<Uint8Array> {
  try {
    return new Uint8Array(await c.req.arrayBuffer());
  } catch (error) {
    if (error instanceof ApiError) throw error;
    throw invalid(null, "The body could not be read", "invalid_body");
  }
}

function tokenizerOf({ tokenizer }: TransNormerLLM): NonNullable<TransNormerLLM["tokenizer"]> {
  if (tokenizer === undefined) {
    throw invalid(
      null,
      "The model has no tokenizer: prompts must be token ids, and stop strings are not possible",
      "no_tokenizer",
    );
  }
  return tokenizer;
}

/** See `characters` of {@linkcode Limits}. */
function checkTexts(prompts: readonly unknown[], { characters }: Limits): void {
  const length = prompts.reduce(
    (sum: number, prompt) => sum + (typeof prompt === "string" ? prompt.length : 0),
    0,
  );
  if (length > characters) {
    throw invalid(
      "prompt",
      `prompt: texts must be at most ${characters} characters, not ${length}: send token ids, or pieces in a session`,
      "text_too_long",
    );
  }
}

/**
 * Prompts of any of the four kinds. Ids are taken as they are; to text that begins a sequence the tokenizer adds what it
 * adds to prompts.
 */
function textPrompts(
  model: TransNormerLLM,
  prompt: string | number[] | string[] | number[][],
  addSpecialTokens: boolean,
  limits: Limits,
): Prompt[] {
  const rows = (typeof prompt === "string" || typeof prompt[0] === "number" ? [prompt] : prompt) as (
    | string
    | number[]
  )[];
  checkTexts(rows, limits);
  return rows.map((row): Prompt => {
    if (typeof row === "string") {
      return { ids: Uint32Array.from(encode(model, row, addSpecialTokens)), text: row };
    }
    return { ids: checkedIds(row), text: model.tokenizer?.decode(row, { specialTokens: true }) ?? "" };
  });
}

/** Ids beyond 32 bits must not wrap around into the vocabulary. */
function checkedIds(ids: readonly number[]): Uint32Array {
  return Uint32Array.from(ids, (id) => Math.min(id, 2 ** 32 - 1));
}

function encode(model: TransNormerLLM, text: string, addSpecialTokens: boolean): number[] {
  const tokenizer = tokenizerOf(model);
  try {
    return tokenizer.encode(text, { addSpecialTokens });
  } catch (error) {
    if (error instanceof RangeError) {
      throw invalid("prompt", "prompt: the tokenizer has no token for a part of it");
    }
    throw error;
  }
}

/** A chat as text, by the template that the tokenizer brings. */
function renderChat(
  model: TransNormerLLM,
  messages: readonly Message[],
  addGenerationPrompt: boolean,
): string {
  const { config } = tokenizerOf(model);
  const named = config.chat_template;
  const source = Array.isArray(named)
    ? named.find((template) => template?.name === "default")?.template
    : named;
  if (typeof source !== "string") {
    throw invalid(
      "messages",
      "The model's tokenizer brings no chat template: use /v1/completions",
      "no_chat_template",
    );
  }
  const text = (token: unknown) =>
    typeof token === "string" ? token : (token as { content?: string })?.content ?? "";
  try {
    return new Template(source).render({
      messages,
      add_generation_prompt: addGenerationPrompt,
      bos_token: text(config.bos_token),
      eos_token: text(config.eos_token),
    });
  } catch {
    throw invalid("messages", "messages: the chat template cannot render them");
  }
}
