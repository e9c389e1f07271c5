/// <reference lib="dom" />
/**
 * Models from the hub in a page, for `hub_browser_test.ts`.
 *
 * @module
 */
import { createBackend } from "../../wasm/mod.ts";
import { TransNormerLLM } from "../../model/mod.ts";

/** What a load gave. */
export interface Loaded {
  readonly tokens: readonly number[];
  /** What went wrong. */
  readonly error?: string;
}

/** Loads a model from a hub; with `giveUp` it stops as soon as some of the weights are here. */
async function load(endpoint: string, repo: string, giveUp: boolean): Promise<Loaded> {
  // As bundlers define it: a page has no environment.
  Object.assign(globalThis, { process: { env: { HF_ENDPOINT: endpoint } } });
  const controller = new AbortController(), tokens: number[] = [];
  using backend = await createBackend();
  try {
    using model = await TransNormerLLM.load(repo, {
      backend,
      signal: controller.signal,
      onDownload({ file, bytes }) {
        if (giveUp && file === "model.safetensors" && bytes > 0) controller.abort(new Error("given up"));
      },
    });
    for await (const { token } of model.generate("hello", { maxTokens: 4, temperature: 0 })) {
      tokens.push(token);
    }
    return { tokens };
  } catch (error) {
    return { tokens, error: (error as Error).message };
  }
}

(globalThis as unknown as { load: typeof load }).load = load;
