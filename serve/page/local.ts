/**
 * The library as a side: loads the server's model and runs it on WebGPU or WASM. It runs in a worker.
 *
 * @module
 */
import { createBackend } from "../../mod.ts";
import { pauses } from "../../core/eventLoop.ts";
import { type Session, type Tokenizer, TransNormerLLM } from "../../model/mod.ts";
import { encode, renderChat } from "../prompts.ts";
import type { Finish, Message, Piece, Place, Settings, Side } from "./side.ts";

/** Tokens of a prompt that are read between two looks at the page's messages. */
const PIECE = 96;
/** Milliseconds without such a look. */
const FRAME = 16;

/** A session in this browser. */
export class LocalPlace implements Place {
  /** The session. */
  session: Session;

  /** A place where a session stands. */
  constructor(session: Session) {
    this.session = session;
  }

  get tokens(): number {
    return this.session.position;
  }

  get stateBytes(): number {
    return this.session.stateBytes;
  }
}

/** A model in this browser. */
export class Local implements Side<LocalPlace> {
  readonly name = "browser";
  readonly label: string;
  readonly #model: TransNormerLLM & { tokenizer: Tokenizer };
  readonly #chatTemplate: string | undefined;
  /** The place whose answer is to end with its next token. */
  #ending: LocalPlace | undefined;
  #writing: LocalPlace | undefined;

  private constructor(model: TransNormerLLM, chatTemplate: string | undefined) {
    if (model.tokenizer === undefined) throw new Error("The model has no tokenizer");
    this.#model = model as TransNormerLLM & { tokenizer: Tokenizer };
    this.#chatTemplate = chatTemplate;
    this.label = `in this browser, on ${model.backend.name === "webgpu" ? "WebGPU" : "WASM"}`;
  }

  /** Loads the model that lies under a URL; `onProgress` gets the share that has arrived. */
  static async load(
    location: URL,
    options: {
      fetch: typeof fetch;
      signal: AbortSignal;
      chatTemplate: string | null;
      onProgress: (share: number) => void;
    },
  ): Promise<Local> {
    const { fetch, signal, chatTemplate, onProgress } = options;
    const backend = await createBackend({ prefer: "auto", signal });
    try {
      const model = await TransNormerLLM.load(location, {
        backend,
        fetch,
        signal,
        onProgress: ({ bytes, totalBytes }) => onProgress(bytes / (totalBytes ?? Infinity)),
      });
      return new Local(model, chatTemplate ?? undefined);
    } catch (error) {
      backend.dispose();
      throw error;
    }
  }

  // deno-lint-ignore require-await -- as the server's
  async fork(from: LocalPlace | undefined): Promise<LocalPlace> {
    return new LocalPlace(from === undefined ? this.#model.session() : from.session.fork());
  }

  async read({ session }: LocalPlace, text: string, signal: AbortSignal): Promise<void> {
    const ids = encode(this.#model, text, session.position === 0), last = ids.pop();
    if (last === undefined) return;
    const pause = pauses(FRAME);
    for (let start = 0; start < ids.length; start += PIECE) {
      using logits = session.prefill(ids.slice(start, start + PIECE));
      await logits.data(); // so that what is said to be read is read
      await pause();
      signal.throwIfAborted();
    }
    session.readLast(last);
  }

  async answer(
    place: LocalPlace,
    prompt: string | readonly Message[],
    settings: Settings,
    { signal, onPiece }: { signal: AbortSignal; onPiece: (piece: Piece) => void | Promise<void> },
  ): Promise<Finish> {
    const { session } = place;
    const isText = typeof prompt === "string";
    const ids = encode(
      this.#model,
      isText ? prompt : this.#render(prompt),
      isText && prompt !== "" && session.position === 0,
    );
    const answer = session.generate(ids, {
      maxTokens: settings.max_tokens,
      temperature: settings.temperature,
      topP: settings.top_p,
      topK: settings.top_k ?? Infinity,
      minP: settings.min_p,
      seed: settings.seed,
      stop: settings.stop,
      prefillTokens: PIECE,
      signal,
    });
    try {
      for await (const { token, text, logprob, finish } of answer) {
        this.#writing = place;
        // As on the server: the special token that ends a text is no part of it. A chat has it.
        const isEnd = finish === "eos" || finish === "stop" && !this.#model.tokenizer.hasText(token);
        if (isEnd && isText) place.session = session.fork();
        await onPiece({ text, logprob });
        if (finish !== undefined) return finish === "length" ? "length" : "end";
        if (this.#ending === place) return "asked";
      }
      return "length";
    } finally {
      this.#writing = this.#ending = undefined;
      if (place.session !== session) session.dispose();
    }
  }

  #render(messages: readonly Message[]): string {
    const absent = { name: undefined, tool_call_id: undefined, tool_calls: undefined };
    const chat = { messages: messages.map((message) => ({ ...message, ...absent })), tools: undefined };
    return renderChat(this.#model, chat, true, this.#chatTemplate);
  }

  // deno-lint-ignore require-await -- as the server's
  async finish(place: LocalPlace): Promise<boolean> {
    if (this.#writing !== place) return false;
    this.#ending = place;
    return true;
  }

  forget({ session }: LocalPlace): void {
    session.dispose();
  }
}
