/**
 * Which cores a process runs on, what keeps them busy, and what takes them away: Linux only, as it is the one that tells
 * and obeys.
 *
 * @module
 */

/** The processors of a machine. */
export interface Processors {
  /** One of each physical core, as far as this process may use it. */
  readonly cores: readonly number[];
  /** The others: second hyperthreads. */
  readonly siblings: readonly number[];
}

/** The processors that `list` names, such as `0-3,8`. */
export function processors(list: string): number[] {
  return list.trim().split(",").filter((part) => part !== "").flatMap((part) => {
    const [first, last = first] = part.split("-").map(Number);
    return Array.from({ length: last - first + 1 }, (_, i) => first + i);
  });
}

/** The processors of this machine; undefined where the system does not tell. */
export async function findProcessors(): Promise<Processors | undefined> {
  try {
    const status = await Deno.readTextFile("/proc/self/status");
    const allowed = processors(/^Cpus_allowed_list:\s*(.*)$/m.exec(status)![1]);
    const cores: number[] = [], siblings: number[] = [];
    for (const processor of allowed) {
      const path = `/sys/devices/system/cpu/cpu${processor}/topology/thread_siblings_list`;
      const shared = processors(await Deno.readTextFile(path));
      (cores.some((core) => shared.includes(core)) ? siblings : cores).push(processor);
    }
    return { cores, siblings };
  } catch (error) {
    if (error instanceof Deno.errors.NotFound) return undefined;
    throw error;
  }
}

/**
 * Keeps all threads of this process on some processors from now on.
 *
 * @throws {Error} when the system refuses
 */
export async function pin(to: readonly number[]): Promise<void> {
  const { success, stderr } = await new Deno.Command("taskset", {
    args: ["-a", "-c", "-p", to.join(","), `${Deno.pid}`],
    stdout: "null",
  }).output();
  if (!success) throw new Error(`taskset failed: ${new TextDecoder().decode(stderr)}`);
}

/** Where a virtual machine hides it: processors that share a core, as far as that can be seen. */
export interface Siblings extends Processors {
  /** The two of each core. */
  readonly pairs: readonly (readonly [number, number])[];
}

/**
 * The same processors, where a virtual machine may hide which of them share a core: two that together compute little more
 * than one alone does, again and again. `rate` says how much the processors of a list compute together at their best.
 */
export async function measuredSiblings(
  { cores, siblings }: Processors,
  rate: (processors: readonly number[]) => Promise<number>,
): Promise<Siblings> {
  const pairs: [number, number][] = [];
  if (siblings.length > 0 || cores.length < 2) return { cores, siblings, pairs };
  const alone = await rate(cores.slice(0, 1));
  // Second hyperthreads would take a third of the sum at least.
  if (await rate(cores) > 0.75 * alone * cores.length) return { cores, siblings, pairs };
  const left = [...cores];
  for (let core; (core = left.shift()) !== undefined;) {
    let shared: number | undefined;
    for (const [index, other] of left.entries()) {
      let best = 0;
      for (let i = 0; i < 4 && best < 1.5 * alone; i++) best = Math.max(best, await rate([core, other]));
      if (best < 1.5 * alone) {
        shared = index;
        break;
      }
    }
    if (shared !== undefined) pairs.push([core, ...left.splice(shared, 1)] as [number, number]);
  }
  const seconds = pairs.map(([, second]) => second);
  return { cores: cores.filter((core) => !seconds.includes(core)), siblings: seconds, pairs };
}

/** What was taken from this machine's processors since the last call, in words; empty where the system does not tell. */
export class Taken {
  #before = Taken.#now();

  static #now(): { steal: number; all: number; throttled: number } {
    const read = (path: string) => {
      try {
        return Deno.readTextFileSync(path);
      } catch {
        return "";
      }
    };
    const times = read("/proc/stat").split("\n")[0].split(/\s+/).slice(1, 9).map(Number);
    const throttled = /^throttled_usec (\d+)/m.exec(read("/sys/fs/cgroup/cpu.stat"))?.[1] ?? 0;
    return {
      steal: times[7] ?? 0,
      all: times.reduce((sum, value) => sum + value, 0),
      throttled: Number(throttled),
    };
  }

  /** Percent of all processors' time that the hypervisor gave to others, and seconds by which a quota held threads up. */
  describe(): string {
    const now = Taken.#now(), before = this.#before;
    this.#before = now;
    const steal = 100 * (now.steal - before.steal) / Math.max(1, now.all - before.all);
    return `${steal.toFixed(1)} % stolen, ${
      ((now.throttled - before.throttled) / 1e6).toFixed(2)
    } s throttled`;
  }
}

/** Processes that compute for ever, one on each of some processors, until they are disposed. */
export class Load implements AsyncDisposable {
  readonly #processes: readonly Deno.ChildProcess[];

  /** Starts them. */
  constructor(on: readonly number[]) {
    this.#processes = on.map((processor) =>
      new Deno.Command("taskset", { args: ["-c", `${processor}`, "sh", "-c", "while :; do :; done"] }).spawn()
    );
  }

  async [Symbol.asyncDispose](): Promise<void> {
    for (const process of this.#processes) process.kill();
    for (const process of this.#processes) await process.status;
  }
}
