/**
 * Patterns of `tokenizer.json`.
 *
 * @module
 */
import { escape, type PatternJson, refuse } from "./json.ts";

/** The package that knows the models, and how Oniguruma's expressions are written in JavaScript. */
export type Hub = typeof import("@huggingface/tokenizers");

/** A pattern as a regular expression that finds all matches. */
export function compilePattern(hub: Hub, pattern: PatternJson | undefined): RegExp {
  if (typeof pattern?.String === "string") {
    return new RegExp(pattern.String === "" ? "(?!)" : escape(pattern.String), "gu"); // nothing is found of nothing
  }
  if (typeof pattern?.Regex !== "string") refuse("a pattern of String or Regex", pattern);
  const split = new hub.SplitPreTokenizer({
    type: "Split",
    pattern: { Regex: pattern.Regex },
    behavior: "Isolated",
    invert: false,
  });
  return split.pattern ?? refuse("a pattern of String or Regex", pattern.Regex);
}
