/**
 * The server as a side: its sessions by their ids.
 *
 * @module
 */
import { type Finish, Gone, type Message, type Piece, type Place, type Settings, type Side } from "./side.ts";

/** What the server says of its model. */
export interface Card {
  id: string;
  parameters: number;
  state_bytes: number;
  /** Bytes that softmax attention of the same size would keep per token. */
  cache_bytes_per_token: number;
  /** Maximum number of tokens of an answer. */
  max_tokens: number;
  /** Makes a text of a chat; null if the model takes no chats. */
  chat_template: string | null;
  /** Whether the page may load the model. */
  files: boolean;
  /** One sentence on the model. */
  about?: string;
  /** Prompts that suit it. */
  examples?: string[];
}

/** A session of the server. */
export interface ServerPlace extends Place {
  id: string;
  tokens: number;
  stateBytes: number;
}

/** Codes of errors after which a session has to be made again. */
const GONE = ["session_not_found", "session_incompatible", "session_damaged"];

/** The server that the page came from. */
export class Server implements Side<ServerPlace> {
  readonly name = "server";
  readonly label = "on the server";
  readonly #key: () => string;
  /** Places whose answers were asked to end: the server calls that "stop", as any end. */
  readonly #ending = new WeakSet<ServerPlace>();

  /** @param key the access key, `""` for none */
  constructor(key: () => string) {
    this.#key = key;
  }

  /** `fetch` with the key. Throws an error in plain words if the server cannot be reached. */
  async reach(path: string | URL | Request, init: RequestInit = {}): Promise<Response> {
    const headers = new Headers(init.headers);
    if (this.#key() !== "") headers.set("authorization", `Bearer ${this.#key()}`);
    try {
      return await fetch(path, { ...init, headers });
    } catch (error) {
      throw unreachable(error);
    }
  }

  async #ask(path: string, init?: RequestInit): Promise<Response> {
    const response = await this.reach(path, init);
    if (response.ok) return response;
    const body = await response.json().catch(() => undefined);
    throw problem(body?.error, `The server answered ${response.status}`);
  }

  #post(path: string, body: unknown, signal?: AbortSignal): Promise<Response> {
    const headers = { "content-type": "application/json" };
    return this.#ask(path, { method: "POST", headers, body: JSON.stringify(body), signal });
  }

  /** What the server says of its model. */
  async introduce(): Promise<Card> {
    const { data: [card] } = await (await this.#ask("v1/models")).json() as { data: [Card] };
    return card;
  }

  async fork(from: ServerPlace | undefined): Promise<ServerPlace> {
    const id = newId();
    if (from === undefined) return { id, tokens: 0, stateBytes: 0 };
    await this.#post(`v1/sessions/${from.id}/fork`, { id });
    return { ...from, id };
  }

  async read(place: ServerPlace, prompt: string, signal: AbortSignal): Promise<void> {
    const body = { prompt, session: place.id, max_tokens: 0 };
    const response = await this.#post("v1/completions", body, signal);
    move(place, (await response.json()).session);
  }

  async answer(
    place: ServerPlace,
    prompt: string | readonly Message[],
    settings: Settings,
    { signal, onPiece }: { signal: AbortSignal; onPiece: (piece: Piece) => void },
  ): Promise<Finish> {
    const common = { ...settings, top_k: settings.top_k ?? -1, session: place.id, stream: true };
    const response = typeof prompt === "string"
      ? await this.#post("v1/completions", { ...common, prompt, logprobs: 0 }, signal)
      : await this.#post("v1/chat/completions", { ...common, messages: prompt, logprobs: true }, signal);
    let finish: Finish | undefined;
    for await (const data of events(response.body!)) {
      if (data === "[DONE]") return finish ?? broken();
      const chunk = JSON.parse(data) as Chunk;
      if (chunk.error) throw problem(chunk.error, "The server had an error");
      if (chunk.session) move(place, chunk.session);
      for (const { text, delta, logprobs, finish_reason } of chunk.choices) {
        if (finish_reason === "length") finish = "length";
        else if (finish_reason === "stop") finish = this.#ending.has(place) ? "asked" : "end";
        const scores = logprobs?.token_logprobs ?? logprobs?.content?.map(({ logprob }) => logprob) ?? [];
        place.tokens += scores.length; // with the prompt, the server says how many they are in the end
        if (scores.length > 0) {
          onPiece({
            text: text ?? delta?.content ?? "",
            logprob: scores.reduce((sum, score) => sum + score, 0),
          });
        }
      }
    }
    return broken();
  }

  // The server is asked, so that the session keeps what is on the page. A broken request would leave it as it was.
  async finish(place: ServerPlace): Promise<boolean> {
    this.#ending.add(place); // now: the end of the answer may come before the answer to this
    const { stopped } = await (await this.#post(`v1/sessions/${place.id}/stop`, {})).json();
    if (!stopped) this.#ending.delete(place);
    return stopped;
  }

  forget(place: ServerPlace): void {
    if (place.stateBytes === 0) return; // nothing was stored
    this.#ask(`v1/sessions/${place.id}`, { method: "DELETE" }).catch(() => {}); // in the end it expires
  }
}

/** What this module reads of a chunk of either kind of answer. */
interface Chunk {
  error?: ErrorBody;
  session?: Moved;
  choices: {
    text?: string;
    delta?: { content?: string };
    logprobs: { token_logprobs?: number[]; content?: { logprob: number }[] } | null;
    finish_reason: "length" | "stop" | null;
  }[];
}

interface ErrorBody {
  message: string;
  code: string | null;
}

interface Moved {
  tokens: number;
  state_bytes: number;
}

function move(place: ServerPlace, { tokens, state_bytes }: Moved): void {
  place.tokens = tokens;
  place.stateBytes = state_bytes;
}

function problem(error: ErrorBody | undefined, otherwise: string): Error {
  const message = error?.message ?? otherwise;
  return GONE.includes(error?.code ?? "") ? new Gone(message) : new Error(message);
}

/** Browsers say "Failed to fetch" and "network error", each in its own words. An abort stays what it is. */
function unreachable(error: unknown): unknown {
  return error instanceof TypeError ? new Error("The server cannot be reached", { cause: error }) : error;
}

function broken(): never {
  throw new Error("The connection to the server broke off");
}

/** The data of server-sent events. */
async function* events(body: ReadableStream<Uint8Array<ArrayBuffer>>): AsyncGenerator<string> {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const next = await reader.read().catch((error) =>
      error instanceof TypeError ? broken() : Promise.reject(error)
    );
    if (next.done) return;
    const parts = (rest + next.value).split("\n\n");
    rest = parts.pop()!;
    for (const part of parts) yield part.slice("data: ".length);
  }
}

function newId(): string {
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  return `page-${Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("")}`;
}
