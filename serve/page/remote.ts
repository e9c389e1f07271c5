/**
 * The model in this browser as a side: it runs in a worker, and the page's thread only sends and receives messages.
 *
 * @module
 */
import type { Reply, Request, Standing } from "./localWorker.ts";
import type { Finish, Message, Piece, Place, Settings, Side } from "./side.ts";

/** A session in the worker. */
export interface RemotePlace extends Place {
  /** Its number there. */
  readonly number: number;
  tokens: number;
  stateBytes: number;
}

/** A call under way. */
interface Call {
  readonly resolve: (value: unknown) => void;
  readonly reject: (error: unknown) => void;
  /** Hears of everything before the result. */
  readonly onReply: (reply: Reply) => void;
}

/** A request without its number. */
type Question = Request extends infer Each ? Each extends Request ? Omit<Each, "id"> : never : never;

/** A model in a worker of this page. */
export class Remote implements Side<RemotePlace> {
  readonly name = "browser";
  /** What it runs on, once it is loaded. */
  label = "in this browser";
  readonly #worker = new Worker(new URL("localWorker.js", import.meta.url), { type: "module" });
  readonly #calls = new Map<number, Call>();
  #made = 0;

  private constructor() {
    this.#worker.onmessage = ({ data: reply }: MessageEvent<Reply>) => {
      const call = this.#calls.get(reply.id);
      if (call === undefined) return; // given up
      call.onReply(reply);
      if ("value" in reply) call.resolve(reply.value);
      else if ("error" in reply) call.reject(new Error(reply.error));
    };
    this.#worker.onerror = (event) => {
      event.preventDefault();
      for (const { reject } of this.#calls.values()) {
        reject(new Error(event.message ?? "The browser does not load the model's worker"));
      }
    };
  }

  /** Loads the model that lies under a URL; `onProgress` gets the share that has arrived. */
  static async load(
    location: URL,
    { key, signal, chatTemplate, onProgress }: {
      /** The access key, `""` for none. */
      key: string;
      signal: AbortSignal;
      chatTemplate: string | null;
      onProgress: (share: number) => void;
    },
  ): Promise<Remote> {
    const remote = new Remote();
    try {
      remote.label = await remote.#ask(
        { call: "load", location: location.href, key, chatTemplate },
        signal,
        (reply) => "progress" in reply && onProgress(reply.progress),
      ) as string;
      return remote;
    } catch (error) {
      remote.#worker.terminate();
      throw error;
    }
  }

  /** Asks the worker, and waits for the result. A call that is given up rejects with the signal's reason. */
  async #ask(
    question: Question,
    signal?: AbortSignal,
    onReply: (reply: Reply) => void = () => {},
  ): Promise<unknown> {
    signal?.throwIfAborted();
    const id = this.#made++;
    const abort = () => this.#worker.postMessage({ id, call: "abort" } satisfies Request);
    signal?.addEventListener("abort", abort);
    try {
      return await new Promise((resolve, reject) => {
        this.#calls.set(id, { resolve, reject, onReply });
        this.#worker.postMessage({ id, ...question } as Request);
      });
    } catch (error) {
      signal?.throwIfAborted();
      throw error;
    } finally {
      signal?.removeEventListener("abort", abort);
      this.#calls.delete(id);
    }
  }

  async fork(from: RemotePlace | undefined): Promise<RemotePlace> {
    let standing: Standing = { tokens: 0, stateBytes: 0 };
    const number = await this.#ask({ call: "fork", from: from?.number }, undefined, (reply) => {
      if ("standing" in reply) standing = reply.standing!;
    });
    return { number: number as number, ...standing };
  }

  async read(place: RemotePlace, text: string, signal: AbortSignal): Promise<void> {
    await this.#ask({ call: "read", place: place.number, text }, signal, (reply) => move(place, reply));
  }

  async answer(
    place: RemotePlace,
    prompt: string | readonly Message[],
    settings: Settings,
    { signal, onPiece }: { signal: AbortSignal; onPiece: (piece: Piece) => void },
  ): Promise<Finish> {
    return await this.#ask({ call: "answer", place: place.number, prompt, settings }, signal, (reply) => {
      move(place, reply);
      if (!("piece" in reply)) return;
      onPiece(reply.piece);
      this.#worker.postMessage({ id: reply.id, call: "shown" } satisfies Request);
    }) as Finish;
  }

  async finish(place: RemotePlace): Promise<boolean> {
    return await this.#ask({ call: "finish", place: place.number }) as boolean;
  }

  forget(place: RemotePlace): void {
    this.#ask({ call: "forget", place: place.number }).catch(() => {}); // the worker ended, and the session with it
  }
}

function move(place: RemotePlace, reply: Reply): void {
  if ("standing" in reply && reply.standing !== undefined) Object.assign(place, reply.standing);
}
