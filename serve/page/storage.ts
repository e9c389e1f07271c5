/// <reference lib="dom" />
/**
 * What the browser keeps for the page: settings for the next visit, texts and the key until the tab is closed.
 *
 * @module
 */
import type { Mode, Turn } from "./conversation.ts";

type Storage = "localStorage" | "sessionStorage";

/** What was kept under a name; undefined if there is nothing. */
export function kept<T>(storage: Storage, name: string): T | undefined {
  try {
    return JSON.parse(globalThis[storage].getItem(`levin.${name}`) ?? "") as T;
  } catch {
    return undefined; // nothing was kept, or the browser keeps nothing
  }
}

/** Keeps a value; returns whether the browser did. */
export function keep(storage: Storage, name: string, value: unknown): boolean {
  try {
    globalThis[storage].setItem(`levin.${name}`, JSON.stringify(value));
    return true;
  } catch {
    return false; // there is no room, or the browser keeps nothing
  }
}

/** Conversations that were kept, with their sessions on the server. */
export function keptConversations(): Record<Mode, Turn[]> {
  return kept("sessionStorage", "conversations") ?? { text: [], chat: [] };
}

/** Keeps conversations. If there is no room for them, long texts are not kept: their sessions know them. */
export function keepConversations(conversations: Record<Mode, Turn[]>): void {
  const lasting = (withLongTexts: boolean) => {
    const turn = ({ places, measured, prompt, ...turn }: Turn): Turn => ({
      ...turn,
      prompt: turn.title === undefined || withLongTexts ? prompt : undefined,
      places: places.server === undefined ? {} : { server: places.server },
      measured: measured.slice(-1),
    });
    return { text: conversations.text.map(turn), chat: conversations.chat.map(turn) };
  };
  keep("sessionStorage", "conversations", lasting(true)) ||
    keep("sessionStorage", "conversations", lasting(false));
}
