/**
 * What the demo writes while it works: numbers for people, one line of progress, and pauses that let Ctrl-C in.
 *
 * @module
 */
import { StatusLine } from "../../cli/mod.ts";
import { yieldToEventLoop } from "../../core/eventLoop.ts";

/** One line that changes while work continues; nothing if the output is no terminal. */
export const progress = new StatusLine();

/** Lets pending events in, Ctrl-C among them: kernels keep the thread to themselves. */
export async function breathe(signal: AbortSignal): Promise<void> {
  await yieldToEventLoop();
  signal.throwIfAborted();
}

/** A number with its thousands apart. */
export const count = (n: number) => Math.round(n).toLocaleString("en");

/** Bytes in the largest unit that keeps them above one. */
export function bytes(n: number): string {
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  const power = Math.min(units.length - 1, Math.floor(Math.log2(Math.max(n, 1)) / 10));
  const value = n / 2 ** (10 * power);
  return `${value < 10 && value % 1 !== 0 ? value.toFixed(1) : value.toFixed(0)} ${units[power]}`;
}

/** Seconds, minutes or hours. */
export function duration(seconds: number): string {
  if (seconds < 90) return `${seconds < 10 ? seconds.toFixed(1) : seconds.toFixed(0)} s`;
  return seconds < 5400 ? `${(seconds / 60).toFixed(0)} min` : `${(seconds / 3600).toFixed(1)} h`;
}
