/**
 * Where the time of several threads goes: a backend whose crew notes when each thread began and ended each part.
 *
 * The time of N threads, N · T, is taken apart into factors compared with one thread that computes the same, uncut:
 *
 * - cut: the parts on one thread, over memory that is shared;
 * - slower: the same parts on N threads, which share caches, memory and the clock of the processor;
 * - idle: N · T over the time in parts. Threads wait for the start, between parts, and at the end for the last one.
 *
 * N over the product of the three is how many times as fast N threads are.
 *
 * @module
 */
import { Backend } from "../../mod.ts";
import { Account } from "../../wasm/account.ts";
import { awaitChange, type KernelFunction, makeCalls, nextLooks, serve } from "../../wasm/calls.ts";
import { Crew, type Kernels } from "../../wasm/crew.ts";
import { LinearMemory } from "../../wasm/memory.ts";
import { WasmMachine } from "../../wasm/machine.ts";
import { wasmKernels } from "../../wasm/module.ts";
import { median } from "./timing.ts";

/** Doubles of a thread: how many are used, then begin and end of each part. */
const ROOM = 1 << 15;
/** The first block of a memory: the trace. Doubles of the mode, of the clocks of workers, then each thread's. */
const TRACE = 65536, CLOCKS = 64;
/** What workers do with a job: make its parts, leave them to the calling thread, or show their clock. */
const WORK = 0, LEAVE = 1, CLOCK = 2;

/** What a worker runs in place of `makeCalls`. As text it must not refer to anything outside itself. */
function traced(
  makeCalls_: typeof makeCalls,
  trace: number,
  clocks: number,
  room: number,
): typeof makeCalls {
  const now = () => performance.timeOrigin + performance.now();
  let wrapped: Parameters<typeof makeCalls>[0] | undefined;
  return (kernels, memory, control, thread, own) => {
    const shared = new Float64Array(memory.buffer, trace, clocks);
    if (shared[0] === 1) return 0;
    while (shared[0] === 2) {
      shared[thread] = now();
      Atomics.load(new Int32Array(memory.buffer, control, 1), 0); // seen by others, and from others
    }
    const notes = new Float64Array(memory.buffer, trace + 8 * (clocks + thread * room), room);
    wrapped ??= kernels.map((kernel) => (...args: number[]) => {
      const begin = now();
      kernel(...args);
      const at = notes[0];
      if (at + 2 >= room) return;
      notes[at + 1] = begin;
      notes[at + 2] = now();
      notes[0] = at + 2;
    });
    return makeCalls_(wrapped, memory, control, thread, own);
  };
}

/** Where the time of some runs went. */
export interface Times {
  /** Milliseconds of a run. */
  readonly total: number;
  /** Milliseconds of a run in which threads were in parts, added up. */
  readonly busy: number;
  /** Shares of N · T that threads wait: outside of jobs, before their first part, after their last, in between. */
  readonly outside: number;
  readonly before: number;
  readonly after: number;
  readonly between: number;
  /** Jobs and parts of a run. */
  readonly jobs: number;
  readonly parts: number;
  /** Workers that came to a job, on average, and the median microseconds until they began. */
  readonly came: number;
  readonly wake: number;
  /** The longest part of a job compared with the job, a median. */
  readonly longest: number;
}

/** Of a crew that never rests, whatever workers cost. */
class Never extends Account {
  override get resting(): boolean {
    return false;
  }
}

/** A backend that notes what its threads do. Its workers never rest. */
export class TracedBackend implements Disposable {
  readonly backend: Backend;
  readonly threads: number;
  readonly #memory: LinearMemory;
  readonly #jobs: [begin: number, end: number][] = [];
  /** What to add to the clock of each worker. */
  readonly #ahead: number[] = [];

  readonly #own: Own;

  private constructor(memory: LinearMemory, crew: Crew, own: Own) {
    this.#memory = memory;
    this.#own = own;
    this.threads = crew.threads;
    const run = crew.run.bind(crew);
    crew.run = (...args: Parameters<typeof run>) => {
      const begin = now();
      run(...args);
      this.#jobs.push([begin, now()]);
    };
    this.backend = new Backend(
      new WasmMachine(crew, {
        reason: "traced",
        device: "relaxed SIMD",
        threads: crew.threads,
        units: "f32",
      }),
    );
    this.#adjust(crew);
  }

  /** Starts one of `threads` threads, at least two. */
  static async start(threads: number): Promise<TracedBackend> {
    const module = new WebAssembly.Module(wasmKernels("relaxed", true)), memory = new LinearMemory(true);
    const trace = memory.allocate(8 * (CLOCKS + threads * ROOM));
    if (trace !== TRACE) throw new Error(`the trace lies at ${trace}`);
    const exports = new WebAssembly.Instance(module, { env: { memory: memory.memory } }).exports;
    // The calling thread makes calls like any other, under number 0.
    const own: Own = { kernels: {} };
    for (const [name, kernel] of Object.entries(exports)) {
      if (typeof kernel === "function") own.kernels[name] = noted(memory, own, kernel as KernelFunction);
    }
    const script =
      `(${serve})((${traced})(${makeCalls}, ${TRACE}, ${CLOCKS}, ${ROOM}), ${awaitChange}, ${nextLooks})`;
    const workerUrl = URL.createObjectURL(new Blob([script], { type: "text/javascript" }));
    const crew = await Crew.start(own.kernels as Kernels, memory, module, threads, {
      workerUrl,
      account: () => new Never(false),
    });
    URL.revokeObjectURL(workerUrl);
    return new TracedBackend(memory, crew, own);
  }

  /** Runs something `times` times, by all threads or by the calling one alone, which then makes the same parts. */
  async measure(run: () => unknown, times: number, alone: boolean): Promise<Times> {
    this.#mode = alone ? LEAVE : WORK;
    const notes = Array.from({ length: this.threads }, (_, thread) => this.#notes(thread));
    this.#jobs.length = 0;
    for (const one of notes) one[0] = 0;
    const begin = now();
    for (let i = 0; i < times; i++) await run();
    const all = now() - begin;
    this.#mode = WORK;
    const jobs = this.#jobs,
      parts: [begin: number, end: number][][] = notes.map((one, thread) =>
        Array.from(
          { length: one[0] / 2 },
          (_, i) => [one[2 * i + 1] + this.#ahead[thread], one[2 * i + 2] + this.#ahead[thread]],
        )
      );
    const wakes: number[] = [], longest: number[] = [];
    let busy = 0, before = 0, after = 0, between = 0, came = 0, made = 0;
    const next = parts.map(() => 0);
    for (const [start, end] of jobs) {
      let longestHere = 0;
      for (const [thread, list] of parts.entries()) {
        // Calls outside of jobs are the calling thread's own, and count as outside.
        while (next[thread] < list.length && list[next[thread]][0] < start - 0.05) next[thread]++;
        let last = start, mine = 0, first = end;
        for (; next[thread] < list.length && list[next[thread]][0] <= end; next[thread]++) {
          const [from, to] = list[next[thread]];
          if (mine++ === 0) first = from;
          else between += from - last;
          last = to;
          busy += to - from;
          longestHere = Math.max(longestHere, to - from);
        }
        made += mine;
        if (mine === 0) before += end - start;
        else {
          before += first - start;
          after += end - last;
          if (thread > 0) {
            came++;
            wakes.push(1000 * (first - start));
          }
        }
      }
      longest.push(longestHere / (end - start));
    }
    const inJobs = jobs.reduce((sum, [start, end]) => sum + end - start, 0), whole = this.threads * all;
    return {
      total: all / times,
      busy: busy / times,
      outside: 1 - inJobs / all,
      before: before / whole,
      after: after / whole,
      between: between / whole,
      jobs: jobs.length / times,
      parts: made / times,
      came: came / jobs.length,
      wake: wakes.length === 0 ? NaN : median(wakes),
      longest: longest.length === 0 ? NaN : median(longest),
    };
  }

  /** Finds how far the clocks of workers are from this thread's: nobody is early, so the least delay is none. */
  #adjust(crew: Crew): void {
    const clocks = new Float64Array(this.#memory.memory.buffer, TRACE, CLOCKS),
      block = this.#memory.allocate(64);
    const ahead: number[] = Array(this.threads).fill(Infinity);
    ahead[0] = 0;
    this.#mode = CLOCK;
    // A job makes workers come. They show their clocks until the calling thread has seen them, in place of its first part.
    this.#own.first = () => {
      for (const end = now() + 100; now() < end;) {
        for (let thread = 1; thread < this.threads; thread++) {
          const shown = clocks[thread], seen = now();
          if (shown > 0) ahead[thread] = Math.min(ahead[thread], seen - shown);
        }
      }
      this.#mode = WORK;
    };
    const parts = Array(2 * this.threads).fill({ x: block, y: block, output: block, count: 1 });
    crew.run("multiply", parts, { work: 1e9 });
    this.#ahead.push(...ahead.map((value) => Number.isFinite(value) ? value : 0));
    this.#memory.free(block);
  }

  set #mode(mode: number) {
    new Float64Array(this.#memory.memory.buffer, TRACE, CLOCKS)[0] = mode;
  }

  #notes(thread: number): Float64Array {
    return new Float64Array(this.#memory.memory.buffer, TRACE + 8 * (CLOCKS + thread * ROOM), ROOM);
  }

  [Symbol.dispose](): void {
    this.backend.dispose();
  }
}

function now(): number {
  return performance.timeOrigin + performance.now();
}

/** What the calling thread runs. */
interface Own {
  readonly kernels: Record<string, KernelFunction>;
  /** What it does once, before a part. */
  first?: () => void;
}

/** A kernel of the calling thread, noted. */
function noted(memory: LinearMemory, own: Own, kernel: KernelFunction): KernelFunction {
  let notes: Float64Array = new Float64Array(0);
  return (...args) => {
    if (notes.buffer !== memory.memory.buffer) {
      notes = new Float64Array(memory.memory.buffer, TRACE + 8 * CLOCKS, ROOM);
    }
    if (own.first !== undefined) {
      own.first();
      own.first = undefined;
    }
    const begin = now(), result = kernel(...args), at = notes[0];
    if (at + 2 < ROOM) {
      notes[at + 1] = begin;
      notes[at + 2] = now();
      notes[0] = at + 2;
    }
    return result;
  };
}
