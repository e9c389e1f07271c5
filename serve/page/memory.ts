/// <reference lib="dom" />
/**
 * The size of the state against the tokens read: a flat line, below what a cache of keys and values would take.
 *
 * @module
 */
import { element } from "./dom.ts";
import type { Card } from "./server.ts";
import type { Place } from "./side.ts";

/** Shows the sizes that were measured; the last one is where the session stands. */
export function showMemory(card: Card, measured: readonly Place[]): void {
  const points = [{ tokens: 0, stateBytes: measured[0]?.stateBytes || card.state_bytes }, ...measured]
    .filter(({ stateBytes }) => stateBytes > 0);
  const { tokens, stateBytes } = points.at(-1)!;
  const cache = tokens * card.cache_bytes_per_token;
  element("tokens").textContent = tokens.toLocaleString("en");
  element("state").textContent = bytes(stateBytes);
  element("cache-size").textContent = bytes(cache);

  const reach = Math.max(64, ...points.map(({ tokens }) => tokens));
  const top = Math.max(2 * stateBytes, card.cache_bytes_per_token * reach);
  const at = (tokens: number, size: number) => `${8 + 304 * tokens / reach},${120 - 108 * size / top}`;
  // Before anything is read the line is a promise, as that of the cache is.
  const line = tokens === 0 ? [...points, { tokens: reach, stateBytes }] : points;
  line.sort((a, b) => a.tokens - b.tokens);
  element("line").setAttribute(
    "points",
    line.map(({ tokens, stateBytes }) => at(tokens, stateBytes)).join(" "),
  );
  element("cache").setAttribute("points", `${at(0, 0)} ${at(reach, card.cache_bytes_per_token * reach)}`);
  // Over the part of the line that the other one does not cross.
  const [x, anchor] = stateBytes / top < 0.3 ? ["312", "end"] : ["8", "start"];
  const attributes = { x, y: String(120 - 108 * stateBytes / top - 5), "text-anchor": anchor };
  for (const [name, value] of Object.entries(attributes)) element("line-label").setAttribute(name, value);
  element("line-label").textContent = `state, ${bytes(stateBytes)}`;
  element("tick").textContent = `${reach.toLocaleString("en")} tokens`;
  element("comparison").textContent = cache > stateBytes
    ? `A cache would take ${multiple(cache / stateBytes)} times as much by now, and more with each token.`
    : "The state does not grow. A cache does, with each token.";
}

/** Bytes for people. */
export function bytes(n: number): string {
  const units = ["KiB", "MiB", "GiB"];
  let size = n / 1024, unit = 0;
  while (size >= 1000 && unit < units.length - 1) {
    size /= 1024;
    unit++;
  }
  return `${size >= 100 || unit === 0 ? size.toFixed(0) : size.toFixed(1)} ${units[unit]}`;
}

function multiple(times: number): string {
  return times < 10 ? times.toFixed(1) : Math.round(times).toLocaleString("en");
}
