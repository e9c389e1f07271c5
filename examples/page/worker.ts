/**
 * The worker that owns backend and model. It computes, with as many threads as it likes; the page never does, so the page
 * never blocks. `remote.ts` is the page's half.
 *
 * @module
 */
import { createBackend } from "@levin/attention";
import { type GenerateOptions, TransNormerLLM } from "@levin/attention/tnl";

/** What the page asks. `id` numbers its answers. */
export type Request =
  | { readonly load: string; readonly threads: number | "auto" }
  | { readonly id: number; readonly prompt: string; readonly options: RemoteOptions }
  /** The next text is wanted: so the model does not write faster than the page reads. */
  | { readonly id: number; readonly next: true }
  | { readonly id: number; readonly stop: true };

/** Options of a generation that can be sent: all but the signal, whose place `stop` takes. */
export type RemoteOptions = Omit<GenerateOptions, "signal">;

/** What the worker tells. */
export type Reply =
  | { readonly ready: { readonly backend: string; readonly threads: number } }
  | { readonly id?: number; readonly error: string }
  | { readonly id: number; readonly text: string }
  | { readonly id: number; readonly done: true };

/** The scope of a worker. */
const scope = globalThis as unknown as {
  onmessage: (event: MessageEvent<Request>) => void;
  postMessage(reply: Reply): void;
};

let model: TransNormerLLM | undefined;
/** Generations under way, and how the next text of each is asked for. */
const running = new Map<number, { readonly stop: AbortController; next: () => void }>();

async function load(url: string, threads: number | "auto"): Promise<void> {
  const backend = await createBackend({ threads }); // its threads are workers of this worker
  model = await TransNormerLLM.load(new URL(url), { backend });
  scope.postMessage({ ready: { backend: backend.name, threads: backend.info.threads ?? 1 } });
}

async function generate(id: number, prompt: string, options: RemoteOptions): Promise<void> {
  const stop = new AbortController(), generation = { stop, next: () => {} };
  running.set(id, generation);
  try {
    // Between pieces of a prompt the library hears messages: that is how "stop" arrives.
    for await (const { text } of model!.generate(prompt, { ...options, signal: stop.signal })) {
      const asked = new Promise<void>((resolve) => generation.next = resolve);
      scope.postMessage({ id, text });
      await asked;
    }
  } catch (error) {
    if (!stop.signal.aborted) throw error;
  } finally {
    running.delete(id);
  }
  scope.postMessage({ id, done: true });
}

scope.onmessage = ({ data }) => {
  const fail = (error: unknown) =>
    scope.postMessage({ id: "id" in data ? data.id : undefined, error: String(error) });
  if ("load" in data) load(data.load, data.threads).catch(fail);
  else if ("next" in data) running.get(data.id)?.next();
  else if ("stop" in data) {
    running.get(data.id)?.stop.abort();
    running.get(data.id)?.next();
  } else generate(data.id, data.prompt, data.options).catch(fail);
};
