/**
 * The event loop's share of long computations.
 *
 * @module
 */

/** Hosts with `setImmediate` (Deno, Node.js) have a queue for this; it keeps no process alive. */
const { setImmediate } = globalThis as { setImmediate?: (callback: () => void) => unknown };

/** Elsewhere a message to oneself: timers would wait a few milliseconds. */
let channel: MessageChannel | undefined;
const waiting: (() => void)[] = [];

/** Milliseconds after which Deno is asked to look at its sockets, and after which it is made to. */
const LOOK = 4, LOOK_SURELY = 100;
const isDeno = "Deno" in globalThis;
const NOTHING = new Uint8Array(0);
let looked = 0, lookedSurely = 0;

/**
 * Lets the event loop turn once: timers, requests, clicks and signals are heard before the promise resolves. A backend
 * that computes in place answers in microtasks, and without this nothing would be heard until a computation ends.
 *
 * It costs microseconds.
 */
export function yieldToEventLoop(): Promise<void> {
  return isDeno && performance.now() - looked > LOOK ? hearSockets() : turn();
}

function turn(): Promise<void> {
  return new Promise((resolve) => {
    if (setImmediate !== undefined) {
      setImmediate(resolve);
      return;
    }
    if (channel === undefined) {
      channel = new MessageChannel();
      channel.port1.onmessage = () => waiting.shift()?.();
    }
    waiting.push(resolve);
    channel.port2.postMessage(null);
  });
}

/**
 * {@linkcode yieldToEventLoop} that also hears new connections and what came over those there are.
 *
 * A loop that always has something to do does not look at its sockets in each turn: Deno 2.9 does in every 61st, which
 * keeps a client waiting for 60 steps of a model. It looks when it has to wait. The digest of nothing is computed in
 * another thread, takes 20 µs, and needs no permission. It begins in a new turn: were it done before others of this turn
 * have worked, nothing would wait. On a busy machine it may be done too early all the same. A timer never is, but takes a
 * millisecond or two.
 */
export async function hearSockets(): Promise<void> {
  await turn();
  if (!isDeno) return;
  if (performance.now() - lookedSurely < LOOK_SURELY) await crypto.subtle.digest("SHA-1", NOTHING);
  else {
    await new Promise((resolve) => setTimeout(resolve));
    lookedSurely = performance.now();
  }
  looked = performance.now();
}

/**
 * {@linkcode yieldToEventLoop} for loops: the function waits only where `interval` milliseconds have passed since it
 * last did.
 */
export function pauses(interval: number): () => Promise<void> {
  let last = performance.now();
  return async () => {
    if (performance.now() - last < interval) return;
    await yieldToEventLoop();
    last = performance.now();
  };
}
