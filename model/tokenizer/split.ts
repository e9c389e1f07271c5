/**
 * Pre-tokenisers: how a normalised text is cut into the pieces that the model makes tokens of.
 *
 * The package knows no behaviours but removing and isolating, cuts `Metaspace` only together with others, counts half a
 * surrogate pair as a character of `FixedLength`, and takes JavaScript's white space, words and digits for those of
 * Rust. Nor does it say which piece begins the text, which a Metaspace of `"first"` must know.
 *
 * @module
 */
import { levelName } from "./bytes.ts";
import { compilePattern, type Hub } from "./pattern.ts";
import { escape, flatten, type Part, type PatternJson, refuse, SPACE, WORD } from "./json.ts";
import { keepsBeginning } from "./normalize.ts";

/** A piece of a text. */
export interface Piece {
  /** Its characters, as the model wants them. */
  readonly text: string;
  /** Whether it begins where the whole text begins. */
  readonly isFirst: boolean;
}

/** One piece to several, in order. */
export type PreTokenizer = (piece: Piece) => Piece[];

/** What becomes of what a pattern finds. */
type Behavior = "Removed" | "Isolated" | "MergedWithPrevious" | "MergedWithNext" | "Contiguous";
const BEHAVIORS: readonly unknown[] = [
  "Removed",
  "Isolated",
  "MergedWithPrevious",
  "MergedWithNext",
  "Contiguous",
];

const GPT2 = new RegExp(
  `'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^${SPACE}\\p{L}\\p{N}]+|${SPACE}+(?!\\P{White_Space})|${SPACE}+`,
  "gu",
);
const PUNCTUATION = /[\p{P}!-/:-@[-`{-~]/gu;

/** The pre-tokeniser of a file. */
export function createPreTokenizer(hub: Hub, part: Part | null, normalizer: Part | null): PreTokenizer {
  const parts = flatten(part, "pretokenizers");
  const steps = parts.map((step, i) => {
    if (step.type === "Metaspace" && prependScheme(step) === "first") {
      checkFirst(parts.slice(0, i), normalizer);
    }
    return createStep(hub, step);
  });
  return (piece) =>
    steps.reduce((pieces, step) => pieces.flatMap(step).filter(({ text }) => text !== ""), [piece]);
}

/**
 * A Metaspace of `"first"` looks for the piece at the beginning of the text as it was before the normaliser. If steps
 * before it add or remove characters there, the official library's account of them would be needed.
 */
function checkFirst(before: readonly Part[], normalizer: Part | null): void {
  const adds = before.find(({ type }) => type === "ByteLevel" || type === "Metaspace");
  if (adds !== undefined) refuse('Metaspace of prepend_scheme "first" without this before it', adds.type);
  if (!keepsBeginning(normalizer, before.length > 0)) {
    refuse('Metaspace of prepend_scheme "first" without this normalizer', JSON.stringify(normalizer));
  }
}

function createStep(hub: Hub, part: Part): PreTokenizer {
  switch (part.type) {
    case "ByteLevel":
      return byteLevel(part);
    case "Metaspace":
      return metaspace(part);
    case "Whitespace":
      return cutAt(new RegExp(`[${WORD}]+|[^${WORD}${SPACE}]+`, "gu"), "Removed", true);
    case "WhitespaceSplit":
      return cutAt(new RegExp(SPACE, "gu"), "Removed");
    case "BertPreTokenizer": {
      const words = cutAt(new RegExp(SPACE, "gu"), "Removed"), marks = cutAt(PUNCTUATION, "Isolated");
      return (piece) => words(piece).flatMap(marks);
    }
    case "Punctuation":
      return cutAt(PUNCTUATION, behaviorOf(part, "Isolated"));
    case "Digits":
      return cutAt(/\p{N}/gu, part.individual_digits ? "Isolated" : "Contiguous");
    case "CharDelimiterSplit":
      return cutAt(compilePattern(hub, { String: part.delimiter }), "Removed");
    case "Split":
      return cutAt(
        compilePattern(hub, part.pattern as PatternJson),
        behaviorOf(part),
        part.invert === true,
      );
    case "FixedLength": {
      const { length } = part;
      if (!Number.isInteger(length) || length as number < 1) refuse("FixedLength of a length >= 1", length);
      return cutAt(new RegExp(`[^]{1,${length}}`, "gu"), "Isolated");
    }
    default:
      return refuse("without this pre_tokenizer", part.type);
  }
}

function behaviorOf({ behavior }: Part, preset?: Behavior): Behavior {
  const given = behavior ?? preset;
  return BEHAVIORS.includes(given) ? given as Behavior : refuse("with a known behavior", behavior);
}

/** Cuts pieces at what a pattern finds, or, inverted, at what it does not. */
function cutAt(pattern: RegExp, behavior: Behavior, invert = false): PreTokenizer {
  return ({ text, isFirst }) => {
    const spans: { start: number; end: number; isMatch: boolean }[] = [];
    const add = (start: number, end: number, isMatch: boolean) => {
      if (start < end) spans.push({ start, end, isMatch: isMatch !== invert });
    };
    let before = 0;
    for (const { 0: match, index } of text.matchAll(pattern)) {
      add(before, index, false);
      add(index, index + match.length, true);
      before = index + match.length;
    }
    add(before, text.length, false);
    return merge(spans, behavior).map(({ start, end }) => ({
      text: text.slice(start, end),
      isFirst: isFirst && start === 0,
    }));
  };
}

interface Span {
  readonly start: number;
  readonly end: number;
  readonly isMatch: boolean;
}

function merge(spans: readonly Span[], behavior: Behavior): readonly Span[] {
  switch (behavior) {
    case "Isolated":
      return spans;
    case "Removed":
      return spans.filter(({ isMatch }) => !isMatch);
    case "Contiguous":
      return join(spans, (span, before) => span.isMatch === before.isMatch);
    case "MergedWithPrevious":
      return join(spans, (span, before) => span.isMatch && !before.isMatch);
    case "MergedWithNext":
      return join([...spans].reverse(), (span, before) => span.isMatch && !before.isMatch).reverse();
  }
}

/** Joins spans to the one before where `joins` says so of the two neighbours. */
function join(spans: readonly Span[], joins: (span: Span, before: Span) => boolean): Span[] {
  const joined: Span[] = [];
  let before: Span | undefined;
  for (const span of spans) {
    const last = joined.at(-1);
    if (before !== undefined && last !== undefined && joins(span, before)) {
      const [start, end] = [Math.min(last.start, span.start), Math.max(last.end, span.end)];
      joined[joined.length - 1] = { start, end, isMatch: span.isMatch };
    } else joined.push(span);
    before = span;
  }
  return joined;
}

function byteLevel({ add_prefix_space, use_regex }: Part): PreTokenizer {
  const encoder = new TextEncoder(), cut = use_regex === false ? undefined : cutAt(GPT2, "Isolated");
  return ({ text, isFirst }) => {
    const whole = { text: add_prefix_space && !text.startsWith(" ") ? ` ${text}` : text, isFirst };
    return (cut?.(whole) ?? [whole]).map(({ text, isFirst }) => ({
      text: levelName(encoder.encode(text)),
      isFirst,
    }));
  };
}

/** How a Metaspace begins a text; older files say it by `add_prefix_space`. */
export function prependScheme({ prepend_scheme, add_prefix_space }: Part): "always" | "first" | "never" {
  const scheme = prepend_scheme ?? (add_prefix_space === false ? "never" : "always");
  if (scheme !== "always" && scheme !== "first" && scheme !== "never") {
    refuse("Metaspace with a known prepend_scheme", scheme);
  }
  return scheme;
}

function metaspace(part: Part): PreTokenizer {
  const { replacement = "▁", split = true } = part, scheme = prependScheme(part);
  if (typeof replacement !== "string" || Array.from(replacement).length !== 1) {
    refuse("Metaspace with one character as replacement", replacement);
  }
  const cut = cutAt(new RegExp(escape(replacement), "gu"), "MergedWithNext");
  return ({ text, isFirst }) => {
    const replaced = text.replaceAll(" ", () => replacement);
    const prepends = !replaced.startsWith(replacement) &&
      (scheme === "always" || scheme === "first" && isFirst);
    const whole = { text: prepends ? replacement + replaced : replaced, isFirst };
    return split ? cut(whole) : [whole];
  };
}
