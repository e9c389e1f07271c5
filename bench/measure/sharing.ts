/**
 * Results that several processes add to, each on a GPU of its own: each takes work that no other has taken, and none
 * loses what another has kept. Locks are those of the system, which a process that dies leaves free.
 *
 * @module
 */

/** A file of results by name. */
export interface Kept<R> {
  readonly runs: Readonly<Record<string, R>>;
}

/** Results in a file, and work in a folder, that processes share. */
export class Shared<F extends Kept<unknown>> {
  readonly #file: string;
  readonly #folder: string;
  readonly #check: (kept: F) => void;

  /** @param check throws where results were measured otherwise */
  constructor(file: string, folder: string, check: (kept: F) => void) {
    this.#file = file;
    this.#folder = folder;
    this.#check = check;
  }

  /** What has been kept, if anything. */
  async read(): Promise<F | undefined> {
    const kept = await readKept<F>(this.#file);
    if (kept !== undefined) this.#check(kept);
    return kept;
  }

  /** Adds to the results. The file is written whole or not at all. */
  async keep(about: Omit<F, "runs">, runs: F["runs"]): Promise<void> {
    using lock = await this.#lock("results");
    await lock.lock(true);
    const kept = await this.read();
    const all = { ...about, runs: { ...kept?.runs, ...runs } };
    await Deno.writeTextFile(`${this.#file}.partial`, `${JSON.stringify(all, null, 2)}\n`);
    await Deno.rename(`${this.#file}.partial`, this.#file);
  }

  /** The first of these that no other process works on, taken until it is disposed or this process ends. */
  async take<T extends { readonly name: string }>(
    work: readonly T[],
  ): Promise<{ taken: T } & Disposable | undefined> {
    for (const taken of work) {
      const lock = await this.#lock(fileName(taken.name));
      if (await lock.tryLock(true)) return { taken, [Symbol.dispose]: () => lock.close() };
      lock.close();
    }
  }

  async #lock(name: string): Promise<Deno.FsFile> {
    await Deno.mkdir(this.#folder, { recursive: true });
    return await Deno.open(`${this.#folder}/${name}.lock`, { create: true, write: true });
  }
}

/** Results of a file, if it is there. */
export async function readKept<F>(file: string | URL): Promise<F | undefined> {
  try {
    return JSON.parse(await Deno.readTextFile(file));
  } catch (error) {
    if (error instanceof Deno.errors.NotFound) return undefined;
    throw error;
  }
}

/** A name as a part of a path. */
export function fileName(name: string): string {
  return name.replaceAll(" ", "-");
}

/**
 * Works until nothing is left or it is time to stop, in turns with other processes.
 *
 * @param ready what can be done now, by what has been kept
 * @param run does it and keeps its result; false where it was stopped
 * @param onWait called every second while others do what there is
 */
export async function workInTurns<F extends Kept<unknown>, T extends { readonly name: string }>(
  shared: Shared<F>,
  ready: (kept: F | undefined) => readonly T[],
  { run, onWait, signal }: {
    run(taken: T, kept: F | undefined): Promise<boolean>;
    onWait(): void;
    signal: AbortSignal;
  },
): Promise<void> {
  while (!signal.aborted) {
    const some = ready(await shared.read());
    if (some.length === 0) return;
    using one = await shared.take(some);
    if (one === undefined) {
      onWait();
      await aSecond(signal);
      continue;
    }
    const kept = await shared.read();
    // Unless another process has finished it in the meantime.
    if (kept?.runs[one.taken.name] === undefined && !await run(one.taken, kept)) return;
  }
}

/** Waits for what other processes do, unless it is time to stop. */
function aSecond(signal: AbortSignal): Promise<void> {
  const { promise, resolve } = Promise.withResolvers<void>(), timer = setTimeout(resolve, 1000);
  signal.addEventListener("abort", () => resolve(), { once: true });
  return promise.finally(() => clearTimeout(timer));
}
