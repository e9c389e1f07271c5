/**
 * One turn on its way: a fork of the last session, what it has yet to read, and the answer.
 *
 * @module
 */
import { continues, messagesOf, type Mode, startOf, textOf, type Turn } from "./conversation.ts";
import { type Finish, Gone, type Message, type Piece, type Place, type Settings, type Side } from "./side.ts";

/** Characters that are read before the page shows how far it is, and hears whether it is to stop. */
const PIECE = 4096;

/** What a turn needs. */
export interface RunOptions {
  /** Finds where it runs. */
  readonly side: (signal: AbortSignal) => Promise<Side>;
  /** Whether the turns are a text or a chat. */
  readonly mode: Mode;
  /** The turns before. */
  readonly history: readonly Turn[];
  /** The turn, which gets its answer, its end and its place. */
  readonly turn: Turn;
  /** Of the answer. */
  readonly settings: Settings;
  /** Called when text was read, with the share of all that is to be read. */
  readonly onRead: (share: number) => void;
  /** Called when the answer has a new piece, the last one of the turn's. */
  readonly onPiece: (piece: Piece) => void;
}

/** A turn on its way. */
export class Run {
  readonly #options: RunOptions;
  readonly #abort = new AbortController();
  #side: Side | undefined;
  #place: Place | undefined;
  /** What is left of a long text whose reading broke off, and why it did. */
  broken: { error: unknown; rest: string } | undefined;
  #asked = false;
  /** Log-probability of tokens whose text has yet to come. */
  #held = 0;

  /** Call {@linkcode Run.complete} to begin. */
  constructor(options: RunOptions) {
    this.#options = options;
  }

  /** The session of this turn, once it has one. */
  get place(): Place | undefined {
    return this.#place;
  }

  /** Aborted when the turn is given up. */
  get signal(): AbortSignal {
    return this.#abort.signal;
  }

  /**
   * Ends the turn early: a long text at the next piece, an answer at the next token. An answer that has not begun, or
   * that was asked to end before, is given up.
   */
  async stop(): Promise<void> {
    const { turn } = this.#options;
    const isSecond = this.#asked;
    this.#asked = true;
    if (!isSecond && turn.title !== undefined && turn.measured.length > 0) return;
    try {
      if (!isSecond && this.#place !== undefined && await this.#side!.finish(this.#place)) return;
    } catch {
      // Then there is no better way than the next one.
    }
    if (isSecond || turn.answer.length === 0) this.#abort.abort();
  }

  /**
   * Reads and answers. If the reading of a long text breaks off, the turn has what was read.
   *
   * @returns where it ran
   * @throws what went wrong, or the reason of the signal; nothing is left of the turn on the side then
   */
  async complete(): Promise<Side> {
    const { history, turn } = this.#options;
    const side = this.#side = await this.#options.side(this.signal);
    try {
      turn.finish = await this.#attempt(side);
    } catch (error) {
      if (!(error instanceof Gone) || turn.answer.length > 0) throw error;
      for (const { places } of history) delete places[side.name];
      turn.finish = await this.#attempt(side);
    }
    turn.places[side.name] = this.#place;
    this.#measure();
    return side;
  }

  async #attempt(side: Side): Promise<Finish> {
    const { mode, history, turn, settings } = this.#options;
    const { from, unread } = startOf(history, turn, mode, side.name);
    const place = this.#place = await side.fork(from);
    try {
      this.signal.throwIfAborted();
      let prompt: string | Message[];
      if (mode === "chat") prompt = this.#messages(unread);
      else {
        prompt = await this.#readAhead(side, place, unread.map(textOf).join(""));
        if (turn.title !== undefined) return this.#asked || this.broken ? "asked" : "length";
      }
      return await side.answer(place, prompt, settings, {
        signal: this.signal,
        onPiece: (piece) => this.#take(piece),
      });
    } catch (error) {
      side.forget(place);
      throw error;
    }
  }

  #messages(unread: readonly Turn[]): string | Message[] {
    const { turn } = this.#options;
    if (!continues(turn)) return [...messagesOf(unread), { role: "user", content: turn.prompt! }];
    if (unread.length > 0) {
      throw new Error("The server does not have the chat any more: send a message instead");
    }
    return "";
  }

  /**
   * Reads all but the last piece of the text, which comes back; of a long text all. A long text that is stopped ends
   * there.
   */
  async #readAhead(side: Side, place: Place, before: string): Promise<string> {
    const { turn, onRead } = this.#options;
    const isLong = turn.title !== undefined;
    const text = before + turn.prompt;
    let read = 0;
    while (text.length - read > (isLong ? 0 : PIECE)) {
      const end = pieceEnd(text, read);
      try {
        await side.read(place, text.slice(read, end), this.signal);
      } catch (error) {
        if (this.signal.aborted || !isLong || read <= before.length) throw error;
        this.broken = { error, rest: text.slice(read) };
        break;
      }
      read = end;
      this.#measure();
      onRead(read / text.length);
      if (isLong && this.#asked && read > before.length) break;
    }
    if (isLong) turn.prompt = text.slice(before.length, read);
    return text.slice(read);
  }

  #take(piece: Piece): void {
    const { turn, onPiece } = this.#options;
    this.#held += piece.logprob;
    if (piece.text === "") return;
    turn.answer.push({ text: piece.text, logprob: this.#held });
    this.#held = 0;
    onPiece(turn.answer.at(-1)!);
  }

  #measure(): void {
    const { tokens, stateBytes } = this.#place!;
    this.#options.turn.measured.push({ tokens, stateBytes });
  }
}

/** Where a piece ends: before a space if there is one, never within a character. */
function pieceEnd(text: string, start: number): number {
  const end = start + PIECE;
  if (end >= text.length) return text.length;
  const space = text.lastIndexOf(" ", end);
  if (space > start) return space;
  return /[\uDC00-\uDFFF]/.test(text[end]) ? end - 1 : end;
}
