/**
 * Who computes: the calling thread, and workers over shared memory if more than one thread was asked for.
 *
 * An operation is a list of kernel calls that do not read or write one another's results, or of which each names the one
 * before it that it continues. So it does not matter which thread makes which call: the bits are the same for any number. The calling thread publishes the list in
 * linear memory, makes calls itself, and returns when all are made. Only the start is asynchronous.
 *
 * How many calls there are follows from the work, so that threads that are slow, busy elsewhere or not yet awake take
 * fewer. Nobody waits for a thread that has not begun: a job is closed when its last call is taken, and then only those
 * who are still at one are waited for. On a busy machine even they may not run, and a worker that wakes may take the
 * calling thread's core. So the crew keeps accounts of what workers save, see `account.ts`. Where they cost more, they
 * rest: then jobs are not even cut.
 *
 * @module
 */
import { BackendError } from "../core/errors.ts";
import { Account } from "./account.ts";
import { awaitChange, type KernelFunction, makeCalls, nextLooks } from "./calls.ts";
import { IN_ORDER, type Kernel, type KernelCalls, type Sizing, type WithScratch } from "./exports.ts";
import { type LinearMemory, ReusedBlock } from "./memory.ts";
import { roundUp } from "./operands.ts";
import { startThreads, type Thread } from "./threads.ts";

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
  /** Multiply-adds of all calls together, or what takes as long: little work is not worth waking a worker. */
  readonly work: number;
  /** Calls that belong together and run in order on one thread; default 1. */
  readonly chain?: number;
  /** Calls that continue the one so many before them wait until that is made; default none. Then there are no chains. */
  readonly behind?: number;
  /** For kernels that take work space. */
  readonly scratch?: Scratch;
}

/** How workers are started. */
export interface CrewOptions {
  /** Where `worker.ts` is served; default a `blob:` URL. */
  readonly workerUrl?: string | URL;
  /** Ends the wait for workers: its reason is thrown. */
  readonly signal?: AbortSignal;
  /** Makes the account of a kind of job, large or not. Default: workers rest where they cost more than they save. */
  readonly account?: (isLarge: boolean) => Account;
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

/** Multiply-adds of one part, some 10 microseconds: less is not worth a worker's while. */
const PART_WORK = 250_000;

/** Parts of the least job in which workers have a part: with two they gain little, and asking costs, too. */
const LEAST_PARTS = 3;

/** Parts of large work: so many that few are left when the first thread finds none. */
const MOST_PARTS = 64;

/** Kinds of jobs that are told apart: a program that has more begins anew. */
const MOST_ACCOUNTS = 1024;

const KERNEL_NAMES = Object.keys(IN_ORDER) as Kernel[];
const NUMBERS = Object.fromEntries(KERNEL_NAMES.map((name, number) => [name, number])) as Record<
  Kernel,
  number
>;

// Words of the control block, in Int32.
//   GENERATION  of the job, which counts up: workers wait for it to change
//   OPEN        1 while calls of the job may be taken
//   ACTIVE      workers that may be taking calls
//   NEXT        the first chain that nobody has taken
//   FAILED      1 when a kernel threw on a worker, OWN_FAILURE until the job is over when one threw on the calling thread
//   STOP        1 when workers are to end
//   SLEEPING    threads that sleep
const GENERATION = 0, OPEN = 1, ACTIVE = 2, NEXT = 3, FAILED = 4, STOP = 5, SLEEPING = 6;
const OWN_FAILURE = 2;
// Words of the job: kernel, calls, arguments per call, calls per chain, offset of the arguments, work space and its bytes,
// and how far behind another a call is that waits for it.
const JOB = 8, JOB_WORDS = 8;
const CONTROL_BYTES = 4 * (JOB + JOB_WORDS);

/** What a crew works on, until it is disposed. */
interface Workplace {
  readonly kernels: Kernels;
  /** The same in the order of their numbers. */
  readonly numbered: readonly KernelFunction[];
  readonly memory: LinearMemory;
  /** Work space of the operation that runs. */
  readonly scratch: ReusedBlock;
  /** Arguments of the calls of the job that runs. */
  readonly table: ReusedBlock;
}

/** The threads of a machine, and the memory that they share. Nothing else calls kernels. */
export class Crew {
  /** Undefined after `dispose()`. */
  #workplace: Workplace | undefined;
  readonly #workers: readonly Thread[];
  /** Offset of the control block; 0 without workers. */
  readonly #control: number;
  /** Whether the calling thread may sleep: a page's own may not. */
  readonly #maySleep: boolean;
  readonly #newAccount: (isLarge: boolean) => Account;
  /** What workers save, by kind of job. */
  readonly #accounts = new Map<number, Account>();
  /** Of these, those that rest. */
  #resting = 0;
  /** Milliseconds for which the calling thread looks whether the last workers are done, before it sleeps. */
  #looks = 0.05;
  /** Milliseconds in jobs that workers could have a part in. */
  #time = 0;

  /** A crew of the calling thread and of workers that are ready. */
  constructor(
    kernels: Kernels,
    memory: LinearMemory,
    workers: readonly Thread[] = [],
    control = 0,
    account = (isLarge: boolean): Account => new Account(isLarge),
  ) {
    this.#workplace = {
      kernels,
      numbered: KERNEL_NAMES.map((name) => kernels[name]),
      memory,
      scratch: new ReusedBlock(memory),
      table: new ReusedBlock(memory),
    };
    this.#workers = workers;
    this.#control = control;
    this.#newAccount = account;
    this.#maySleep = workers.length > 0 && maySleep(this.#words());
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
    { workerUrl, signal, account }: CrewOptions = {},
  ): Promise<Crew> {
    if (threads === 1) return new Crew(kernels, memory);
    const control = memory.allocate(CONTROL_BYTES);
    new Int32Array(memory.memory.buffer, control, JOB + JOB_WORDS).fill(0);
    try {
      const messages = Array.from({ length: threads - 1 }, (_, i) => (
        { module, names: KERNEL_NAMES, memory: memory.memory, control, thread: i + 1 }
      ));
      const workers = await startThreads(messages, workerUrl, signal);
      return new Crew(kernels, memory, workers, control, account);
    } catch (cause) {
      memory.free(control);
      signal?.throwIfAborted();
      const advice = workerUrl === undefined
        ? `its workers do not start (a content security policy must allow "worker-src blob:", or pass workerUrl)`
        : `its workers do not start from ${workerUrl}`;
      throw new ThreadsError(threads, advice, { cause });
    }
  }

  /** Number of threads, the calling one among them. */
  get threads(): number {
    return this.#workers.length + 1;
  }

  /** Number of workers that sleep. */
  get sleeping(): number {
    return this.#workers.length === 0 ? 0 : Atomics.load(this.#words(), SLEEPING);
  }

  /** Whether workers rest from a kind of job, as they cost more than they save: the calling thread makes all calls. */
  rests(kernel: Kernel, work: number): boolean {
    return this.#account(kernel, work)?.resting ?? false;
  }

  /** Into how many parts to cut so many multiply-adds of a kernel, or what takes as long; 1 if nobody helps. */
  parts(kernel: Kernel, work: number): number {
    return this.#account(kernel, work)?.resting === false ? mostParts(work) : 1;
  }

  /**
   * The memory that all threads share.
   *
   * @throws {BackendError} `"disposed"`
   */
  get memory(): LinearMemory {
    return this.#live().memory;
  }

  /** Whether `dispose()` was called. */
  get disposed(): boolean {
    return this.#workplace === undefined;
  }

  /** Bytes of linear memory in use, without what the crew holds for itself. */
  get bytesInUse(): number {
    if (this.#workplace === undefined) return 0;
    const { memory, scratch, table } = this.#workplace;
    return memory.bytesInUse - scratch.held - table.held - memory.sizeOf(this.#control);
  }

  /** The offset of work space of at least `bytes`, valid until the next operation. */
  reserve(bytes: number): number {
    return this.#live().scratch.reserve(bytes);
  }

  /** Work space of `bytes` for each thread, valid until the next operation. */
  scratch(bytes: number): Scratch {
    const own = roundUp(bytes, 64);
    return { offset: this.reserve(this.threads * own), bytes: own };
  }

  /** Makes one call on the calling thread, and returns what the kernel returns. */
  call<K extends Exclude<Kernel, WithScratch>>(
    kernel: K,
    call: KernelCalls[K],
  ): K extends Sizing ? number : void {
    return IN_ORDER[kernel](this.#live().kernels[kernel], call, 0) as K extends Sizing ? number : void;
  }

  /** Makes calls of a kernel, and returns when all are made. */
  run<K extends Exclude<Kernel, Sizing>>(
    kernel: K,
    calls: readonly KernelCalls[K][],
    { work, chain = 1, behind = 0, scratch }: Run & (K extends WithScratch ? { scratch: Scratch } : unknown),
  ): void {
    const { kernels, numbered, memory: { memory }, table: reused } = this.#live(), inOrder = IN_ORDER[kernel];
    const chains = Math.ceil(calls.length / chain), account = this.#account(kernel, work);
    const began = account === undefined ? 0 : performance.now();
    if (account === undefined || account.resting || chains === 1) {
      const take = kernels[kernel], offset = scratch === undefined ? 0 : scratch.offset;
      for (const call of calls) inOrder(take, call, offset);
      if (account?.resting) {
        const taken = performance.now() - began;
        account.addAlone(taken, this.#time += taken);
        if (!account.resting) this.#resting--;
      }
      return;
    }
    const helpers = Math.min(this.#workers.length, chains - 1, mostParts(work) - 1);
    let ordered: number[] = [];
    const order = (...args: number[]) => {
      ordered = args;
    };
    inOrder(order, calls[0], 0);
    const width = ordered.length;
    const table = reused.reserve(8 * calls.length * (width + 1));
    const args = new Float64Array(memory.buffer, table, calls.length * width);
    calls.forEach((call, index) => {
      inOrder(order, call, 0);
      args.set(ordered, index * width);
    });
    const words = this.#words();
    const { offset = 0, bytes = 0 } = scratch ?? {};
    words.set([NUMBERS[kernel], calls.length, width, chain, table, offset, bytes, behind], JOB);
    if (behind > 0) new Int32Array(memory.buffer, table + args.byteLength, calls.length).fill(0);
    Atomics.store(words, NEXT, 1);
    Atomics.store(words, OPEN, 1);
    Atomics.add(words, GENERATION, 1);
    const asleep = Atomics.load(words, SLEEPING), awake = this.#workers.length - asleep;
    if (asleep > 0 && awake < helpers) Atomics.notify(words, GENERATION, helpers - awake);
    const published = performance.now();
    let made = 1, finished = published;
    try {
      made = makeCalls(numbered, memory, this.#control, 0, 0);
      finished = performance.now();
    } catch (error) {
      Atomics.store(words, FAILED, OWN_FAILURE);
      throw error;
    } finally {
      Atomics.store(words, OPEN, 0);
      for (let active; (active = Atomics.load(words, ACTIVE)) > 0;) {
        awaitChange(words, ACTIVE, active, this.#maySleep, this.#looks);
      }
      Atomics.compareExchange(words, FAILED, OWN_FAILURE, 0);
    }
    const ended = performance.now(), taken = ended - began;
    this.#looks = nextLooks(this.#looks, ended - finished);
    account.addTogether(taken, finished - published, made / chains, this.#time += taken, this.#resting);
    if (account.resting) this.#resting++;
    if (Atomics.load(words, FAILED) === 1) {
      throw new BackendError(
        "lost",
        "Cannot continue as a worker of the WASM backend failed: create a new backend",
      );
    }
  }

  /** Ends the workers, and lets go of the memory. Twice does nothing. */
  dispose(): void {
    if (this.#workplace === undefined) return;
    const words = this.#words();
    this.#workplace = undefined;
    if (this.#workers.length === 0) return;
    Atomics.store(words, STOP, 1);
    Atomics.add(words, GENERATION, 1);
    Atomics.notify(words, GENERATION);
    for (const worker of this.#workers) worker.terminate();
  }

  /** The account of a kind of job; undefined if workers can have no part in it. */
  #account(kernel: Kernel, work: number): Account | undefined {
    const parts = this.#workers.length === 0 ? 1 : mostParts(work);
    if (parts === 1) return undefined;
    const kind = work * KERNEL_NAMES.length + NUMBERS[kernel];
    let account = this.#accounts.get(kind);
    if (account === undefined) {
      if (this.#accounts.size === MOST_ACCOUNTS) {
        this.#accounts.clear();
        this.#resting = 0;
      }
      this.#accounts.set(kind, account = this.#newAccount(parts > MOST_PARTS / 2));
      if (account.resting) this.#resting++;
    }
    return account;
  }

  /** The control block. */
  #words(): Int32Array {
    return new Int32Array(this.memory.memory.buffer, this.#control, JOB + JOB_WORDS);
  }

  #live(): Workplace {
    if (this.#workplace === undefined) {
      throw new BackendError("disposed", "Cannot use a backend that was disposed");
    }
    return this.#workplace;
  }
}

/** Into how many parts so many multiply-adds can be cut. */
function mostParts(work: number): number {
  const parts = Math.min(MOST_PARTS, Math.floor(work / PART_WORK));
  return parts < LEAST_PARTS ? 1 : parts;
}

/** Whether this thread may sleep. */
function maySleep(words: Int32Array): boolean {
  try {
    Atomics.wait(words, GENERATION, Atomics.load(words, GENERATION) - 1); // nothing to wait for
    return true;
  } catch {
    return false;
  }
}

/** A part of rows, columns or elements. */
export interface Range {
  /** The first. */
  readonly start: number;
  /** How many. */
  readonly count: number;
}

/** Cuts `count` into at most `parts` ranges, as even as bounds that are multiples of `multiple` allow. */
export function ranges(count: number, parts: number, multiple: number): Range[] {
  const units = Math.ceil(count / multiple);
  const used = Math.max(1, Math.min(parts, units));
  const cut: Range[] = [];
  for (let part = 0, start = 0; part < used; part++) {
    const end = Math.min(count, Math.floor(units * (part + 1) / used) * multiple);
    cut.push({ start, count: end - start });
    start = end;
  }
  return cut;
}
