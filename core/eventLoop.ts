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

/**
 * Lets the event loop turn once: timers, requests, clicks and signals are heard before the promise resolves. A backend
 * that computes in place answers in microtasks, and without this nothing would be heard until a computation ends.
 *
 * It costs microseconds.
 */
export function yieldToEventLoop(): Promise<void> {
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
