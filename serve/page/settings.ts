/// <reference lib="dom" />
/**
 * The settings: read from their fields, kept for the next visit.
 *
 * @module
 */
import { element, field } from "./dom.ts";
import type { Settings } from "./side.ts";
import { keep, kept } from "./storage.ts";

/** Fields whose values are kept. The key is not among them. */
const FIELDS = ["max-tokens", "temperature", "top-p", "top-k", "min-p", "seed", "stop-text"];
/** Switches that are kept. */
const SWITCHES = ["local", "shading", "chat"];

/** Fills in what was kept, and keeps what changes from now on. */
export function keepSettings(): void {
  const values = kept<Record<string, string | boolean>>("localStorage", "settings") ?? {};
  for (const id of FIELDS) if (typeof values[id] === "string") field(id).value = values[id];
  for (const id of SWITCHES) if (typeof values[id] === "boolean") field(id).checked = values[id];
  showTemperature();
  document.addEventListener("input", () => {
    showTemperature();
    keep("localStorage", "settings", {
      ...Object.fromEntries(FIELDS.map((id) => [id, field(id).value])),
      ...Object.fromEntries(SWITCHES.map((id) => [id, field(id).checked])),
    });
  });
}

function showTemperature(): void {
  element("temperature-value").textContent = field("temperature").value;
}

/** The settings of an answer. */
export function readSettings(): Settings {
  const number = (id: string) => Number(field(id).value);
  const optional = (id: string) => field(id).value === "" ? undefined : number(id);
  return {
    max_tokens: number("max-tokens"),
    temperature: number("temperature"),
    top_p: number("top-p"),
    top_k: optional("top-k"),
    min_p: number("min-p"),
    seed: optional("seed"),
    stop: field("stop-text").value === "" ? [] : [field("stop-text").value],
  };
}
