/**
 * A text that person and model write in turns, and where the sessions stand that have read it.
 *
 * A turn never changes once it is over, and neither does the session that stands at its end: the next turn begins with a
 * fork. So turns can be taken back or begun again without reading anything, and a turn that fails leaves no trace.
 *
 * @module
 */
import type { Finish, Message, Piece, Place, SideName } from "./side.ts";

/** Whether the model continues a text, or answers messages. */
export type Mode = "text" | "chat";

/** One turn: what was read, and what the model wrote. */
export interface Turn {
  /** A prompt, a long text, or `""` where an answer was continued. `undefined`: a long text that was not kept. */
  prompt: string | undefined;
  /** The name of a long text, which is read without an answer. */
  title?: string;
  /** What the model wrote, in pieces that have text. */
  answer: Piece[];
  /** Why it ended. */
  finish?: Finish;
  /** The session after the turn, on each side that has one. */
  places: Partial<Record<SideName, Place>>;
  /** Sizes of the state as they were measured during the turn. */
  measured: Place[];
}

/** A new turn. */
export function newTurn(prompt: string, title?: string): Turn {
  return { prompt, title, answer: [], places: {}, measured: [] };
}

/** Whether a turn continues the answer of the one before. */
export function continues({ prompt }: Turn): boolean {
  return prompt === "";
}

/** The model's part of a turn. */
export function answerOf({ answer }: Turn): string {
  return answer.map(({ text }) => text).join("");
}

/** A turn as text. Throws if it is a long text that was not kept. */
export function textOf(turn: Turn): string {
  if (turn.prompt === undefined) {
    throw new Error(`The model would have to read ${turn.title} again, which is not in this page any more`);
  }
  return turn.prompt + answerOf(turn);
}

/** Turns as messages; what continues an answer is part of it. */
export function messagesOf(turns: readonly Turn[]): Message[] {
  const messages: Message[] = [];
  for (const turn of turns) {
    const content = answerOf(turn);
    if (continues(turn)) messages.at(-1)!.content += content;
    else messages.push({ role: "user", content: turn.prompt! }, { role: "assistant", content });
  }
  return messages;
}

/**
 * From where a side can continue after some turns: the last place that it has, and the turns that it has not read from
 * there. Messages can only be added to whole messages.
 */
export function startOf(
  turns: readonly Turn[],
  next: Turn,
  mode: Mode,
  side: SideName,
): { from: Place | undefined; unread: readonly Turn[] } {
  for (let i = turns.length; i > 0; i--) {
    const from = turns[i - 1].places[side];
    const after = turns[i] ?? next;
    const fits = mode === "text" || !continues(after) || i === turns.length;
    if (from !== undefined && fits) return { from, unread: turns.slice(i) };
  }
  return { from: undefined, unread: turns };
}

/** Whether the answer of the last turn can be continued on a side. */
export function canContinue(turns: readonly Turn[], mode: Mode, side: SideName): boolean {
  const last = turns.at(-1);
  if (last === undefined) return false;
  const isOpen = last.title !== undefined || last.finish === "length" || last.finish === "asked";
  return isOpen && (mode === "text" || last.places[side] !== undefined);
}
