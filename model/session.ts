/**
 * Sessions: one sequence that is read piece by piece, and the state of fixed size that stands for all of it.
 *
 * @module
 */
import { BackendError, rangeError, typeError } from "../core/errors.ts";
import { BLOCK } from "../core/tile.ts";
import type { Tensor } from "../core/tensor.ts";
import { encodeSnapshot } from "./snapshot.ts";
import { allLogits, decode, lastLogits, type Network } from "./transnormer.ts";

/**
 * Tokens of one pass of a prefill: memory stays the same however long the prompt. Whole blocks of the WASM kernels, so
 * that they fall as in a single pass.
 */
export const PREFILL_TOKENS: number = 32 * BLOCK;

/** A model as a session sees it. */
export interface SessionModel extends Network {
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
 * @example
 * ```ts
 * import { createBackend } from "@levin/attention";
 * import { TransNormerLLM } from "@levin/attention/tnl";
 *
 * using backend = await createBackend({ prefer: "wasm" });
 * using model = await TransNormerLLM.load("tests/golden/tnl", { backend });
 * using session = model.session();
 * using prompt = session.prefill([205, 7, 19]);
 * using next = session.step(176);
 * console.log(session.position, prompt.shape, next.shape); // 4 [ 256 ] [ 256 ]
 *
 * const bytes = await session.snapshot();
 * using copy = model.restore(bytes); // goes on where the session stood
 * console.log(copy.position, bytes.length);
 * ```
 */
export class Session implements Disposable {
  readonly #model: SessionModel;
  #position: number;
  /** One tensor per layer, `[1, heads, headDim, valueDim]`; `undefined` after the end. */
  #states: readonly Tensor[] | undefined;
  /** Logits that were handed out and may still live. */
  #logits: Tensor[] = [];

  /**
   * Sessions are made by `model.session()` and `model.restore()`.
   *
   * @param model the model
   * @param states state of each layer, taken over
   * @param position tokens read so far
   */
  constructor(model: SessionModel, states: readonly Tensor[], position: number) {
    this.#model = model;
    this.#states = states;
    this.#position = position;
    model.sessions.add(this);
  }

  /** Number of tokens read so far, which is the position of the next one. */
  get position(): number {
    return this.#position;
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
   * @throws {RangeError} when there is no id, or one is outside the vocabulary; the session then stands where it stood
   * @throws {BackendError} when the session was disposed, or memory is short; the session then stands where it stood,
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
      const piece = logits === "all" ? checked.length : PREFILL_TOKENS;
      for (let start = 0;; start += piece) {
        const part = checked.subarray(start, start + piece);
        const output = decode(this.#model, {
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
        dispose(before);
        this.#states = states;
        this.#position += checked.length;
        return this.#hand(result);
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
   * @throws {RangeError} when the id is outside the vocabulary; the session then stands where it stood
   * @throws {BackendError} when the session was disposed, or the device fails within the step: some layers have then
   * read the token and others have not, so the session ends; restore it from a snapshot
   */
  step(id: number): Tensor {
    const operation = "Session.step";
    const states = this.#live(operation);
    const ids = checkIds(operation, [id], this.#model.config.vocabSize);
    try {
      const input = { ids, batch: 1, seqLen: 1, positions: [this.#position], states };
      using hidden = decode(this.#model, input).hidden;
      const logits = lastLogits(this.#model, hidden).reshape([this.#model.config.vocabSize]);
      this.#position++;
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
    const position = this.#position;
    const states = this.#live("Session.snapshot");
    const data = await Promise.all(states.map((state) => state.data())); // all reads are under way before the wait
    return encodeSnapshot({
      fingerprint,
      position,
      states: data,
      shapes: states.map((state) => state.shape),
    });
  }

  /** Ends the session and frees its state. Twice does nothing. */
  dispose(): void {
    dispose(this.#states ?? []);
    dispose(this.#logits);
    this.#states = undefined;
    this.#logits = [];
    this.#model.sessions.delete(this);
  }

  /** {@linkcode Session.dispose}, for `using`. */
  [Symbol.dispose](): void {
    this.dispose();
  }

  #live(operation: string): readonly Tensor[] {
    if (this.#states === undefined) {
      throw new BackendError("disposed", `Cannot run ${operation} as the session must not be disposed`);
    }
    return this.#states;
  }

  #hand(logits: Tensor): Tensor {
    this.#logits = this.#logits.filter((tensor) => !tensor.disposed);
    this.#logits.push(logits);
    return logits;
  }
}

/**
 * Checks token ids.
 *
 * @throws {TypeError} when `ids` is no array @throws {RangeError} when it is empty or an id is outside the vocabulary
 */
export function checkIds(
  operation: string,
  ids: ArrayLike<number>,
  vocabSize: number,
  name = "ids",
): Uint32Array {
  if (typeof ids !== "object" || ids === null || !Number.isInteger(ids.length)) {
    typeError(operation, `${name} must be an array of token ids`, ids);
  }
  if (ids.length === 0) rangeError(operation, `${name} must hold at least one token`, ids);
  for (let i = 0; i < ids.length; i++) {
    if (!Number.isInteger(ids[i]) || ids[i] < 0 || ids[i] >= vocabSize) {
      rangeError(operation, `${name} must be integers from 0 to ${vocabSize - 1}`, ids[i], `index ${i}`);
    }
  }
  return Uint32Array.from(ids);
}

/** Disposes tensors, except those that live on. */
function dispose(tensors: readonly Tensor[], except: readonly Tensor[] = []): void {
  for (const tensor of tensors) if (!except.includes(tensor)) tensor.dispose();
}
