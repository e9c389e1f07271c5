/**
 * Workers as the host has them: those of the web, or Node's, which have another name and events of another kind.
 *
 * @module
 */
import { builtin } from "../core/builtin.ts";
import { awaitChange, makeCalls, nextLooks, serve } from "./calls.ts";

/** A worker that runs the script of a crew. */
export interface Thread {
  /**
   * Sends what the script begins with, and resolves when the worker is ready.
   *
   * @throws {Error} when the script does not load, or ends with an error
   */
  start(message: unknown): Promise<void>;
  /** Ends the worker. */
  terminate(): void;
}

/** What is used of `node:worker_threads`. */
interface NodeThreads {
  Worker: new (script: string | URL, options: { eval: boolean }) => {
    once(event: "message" | "error", listener: (value: unknown) => void): void;
    postMessage(message: unknown): void;
    terminate(): void;
  };
}

/** Node's workers, where the web's are lacking. */
function nodeThreads(): NodeThreads | undefined {
  return typeof Worker === "undefined"
    ? builtin("node:worker_threads") as NodeThreads | undefined
    : undefined;
}

/** Whether this host has workers of either kind. */
export function hasWorkers(): boolean {
  return typeof Worker !== "undefined" || nodeThreads() !== undefined;
}

/** Cores of this machine, as far as the host tells; else 1. */
export function cores(): number {
  const os = builtin("node:os") as { availableParallelism(): number } | undefined;
  return globalThis.navigator?.hardwareConcurrency ?? os?.availableParallelism() ?? 1;
}

/**
 * Starts workers that run `workerUrl`, or the same script as text, and waits until all are ready.
 *
 * @param messages what each script begins with
 * @throws {Error} when one does not start, and the signal's reason when it aborts; no worker is left then
 */
export async function startThreads(
  messages: readonly unknown[],
  workerUrl: string | URL | undefined,
  signal: AbortSignal | undefined,
): Promise<Thread[]> {
  const script = `(${serve})(${makeCalls}, ${awaitChange}, ${nextLooks})`, node = nodeThreads();
  const blob = workerUrl === undefined && node === undefined
    ? URL.createObjectURL(new Blob([script], { type: "text/javascript" }))
    : undefined;
  const threads: Thread[] = [];
  let abort = () => {};
  try {
    const aborted = new Promise<never>((_, reject) => {
      abort = () => reject(signal!.reason);
      signal?.addEventListener("abort", abort);
    });
    for (const _ of messages) {
      threads.push(node === undefined ? webThread(workerUrl ?? blob!) : nodeThread(node, script, workerUrl));
    }
    await Promise.race([Promise.all(threads.map((thread, i) => thread.start(messages[i]))), aborted]);
    return threads;
  } catch (error) {
    for (const thread of threads) thread.terminate();
    throw error;
  } finally {
    signal?.removeEventListener("abort", abort);
    if (blob !== undefined) URL.revokeObjectURL(blob);
  }
}

function webThread(url: string | URL): Thread {
  const worker = new Worker(url, { type: "module" });
  return {
    start: (message) =>
      new Promise((resolve, reject) => {
        worker.onmessage = () => resolve();
        worker.onerror = (event) => {
          event.preventDefault();
          // A script that the host does not even load comes without a message.
          reject(new Error(event.message ?? `the host does not load ${url}`));
        };
        worker.postMessage(message);
      }),
    terminate: () => worker.terminate(),
  };
}

function nodeThread({ Worker }: NodeThreads, script: string, url: string | URL | undefined): Thread {
  const worker = new Worker(url ?? script, { eval: url === undefined });
  return {
    start: (message) =>
      new Promise((resolve, reject) => {
        worker.once("message", () => resolve());
        worker.once("error", reject);
        worker.postMessage(message);
      }),
    terminate: () => worker.terminate(),
  };
}
