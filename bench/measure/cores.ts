/**
 * Which cores a process runs on, and what keeps them busy: Linux only, as it is the one that tells and obeys.
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
