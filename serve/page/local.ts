/// <reference lib="dom" />
/**
 * The library in the page: loads the server's model and runs it on WebGPU or WASM.
 *
 * @module
 */
import { createBackend } from "../../mod.ts";
import { type Session, TransNormerLLM } from "../../model/mod.ts";
import type { Piece, Settings } from "./page.ts";

/** A model in the page, with one session. */
export interface Local {
  /** What it runs on. */
  readonly backend: string;
  /** Tokens that the session has read. */
  readonly tokens: number;
  /** Continues the session. */
  generate(prompt: string, settings: Settings, signal: AbortSignal): AsyncGenerator<Piece>;
  /** Begins a new session. */
  restart(): void;
}

/** Loads the model that lies under a URL; `onProgress` gets the share that has arrived. */
export async function load(
  location: URL,
  headers: Record<string, string>,
  onProgress: (share: number) => void,
): Promise<Local> {
  const backend = await createBackend({ prefer: "auto" });
  const model = await TransNormerLLM.load(location, {
    backend,
    fetch: (input, init) => fetch(input, { ...init, headers }),
    onProgress: ({ bytes, totalBytes }) => onProgress(bytes / (totalBytes ?? Infinity)),
  });
  if (model.tokenizer === undefined) throw new Error("The model has no tokenizer");
  let session: Session = model.session();
  return {
    backend: backend.name === "webgpu" ? "WebGPU" : "WASM",
    get tokens() {
      return session.position;
    },
    restart() {
      session.dispose();
      session = model.session();
    },
    async *generate(prompt, settings, signal) {
      const answer = session.generate(prompt, {
        maxTokens: settings.max_tokens,
        temperature: settings.temperature,
        topP: settings.top_p,
        topK: settings.top_k,
        minP: settings.min_p,
        seed: settings.seed,
        stop: settings.stop,
        prefillTokens: 96, // the page stays alive while a long prompt is read
        signal,
      });
      for await (const { text } of answer) yield { text, tokens: 1 };
    },
  };
}
