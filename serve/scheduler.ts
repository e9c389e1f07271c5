/**
 * Many requests, one model: prompts are read in pieces, and between two pieces all answers take one step together.
 *
 * @module
 */
import { pauses } from "../core/eventLoop.ts";
import { readLogits } from "../model/decoding.ts";
import type { Batch, Likeliest, Session, TransNormerLLM } from "../model/mod.ts";
import { ApiError, report } from "./errors.ts";
import { FairQueue } from "./fairQueue.ts";
import { letTurn } from "./gate.ts";
import { type Limits, shareOf } from "./limits.ts";
import { contextOf, type Metrics } from "./metrics.ts";
import { Prefixes } from "./prefixes.ts";

/** An answer that is being written. */
export interface Branch {
  /** Takes the logits of the next token, valid during the call; returns the token to continue with, or none to end. */
  next(logits: Float32Array | Likeliest): number | undefined;
  /** How many of the likeliest tokens the next one depends on; undefined: on all logits. */
  readonly candidates: number | undefined;
  /** Whether it takes no step for now, as its client has not read what came before; {@linkcode Scheduler.wake} ends it. */
  readonly isBlocked: boolean;
}

/** A prompt and the answers to it. */
export interface Job {
  /** Whose it is: owners take turns, and none may take all. */
  readonly owner: string;
  /** Token ids, at least one if there are branches. */
  readonly prompt: Uint32Array;
  /** Where to begin; default: at the beginning. It stays the caller's, who disposes it after the end. */
  readonly session?: Session;
  /** Answers, each from the state after the prompt. None: the prompt is only read. */
  readonly branches: readonly Branch[];
  /** Called with the logits after every token of the prompt, `[tokens, vocab]`, and the index of the first of them. */
  readonly onPrompt?: (logits: Float32Array, start: number) => void;
  /** Whether the caller wants the session after the (first) answer. */
  readonly keep?: boolean;
  /** Ends the work within a step; its reason is thrown. */
  readonly signal: AbortSignal;
  /** Tokens that the job may read and write, for the limit of all requests together. */
  readonly tokens: number;
}

/** A job that was accepted. */
interface Task {
  readonly job: Job;
  readonly resolve: (session: Session | undefined) => void;
  readonly reject: (reason: unknown) => void;
  /** Reads the prompt; made when the first piece is read. */
  session?: Session;
  /** Number of tokens of the prompt that were read. */
  read: number;
  /** The number of them after which the state is kept for prompts that begin alike; 0: it is not. */
  keepAt: number;
  /** Number of answers that are not finished. */
  open: number;
  /** What `keep` asks for, once the answer is finished. */
  kept?: Session;
  ended: boolean;
}

/** An answer that has a slot in the batch. */
interface Seat {
  readonly task: Task;
  readonly branch: Branch;
  readonly slot: number;
  /** Read in the next step. */
  token: number;
  /** Tokens that were read before. */
  position: number;
}

/** Shares a model among jobs. */
export class Scheduler {
  readonly #model: TransNormerLLM;
  readonly #limits: Limits;
  readonly #metrics: Metrics;
  /** Made with the first answer, and again after a failure. */
  #batch: Batch | undefined;
  readonly #prefixes: Prefixes;
  readonly #waiting = new FairQueue<Task>();
  /** Jobs whose prompts are being read: one piece for each owner after another, and so for the jobs of each. */
  readonly #reading = new FairQueue<Task>();
  #seats: Seat[] = [];
  #tokens = 0;
  readonly #tokensOf = new Map<string, number>();
  /** A job that fits nowhere yet, and how many were let in before it. */
  #passed: { readonly task: Task; count: number } | undefined;
  #running: Promise<void> | undefined;
  #closed = false;
  /** Seconds that recent jobs took, averaged: what `Retry-After` goes by. */
  #duration = 1;

  /** The model stays the caller's; `dispose()` ends the work and frees the batch. */
  constructor(model: TransNormerLLM, limits: Limits, metrics: Metrics, stateBytes: number) {
    this.#model = model;
    this.#limits = limits;
    this.#metrics = metrics;
    this.#prefixes = new Prefixes(limits, stateBytes);
  }

  /** Bytes of states that are kept for prompts that begin alike. */
  get prefixBytes(): number {
    return this.#prefixes.bytes;
  }

  /** Numbers of jobs that wait, of prompts that are being read, and of answers that are being written. */
  get load(): { waiting: number; reading: number; writing: number } {
    return { waiting: this.#waiting.size, reading: this.#reading.size, writing: this.#seats.length };
  }

  /**
   * Accepts jobs, all or none.
   *
   * @returns for each job its end: with `keep` the session, which has read the prompt and the tokens that its branch continued with
   * @throws {ApiError} 429 when the queue is full or too many tokens are in flight
   */
  enqueue(jobs: readonly Job[]): Promise<Session | undefined>[] {
    if (this.#closed) throw new ApiError(503, "The server is going down", { code: "shutting_down" });
    const { queue, totalTokens, batch } = this.#limits;
    const [{ owner }] = jobs;
    const tokens = jobs.reduce((sum, job) => sum + job.tokens, 0), own = this.#tokensOf.get(owner) ?? 0;
    const isFull = this.#waiting.size + jobs.length > queue + Math.max(0, this.#free) ||
      this.#waiting.sizeOf(owner) + jobs.length > this.#share(queue) + Math.max(0, this.#freeOf(owner));
    const isTooMuch = this.#tokens > 0 && this.#tokens + tokens > totalTokens ||
      own > 0 && own + tokens > this.#share(totalTokens);
    if (isFull || isTooMuch) {
      const turns = (this.#waiting.size + this.#seats.length + 1) / batch;
      throw new ApiError(429, "The server has too much to do: try again later", {
        code: isFull ? "queue_full" : "too_many_tokens",
        retryAfter: Math.max(1, Math.ceil(turns * this.#duration)),
      });
    }
    const ends = jobs.map((job) => {
      job.signal.addEventListener("abort", () => this.wake(), { once: true });
      this.#count(job, job.tokens);
      const start = performance.now();
      return new Promise<Session | undefined>((resolve, reject) => {
        this.#waiting.push(owner, {
          job,
          resolve,
          reject,
          read: 0,
          keepAt: 0,
          open: job.branches.length,
          ended: false,
        });
      }).finally(() => {
        this.#count(job, -job.tokens);
        this.#duration += 0.1 * ((performance.now() - start) / 1000 - this.#duration);
      });
    });
    this.#start();
    return ends;
  }

  /** Ends all work, then frees the batch. */
  async dispose(): Promise<void> {
    this.#closed = true;
    const reason = new ApiError(503, "The server is going down", { code: "shutting_down" });
    for (const task of [...this.#waiting, ...this.#reading, ...this.#seats.map((seat) => seat.task)]) {
      this.#end(task, reason);
    }
    await this.#running;
    this.#prefixes[Symbol.dispose]();
    this.#batch?.dispose();
  }

  #count({ owner }: Job, tokens: number): void {
    this.#tokens += tokens;
    const own = (this.#tokensOf.get(owner) ?? 0) + tokens;
    if (own === 0) this.#tokensOf.delete(owner);
    else this.#tokensOf.set(owner, own);
  }

  /** What one owner may have of something. */
  #share(whole: number): number {
    return shareOf(whole, this.#limits);
  }

  /** Number of slots that no admitted job has or will take. */
  get #free(): number {
    return this.#limits.batch - this.#slots().reduce((sum, [, count]) => sum + count, 0);
  }

  /** Number of slots that a job of an owner could take now. */
  #freeOf(owner: string): number {
    const own = this.#slots().reduce((sum, [other, count]) => sum + (other === owner ? count : 0), 0);
    return Math.min(this.#free, this.#share(this.#limits.batch) - own);
  }

  /** Slots that admitted jobs have or will take, by owner; an owner may be there more than once. */
  #slots(): [owner: string, count: number][] {
    return [
      ...Array.from(this.#reading, (task): [string, number] => [task.job.owner, slots(task)]),
      ...this.#seats.map(({ task }): [string, number] => [task.job.owner, 1]),
    ];
  }

  /**
   * Of the jobs whose turn it is for their owner, the one of the owner that has the fewest slots; of equals, the one that
   * has waited for longest. A large one that finds no room lets others go first, but not for ever.
   */
  #next(): Task | undefined {
    if (this.#waiting.size === 0) return undefined;
    const taken = new Map<string, number>();
    for (const [owner, count] of this.#slots()) taken.set(owner, (taken.get(owner) ?? 0) + count);
    const heads = Array.from(this.#waiting.heads())
      .filter(([owner, task]) => (taken.get(owner) ?? 0) + slots(task) <= this.#share(this.#limits.batch))
      .sort(([a], [b]) => (taken.get(a) ?? 0) - (taken.get(b) ?? 0));
    for (const [, task] of heads) {
      if (slots(task) <= this.#free) return task;
      this.#passed ??= { task, count: 0 };
      if (this.#passed.task === task && this.#passed.count >= this.#limits.batch) return undefined;
    }
    return undefined;
  }

  /** Whether there is work that does not wait for anybody: for a slot, or for a client to read. */
  get #busy(): boolean {
    return this.#reading.size > 0 ||
      this.#next() !== undefined ||
      [...this.#waiting].some(({ job }) => job.signal.aborted) ||
      this.#seats.some(({ branch, task }) => !branch.isBlocked || task.job.signal.aborted);
  }

  /** Says that something has changed for jobs: a client has read, or is gone. */
  wake(): void {
    this.#start();
  }

  #start(): void {
    this.#running ??= this.#run().finally(() => {
      this.#running = undefined;
      if (this.#busy) this.#start(); // arrived while the last round ended
    });
  }

  async #run(): Promise<void> {
    let worked = 0;
    do {
      await letTurn(worked); // first, so that jobs which arrive together begin together
      const start = performance.now();
      this.#admit();
      await this.#readPrompts();
      await this.#step();
      worked = performance.now() - start;
    } while (this.#busy);
  }

  /** Admits jobs while there are slots for their answers. */
  #admit(): void {
    for (const task of this.#waiting) if (task.job.signal.aborted) this.#end(task, task.job.signal.reason);
    this.#waiting.remove(({ ended }) => ended);
    if (this.#passed?.task.ended) this.#passed = undefined;
    for (let task; (task = this.#next()) !== undefined;) {
      const { owner } = task.job;
      this.#waiting.shift(owner);
      this.#reading.push(owner, task);
      if (this.#passed?.task === task) this.#passed = undefined;
      else if (this.#passed !== undefined) this.#passed.count++;
    }
  }

  /**
   * Reads pieces of prompts, one of each after another, until `limits.prefill` tokens are read, or at most twice that.
   * Pieces begin and end at the same tokens whatever else is read, so that an answer does not depend on the others.
   */
  async #readPrompts(): Promise<void> {
    let budget = this.#limits.prefill;
    while (this.#reading.size > 0 && budget > 0) {
      const task = this.#reading.shift()!;
      if (task.ended) continue;
      try {
        task.job.signal.throwIfAborted();
        task.session ??= task.job.session ?? this.#begin(task);
        const { prompt, owner } = task.job;
        const end = Math.min(task.read + this.#limits.prefill, prompt.length);
        budget -= end - task.read;
        const last = await this.#readPiece(task, prompt.subarray(task.read, end));
        if (task.ended) continue; // while the logits were on their way
        task.read = end;
        if (end === task.keepAt) this.#keep(owner, prompt.subarray(0, end), task.session);
        if (task.read < prompt.length) this.#reading.push(task.job.owner, task);
        else if (last === undefined || task.job.branches.length === 0) this.#finish(task);
        else this.#seat(task, last);
      } catch (error) {
        this.#end(task, error);
      }
    }
  }

  #keep(owner: string, ids: Uint32Array, session: Session): void {
    try {
      this.#prefixes.keep(owner, ids, session);
    } catch (error) {
      report(error); // memory is short, say: the prompt is read all the same
    }
  }

  /** The session of a task that has none: it has read what earlier prompts began with, too. */
  #begin(task: Task): Session {
    const { owner, prompt, onPrompt } = task.job;
    if (onPrompt !== undefined) return this.#model.session(); // it wants the logits of every token
    const { session, keepAt } = this.#prefixes.find(owner, prompt);
    task.keepAt = keepAt;
    if (session === undefined) return this.#model.session();
    task.read = session.position;
    this.#metrics.prefixHits.add();
    this.#metrics.prefixTokens.add(session.position);
    return session;
  }

  /** Reads a piece; returns the logits after it if it is the last one and an answer begins there. */
  async #readPiece(task: Task, piece: Uint32Array): Promise<Float32Array | undefined> {
    if (piece.length === 0) return undefined;
    const { onPrompt, prompt, branches } = task.job;
    const isLast = task.read + piece.length === prompt.length;
    const start = performance.now(), { position } = task.session!;
    using logits = task.session!.prefill(piece, { logits: onPrompt === undefined ? "last" : "all" });
    const context = position + piece.length;
    this.#metrics.promptTokens.add(piece.length, contextOf(context));
    // Asked for after every piece, and waited for only where it is needed: so it is known how long the device computes.
    const reading = logits.data();
    this.#metrics.compute("read", start, reading, [context]);
    if (onPrompt === undefined && (!isLast || branches.length === 0)) return undefined;
    const data = await reading;
    if (onPrompt !== undefined) await inSlices(data, this.#model.config.vocabSize, onPrompt, task.read);
    return data.subarray(data.length - this.#model.config.vocabSize);
  }

  /** Gives the answers of a job their first logits and, if they continue, slots. */
  #seat(task: Task, logits: Float32Array): void {
    for (const branch of task.job.branches) {
      const token = branch.next(logits);
      if (token === undefined) {
        task.open--;
        continue;
      }
      this.#batch ??= this.#model.batch(this.#limits.batch);
      const { position } = task.session!;
      this.#seats.push({ task, branch, slot: this.#batch.join(task.session!), token, position });
    }
    if (task.open === 0) this.#finish(task);
    else this.#forget(task, undefined); // the state is in the batch now
  }

  /** One step of all answers that are not blocked. */
  async #step(): Promise<void> {
    for (const { task } of this.#seats) if (task.job.signal.aborted) this.#end(task, task.job.signal.reason);
    this.#clear();
    const blocked = this.#seats.filter(({ branch }) => branch.isBlocked);
    const seats = this.#seats.filter((seat) => !blocked.includes(seat));
    const batch = this.#batch;
    if (seats.length === 0 || batch === undefined) return;
    let rows: (Float32Array | Likeliest)[];
    const start = performance.now();
    try {
      using logits = batch.step(seats.map(({ slot }) => slot), seats.map(({ token }) => token));
      const reading = readLogits(logits, seats.map(({ branch }) => branch.candidates));
      this.#metrics.compute("write", start, reading, seats.map(({ position }) => position + 1));
      rows = await reading;
    } catch (error) {
      for (const { task } of this.#seats) this.#end(task, error); // the states of the blocked ones are gone too
      this.#seats = [];
      this.#batch = undefined;
      return batch.dispose();
    }
    this.#metrics.batchSize.observe(seats.length);
    this.#seats = blocked;
    for (const [i, seat] of seats.entries()) {
      const { task, branch, slot } = seat;
      try {
        const next = task.ended ? undefined : branch.next(rows[i]);
        if (next !== undefined) {
          seat.token = next;
          seat.position++;
          this.#seats.push(seat);
          continue;
        }
        if (task.job.keep && !task.ended) task.kept ??= batch.leave(slot);
        else batch.drop(slot);
        if (--task.open === 0) this.#finish(task);
      } catch (error) {
        this.#end(task, error);
        this.#seats.push(seat); // its slot is freed with the others'
      }
    }
    this.#clear();
  }

  /** Frees the slots of tasks that ended. */
  #clear(): void {
    for (const { task, slot } of this.#seats) if (task.ended) this.#batch?.drop(slot);
    this.#seats = this.#seats.filter(({ task }) => !task.ended);
  }

  /** Ends a task as planned. */
  #finish(task: Task): void {
    if (task.ended) return;
    // A session that no branch continued is still the task's.
    const kept = task.job.keep ? task.kept ?? task.session ?? task.job.session : undefined;
    task.ended = true;
    this.#forget(task, kept);
    task.resolve(kept);
  }

  #end(task: Task, reason: unknown): void {
    if (task.ended) return;
    task.ended = true;
    this.#forget(task, undefined);
    task.kept?.dispose();
    task.reject(reason);
  }

  /** Disposes a task's session, unless it is the caller's or is to be kept. */
  #forget(task: Task, kept: Session | undefined): void {
    if (task.session !== task.job.session && task.session !== kept) task.session?.dispose();
    task.session = undefined;
  }
}

/** Looks at the logits of a prompt with pauses, so that others need not wait for all of it. */
async function inSlices(
  logits: Float32Array,
  vocabSize: number,
  look: (logits: Float32Array, start: number) => void,
  start: number,
): Promise<void> {
  const pause = pauses(10);
  const rows = Math.max(1, Math.floor(2 ** 18 / vocabSize));
  for (let row = 0; row * vocabSize < logits.length; row += rows) {
    look(logits.subarray(row * vocabSize, (row + rows) * vocabSize), start + row);
    await pause();
  }
}

/** Number of slots that a task takes; at least one while its prompt is read. */
function slots(task: Task): number {
  return Math.max(1, task.job.branches.length);
}
