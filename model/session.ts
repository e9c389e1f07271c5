/**
 * Sessions: one sequence that is read piece by piece, and the state of fixed size that represents all of it.
 *
 * @module
 */
import { BackendError, rangeError } from "../core/errors.ts";
import { gatherRows } from "../core/ops.ts";
import { BLOCK } from "../core/sizes.ts";
import { elementCount } from "../core/shape.ts";
import type { BackendName } from "../core/machine.ts";
import type { Backend, Tensor } from "../core/tensor.ts";
import {
  decode,
  Decoding,
  type DecodingModel,
  type GeneratedToken,
  type GenerateOptions,
} from "./decoding.ts";
import { checkIds, promptIds } from "./ids.ts";
import { encodeSnapshot } from "./snapshot.ts";
import { RECENT_TOKENS, type Tokenizer } from "./tokenizer.ts";
import { allLogits, forward, lastLogits, type Network } from "./transnormer.ts";

/**
 * Tokens of one pass of a prefill: memory stays the same however long the prompt. On WASM whole blocks of the kernels, so
 * that they fall as in a single pass; on WebGPU enough rows for the products of small models to fill a GPU.
 */
export const PREFILL_TOKENS: Readonly<Record<BackendName, number>> = { wasm: 32 * BLOCK, webgpu: 2048 };

/** A model as a session sees it. */
export interface SessionModel extends Network, DecodingModel {
  /** Checked configuration. */
  readonly config: Network["config"];
  /** Tells models apart. */
  readonly fingerprint: string;
  /** Living sessions, which the model disposes with itself. */
  readonly sessions: Set<Session>;
}

/**
 * One sequence of tokens on its way through a model. Sessions of one model do not disturb one another.
 *
 * The caller disposes the logits that come back; those still alive end with the session.
 *
 * @example A conversation: each turn reads on where the one before ended
 * ```ts
 * import { createBackend } from "@levin/attention";
 * import { TransNormerLLM } from "@levin/attention/tnl";
 * import assert from "node:assert/strict";
 *
 * using backend = await createBackend({ prefer: "wasm" });
 * using model = await TransNormerLLM.load("tests/golden/tnl", { backend });
 * using session = model.session();
 * for (const question of [[205, 7, 19], [3, 8]]) {
 *   const answer = await Array.fromAsync(session.generate(question, { maxTokens: 4 }));
 *   assert.equal(answer.length, 4);
 * }
 * assert.equal(session.position, 3 + 4 + 2 + 4);
 * ```
 *
 * @example Token by token, and as bytes
 * ```ts
 * import { createBackend } from "@levin/attention";
 * import { TransNormerLLM } from "@levin/attention/tnl";
 * import assert from "node:assert/strict";
 *
 * using backend = await createBackend({ prefer: "wasm" });
 * using model = await TransNormerLLM.load("tests/golden/tnl", { backend });
 * using session = model.session();
 * using prompt = session.prefill([205, 7, 19]);
 * using next = session.step(176);
 * assert.deepEqual([prompt.shape, next.shape], [[256], [256]]);
 *
 * const bytes = await session.snapshot();
 * using copy = model.restore(bytes); // continues where the session stood
 * assert.equal(copy.position, 4);
 * ```
 */
export class Session implements Disposable {
  readonly #model: SessionModel;
  #position: number;
  /** One tensor per layer, `[1, heads, headDim, valueDim]`; `undefined` after the end. */
  #states: readonly Tensor[] | undefined;
  /** Logits that were handed out and may still live. */
  #logits: Tensor[] = [];
  #recent: readonly number[];
  /** Logits after the last token that `generate` read, for a turn without a prompt. */
  #next: Tensor | undefined;

  /**
   * Sessions are made by `model.session()`, `model.restore()` and `session.fork()`.
   *
   * @param model the model
   * @param states state of each layer, taken over
   * @param position tokens read so far
   * @param recent see {@linkcode Session.recent}
   */
  constructor(
    model: SessionModel,
    states: readonly Tensor[],
    position: number,
    recent: readonly number[] = [],
  ) {
    this.#model = model;
    this.#states = states;
    this.#position = position;
    this.#recent = recent;
    model.sessions.add(this);
  }

  /** Whether the session has ended. */
  get disposed(): boolean {
    return this.#states === undefined;
  }

  /**
   * The last tokens that have text, at most eight: how the text that follows begins depends on them, such as
   * the space of its first word or half a character. Empty for a model without a tokenizer.
   */
  get recent(): readonly number[] {
    return this.#recent;
  }

  /** Number of tokens read so far, which is the position of the next one. */
  get position(): number {
    return this.#position;
  }

  /** The model that the session reads with. */
  get model(): SessionModel {
    return this.#model;
  }

  /** State of each layer, `[1, heads, headDim, valueDim]`: to look at, not to change or dispose. */
  get states(): readonly Tensor[] {
    return this.#live("Session.states");
  }

  /** Bytes of the state: the same after one token and after a million. 0 after `dispose()`. */
  get stateBytes(): number {
    return (this.#states ?? []).reduce((sum, state) => sum + 4 * state.size, 0);
  }

  /**
   * Reads tokens by the block algorithm, in passes of bounded size.
   *
   * @param ids token ids, at least one
   * @param options `logits`: after the `"last"` token (default) or after `"all"` of them; the latter is one pass,
   * whose memory grows with the number of ids
   * @returns logits of the next token, `[vocab]`; with `"all"`, `[ids.length, vocab]`
   * @throws {RangeError} when there is no id, or one is outside the vocabulary; the session is then unchanged
   * @throws {BackendError} when the session was disposed, or memory is short; the session is then unchanged,
   * except after a single id (see {@linkcode Session.step})
   */
  prefill(ids: ArrayLike<number>, options: { logits?: "last" | "all" } = {}): Tensor {
    const operation = "Session.prefill";
    const before = this.#live(operation);
    const checked = checkIds(operation, ids, this.#model.config.vocabSize);
    const { logits = "last" } = options;
    if (logits !== "last" && logits !== "all") {
      rangeError(operation, `logits must be "last" or "all"`, logits);
    }
    if (checked.length === 1) {
      const result = this.step(checked[0]);
      return logits === "last" ? result : this.#hand(result.reshape([1, result.size]));
    }

    // The states before the first pass live until the last one is done.
    let states = before;
    try {
      const piece = logits === "all"
        ? checked.length
        : PREFILL_TOKENS[this.#model.weights.embedTokens.backend.name];
      for (let start = 0;; start += piece) {
        const part = checked.subarray(start, start + piece);
        const output = forward(this.#model, {
          ids: part,
          batch: 1,
          seqLen: part.length,
          positions: [this.#position + start],
          states,
        });
        using hidden = output.hidden;
        if (states !== before) dispose(states, output.states);
        states = output.states;
        if (start + piece < checked.length) continue;
        const result = logits === "last"
          ? lastLogits(this.#model, hidden).reshape([this.#model.config.vocabSize])
          : allLogits(this.#model, hidden).reshape([checked.length, this.#model.config.vocabSize]);
        return this.advance(checked, states, result);
      }
    } catch (error) {
      if (states !== before) dispose(states);
      throw error;
    }
  }

  /**
   * Reads one token. The states change in place, and the cost does not depend on how many tokens came before.
   *
   * @param id token id
   * @returns logits of the next token, `[vocab]`
   * @throws {RangeError} when the id is outside the vocabulary; the session is then unchanged
   * @throws {BackendError} when the session was disposed, or the device fails within the step: some layers have then
   * read the token and others have not, so the session ends; restore it from a snapshot
   */
  step(id: number): Tensor {
    const operation = "Session.step";
    const states = this.#live(operation);
    const ids = checkIds(operation, [id], this.#model.config.vocabSize);
    try {
      const input = { ids, batch: 1, seqLen: 1, positions: [this.#position], states };
      using hidden = forward(this.#model, input).hidden;
      const logits = lastLogits(this.#model, hidden).reshape([this.#model.config.vocabSize]);
      this.#advance(ids);
      return this.#hand(logits);
    } catch (error) {
      this.dispose();
      throw error;
    }
  }

  /**
   * The session as bytes, for `model.restore()` on any backend, in another process or later: what was read up to this
   * call, whatever happens to the session while the bytes are on their way.
   *
   * @throws {BackendError} when the session was disposed
   */
  async snapshot(): Promise<Uint8Array<ArrayBuffer>> {
    const { fingerprint } = this.#model;
    const position = this.#position, recent = this.#recent;
    const states = this.#live("Session.snapshot");
    const data = await Promise.all(states.map((state) => state.data())); // all reads are enqueued before the wait
    return encodeSnapshot({
      fingerprint,
      position,
      recent,
      states: data,
      shapes: states.map((state) => state.shape),
    });
  }

  /**
   * Reads a prompt and generates an answer: one turn of a conversation. The session has then read the prompt and every
   * token that was yielded, an end-of-sequence token too, also when the loop is left early or aborted: the next call
   * continues from there. Nothing else may read with this session until the loop is over.
   *
   * @param prompt a string, for models with a tokenizer, or token ids. What the tokenizer adds at the beginning of a
   * text precedes the first turn only. After an earlier `generate` the prompt may be empty: the answer continues
   * @param options see {@linkcode GenerateOptions}
   * @throws {TypeError} when an option is of the wrong kind, or the model has no tokenizer for a string
   * @throws {RangeError} when an option is out of range, the prompt has no token or one outside the vocabulary, a logit
   * is NaN, or something else has read with this session
   * @throws {BackendError} when the session was disposed
   * @throws the reason of `signal`. All of these at the first `next()`, as generators do
   */
  async *generate(
    prompt: string | ArrayLike<number>,
    options: GenerateOptions = {},
  ): AsyncGenerator<GeneratedToken, void, void> {
    const operation = "Session.generate";
    this.#live(operation);
    const ids = promptIds(operation, this.#model, prompt, {
      addSpecialTokens: this.#position === 0,
      mayBeEmpty: this.#next !== undefined,
    });
    const decoding = new Decoding(this.#model, ids, { ...options, before: this.#recent }, operation);
    const prefillTokens = checkPrefillTokens(operation, this.#model.weights.embedTokens.backend, options);
    const logits = this.#next;
    this.#next = undefined;
    yield* decode(this, ids, decoding, { signal: options.signal, prefillTokens, readsAll: true }, logits);
  }

  /**
   * Continues where a pass over `ids` has left the states: one of this session, or one that several processes share.
   *
   * @param ids what the pass has read
   * @param states state of each layer after it, taken over
   * @param logits of the next token, taken over
   * @returns the logits, which end with the session at the latest
   */
  advance(ids: Uint32Array, states: readonly Tensor[], logits: Tensor): Tensor {
    dispose(this.#live("Session.advance"));
    this.#states = states;
    this.#advance(ids);
    return this.#hand(logits);
  }

  /** Reads the last token of an answer; a turn without a prompt continues from its logits. For {@linkcode decode}. */
  readLast(id: number): void {
    this.#next = this.step(id);
  }

  /**
   * Another session from the same state, which the caller disposes: each continues without the other, also
   * without a prompt after an earlier `generate`.
   *
   * @example Two answers to one question
   * ```ts
   * import { createBackend } from "@levin/attention";
   * import { TransNormerLLM } from "@levin/attention/tnl";
   * import assert from "node:assert/strict";
   *
   * using backend = await createBackend({ prefer: "wasm" });
   * using model = await TransNormerLLM.load("tests/golden/tnl", { backend });
   * using session = model.session();
   * session.prefill([205, 7, 19]).dispose();
   * using fork = session.fork();
   * for await (const _ of fork.generate([176], { maxTokens: 3 }));
   * assert.deepEqual([session.position, fork.position], [3, 7]);
   * ```
   *
   * @throws {BackendError} when the session was disposed, or memory is short
   */
  fork(): Session {
    const states = this.#live("Session.fork");
    const own: Tensor[] = [];
    try {
      for (const { shape } of states) {
        const state = states[own.length];
        own.push(gatherRows(state, [0], { width: elementCount(shape) }).reshape(shape));
      }
      const next = this.#next && gatherRows(this.#next, [0], { width: this.#next.size });
      const fork = new Session(this.#model, own, this.#position, this.#recent);
      fork.#next = next && fork.#hand(next.reshape([next.size]));
      return fork;
    } catch (error) {
      dispose(own);
      throw error;
    }
  }

  /** Ends the session and frees its state. Twice does nothing. */
  dispose(): void {
    dispose(this.#states ?? []);
    dispose(this.#logits);
    this.#states = undefined;
    this.#logits = [];
    this.#next = undefined;
    this.#model.sessions.delete(this);
  }

  /** {@linkcode Session.dispose}, for `using`. */
  [Symbol.dispose](): void {
    this.dispose();
  }

  #live(operation: string): readonly Tensor[] {
    if (this.#states === undefined) {
      throw new BackendError("disposed", `Cannot run ${operation} as the session was disposed`);
    }
    return this.#states;
  }

  /** Tokens were read. */
  #advance(ids: Uint32Array): void {
    this.#position += ids.length;
    this.#recent = recentTokens(this.#model.tokenizer, this.#recent, ids);
    this.#next?.dispose();
    this.#next = undefined;
  }

  #hand(logits: Tensor): Tensor {
    this.#logits = this.#logits.filter((tensor) => !tensor.disposed);
    this.#logits.push(logits);
    return logits;
  }
}

/** {@linkcode Session.recent} once more ids were read. */
export function recentTokens(
  tokenizer: Tokenizer | undefined,
  before: readonly number[],
  ids: Uint32Array,
): readonly number[] {
  return tokenizer === undefined ? before : [...before, ...tokenizer.recent(ids)].slice(-RECENT_TOKENS);
}

/** Tokens of a prompt between two turns of the event loop. */
export function checkPrefillTokens(
  operation: string,
  { name }: Backend,
  { prefillTokens = PREFILL_TOKENS[name] }: GenerateOptions,
): number {
  if (!Number.isInteger(prefillTokens) || prefillTokens < 1) {
    rangeError(operation, "prefillTokens must be an integer >= 1", prefillTokens);
  }
  return prefillTokens;
}

/** Disposes tensors, except those that live on. */
function dispose(tensors: readonly Tensor[], except: readonly Tensor[] = []): void {
  for (const tensor of tensors) if (!except.includes(tensor)) tensor.dispose();
}
