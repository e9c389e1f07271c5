/**
 * TransNormerLLM as an object: load it, run it, talk to it, dispose it.
 *
 * @module
 */
import { BackendError, rangeError, typeError } from "../core/errors.ts";
import type { Backend, Tensor } from "../core/tensor.ts";
import type { TransNormerConfig } from "./config.ts";
import { Batch } from "./batch.ts";
import { decode, Decoding, type GeneratedToken, type GenerateOptions } from "./decoding.ts";
import { checkIds, promptIds } from "./ids.ts";
import { type Checkpoint, loadCheckpoint, type LoadOptions } from "./load.ts";
import { type Likelihood, loglikelihood, perplexity } from "./score.ts";
import { checkPrefillTokens, Session } from "./session.ts";
import { decodeSnapshot } from "./snapshot.ts";
import type { SamplingOptions } from "./sampling.ts";
import type { Tokenizer } from "./tokenizer.ts";
import type { ChatMessage, ChatTemplateOptions } from "./tokenizer/chat.ts";
import { allLogits, forward, stateShapes } from "./transnormer.ts";
import type { Weights } from "./weights.ts";

/** Options of `model.chat()`. */
export interface ChatOptions extends GenerateOptions, Pick<ChatTemplateOptions, "tools" | "template"> {}

/** The backend of `options.backend`. @throws {TypeError} when it is none */
export function checkBackend(backend: unknown): Backend {
  if (typeof backend !== "object" || backend === null) {
    typeError("TransNormerLLM.load", "options.backend must be a Backend, made by createBackend()", backend);
  }
  return backend as Backend;
}

/**
 * A language model of linear attention with decay ("Scaling TransNormer to 175 Billion Parameters"): what it
 * has read is kept in a state of fixed size.
 *
 * @example
 * ```ts
 * import { createBackend } from "@levin/attention";
 * import { TransNormerLLM } from "@levin/attention/tnl";
 * import assert from "node:assert/strict";
 *
 * using backend = await createBackend({ prefer: "wasm" });
 * using model = await TransNormerLLM.load("tests/golden/tnl", { backend });
 * const tokens: number[] = [];
 * for await (const { token, logprob } of model.generate([205, 7, 19], { maxTokens: 8, temperature: 0 })) {
 *   assert(logprob <= 0);
 *   tokens.push(token);
 * }
 * assert.equal(tokens.length, 8);
 * ```
 */
export class TransNormerLLM implements Disposable {
  /** Where the model lives and computes. */
  readonly backend: Backend;
  /** Checked `config.json`. */
  readonly config: TransNormerConfig;
  /** Parameters. */
  readonly weights: Weights<Tensor>;
  /** If the checkpoint has one. */
  readonly tokenizer: Tokenizer | undefined;
  /** Defaults of sampling: those of `generation_config.json`. They serve where a caller gives none. */
  readonly sampling: SamplingOptions;
  /** Hash of configuration and of all bytes of all weights: snapshots are restored only to a model with the same. */
  readonly fingerprint: string;
  /** Living sessions. */
  readonly sessions: Set<Session> = new Set();
  /** Living batches. */
  readonly batches: Set<Batch> = new Set();
  readonly #parameters: readonly Tensor[];
  readonly #ownsBackend: boolean;
  #disposed = false;

  /**
   * A model over a checkpoint on a backend; it takes the checkpoint's weights over, and the backend too if
   * `ownsBackend` says so.
   */
  constructor(
    backend: Backend,
    checkpoint: Checkpoint,
    { ownsBackend = false }: { ownsBackend?: boolean } = {},
  ) {
    this.#ownsBackend = ownsBackend;
    this.backend = backend;
    this.config = checkpoint.config;
    this.weights = checkpoint.weights;
    this.tokenizer = checkpoint.tokenizer;
    this.sampling = checkpoint.sampling ?? {};
    this.fingerprint = checkpoint.fingerprint;
    this.#parameters = checkpoint.parameters;
  }

  /**
   * Loads a checkpoint in the published layout: `config.json`; `model.safetensors`, else `pytorch_model.bin`, or shards
   * with the index of either, of F32, F16 or BF16. Nothing of a file is run. Read if they are there:
   * `generation_config.json`, whose end-of-sequence tokens and sampling defaults count; a tokenizer, which is in
   * `tokenizer.json`, else in `tokenizer.model` (SentencePiece), else in `vocab.json` and `merges.txt` (GPT-2), else in a
   * `.tiktoken` file; with it `tokenizer_config.json`, `special_tokens_map.json`, `added_tokens.json`,
   * `chat_template.jinja` and `additional_chat_templates/`.
   *
   * Tensors outside the published layout, such as buffers, are ignored. A parameter of the layout that the config has
   * no use for is an error: the two do not belong together.
   *
   * A model on the hub is downloaded into the cache of Python's `huggingface_hub` (in browsers, the origin's own file
   * system), and only what the model needs of it; a cut download continues, sizes and hashes are checked. What the
   * cache holds is not downloaded again. `HF_HOME`, `HF_TOKEN`, `HF_ENDPOINT` and `HF_HUB_OFFLINE` count.
   *
   * @param location a folder; the URL that the files lie under; or a model on the Hugging Face hub, `owner/name`,
   * `owner/name@revision`, or the same after `hf:`. A folder of that name wins
   * @param options see {@linkcode LoadOptions}; in `@levin/attention/tnl/bare` the backend must be given
   * @throws {RangeError} when a file is missing, truncated or hostile, config and weights do not fit, or the hub does not
   * give the model. The message names the location
   * @throws {TypeError} when a value is of the wrong kind
   * @throws what `signal` gives as reason, and what the network or the file system throws. After any failure the
   * backend holds what it held before
   */
  static async load(
    location: string | URL,
    options: LoadOptions & { backend: Backend },
  ): Promise<TransNormerLLM> {
    const backend = checkBackend(options?.backend);
    return new TransNormerLLM(backend, await loadCheckpoint(backend, location, options));
  }

  /** Number of parameters; tied ones count once. */
  get parameterCount(): number {
    return this.#parameters.reduce((sum, tensor) => sum + tensor.size, 0);
  }

  /**
   * Logits of whole sequences, in one pass.
   *
   * @param ids token ids, one row per sequence, all of the same length
   * @returns `[batch, seqLen, vocab]`, which the caller disposes: row t holds the logits of token t + 1
   * @throws {TypeError} when `ids` are no rows of ids
   * @throws {RangeError} when there is no token, rows differ in length, or an id is outside the vocabulary
   * @throws {BackendError} when the model was disposed or memory is short
   */
  forward(ids: readonly ArrayLike<number>[]): Tensor {
    const operation = "TransNormerLLM.forward";
    this.#requireLive(operation);
    if (!Array.isArray(ids)) typeError(operation, "ids must be an array of rows of token ids", ids);
    if (ids.length === 0) rangeError(operation, "ids must hold at least one row", ids);
    const rows = ids.map((row, b) => checkIds(operation, row, this.config.vocabSize, { name: `ids[${b}]` }));
    const batch = rows.length, seqLen = rows[0].length;
    const flat = new Uint32Array(batch * seqLen);
    rows.forEach((row, b) => {
      if (row.length !== seqLen) {
        rangeError(operation, `rows of ids must have the same length, ${seqLen}`, row.length, `row ${b}`);
      }
      flat.set(row, b * seqLen);
    });
    const output = forward(this, { ids: flat, batch, seqLen, positions: rows.map(() => 0) });
    for (const state of output.states) state.dispose();
    using hidden = output.hidden;
    return allLogits(this, hidden);
  }

  /**
   * Generates tokens after a prompt, each as soon as it is known. The end-of-sequence token that ends a generation is
   * the last one, with `finish: "eos"`. Each call has its own session, which ends with the loop.
   *
   * @param prompt a string, for models with a tokenizer, or token ids; at least one token
   * @param options see {@linkcode GenerateOptions}
   * @throws {TypeError} when an option is of the wrong kind, or the model has no tokenizer for a string
   * @throws {RangeError} when an option is out of range, the prompt has no token or one outside the vocabulary, or a
   * logit is NaN
   * @throws the reason of `signal`. All of these at the first `next()`, as generators do
   */
  async *generate(
    prompt: string | ArrayLike<number>,
    options: GenerateOptions = {},
  ): AsyncGenerator<GeneratedToken, void, void> {
    const operation = "TransNormerLLM.generate";
    this.#requireLive(operation);
    yield* this.#generate(operation, promptIds(operation, this, prompt), options);
  }

  /**
   * Generates the assistant's answer to a chat, as text of the model's chat template. Each call reads the whole chat: for
   * the next turn, append the answer and the next message. A turn that reads only what is new is `session.generate()`.
   *
   * @example
   * ```ts
   * import { createBackend } from "@levin/attention";
   * import { TransNormerLLM } from "@levin/attention/tnl";
   * import assert from "node:assert/strict";
   *
   * using backend = await createBackend({ prefer: "wasm" });
   * using model = await TransNormerLLM.load("models/sotu", { backend });
   * const template = "{{ messages[0].content }}"; // this model brings none
   * let answer = "";
   * for await (
   *   const { text } of model.chat([{ role: "user", content: "The state of the" }], { template, maxTokens: 8 })
   * ) answer += text;
   * assert(answer.length > 0);
   * ```
   *
   * @param messages at least one
   * @param options see {@linkcode ChatOptions}
   * @throws {TypeError} when `messages` is no array of objects with a role, the model has no tokenizer, or an option is of
   * the wrong kind
   * @throws {RangeError} when there is no message or no template, the template refuses the messages, an option is out of
   * range, or a logit is NaN
   * @throws the reason of `signal`. All of these at the first `next()`, as generators do
   */
  async *chat(
    messages: readonly ChatMessage[],
    options: ChatOptions = {},
  ): AsyncGenerator<GeneratedToken, void, void> {
    const operation = "TransNormerLLM.chat";
    this.#requireLive(operation);
    const { tools, template, ...others } = options;
    if (this.tokenizer === undefined) {
      typeError(operation, "the model must have a tokenizer", undefined, "token ids go to generate");
    }
    const text = this.tokenizer.applyChatTemplate(messages, { tools, template, addGenerationPrompt: true });
    const ids = promptIds(operation, this, text, { name: "messages", addSpecialTokens: false });
    yield* this.#generate(operation, ids, others);
  }

  async *#generate(
    operation: string,
    ids: Uint32Array,
    options: GenerateOptions,
  ): AsyncGenerator<GeneratedToken, void, void> {
    const prefillTokens = checkPrefillTokens(operation, this.backend, options);
    const decoding = new Decoding(this, ids, options, operation);
    options.signal?.throwIfAborted();
    if (decoding.maxTokens === 0) return;
    using session = this.session();
    yield* decode(session, ids, decoding, { signal: options.signal, prefillTokens, readsAll: false });
  }

  /** A new session, which has read nothing. The caller disposes it; it ends with the model at the latest. */
  session(): Session {
    this.#requireLive("TransNormerLLM.session");
    return this.#session(0, [], (shape) => this.backend.zeros(shape));
  }

  /**
   * A session as it was when `session.snapshot()` was called, on this or on any backend.
   *
   * @throws {TypeError} when `bytes` is no `Uint8Array`
   * @throws {RangeError} when the bytes are no snapshot, damaged, of another version, or of another model
   */
  restore(bytes: Uint8Array): Session {
    this.#requireLive("TransNormerLLM.restore");
    const { fingerprint, config } = this;
    const shapes = stateShapes(config, 1);
    const { position, recent, states } = decodeSnapshot(bytes, fingerprint, shapes, config.vocabSize);
    return this.#session(position, recent, (shape, l) => this.backend.tensor(states[l], shape));
  }

  /**
   * Room for `size` sessions that are stepped together, in one pass.
   *
   * @throws {RangeError} when `size` is no integer ≥ 1 @throws {BackendError} when memory is short
   */
  batch(size: number): Batch {
    this.#requireLive("TransNormerLLM.batch");
    return new Batch(this, size);
  }

  /**
   * How likely the model finds a continuation after a context. Strings are tokenized together, so that the border
   * falls as it would in the whole text.
   *
   * @param context text or token ids, at least one token
   * @param continuation of the same kind, at least one token
   * @throws {TypeError} when the two differ in kind, or the model has no tokenizer for strings
   * @throws {RangeError} when one of them has no token, or an id is outside the vocabulary
   */
  async loglikelihood(
    context: string | ArrayLike<number>,
    continuation: string | ArrayLike<number>,
  ): Promise<Likelihood> {
    this.#requireLive("TransNormerLLM.loglikelihood");
    return await loglikelihood(this, context, continuation);
  }

  /**
   * Perplexity of a text: exp of the mean negative log-probability of its tokens, each after all before it. The first
   * token, which nothing precedes, does not count.
   *
   * @param text text or token ids, at least two tokens, in memory that does not grow with their number
   */
  async perplexity(text: string | ArrayLike<number>): Promise<number> {
    this.#requireLive("TransNormerLLM.perplexity");
    return await perplexity(this, text);
  }

  /** Frees the weights and ends all sessions and batches, and the backend if `load` made it. Twice does nothing. */
  dispose(): void {
    this.#disposed = true;
    for (const holder of [...this.sessions, ...this.batches]) holder.dispose();
    for (const tensor of this.#parameters) tensor.dispose();
    if (this.#ownsBackend) this.backend.dispose();
  }

  /** {@linkcode TransNormerLLM.dispose}, for `using`. */
  [Symbol.dispose](): void {
    this.dispose();
  }

  #requireLive(operation: string): void {
    if (this.#disposed) {
      throw new BackendError("disposed", `Cannot run ${operation} as the model was disposed`);
    }
  }

  #session(
    position: number,
    recent: readonly number[],
    make: (shape: number[], layer: number) => Tensor,
  ): Session {
    const states: Tensor[] = [];
    try {
      stateShapes(this.config, 1).forEach((shape, l) => states.push(make(shape, l)));
      return new Session(this, states, position, recent);
    } catch (error) {
      for (const state of states) state.dispose();
      throw error;
    }
  }
}
