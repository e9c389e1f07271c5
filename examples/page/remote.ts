/**
 * A model that runs in a worker, as a page sees it. Nothing here computes: the page's thread only sends and receives
 * messages, and stays free for its person.
 *
 * @module
 */
import type { RemoteOptions, Reply, Request } from "./worker.ts";

/** A model in a worker. */
export class RemoteModel implements Disposable {
  /** What it runs on. */
  readonly backend: string;
  /** Threads that compute. */
  readonly threads: number;
  readonly #worker: Worker;
  /** Where the answers of each generation go. */
  readonly #listeners = new Map<number, (reply: Reply) => void>();
  #generations = 0;

  private constructor(worker: Worker, { backend, threads }: { backend: string; threads: number }) {
    this.#worker = worker;
    this.backend = backend;
    this.threads = threads;
    worker.onmessage = ({ data }: MessageEvent<Reply>) => {
      if ("id" in data && data.id !== undefined) this.#listeners.get(data.id)?.(data);
    };
  }

  /**
   * Starts a worker that loads a model.
   *
   * @param script where `worker.ts` is served, as a bundle
   * @param url of the model's folder
   */
  static load(
    script: string | URL,
    url: URL,
    { threads = "auto" }: { threads?: number | "auto" } = {},
  ): Promise<RemoteModel> {
    const worker = new Worker(script, { type: "module" });
    return new Promise((resolve, reject) => {
      const fail = (message: string) => {
        worker.terminate();
        reject(new Error(message));
      };
      worker.onmessage = ({ data }: MessageEvent<Reply>) => {
        if ("ready" in data) resolve(new RemoteModel(worker, data.ready));
        else if ("error" in data) fail(data.error);
      };
      worker.onerror = ({ message }) => fail(message ?? `the browser does not load ${script}`);
      worker.postMessage({ load: url.href, threads } satisfies Request);
    });
  }

  /** Text as the model writes it. Leaving the loop ends the generation. */
  async *generate(prompt: string, options: RemoteOptions = {}): AsyncGenerator<string> {
    const id = this.#generations++, arrived: Reply[] = [];
    let wake = () => {};
    this.#listeners.set(id, (reply) => {
      arrived.push(reply);
      wake();
    });
    this.#worker.postMessage({ id, prompt, options } satisfies Request);
    let isOver = false;
    try {
      for (;;) {
        if (arrived.length === 0) await new Promise<void>((resolve) => wake = resolve);
        const reply = arrived.shift()!;
        isOver = !("text" in reply);
        if ("error" in reply) throw new Error(reply.error);
        if (!("text" in reply)) return;
        yield reply.text;
        this.#worker.postMessage({ id, next: true } satisfies Request);
      }
    } finally {
      this.#listeners.delete(id);
      if (!isOver) this.#worker.postMessage({ id, stop: true } satisfies Request);
    }
  }

  /** Ends the worker and all its threads. */
  [Symbol.dispose](): void {
    this.#worker.terminate();
  }
}
