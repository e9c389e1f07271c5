/**
 * Where the page's model runs: on the server, or in this browser. Both are used in the same way.
 *
 * @module
 */

/** Sampling settings, with OpenAI's names. */
export interface Settings {
  max_tokens: number;
  temperature: number;
  top_p: number;
  top_k: number | undefined;
  min_p: number;
  seed: number | undefined;
  stop: string[];
}

/** A message of a chat. */
export interface Message {
  role: "user" | "assistant";
  content: string;
}

/** A piece of an answer: a token, and the text that it completes, which may be empty. */
export interface Piece {
  text: string;
  /** Natural log-probability of the token. */
  logprob: number;
}

/** Why an answer ended: at the number of tokens, by itself or a stop text, or because the person asked for it. */
export type Finish = "length" | "end" | "asked";

/** A session that stands somewhere in a text. */
export interface Place {
  /** Tokens that it has read. */
  readonly tokens: number;
  /** Bytes of its state. */
  readonly stateBytes: number;
}

/** Names of the sides. */
export type SideName = "server" | "browser";

/** One side; `P` is what it keeps of a session. */
export interface Side<P extends Place = Place> {
  /** Which one it is. */
  readonly name: SideName;
  /** What it runs on, for people. */
  readonly label: string;
  /** A session that continues from a place, which stays as it is, or a new one. */
  fork(from: P | undefined): Promise<P>;
  /** Reads text. The place moves on. */
  read(place: P, text: string, signal: AbortSignal): Promise<void>;
  /**
   * Reads a prompt, text or messages, and writes an answer. The place moves on. An empty text continues the answer
   * that ended there.
   */
  answer(
    place: P,
    prompt: string | readonly Message[],
    settings: Settings,
    options: {
      signal: AbortSignal;
      /** Where it returns a promise, the next piece waits for it. */
      onPiece: (piece: Piece) => void | Promise<void>;
    },
  ): Promise<Finish>;
  /** Asks for the end of the answer that is being written; returns whether it will come. */
  finish(place: P): Promise<boolean>;
  /** A place is not needed any more. */
  forget(place: P): void;
}

/** The side does not have a session any more, or cannot use it: what it had read must be read again. */
export class Gone extends Error {}
