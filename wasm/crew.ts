/**
 * Who computes: the calling thread, and workers over shared memory if more than one thread was asked for.
 *
 * An operation is a list of kernel calls that do not read or write one another's results. So it does not matter which
 * thread makes which call: the bits are the same for any number of threads. The calling thread publishes the list in
 * linear memory, makes calls itself, and returns when all are made. Only the start is asynchronous.
 *
 * @module
 */
import { BackendError } from "../core/errors.ts";
import { type KernelFunction, makeCalls, serve } from "./calls.ts";
import { IN_ORDER, type Kernel, type KernelCalls, type Sizing, type WithScratch } from "./exports.ts";
import type { LinearMemory } from "./memory.ts";

/** The kernels of an instance. */
export type Kernels = Readonly<Record<Kernel, KernelFunction>>;

/** Work space of an operation. */
export interface Scratch {
  /** Where the first thread's begins; those of the others follow. */
  readonly offset: number;
  /** Bytes per thread. */
  readonly bytes: number;
}

/** How a list of calls is run. */
export interface Run {
  /** Multiply-adds or elements of all calls together: little work is not worth waking a worker. */
  readonly work: number;
  /** Calls that belong together and run in order on one thread; default 1. */
  readonly chain?: number;
  /** For kernels that take work space. */
  readonly scratch?: Scratch;
}

/** How workers are started. */
export interface CrewOptions {
  /** Where `worker.ts` is served; default a `blob:` URL. */
  readonly workerUrl?: string | URL;
  /** Ends the wait for workers: its reason is thrown. */
  readonly signal?: AbortSignal;
}

/** The threads asked for are not to be had, but one thread would be. */
export class ThreadsError extends BackendError {
  /** Why, as a clause. */
  readonly why: string;

  /** An error with the reason as a clause, such as "this host has no workers". */
  constructor(threads: number, why: string, options?: ErrorOptions) {
    super(
      "unavailable",
      `Cannot create the WASM backend with ${threads} threads as ${why}: ask for one thread`,
      options,
    );
    this.why = why;
  }
}

/** Below this much work one thread is faster: waking another takes some ten microseconds. */
const SMALL_WORK = 200_000;

const KERNEL_NAMES = Object.keys(IN_ORDER) as Kernel[];

// Words of the control block, in Int32.
const GENERATION = 0, BUSY = 1, NEXT = 2, FAILED = 3, STOP = 4;
// Words of the job: kernel, calls, arguments per call, calls per chain, offset of the arguments, work space and its bytes.
const JOB = 8, JOB_WORDS = 8;
const CONTROL_BYTES = 4 * (JOB + JOB_WORDS);

/** The threads of a machine, and all that it does to call kernels. */
export class Crew {
  /** The kernels; undefined after `dispose()`. */
  #kernels: Kernels | undefined;
  readonly #memory: LinearMemory;
  readonly #workers: readonly Worker[];
  /** Offset of the control block; 0 without workers. */
  readonly #control: number;
  /** Arguments of the calls of a job, kept for the next. */
  #table = { offset: 0, bytes: 0 };

  /** A crew of the calling thread and of workers that are ready. */
  constructor(kernels: Kernels, memory: LinearMemory, workers: readonly Worker[] = [], control = 0) {
    this.#kernels = kernels;
    this.#memory = memory;
    this.#workers = workers;
    this.#control = control;
  }

  /**
   * Starts a crew of `threads` threads; more than one need shared memory.
   *
   * @throws {ThreadsError} when workers do not start
   */
  static async start(
    kernels: Kernels,
    memory: LinearMemory,
    module: WebAssembly.Module,
    threads: number,
    { workerUrl, signal }: CrewOptions = {},
  ): Promise<Crew> {
    if (threads === 1) return new Crew(kernels, memory);
    const control = memory.allocate(CONTROL_BYTES);
    new Int32Array(memory.memory.buffer, control, JOB + JOB_WORDS).fill(0);
    const text = `(${serve})(${makeCalls})`;
    const url = workerUrl ?? URL.createObjectURL(new Blob([text], { type: "text/javascript" }));
    const workers: Worker[] = [];
    const aborted = Promise.withResolvers<never>();
    const abort = () => aborted.reject(signal!.reason);
    signal?.addEventListener("abort", abort);
    try {
      for (let thread = 1; thread < threads; thread++) workers.push(new Worker(url, { type: "module" }));
      const ready = workers.map((worker, index) =>
        new Promise<void>((resolve, reject) => {
          worker.onmessage = () => resolve();
          worker.onerror = (event) => {
            event.preventDefault();
            // A script that the host does not even load comes without a message.
            reject(
              new Error(event.message ?? `the host does not load ${workerUrl ?? "workers from blob: URLs"}`),
            );
          };
          const thread = index + 1;
          worker.postMessage({ module, names: KERNEL_NAMES, memory: memory.memory, control, thread });
        })
      );
      await Promise.race([Promise.all(ready), aborted.promise]);
    } catch (cause) {
      for (const worker of workers) worker.terminate();
      memory.free(control);
      signal?.throwIfAborted();
      const advice = workerUrl === undefined
        ? `its workers do not start (a content security policy must allow "worker-src blob:", or pass workerUrl)`
        : `its workers do not start from ${workerUrl}`;
      throw new ThreadsError(threads, advice, { cause });
    } finally {
      signal?.removeEventListener("abort", abort);
      if (workerUrl === undefined) URL.revokeObjectURL(url as string);
    }
    return new Crew(kernels, memory, workers, control);
  }

  /** Number of threads, the calling one among them. */
  get threads(): number {
    return this.#workers.length + 1;
  }

  /** Bytes of linear memory that the crew holds for itself. */
  get bytes(): number {
    return this.#memory.sizeOf(this.#control) + this.#memory.sizeOf(this.#table.offset);
  }

  /** Makes one call on the calling thread, and returns what the kernel returns. */
  call<K extends Exclude<Kernel, WithScratch>>(
    kernel: K,
    call: KernelCalls[K],
  ): K extends Sizing ? number : void {
    return IN_ORDER[kernel](this.#live()[kernel], call, 0) as K extends Sizing ? number : void;
  }

  /** Makes calls of a kernel, and returns when all are made. */
  run<K extends Exclude<Kernel, Sizing>>(
    kernel: K,
    calls: readonly KernelCalls[K][],
    { work, chain = 1, scratch }: Run & (K extends WithScratch ? { scratch: Scratch } : unknown),
  ): void {
    const kernels = this.#live(), inOrder = IN_ORDER[kernel];
    if (this.#workers.length === 0 || calls.length <= chain || work < SMALL_WORK) {
      const take = kernels[kernel], offset = scratch === undefined ? 0 : scratch.offset;
      for (const call of calls) inOrder(take, call, offset);
      return;
    }
    const { memory } = this.#memory;
    let ordered: number[] = [];
    const order = (...args: number[]) => {
      ordered = args;
    };
    inOrder(order, calls[0], 0);
    const width = ordered.length;
    const table = this.#argumentTable(8 * calls.length * width);
    const args = new Float64Array(memory.buffer, table, calls.length * width);
    calls.forEach((call, index) => {
      inOrder(order, call, 0);
      args.set(ordered, index * width);
    });
    const words = new Int32Array(memory.buffer, this.#control, JOB + JOB_WORDS);
    const { offset = 0, bytes = 0 } = scratch ?? {};
    words.set([KERNEL_NAMES.indexOf(kernel), calls.length, width, chain, table, offset, bytes], JOB);
    Atomics.store(words, NEXT, 0);
    Atomics.store(words, BUSY, this.#workers.length);
    Atomics.add(words, GENERATION, 1);
    Atomics.notify(words, GENERATION);
    try {
      makeCalls(KERNEL_NAMES.map((name) => kernels[name]), memory, this.#control, 0);
    } finally {
      while (Atomics.load(words, BUSY) > 0);
    }
    if (Atomics.load(words, FAILED) === 1) {
      throw new BackendError(
        "lost",
        "Cannot continue as a worker of the WASM backend failed: create a new backend",
      );
    }
  }

  /** Ends the workers. Twice does nothing. */
  dispose(): void {
    if (this.#kernels === undefined) return;
    this.#kernels = undefined;
    if (this.#workers.length === 0) return;
    const words = new Int32Array(this.#memory.memory.buffer, this.#control, JOB);
    Atomics.store(words, STOP, 1);
    Atomics.add(words, GENERATION, 1);
    Atomics.notify(words, GENERATION);
    for (const worker of this.#workers) worker.terminate();
  }

  #live(): Kernels {
    if (this.#kernels === undefined) {
      throw new BackendError("disposed", "Cannot use a backend that was disposed");
    }
    return this.#kernels;
  }

  #argumentTable(bytes: number): number {
    if (bytes > this.#table.bytes) {
      const { offset } = this.#table;
      this.#table = { offset: 0, bytes: 0 };
      if (offset !== 0) this.#memory.free(offset);
      this.#table = { offset: this.#memory.allocate(bytes), bytes };
    }
    return this.#table.offset;
  }
}

/** Cuts `count` into at most `parts` ranges, as even as bounds that are multiples of `multiple` allow. */
export function ranges(count: number, parts: number, multiple: number): { start: number; count: number }[] {
  const units = Math.ceil(count / multiple);
  const used = Math.max(1, Math.min(parts, units));
  const cut: { start: number; count: number }[] = [];
  for (let part = 0, start = 0; part < used; part++) {
    const end = Math.min(count, Math.floor(units * (part + 1) / used) * multiple);
    cut.push({ start, count: end - start });
    start = end;
  }
  return cut;
}
