/// <reference lib="dom" />
/**
 * The library in the page: loads the server's model and runs it on WebGPU or WASM.
 *
 * @module
 */
import { createBackend } from "../../mod.ts";
import { StopText } from "../../model/decoding.ts";
import { Sampler, type Session, TransNormerLLM } from "../../model/mod.ts";
import type { Piece, Settings } from "./page.ts";

/** A model in the page, with one session. */
export interface Local {
  /** What it runs on. */
  readonly backend: string;
  /** Tokens that the session has read, the last one included. */
  readonly tokens: number;
  /** Goes on with the session. */
  generate(prompt: string, settings: Settings, signal: AbortSignal): AsyncGenerator<Piece>;
  /** Begins a new session. */
  restart(): void;
}

/** Loads the model that lies under a URL; `onProgress` gets the share that is there. */
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
  const tokenizer = model.tokenizer;
  if (tokenizer === undefined) throw new Error("The model has no tokenizer");
  let session: Session = model.session();
  /** Generated last, and not read yet. */
  let pending: number[] = [];
  return {
    backend: backend.name === "webgpu" ? "WebGPU" : "WASM",
    get tokens() {
      return session.position + pending.length;
    },
    restart() {
      session.dispose();
      session = model.session();
      pending = [];
    },
    async *generate(prompt, settings, signal) {
      const ids = [...pending, ...tokenizer.encode(prompt, { addSpecialTokens: session.position === 0 })];
      if (ids.length === 0) throw new Error("The prompt must hold at least one token");
      const { temperature, top_p: topP, top_k: topK, min_p: minP, seed } = settings;
      const sampler = new Sampler({ temperature, topP, topK, minP, seed });
      const characters = tokenizer.stream(), text = new StopText(settings.stop);
      // In pieces, with turns between them: the page stays alive while a long prompt is read.
      let logits = session.prefill(ids.slice(0, 96));
      pending = [];
      for (let start = 96; start < ids.length; start += 96) {
        await turn();
        signal.throwIfAborted();
        logits.dispose();
        logits = session.prefill(ids.slice(start, start + 96));
      }
      for (let count = 1;; count++) {
        const { token } = sampler.choose(await logits.data());
        logits.dispose();
        await turn();
        signal.throwIfAborted();
        const isEnd = model.config.eosTokenIds.includes(token);
        if (isEnd) return yield { text: text.push(characters.end()) + text.end(), tokens: 1 };
        pending = [token];
        let ready = text.push(characters.push(token));
        const isLast = text.stopped || count === settings.max_tokens;
        if (isLast && !text.stopped) ready += text.push(characters.end()) + text.end();
        yield { text: ready, tokens: 1 };
        if (isLast) return;
        logits = session.step(token);
        pending = [];
      }
    },
  };
}

const channel = new MessageChannel();

/** A turn of the event loop, in which buttons are heard. */
function turn(): Promise<void> {
  return new Promise((resolve) => {
    channel.port1.onmessage = () => resolve();
    channel.port2.postMessage(null);
  });
}
