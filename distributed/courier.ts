/**
 * A thread that keeps messages moving. MPI moves most of a message while its process calls it, and a thread that waits
 * for a GPU does not: Deno waits inside of `mapAsync`. Whoever receives from it would wait as long.
 *
 * @module
 */

/** Words of the memory that both threads share: operations under way (negative: end), the thread's state. */
const UNDER_WAY = 0, STATE = 1;
/** States of the thread. */
const STARTING = 0, AWAKE = 1, ENDED = 2;

/** What the thread asks MPI again and again: a question that nobody answers makes it look after all messages. */
export interface Question {
  /** Path of MPI's library, which is open already. */
  readonly path: string;
  /** The communicator, the rank of this process in it, and a tag that nobody uses. */
  readonly world: bigint;
  readonly rank: number;
  readonly tag: number;
}

/** The thread's script, as text: it names nothing outside. It sleeps while nothing is under way, else for 50 µs. */
function serve(): void {
  addEventListener("message", (event) => {
    const { path, rank, tag, world, shared } = (event as MessageEvent).data as
      & Question
      & Record<"shared", Int32Array>;
    const underWay = 0, state = 1, never = 2;
    const { symbols } = Deno.dlopen(path, {
      MPI_Iprobe: { parameters: ["i32", "i32", "usize", "buffer", "buffer"], result: "i32" },
    });
    const flag = new Int32Array(32), status = new Int32Array(64); // large enough never to lie on V8's heap
    if (Atomics.compareExchange(shared, state, 0, 1) !== 0) return; // ended before it began
    for (let count; (count = Atomics.load(shared, underWay)) >= 0;) {
      if (count === 0) Atomics.wait(shared, underWay, 0);
      else {
        symbols.MPI_Iprobe(rank, tag, world, flag, status);
        Atomics.wait(shared, never, 0, 0.05);
      }
    }
    Atomics.store(shared, state, 2);
    Atomics.notify(shared, state);
  });
}

/** The thread, as the one that it helps sees it. */
export class Courier {
  readonly #shared = new Int32Array(new SharedArrayBuffer(16));
  readonly #worker: Worker;

  /** Starts it; MPI must allow calls of several threads. */
  constructor(question: Question) {
    const script = `data:text/javascript,${encodeURIComponent(`(${serve})()`)}`;
    this.#worker = new Worker(script, { type: "module" });
    this.#worker.postMessage({ ...question, shared: this.#shared });
  }

  /** An operation is under way. */
  begin(): void {
    if (Atomics.add(this.#shared, UNDER_WAY, 1) === 0) Atomics.notify(this.#shared, UNDER_WAY);
  }

  /** An operation is done. */
  done(): void {
    Atomics.sub(this.#shared, UNDER_WAY, 1);
  }

  /** Ends the thread: MPI may end once no thread calls it. */
  end(): void {
    const shared = this.#shared;
    Atomics.store(shared, UNDER_WAY, -1);
    Atomics.notify(shared, UNDER_WAY);
    if (Atomics.compareExchange(shared, STATE, STARTING, ENDED) === AWAKE) Atomics.wait(shared, STATE, AWAKE);
    this.#worker.terminate();
  }
}
