/**
 * What every thread of a crew does. Workers get all functions: as text, or from `worker.ts`, which imports them. As text
 * they must not refer to anything outside themselves, so the words of the control block are numbers here; `crew.ts` names
 * them.
 *
 * @module
 */

/** A kernel, with its arguments in order. */
export type KernelFunction = (...args: number[]) => number | void;

/**
 * Makes calls of the published job until none is left.
 *
 * @param kernels in the order of their numbers
 * @param memory shared by all threads
 * @param control offset of the control block
 * @param thread number of this thread; the calling one is 0
 * @param own the chain that this thread begins with, if one is kept for it
 * @returns how many chains it made
 */
export function makeCalls(
  kernels: readonly KernelFunction[],
  memory: WebAssembly.Memory,
  control: number,
  thread: number,
  own?: number,
): number {
  const { pause = () => {} } = Atomics as { pause?: () => void };
  const words = new Int32Array(memory.buffer, control, 16);
  const [kernel, calls, width, chain, table, scratch, scratchBytes, behind] = words.subarray(8, 16);
  const args = new Float64Array(memory.buffer, table >>> 0, calls * width);
  const done = new Int32Array(memory.buffer, (table >>> 0) + args.byteLength, behind > 0 ? calls : 0);
  for (let made = 0;; made++) {
    const first = (made === 0 && own !== undefined ? own : Atomics.add(words, 3, 1)) * chain;
    if (first >= calls) return made;
    // Calls are taken in order, so the one that is awaited was taken before.
    if (behind > 0 && first >= behind) {
      while (Atomics.load(done, first - behind) === 0) {
        if (Atomics.load(words, 4) !== 0) return made;
        pause();
      }
    }
    for (let call = first; call < first + chain && call < calls; call++) {
      const values = args.subarray(call * width, (call + 1) * width);
      if (scratchBytes !== 0) values[width - 1] = (scratch >>> 0) + thread * scratchBytes;
      kernels[kernel](...values);
    }
    if (behind > 0) Atomics.store(done, first, 1);
  }
}

/**
 * Waits until a word is not what was seen there: it looks for some milliseconds, as what is awaited often follows
 * immediately, and then sleeps until it is notified. A thread that must not sleep goes on looking.
 */
export function awaitChange(
  words: Int32Array,
  index: number,
  seen: number,
  maySleep: boolean,
  looks: number,
): void {
  const { pause = () => {} } = Atomics as { pause?: () => void };
  const until = performance.now() + looks;
  do {
    for (let i = 0; i < 50; i++) {
      if (Atomics.load(words, index) !== seen) return;
      pause();
    }
  } while (!maySleep || performance.now() < until);
  Atomics.add(words, 6, 1);
  Atomics.wait(words, index, seen);
  Atomics.sub(words, 6, 1);
}

/**
 * For how many milliseconds to look next time, after a wait. Waking a thread that sleeps takes 100 microseconds and more
 * where the processor is virtual. So it is twice as long as the last wait, if that was less than a millisecond; else half
 * as long as before, 50 microseconds at least.
 */
export function nextLooks(looks: number, waited: number): number {
  return waited < 1 ? Math.max(looks, 2 * waited) : Math.max(0.05, looks / 2);
}

/** Makes this scope a worker: it waits for a job, joins those who make its calls, and waits for the next. */
export function serve(
  makeCalls_: typeof makeCalls,
  awaitChange_: typeof awaitChange,
  nextLooks_: typeof nextLooks,
): void {
  // Node's workers have a port in place of the scope's own messages. The same code runs as text: no import here.
  const { process, postMessage } = globalThis as unknown as {
    process?: { getBuiltinModule(name: string): { parentPort: Port } };
    postMessage?: unknown;
  };
  interface Port {
    onmessage: (event: MessageEvent) => void;
    postMessage(message: unknown): void;
    close(): void;
  }
  const scope = typeof postMessage === "function"
    ? globalThis as unknown as Port
    : process!.getBuiltinModule("node:worker_threads").parentPort;
  scope.onmessage = ({ data: { module, names, memory, control, thread } }) => {
    const { exports } = new WebAssembly.Instance(module, { env: { memory } });
    const kernels = names.map((name: string) => exports[name]);
    const words = new Int32Array(memory.buffer, control, 16);
    let seen = 0, looks = 0.05;
    scope.postMessage("ready");
    for (;;) {
      const began = performance.now();
      while (Atomics.load(words, 0) === seen) awaitChange_(words, 0, seen, true, looks);
      looks = nextLooks_(looks, performance.now() - began);
      seen = Atomics.load(words, 0);
      if (Atomics.load(words, 5) === 1) return scope.close();
      // Who is counted before the job closes is waited for. Who comes later finds it closed, and touches nothing.
      Atomics.add(words, 2, 1);
      if (Atomics.load(words, 1) === 1) {
        try {
          makeCalls_(kernels, memory, control, thread);
        } catch {
          Atomics.store(words, 4, 1);
        }
      }
      if (Atomics.sub(words, 2, 1) === 1 && Atomics.load(words, 1) === 0) Atomics.notify(words, 2);
    }
  };
}
