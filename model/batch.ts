/**
 * Batches: sessions that take their steps together, so that each weight is read once for all of them.
 *
 * @module
 */
import type { Backend } from "../core/tensor.ts";
import { BackendError, rangeError, typeError } from "../core/errors.ts";
import { gatherRows, scatterRows } from "../core/ops.ts";
import { elementCount } from "../core/shape.ts";
import type { Tensor } from "../core/tensor.ts";
import { FEW_ROWS } from "../core/sizes.ts";
import { checkIds } from "./ids.ts";
import { recentTokens, Session, type SessionModel } from "./session.ts";
import { forward, lastLogits, stateShapes } from "./transnormer.ts";

/** A model as a batch sees it. */
export interface BatchModel extends SessionModel {
  /** Where states live. */
  readonly backend: Backend;
  /** Living batches, which the model disposes with itself. */
  readonly batches: Set<Batch>;
}

/** What a session in a batch has read; its states are rows of the batch's. */
interface Slot {
  /** See {@linkcode Session.position}. */
  readonly position: number;
  /** See {@linkcode Session.recent}. */
  readonly recent: readonly number[];
}

/**
 * Slots for sessions that come and go: per layer one tensor of states, `[size, heads, headDim, valueDim]`. A step reads
 * one token for each of any of them, with one readback and, up to 64 of them, in one pass. Sessions do not depend on one
 * another.
 *
 * @example
 * ```ts
 * import { createBackend } from "@levin/attention";
 * import { TransNormerLLM } from "@levin/attention/tnl";
 * import assert from "node:assert/strict";
 *
 * using backend = await createBackend({ prefer: "wasm" });
 * using model = await TransNormerLLM.load("tests/golden/tnl", { backend });
 * using batch = model.batch(8);
 * using session = model.session();
 * session.prefill([205, 7, 19]).dispose();
 * const first = batch.join(session), second = batch.join(session); // two ways to continue
 * using logits = batch.step([first, second], [176, 3]);
 * assert.deepEqual(logits.shape, [2, 256]);
 * using left = batch.leave(second);
 * assert.equal(left.position, 4);
 * ```
 */
export class Batch implements Disposable {
  /** Number of slots. */
  readonly size: number;
  readonly #model: BatchModel;
  /** One tensor per layer; `undefined` after the end. */
  #states: readonly Tensor[] | undefined;
  /** What the session in each slot has read; `undefined` where the slot is free. */
  readonly #slots: (Slot | undefined)[];

  /** Batches are made by `model.batch()`; the caller disposes them. */
  constructor(model: BatchModel, size: number) {
    if (!Number.isInteger(size) || size < 1) rangeError("Batch", "size must be an integer >= 1", size);
    this.#model = model;
    this.size = size;
    this.#slots = new Array<undefined>(size).fill(undefined);
    const states: Tensor[] = [];
    try {
      for (const shape of stateShapes(model.config, size)) states.push(model.backend.zeros(shape));
    } catch (error) {
      for (const state of states) state.dispose();
      throw error;
    }
    this.#states = states;
    model.batches.add(this);
  }

  /** Number of free slots. */
  get free(): number {
    return this.#slots.filter((slot) => slot === undefined).length;
  }

  /**
   * Takes a copy of a session in; the session itself stays as it is, and the caller's.
   *
   * @returns the slot
   * @throws {TypeError} when the session is another model's @throws {RangeError} when no slot is free
   */
  join(session: Session): number {
    const operation = "Batch.join";
    const states = this.#live(operation);
    if (!(session instanceof Session) || !this.#model.sessions.has(session)) {
      typeError(operation, "session must be a living session of the batch's model", session);
    }
    const slot = this.#slots.indexOf(undefined);
    if (slot < 0) rangeError(operation, "a slot must be free", `${this.size} sessions`);
    states.forEach((state, l) => scatterRows(session.states[l], [slot], state));
    this.#slots[slot] = { position: session.position, recent: session.recent };
    return slot;
  }

  /**
   * Frees a slot and gives its session back, as one outside the batch, which the caller disposes.
   *
   * @throws {RangeError} when the slot is free
   */
  leave(slot: number): Session {
    const operation = "Batch.leave";
    const states = this.#live(operation);
    const { position, recent } = this.#slot(operation, slot);
    const own: Tensor[] = [];
    try {
      for (const state of states) {
        const shape = state.shape.slice(1);
        const width = elementCount(shape);
        own.push(gatherRows(state, [slot], { width }).reshape([1, ...shape]));
      }
      const session = new Session(this.#model, own, position, recent);
      this.drop(slot);
      return session;
    } catch (error) {
      for (const state of own) state.dispose();
      throw error;
    }
  }

  /** Frees a slot and forgets its session. */
  drop(slot: number): void {
    this.#slot("Batch.drop", slot);
    this.#slots[slot] = undefined;
  }

  /**
   * Reads one token per slot.
   *
   * @param slots no two the same; the sessions in other slots stay as they are
   * @param ids token ids, one per slot
   * @returns logits of the next tokens, `[slots, vocab]`, which the caller disposes
   * @throws {RangeError} when a slot is free or comes twice, or an id is outside the vocabulary; nothing has changed
   * @throws {BackendError} when the batch was disposed, or the device fails within the step: some layers have then read
   * the tokens and others have not, so the batch ends
   */
  step(slots: readonly number[], ids: readonly number[]): Tensor {
    const operation = "Batch.step";
    const states = this.#live(operation);
    const checked = checkIds(operation, ids, this.#model.config.vocabSize);
    if (slots.length !== checked.length) {
      rangeError(operation, `ids must have one value per slot, ${slots.length}`, checked.length);
    }
    const before = slots.map((slot) => this.#slot(operation, slot));
    if (new Set(slots).size !== slots.length) {
      rangeError(operation, "slots must differ from one another", slots);
    }
    try {
      const logits = this.#pass(states, checked, slots, before.map(({ position }) => position));
      slots.forEach((slot, i) => {
        const { position, recent } = before[i];
        const read = checked.subarray(i, i + 1);
        this.#slots[slot] = {
          position: position + 1,
          recent: recentTokens(this.#model.tokenizer, recent, read),
        };
      });
      return logits;
    } catch (error) {
      this.dispose();
      throw error;
    }
  }

  /** Steps of at most `FEW_ROWS` sessions each: more rows are summed in another order, which rounds differently. */
  #pass(
    states: readonly Tensor[],
    ids: Uint32Array,
    slots: readonly number[],
    positions: readonly number[],
  ): Tensor {
    const batch = ids.length;
    if (batch <= FEW_ROWS) {
      using hidden = forward(this.#model, { ids, batch, seqLen: 1, positions, states, rows: slots }).hidden;
      return lastLogits(this.#model, hidden);
    }
    const logits = this.#model.backend.empty([batch, this.#model.config.vocabSize]);
    try {
      for (let start = 0; start < batch; start += FEW_ROWS) {
        const end = Math.min(start + FEW_ROWS, batch);
        using part = this.#pass(
          states,
          ids.subarray(start, end),
          slots.slice(start, end),
          positions.slice(start, end),
        );
        scatterRows(part, Array.from({ length: end - start }, (_, i) => start + i), logits);
      }
      return logits;
    } catch (error) {
      logits.dispose();
      throw error;
    }
  }

  /** Ends the batch and frees the states. Twice does nothing. */
  dispose(): void {
    for (const state of this.#states ?? []) state.dispose();
    this.#states = undefined;
    this.#model.batches.delete(this);
  }

  /** {@linkcode Batch.dispose}, for `using`. */
  [Symbol.dispose](): void {
    this.dispose();
  }

  #live(operation: string): readonly Tensor[] {
    if (this.#states === undefined) {
      throw new BackendError("disposed", `Cannot run ${operation} as the batch was disposed`);
    }
    return this.#states;
  }

  #slot(operation: string, slot: number): Slot {
    return this.#slots[slot] ?? rangeError(operation, "slot must hold a session", slot);
  }
}
