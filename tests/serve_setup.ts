/**
 * What the tests of the server share: a small model that reads and writes text, a handler over it, requests.
 *
 * @module
 */
import assert from "node:assert/strict";
import { setImmediate } from "node:timers/promises";
import { createBackend, type Tensor } from "../mod.ts";
import { TransNormerLLM } from "../model/mod.ts";
import { createHandler, type Handler, type HandlerOptions } from "../serve/mod.ts";
import {
  byteLevelJson,
  checkpoint,
  type ConfigJson,
  type Files,
  randomTensors,
  SERVED,
  serving,
  SMALL,
  textFile,
} from "./reference_model.ts";

/** As many ids as {@linkcode byteLevelJson} has tokens. Its end, 261, is no end here: answers have their full length. */
export const TEXT: ConfigJson = {
  ...SMALL,
  vocab_size: 263,
  decoder_embed_dim: 32,
  hidden_dim: 48,
  linear_use_lrpe_list: [1, 0],
};

/** A chat template as tokenizers bring them. */
export const TEMPLATE =
  "{% for message in messages %}<{{ message.role }}>{{ message.content }}{{ eos_token }}{% endfor %}" +
  "{% if add_generation_prompt %}<assistant>{% endif %}";

/** The files of a random model with a byte-level tokenizer; `others` take the place of some. */
export function textFiles(config: ConfigJson = TEXT, seed = 1, others: Files = {}): Files {
  return {
    ...checkpoint(config, randomTensors(config, seed)),
    "tokenizer.json": textFile(byteLevelJson()),
    "tokenizer_config.json": textFile({ eos_token: "<|end|>", chat_template: TEMPLATE }),
    ...others,
  };
}

/** The file of a tokenizer of words: `▁` stands for the space before one, and decoding drops the first. */
export function wordsFile(): Files {
  const letters = Array.from("abcdefghijklmnopqrstuvwxyz");
  const pieces = [...letters, "▁", ...letters.map((letter) => `▁${letter}`)];
  for (let i = 0; pieces.length < TEXT.vocab_size; i++) pieces.push(i % 3 === 0 ? `w${i}` : `▁w${i}`);
  const metaspace = { type: "Metaspace", replacement: "▁", prepend_scheme: "always", split: true };
  return {
    "tokenizer.json": textFile({
      version: "1.0",
      added_tokens: [],
      normalizer: null,
      pre_tokenizer: metaspace,
      post_processor: null,
      decoder: metaspace,
      model: {
        type: "BPE",
        vocab: Object.fromEntries(pieces.map((piece, id) => [piece, id])),
        merges: letters.map((letter) => ["▁", letter]),
        unk_token: null,
        byte_fallback: false,
      },
    }),
  };
}

/** A handler over a random model, which is alone on its backend. */
export interface Server extends AsyncDisposable {
  readonly model: TransNormerLLM;
  readonly handler: Handler;
  /** Sends a request; a body that is neither text nor bytes is sent as JSON. */
  send(path: string, body?: unknown, headers?: Record<string, string>): Promise<Response>;
  /** Sends a request that must succeed, and reads the answer. */
  // deno-lint-ignore no-explicit-any -- the answers' shapes are what is tested
  ask(path: string, body?: unknown, headers?: Record<string, string>): Promise<any>;
  /** A number from `/metrics`: the sum over all labels, or the sample of those that `name` ends with. */
  metric(name: string): Promise<number>;
}

/** Starts a handler over {@linkcode textFiles}. After its end nothing of it is left on the backend. */
export async function serve(
  options: Partial<HandlerOptions> = {},
  config: ConfigJson = TEXT,
  seed = 1,
  others: Files = {},
): Promise<Server> {
  const backend = await createBackend({ prefer: "wasm" });
  const model = await TransNormerLLM.load(SERVED, {
    backend,
    fetch: serving(textFiles(config, seed, others)),
  });
  const weights = backend.bytesInUse;
  const handler = createHandler({ model, ...options });
  const key = options.apiKeys?.[0];
  const send = (path: string, body?: unknown, headers: Record<string, string> = {}) =>
    handler(
      new Request(`http://localhost${path}`, {
        method: body === undefined ? "GET" : "POST",
        body: body === undefined ? undefined : isRaw(body) ? body : JSON.stringify(body),
        headers: { ...(key === undefined ? {} : { authorization: `Bearer ${key}` }), ...headers },
      }),
    );
  return {
    model,
    handler,
    send,
    async ask(path, body, headers) {
      const response = await send(path, body, headers);
      const text = await response.text();
      assert.equal(response.status, 200, text);
      return JSON.parse(text);
    },
    async metric(name) {
      const text = await (await send("/metrics")).text();
      const samples = text.matchAll(new RegExp(`^${RegExp.escape(name)}(?:\\{.*\\})? (.*)$`, "gm"));
      return Array.from(samples, ([, value]) => Number(value)).reduce((sum, value) => sum + value);
    },
    async [Symbol.asyncDispose]() {
      await handler.close();
      assert.equal(backend.bytesInUse, weights, "the handler left tensors undisposed");
      assert.equal(model.sessions.size, 0, "the handler left sessions undisposed");
      model.dispose();
      backend.dispose();
    },
  };
}

/** Resolves when a condition holds, which is asked in every turn of the event loop. */
export async function until(condition: () => boolean | Promise<boolean>): Promise<void> {
  while (!await condition()) await setImmediate();
}

/** Gets logits, or whatever else a test wants them to be. */
type Intercept = (read: () => Promise<Float32Array>) => Promise<Float32Array>;

/** Puts something in the way of the logits of all batches that a model makes from now on, step by step. */
export function interceptSteps(
  model: TransNormerLLM,
  intercept: Intercept,
): void {
  const newBatch = model.batch.bind(model);
  model.batch = (size) => {
    const batch = newBatch(size);
    const step = batch.step.bind(batch);
    batch.step = (...args) => intercepted(step(...args), intercept);
    return batch;
  };
}

/** {@linkcode interceptSteps} for the logits of prompts. */
export function interceptPrompts(
  model: TransNormerLLM,
  intercept: Intercept,
): void {
  const newSession = model.session.bind(model);
  model.session = () => {
    const session = newSession();
    const prefill = session.prefill.bind(session);
    session.prefill = (...args) => intercepted(prefill(...args), intercept);
    return session;
  };
}

function intercepted(
  logits: Tensor,
  intercept: Intercept,
): Tensor {
  const read = logits.data.bind(logits);
  logits.data = () => intercept(read);
  return logits;
}

/** How far a model may decode: until a test says so, no answer comes to its end. */
export interface Steps {
  /** Lets a number of decode steps pass; default: all of them from now on. */
  allow(count?: number): void;
}

/**
 * Holds the decode steps of all batches that a model makes from now on. An answer's first token comes from its prompt,
 * each further one needs a step.
 */
export function holdSteps(model: TransNormerLLM): Steps {
  let allowed = 0;
  let wake = Promise.withResolvers<void>();
  interceptSteps(model, async (read) => {
    while (allowed === 0) await wake.promise;
    allowed--;
    return await read();
  });
  return {
    allow(count = Infinity) {
      allowed += count;
      wake.resolve();
      wake = Promise.withResolvers();
    },
  };
}

/** The data of server-sent events, `[DONE]` included. */
export async function* events(response: Response): AsyncGenerator<string> {
  assert.match(response.headers.get("content-type")!, /^text\/event-stream/);
  // Not through a TextDecoderStream: for many clients its pipes cost more than all the rest.
  const decoder = new TextDecoder();
  let text = "";
  for await (const bytes of response.body!) {
    text += decoder.decode(bytes, { stream: true });
    for (let end; (end = text.indexOf("\n\n")) >= 0; text = text.slice(end + 2)) {
      const event = text.slice(0, end);
      assert(event.startsWith("data: "), event);
      yield event.slice(6);
    }
  }
  assert.equal(text, "");
}

/** Checks that a response is an error in OpenAI's shape, without internals, and returns it. */
export async function assertError(
  response: Response,
  status: number | ((status: number) => boolean),
  code?: string,
) {
  const text = await response.text();
  assert(
    typeof status === "number" ? response.status === status : status(response.status),
    `${response.status}: ${text}`,
  );
  const { error, ...rest } = JSON.parse(text);
  assert.deepEqual(rest, {});
  assert.deepEqual(Object.keys(error).sort(), ["code", "message", "param", "type"]);
  assert.equal(typeof error.message, "string");
  assert.equal(typeof error.type, "string");
  assert.doesNotMatch(text, /\.ts|\bat \w+ \(|node_modules/, "a stack trace went out");
  if (code !== undefined) assert.equal(error.code, code);
  return error as { message: string; type: string; param: string | null; code: string | null };
}

/** Bodies that must not lead to a completion: cut off, huge, deep, of the wrong types, out of range. */
export function hostileBodies(
  { vocabSize, bodyBytes }: { vocabSize: number; bodyBytes: number },
): (string | Uint8Array<ArrayBuffer>)[] {
  const deep = (open: string, close: string) => open.repeat(100_000) + close.repeat(100_000);
  const invalidUtf8 = new TextEncoder().encode('{"prompt":"??"}').map((byte) => byte === 63 ? 0xff : byte);
  const bodies = [
    "",
    "{",
    "null",
    "[]",
    "7",
    '"text"',
    "{}",
    deep("[", "]"),
    `{"prompt":${deep("[", "]")}}`,
    `{"prompt":"a","stop":${deep("[", "]")}}`,
    `{"messages":${deep('[{"a":', "}]")}`,
    "x".repeat(bodyBytes + 1),
    invalidUtf8,
    ...[
      [],
      [[]],
      [[], [1]],
      [1, "a"],
      ["a", 1],
      [1.5],
      [-1],
      [vocabSize],
      [[1], [vocabSize]],
      [2 ** 32],
      [2 ** 53],
      [1e300],
      null,
      true,
      {},
    ]
      .map((prompt) => ({ prompt })),
    ...Object.entries({
      max_tokens: [-1, 1.5, "3", 1e9, true, [], {}],
      temperature: [-0.1, "hot", 1e9, [], "NaN"],
      top_p: [0, -1, 1.1, "1"],
      top_k: [-2, 1.5, "1"],
      min_p: [-0.1, 1.1],
      seed: [1.5, "1", 1e300],
      stop: [7, [7], {}, [["a"]]],
      n: [0, -1, 1.5, 1e9, "2"],
      echo: ["yes", 1],
      logprobs: [-1, 21, 1.5, true, "1"],
      stream: ["yes", 1],
      stream_options: ["yes", { include_usage: 7 }],
      session: ["", 7, "x".repeat(257), []],
      model: ["another", 7, ""],
      repetition_penalty: [0, -1, "1"],
    }).flatMap(([field, values]) => values.map((value) => ({ prompt: "a", [field]: value }))),
    { prompt: ["a", "b"], session: "s" },
    { prompt: "a", n: 2, session: "s" },
    { prompt: "a", echo: true, session: "s" },
  ];
  return bodies.map((body) => isRaw(body) ? body : JSON.stringify(body));
}

function isRaw(body: unknown): body is string | Uint8Array<ArrayBuffer> {
  return typeof body === "string" || body instanceof Uint8Array;
}

/** The clock of sessions, which a test sets; it stands still otherwise. */
export function clock(): Disposable & { forward(seconds: number): void } {
  const now = Date.now;
  let time = now();
  Date.now = () => time;
  return {
    forward: (seconds) => void (time += 1000 * seconds),
    [Symbol.dispose]: () => void (Date.now = now),
  };
}

/** The clock of everything that is measured, `performance.now()`, which stands still but for `forward`. */
export function monotonicClock(): Disposable & { forward(seconds: number): void } {
  const { now } = performance;
  let time = performance.now();
  performance.now = () => time;
  return {
    forward: (seconds) => void (time += 1000 * seconds),
    [Symbol.dispose]: () => void (performance.now = now),
  };
}
