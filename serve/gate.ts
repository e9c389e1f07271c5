/**
 * Work that takes milliseconds, of any request: one piece after another, and the event loop turns in between. Without it,
 * the pieces of requests that come together would run together, and everybody else would wait for their sum.
 *
 * @module
 */
import { hearSockets, yieldToEventLoop } from "../core/eventLoop.ts";

/**
 * Lets the event loop turn, more often after long work: a request takes a turn to connect, one for its headers, and some
 * more for its body.
 *
 * @param worked milliseconds since it last turned
 */
export async function letTurn(worked: number): Promise<void> {
  const turns = Math.min(16, Math.max(1, Math.round(worked)));
  for (let turn = 0; turn < turns; turn++) await hearSockets();
}

let last: Promise<void> = Promise.resolve();

/** Does a piece of work when those before are done and the event loop has turned. */
export function inTurn<T>(work: () => T): Promise<T> {
  let worked = 0;
  const result = last.then(yieldToEventLoop).then(() => {
    const start = performance.now();
    try {
      return work();
    } finally {
      worked = performance.now() - start;
    }
  });
  const turned = () => letTurn(worked);
  last = result.then(turned, turned);
  return result as Promise<T>;
}
