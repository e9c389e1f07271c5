/**
 * Processes that compute together, each known by its rank: what they say to one another, over plain memory.
 *
 * @module
 */
import { yieldToEventLoop } from "../core/eventLoop.ts";
import { message, show } from "../core/errors.ts";
import { RankError } from "./errors.ts";
import { type Begun, type Bytes, type Done, MESSAGE_BYTES, Mpi } from "./mpi.ts";

/** Memory that ranks exchange. */
export type Plain =
  | Float32Array<ArrayBuffer>
  | Float64Array<ArrayBuffer>
  | Int32Array<ArrayBuffer>
  | Uint32Array<ArrayBuffer>
  | Uint8Array<ArrayBuffer>;

/** What {@linkcode Ranks.agree} compares. */
export type Facts = Readonly<Record<string, string | number | boolean>>;

/** Operations that all ranks call together, by number. */
const OPERATIONS = ["allReduce", "allGather", "broadcast", "agree", "together"] as const;
type Operation = typeof OPERATIONS[number];

/** Asks so often whether an operation is done before the event loop turns. */
const QUICK_TESTS = 50;
/**
 * Sleeps so many milliseconds between two looks at what is under way: layers follow one another within one, and a rank that
 * is only waiting must not take a core from those that compute. When nothing has come for `AWAKE` milliseconds it sleeps
 * by a timer, which takes one or two.
 */
const NAP = 0.05, AWAKE = 20;
/** Nobody wakes who sleeps on this. */
const NOBODY = new Int32Array(new SharedArrayBuffer(4));

/** Bytes that are added up at a time: they stay in a core's cache, and messages are long enough to be fast. */
const PIECE_BYTES = 2 ** 22;

/**
 * All processes that one `mpiexec` started, as one of them sees them. Without `mpiexec` there is one, of rank 0.
 *
 * `allReduce`, `allGather`, `broadcast`, `agree` and `together` are called by all ranks, in the same order. A rank that
 * calls another one of them, or with another length, gives a {@linkcode RankError} on every rank, and not a hang.
 * Waiting leaves the event loop free.
 */
export class Ranks {
  /** Number of this process, from 0. */
  readonly rank: number;
  /** Number of processes. */
  readonly size: number;
  /** The library that carries the messages. */
  readonly library: string;
  readonly #mpi: Mpi;
  #bytesSent = 0;
  #left = false;
  /** What all call together is done one after another. */
  #turn: Promise<unknown> = Promise.resolve();
  /** What is waited for, and when something last came or was asked for. */
  readonly #waiting = new Map<Begun, Pick<PromiseWithResolvers<Done>, "resolve" | "reject">>();
  #lookedAt = 0;
  /** Memory of sums. */
  #rooms: readonly Room[] | undefined;

  private constructor(mpi: Mpi) {
    this.rank = mpi.rank;
    this.size = mpi.size;
    this.library = mpi.version;
    this.#mpi = mpi;
  }

  static #joined: Ranks | undefined;

  /**
   * Joins the ranks. {@linkcode inRanks} does this, and leaves them in good order.
   *
   * @param library path or name of MPI's library; default: `LEVIN_MPI`, or that of the launcher
   * @throws {RankError} `"unavailable"` when MPI is missing
   */
  static join(library: string | undefined = Deno.env.get("LEVIN_MPI")): Ranks {
    return Ranks.#joined ??= new Ranks(new Mpi(library));
  }

  /** Bytes that this rank has sent to others, without those that compare lengths. */
  get bytesSent(): number {
    return this.#bytesSent;
  }

  /**
   * Sends to another rank, which receives it. Resolves when the memory may be changed again.
   *
   * @param tag receivers take messages of one sender and tag in the order in which they were sent. Default 0
   * @throws {RangeError} when there is no such rank
   */
  async send(data: Plain, to: number, tag = 0): Promise<void> {
    this.#checkOther("send", "to", to);
    for (const bytes of pieces(data)) await this.#done(this.#mpi.send(bytes, to, tag));
    this.#bytesSent += data.byteLength;
  }

  /**
   * Receives from another rank what fills `data`.
   *
   * @throws {RangeError} when there is no such rank
   * @throws {RankError} `"failed"` when what comes is longer or shorter
   */
  async receive(data: Plain, from: number, tag = 0): Promise<void> {
    this.#checkOther("receive", "from", from);
    for (const piece of pieces(data)) {
      const { bytes } = await this.#done(this.#mpi.receive(piece, from, tag));
      if (bytes !== piece.length) {
        throw new RankError(
          "failed",
          message("receive", `rank ${from} must send ${piece.length} bytes`, bytes),
        );
      }
    }
  }

  /** Fills `data` of every rank with that of rank `root`. */
  async broadcast(data: Plain, root = 0): Promise<void> {
    if (!(Number.isInteger(root) && root >= 0 && root < this.size)) {
      throw new RangeError(message("broadcast", `root must be a rank, 0 to ${this.size - 1}`, root));
    }
    await this.#together("broadcast", data, root, async () => {
      for (const bytes of pieces(data)) await this.#done(this.#mpi.broadcast(bytes, root));
      if (this.rank === root) this.#bytesSent += data.byteLength * (this.size - 1);
    });
  }

  /** What every rank gives, in the order of ranks; it has the same length on each. */
  async allGather<T extends Plain>(data: T): Promise<T[]> {
    return await this.#together("allGather", data, 0, () => this.#gather(data));
  }

  /**
   * Replaces `data` by the sum over all ranks, the same bits on each and in every run: each element is added up in
   * float64 from rank 0 to the last, and rounded once.
   */
  async allReduce(data: Float32Array<ArrayBuffer> | Float64Array<ArrayBuffer>): Promise<void> {
    await this.#together("allReduce", data, 0, async () => {
      if (this.size > 1 && data.length > 0) await this.#reduce(data);
    });
  }

  /**
   * Throws the same error on every rank unless all have the same facts.
   *
   * @param operation what needs them, for the error
   * @param facts by name, the same names on every rank
   * @throws {RankError} `"different"`
   */
  async agree(operation: string, facts: Facts): Promise<void> {
    const all = await this.#together("agree", EMPTY, 0, () => this.#gatherTexts(JSON.stringify(facts)));
    const parsed = all.map((text) => JSON.parse(text) as Facts);
    for (const name of new Set(parsed.flatMap((one) => Object.keys(one)))) {
      const values = parsed.map((one) => one[name]);
      if (values.every((value) => value === values[0])) continue;
      const listed = values.map((value, rank) => `${show(value)} on rank ${rank}`).join(", ");
      throw new RankError(
        "different",
        `Cannot run ${operation} as all ranks must have the same ${name}: current values are ${listed}`,
      );
    }
  }

  /**
   * Work that every rank does for itself and that may fail on some of them, such as reading files: if it fails on one,
   * every rank throws.
   *
   * @throws {RankError} `"elsewhere"`, which names the first rank that failed, and why
   */
  async together<T>(operation: string, work: () => T | Promise<T>): Promise<T> {
    let result: T | undefined, failure: unknown, failed = false;
    try {
      result = await work();
    } catch (error) {
      failed = true;
      failure = error;
    }
    const text = failed ? `!${failure instanceof Error ? failure.message : String(failure)}` : "";
    const all = await this.#together("together", EMPTY, 0, () => this.#gatherTexts(text));
    const first = all.findIndex((text) => text !== "");
    if (first < 0) return result as T;
    const reason = all[first].slice(1);
    throw new RankError(
      "elsewhere",
      this.size === 1 ? reason : `Cannot run ${operation} on all ranks, as rank ${first} failed: ${reason}`,
      failed ? { cause: failure } : undefined,
    );
  }

  /** Ends MPI in this process, when all ranks do so. Nothing can be sent afterwards. */
  leave(): void {
    if (this.#left) return;
    this.#left = true;
    this.#mpi.finalize();
  }

  /** Ends all ranks, this one too. */
  abort(status = 1): void {
    this.#mpi.abort(status);
  }

  #checkOther(operation: string, name: string, rank: number): void {
    if (Number.isInteger(rank) && rank >= 0 && rank < this.size && rank !== this.rank) return;
    const others = `another rank, 0 to ${this.size - 1} but not ${this.rank}`;
    throw new RangeError(message(operation, `${name} must be ${others}`, rank));
  }

  /** Does what all ranks do together, once all have come with the same operation, kind of memory and length. */
  async #together<T>(
    operation: Operation,
    data: Plain,
    detail: number,
    work: () => Promise<T>,
  ): Promise<T> {
    const turn = this.#turn.then(async () => {
      const call = Float64Array.of(
        OPERATIONS.indexOf(operation),
        KINDS.findIndex((kind) => data instanceof kind),
        data.length,
        detail,
      );
      const calls = await this.#gather(call, false);
      if (calls.some((other) => other.some((value, i) => value !== call[i]))) {
        const listed = calls.map(([operation, kind, length, root], rank) =>
          `rank ${rank}: ${OPERATIONS[operation]} of ${KINDS[kind].name}(${length})${
            OPERATIONS[operation] === "broadcast" ? ` from ${root}` : ""
          }`
        );
        const what = "all ranks must call the same with the same length";
        throw new RankError("different", `Cannot run ${operation} as ${what}: ${listed.join("; ")}`);
      }
      return await work();
    });
    this.#turn = turn.catch(() => {});
    return await turn;
  }

  async #gather<T extends Plain>(data: T, counts = true): Promise<T[]> {
    const { length, byteLength } = data;
    const kind = data.constructor as new (length: number) => T;
    const all = Array.from({ length: this.size }, () => new kind(length));
    for (const [start, bytes] of pieces(data, MESSAGE_BYTES / this.size).entries()) {
      const received = new Uint8Array(bytes.length * this.size);
      await this.#done(this.#mpi.allGather(bytes, received));
      all.forEach((one, rank) => {
        const at = start * pieceBytes(MESSAGE_BYTES / this.size);
        bytesOf(one).set(received.subarray(rank * bytes.length, (rank + 1) * bytes.length), at);
      });
    }
    if (counts) this.#bytesSent += byteLength * (this.size - 1);
    return all;
  }

  async #gatherTexts(text: string): Promise<string[]> {
    const bytes = new TextEncoder().encode(text);
    const lengths = (await this.#gather(Float64Array.of(bytes.length), false)).map(([length]) => length);
    const padded = new Uint8Array(Math.max(...lengths));
    padded.set(bytes);
    const all = await this.#gather(padded, false);
    return all.map((one, rank) => new TextDecoder().decode(one.subarray(0, lengths[rank])));
  }

  /**
   * Piece by piece, each rank adds up its own share of the elements, then all get all shares. One piece is added up while
   * the next one travels.
   */
  async #reduce(data: Summed): Promise<void> {
    const { size } = this;
    const rooms = this.#rooms ??= [new Room(size), new Room(size)];
    const step = size * shareOf(Infinity, size, data);
    const scatter = (start: number, n: number) => {
      const piece = rooms[n % 2].piece(data, start, Math.min(start + step, data.length));
      const done = this.#done(this.#mpi.allToAll(bytesOf(piece.given), bytesOf(piece.received)));
      done.catch(() => {}); // told when it is waited for
      return { piece, done };
    };
    let scattered = scatter(0, 0), gathered: Promise<unknown> = Promise.resolve();
    for (let start = 0, n = 0; start < data.length; start += step, n++) {
      const { piece, done } = scattered;
      await done;
      if (start + step < data.length) scattered = scatter(start + step, n + 1);
      addUp(piece, size);
      await gathered;
      gathered = this.#done(this.#mpi.allGather(bytesOf(piece.sums), bytesOf(piece.given))).then(piece.end);
      gathered.catch(() => {});
    }
    await gathered;
    const bytes = Math.ceil(data.length / size) * data.BYTES_PER_ELEMENT;
    this.#bytesSent += 2 * (size - 1) * bytes;
  }

  /** Waits for an operation: asks for a moment, then leaves it to {@linkcode #look}. */
  async #done(begun: Begun): Promise<Done> {
    for (let tests = 0; tests < QUICK_TESTS; tests++) {
      const done = this.#mpi.test(begun);
      if (done !== undefined) return done;
    }
    const { promise, resolve, reject } = Promise.withResolvers<Done>();
    this.#waiting.set(begun, { resolve, reject });
    this.#lookedAt = performance.now();
    if (this.#waiting.size === 1) this.#look();
    return await promise;
  }

  /** Asks for all operations that are waited for, and sleeps in between. */
  async #look(): Promise<void> {
    while (this.#waiting.size > 0) {
      if (performance.now() - this.#lookedAt > AWAKE) await new Promise((resolve) => setTimeout(resolve, 1));
      else {
        Atomics.wait(NOBODY, 0, 0, NAP);
        await yieldToEventLoop();
      }
      for (const [begun, { resolve, reject }] of this.#waiting) {
        try {
          const done = this.#mpi.test(begun);
          if (done === undefined) continue;
          resolve(done);
        } catch (error) {
          reject(error);
        }
        this.#waiting.delete(begun);
        this.#lookedAt = performance.now();
      }
    }
  }
}

/** What can be added up. */
type Summed = Float32Array<ArrayBuffer> | Float64Array<ArrayBuffer>;

/** Elements of each rank's share of so many, in whole words; `PIECE_BYTES` at most for all ranks together. */
function shareOf(length: number, size: number, { BYTES_PER_ELEMENT: bytes }: Summed): number {
  const words = Math.ceil(Math.min(length * bytes, PIECE_BYTES) / 8 / size);
  return words * 8 / bytes;
}

/** A piece of data that is added up. */
interface Piece {
  /** What this rank gives: one share for each. Sums replace it. */
  readonly given: Summed;
  /** This rank's share, from each. */
  readonly received: Summed;
  readonly sums: Summed;
  /** Room for sums of some ranks, not rounded. */
  readonly partial: Float64Array<ArrayBuffer>;
  /** Hands sums back. */
  readonly end: () => void;
}

/** Memory for one piece. It is kept: memory that is new takes longer than what is done in it. */
class Room {
  readonly #size: number;
  readonly #given: ArrayBuffer;
  readonly #received: ArrayBuffer;
  readonly #sums: ArrayBuffer;
  readonly #partial: ArrayBuffer;

  constructor(size: number) {
    const bytes = 8 * Math.ceil(PIECE_BYTES / 8 / size);
    this.#size = size;
    this.#given = new ArrayBuffer(size * bytes);
    this.#received = new ArrayBuffer(size * bytes);
    this.#sums = new ArrayBuffer(bytes);
    this.#partial = new ArrayBuffer(2 * bytes);
  }

  /** The piece from `start` to `end`, which is copied only where ranks' shares are not whole. */
  piece(data: Summed, start: number, end: number): Piece {
    const part = data.subarray(start, end) as Summed, share = shareOf(part.length, this.#size, data);
    const whole = share * this.#size, isWhole = part.length === whole;
    const kind = data.constructor as new (buffer: ArrayBuffer, at: number, length: number) => Summed;
    const given = isWhole ? part : new kind(this.#given, 0, whole);
    if (!isWhole) given.set(part);
    return {
      given,
      received: new kind(this.#received, 0, whole),
      sums: new kind(this.#sums, 0, share),
      partial: new Float64Array(this.#partial, 0, share),
      end: () => {
        if (!isWhole) part.set(given.subarray(0, part.length));
      },
    };
  }
}

/** Adds up from rank 0 to the last, in float64, and rounds once. */
function addUp({ received, sums, partial }: Piece, size: number): void {
  const share = sums.length;
  let before: Summed = received;
  for (let other = 1; other < size; other++) {
    const to = other === size - 1 ? sums : partial,
      from = received.subarray(other * share, (other + 1) * share);
    for (let i = 0; i < share; i++) to[i] = before[i] + from[i];
    before = to;
  }
}

const KINDS = [Float32Array, Float64Array, Int32Array, Uint32Array, Uint8Array] as const;
const EMPTY = new Uint8Array(0);

function bytesOf(data: Plain): Bytes {
  return new Uint8Array(data.buffer, data.byteOffset, data.byteLength);
}

/** Whole words, so that pieces of ranks end at elements. */
function pieceBytes(limit: number): number {
  return Math.floor(limit / 8) * 8;
}

/** The bytes of some memory, in pieces no longer than a message may be; one empty piece if there are no bytes. */
function pieces(data: Plain, limit: number = MESSAGE_BYTES): Bytes[] {
  const bytes = bytesOf(data), size = pieceBytes(limit);
  return Array.from(
    { length: Math.max(1, Math.ceil(bytes.length / size)) },
    (_, i) => bytes.subarray(i * size, (i + 1) * size),
  );
}

/**
 * Runs a program as one of all ranks, and leaves them in good order.
 *
 * An error that every rank gets ({@linkcode RankError.everywhere}) is thrown on every rank. Any other error ends all
 * ranks: those that wait for this one would wait for ever. Its message goes to stderr first.
 *
 * @example One process alone is rank 0 of 1
 * ```ts ignore
 * import { inRanks } from "@levin/attention/distributed";
 * import assert from "node:assert/strict";
 *
 * await inRanks(async (ranks) => {
 *   const sum = Float32Array.of(1, 2, ranks.rank);
 *   await ranks.allReduce(sum);
 *   assert.equal(sum[0], ranks.size);
 * });
 * ```
 *
 * @throws {RankError} `"unavailable"` when MPI is missing
 */
export async function inRanks<T>(program: (ranks: Ranks) => Promise<T>): Promise<T> {
  const ranks = Ranks.join();
  let result: T;
  try {
    result = await program(ranks);
  } catch (error) {
    if (ranks.size > 1 && !(error instanceof RankError && error.everywhere)) {
      const text = error instanceof Error && !/^Cannot /.test(error.message) ? error.stack : undefined;
      const sentence = text ?? (error instanceof Error ? error.message : String(error));
      const line = `rank ${ranks.rank} of ${ranks.size} failed and ends all: ${sentence}\n`;
      const bytes = new TextEncoder().encode(line);
      for (let at = 0; at < bytes.length;) at += Deno.stderr.writeSync(bytes.subarray(at));
      ranks.abort();
    }
    ranks.leave();
    throw error;
  }
  ranks.leave();
  return result;
}
