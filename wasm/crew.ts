/**
 * Who computes: the calling thread, and workers over shared memory where more than one thread was asked for.
 *
 * An operation is a list of kernel calls that do not touch one another's results, so it does not matter which thread
 * makes which call: the bits are the same for any number of threads. The calling thread publishes the list in linear
 * memory, makes calls itself, and returns when all are made; nothing here is asynchronous but the start.
 *
 * @module
 */
import { BackendError } from "../core/errors.ts";
import type { LinearMemory } from "./memory.ts";
import type { KernelExports } from "./module.ts";

/** Names of the kernels that a crew runs. */
export type KernelName = {
  [K in keyof KernelExports]: KernelExports[K] extends (...args: never[]) => void ? K : never;
}[keyof KernelExports];

/** How a list of calls is run. */
export interface Run {
  /** Multiply-adds or elements of all calls together: little work is not worth waking a worker for. */
  work: number;
  /** Calls that belong together and run in order on one thread; default 1. */
  chain?: number;
  /** Work space: each thread passes its own `scratchBytes` of it as last argument of every call. */
  scratch?: number;
  /** Bytes of work space per thread. */
  scratchBytes?: number;
}

/** Below this much work one thread is faster: waking another takes some ten microseconds. */
const SMALL_WORK = 200_000;

// Words of the control block, in Int32.
const GENERATION = 0, BUSY = 1, NEXT = 2, FAILED = 3, STOP = 4;
// Words of the job: kernel, calls, arguments per call, calls per chain, offset of the arguments, work space.
const JOB = 8, JOB_WORDS = 8;
const CONTROL_BYTES = 4 * (JOB + JOB_WORDS);

/**
 * Makes the calls of the published job until none is left. Workers get this function as text: it must not refer to
 * anything outside itself.
 */
function makeCalls(
  exports: Record<string, unknown>,
  memory: WebAssembly.Memory,
  control: number,
  thread: number,
): void {
  const words = new Int32Array(memory.buffer, control, 16);
  const [kernel, calls, width, chain, table, scratch, scratchBytes] = words.subarray(8, 15);
  const run = exports[Object.keys(exports).sort()[kernel]] as (...args: number[]) => void;
  const args = new Float64Array(memory.buffer, table >>> 0, calls * width);
  const own = scratchBytes === 0 ? [] : [(scratch >>> 0) + thread * scratchBytes];
  for (;;) {
    const first = Atomics.add(words, 2, 1) * chain;
    if (first >= calls) return;
    for (let call = first; call < first + chain && call < calls; call++) {
      run(...args.subarray(call * width, (call + 1) * width), ...own);
    }
  }
}

/** What a worker does: waits for a generation, makes calls, says that it is done. Also sent as text. */
function work(makeCalls_: typeof makeCalls): void {
  const scope = globalThis as unknown as {
    onmessage: (event: MessageEvent) => void;
    postMessage(message: unknown): void;
    close(): void;
  };
  scope.onmessage = ({ data: { module, memory, control, thread } }) => {
    const { exports } = new WebAssembly.Instance(module, { env: { memory } });
    const words = new Int32Array(memory.buffer, control, 16);
    let seen = 0;
    scope.postMessage("ready");
    for (;;) {
      // The next job often follows at once: look for it a while before going to sleep.
      for (let i = 0; i < 2000 && Atomics.load(words, 0) === seen; i++);
      while (Atomics.load(words, 0) === seen) Atomics.wait(words, 0, seen);
      seen = Atomics.load(words, 0);
      if (Atomics.load(words, 4) === 1) return scope.close();
      try {
        makeCalls_(exports, memory, control, thread);
      } catch {
        Atomics.store(words, 3, 1);
      }
      Atomics.sub(words, 1, 1);
    }
  };
}

/** The threads of a backend. */
export class Crew {
  readonly #exports: KernelExports;
  readonly #memory: LinearMemory;
  readonly #workers: Worker[];
  /** Offset of the control block; 0 without workers. */
  readonly #control: number;
  /** Arguments of the calls of a job, kept for the next. */
  #table = { offset: 0, bytes: 0 };

  /** A crew of the calling thread and of workers that are ready. */
  constructor(exports: KernelExports, memory: LinearMemory, workers: Worker[] = [], control = 0) {
    this.#exports = exports;
    this.#memory = memory;
    this.#workers = workers;
    this.#control = control;
  }

  /** Starts a crew of `threads` threads over shared memory. */
  static async start(
    exports: KernelExports,
    memory: LinearMemory,
    module: WebAssembly.Module,
    threads: number,
  ): Promise<Crew> {
    if (threads === 1) return new Crew(exports, memory);
    const control = memory.allocate(CONTROL_BYTES);
    new Int32Array(memory.memory.buffer, control, JOB + JOB_WORDS).fill(0);
    const url = URL.createObjectURL(new Blob([`(${work})(${makeCalls})`], { type: "text/javascript" }));
    const workers: Worker[] = [];
    try {
      for (let thread = 1; thread < threads; thread++) workers.push(new Worker(url, { type: "module" }));
      await Promise.all(workers.map((worker, index) =>
        new Promise<void>((resolve, reject) => {
          worker.onmessage = () => resolve();
          worker.onerror = (event) => {
            event.preventDefault();
            reject(new Error(event.message));
          };
          worker.postMessage({ module, memory: memory.memory, control, thread: index + 1 });
        })
      ));
    } catch (cause) {
      for (const worker of workers) worker.terminate();
      throw new BackendError(
        "unavailable",
        `Cannot create the WASM backend with ${threads} threads as its workers do not start: ask for one thread`,
        { cause },
      );
    } finally {
      URL.revokeObjectURL(url);
    }
    return new Crew(exports, memory, workers, control);
  }

  /** Number of threads, the calling one among them. */
  get threads(): number {
    return this.#workers.length + 1;
  }

  /** Bytes of linear memory that the crew holds for itself. */
  get bytes(): number {
    return this.#memory.sizeOf(this.#control) + this.#memory.sizeOf(this.#table.offset);
  }

  /** Makes calls of a kernel, and returns when all are made. */
  run(
    kernel: KernelName,
    calls: readonly number[][],
    { work, chain = 1, scratch, scratchBytes = 0 }: Run,
  ): void {
    if (this.#workers.length === 0 || calls.length <= chain || work < SMALL_WORK) {
      const call = this.#exports[kernel] as (...args: number[]) => void;
      for (const args of calls) {
        if (scratch === undefined) call(...args);
        else call(...args, scratch);
      }
      return;
    }
    const { memory } = this.#memory;
    const width = calls[0].length;
    const table = this.#argumentTable(8 * calls.length * width);
    const args = new Float64Array(memory.buffer, table, calls.length * width);
    calls.forEach((call, index) => args.set(call, index * width));
    const words = new Int32Array(memory.buffer, this.#control, JOB + JOB_WORDS);
    const names = Object.keys(this.#exports).sort();
    words.set([names.indexOf(kernel), calls.length, width, chain, table, scratch ?? 0, scratchBytes], JOB);
    Atomics.store(words, NEXT, 0);
    Atomics.store(words, BUSY, this.#workers.length);
    Atomics.add(words, GENERATION, 1);
    Atomics.notify(words, GENERATION);
    makeCalls(this.#exports as unknown as Record<string, unknown>, memory, this.#control, 0);
    while (Atomics.load(words, BUSY) > 0);
    if (Atomics.load(words, FAILED) === 1) {
      throw new BackendError(
        "lost",
        "Cannot go on as a worker of the WASM backend failed: create a new backend",
      );
    }
  }

  /** Ends the workers. */
  dispose(): void {
    if (this.#workers.length === 0) return;
    const words = new Int32Array(this.#memory.memory.buffer, this.#control, JOB);
    Atomics.store(words, STOP, 1);
    Atomics.add(words, GENERATION, 1);
    Atomics.notify(words, GENERATION);
    for (const worker of this.#workers) worker.terminate();
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
