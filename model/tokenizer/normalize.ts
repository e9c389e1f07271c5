/**
 * Normalisers: what happens to a text before it is cut into tokens.
 *
 * The package lowers a Σ at the end of a word to ς, strips U+FEFF and keeps U+0085 as JavaScript does, prepends to an
 * empty text, and takes `$&` in what it puts for a match as the match. The rest is a call of JavaScript's own.
 *
 * @module
 */
import { Charsmap, fromBase64 } from "./charsmap.ts";
import { compilePattern, type Hub } from "./pattern.ts";
import { flatten, type Part, type PatternJson, refuse, SPACE } from "./json.ts";
import { createSpaces } from "./sentencepiece.ts";

/** Text to text. */
export type Normalizer = (text: string) => string;

/** The normaliser of a file. */
export function createNormalizer(hub: Hub, part: Part | null): Normalizer {
  const steps = flatten(part, "normalizers").map((step) => createStep(hub, step));
  return (text) => steps.reduce((result, step) => step(result), text);
}

/**
 * Whether the first piece of the normalised text is at the beginning of the text itself and, with `withOthers`, no
 * other piece is. What replaces several characters counts as the last of them, so only single ones may be replaced.
 */
export function keepsBeginning(part: Part | null, withOthers: boolean): boolean {
  return flatten(part, "normalizers").every(({ type, pattern, content }) => {
    if (type === "NFC") return true;
    if (withOthers) return false;
    if (type !== "Replace") return ["NFD", "NFKC", "NFKD", "Lowercase", "Prepend"].includes(type as string);
    const text = (pattern as PatternJson | undefined)?.String;
    return content !== "" && typeof text === "string" && Array.from(text).length === 1;
  });
}

function createStep(hub: Hub, part: Part): Normalizer {
  switch (part.type) {
    case "NFC":
    case "NFD":
    case "NFKC":
    case "NFKD": {
      const form = part.type;
      return (text) => text.normalize(form);
    }
    case "Lowercase":
      return lowercase;
    case "StripAccents":
      return (text) => text.replace(/\p{M}/gu, "");
    case "Strip": {
      const left = part.strip_left ? `^${SPACE_RUN}` : undefined,
        right = part.strip_right ? `${SPACE_RUN}$` : undefined;
      const ends = [left, right].filter((end) => end !== undefined).join("|");
      return ends === "" ? (text) => text : (text) => text.replace(new RegExp(ends, "gu"), "");
    }
    case "Prepend": {
      const { prepend } = part;
      return (text) => text === "" ? "" : `${prepend}${text}`;
    }
    case "Replace": {
      const pattern = compilePattern(hub, part.pattern as PatternJson), content = String(part.content);
      return (text) => text.replace(pattern, () => content);
    }
    case "BertNormalizer":
      return bert(part);
    case "Precompiled":
      return precompiled(part);
    case "SentencePiece":
      return createSpaces(part);
    default:
      return refuse("without this normalizer", part.type);
  }
}

const SPACE_RUN = `${SPACE}+`;

/** Character by character: a sigma at the end of a word is one like any other. */
function lowercase(text: string): string {
  return Array.from(text, (character) => character.toLowerCase()).join("");
}

function bert({ clean_text, handle_chinese_chars, lowercase: lower, strip_accents }: Part): Normalizer {
  const accents = strip_accents ?? lower;
  return (text) => {
    if (clean_text) {
      text = text.replace(/[\0\ufffd]|(?![\t\n\r])[\p{Cc}\p{Cf}\p{Cn}\p{Co}]/gu, "")
        .replace(new RegExp(SPACE, "gu"), " ");
    }
    if (handle_chinese_chars) text = text.replace(CHINESE, " $& ");
    if (accents) text = text.normalize("NFD").replace(/\p{Mn}/gu, "");
    return lower ? lowercase(text) : text;
  };
}

const CHINESE =
  /[\u4e00-\u9fff\u3400-\u4dbf\u{20000}-\u{2a6df}\u{2a700}-\u{2b73f}\u{2b740}-\u{2b81f}\u{2b920}-\u{2ceaf}\uf900-\ufaff\u{2f800}-\u{2fa1f}]/gu;

/**
 * SentencePiece's own map, as the official library applies it: clusters of characters of up to five bytes are looked up
 * whole, then each character, and the shortest entry that begins them counts. The package looks up nothing.
 */
function precompiled({ precompiled_charsmap }: Part): Normalizer {
  if (precompiled_charsmap === null || precompiled_charsmap === undefined || precompiled_charsmap === "") {
    return (text) => text;
  }
  if (typeof precompiled_charsmap !== "string") refuse("a charsmap in base64", precompiled_charsmap);
  const charsmap = new Charsmap(fromBase64(precompiled_charsmap, "a charsmap"));
  const encoder = new TextEncoder(), clusters = new Intl.Segmenter("und", { granularity: "grapheme" });
  const lookUp = (bytes: Uint8Array) => charsmap.find(bytes, 0, "shortest")?.text;
  return (text) => {
    let result = "";
    for (const { segment } of clusters.segment(text)) {
      const bytes = encoder.encode(segment), whole = bytes.length < 6 ? lookUp(bytes) : undefined;
      if (whole !== undefined) result += whole;
      else for (const character of segment) result += lookUp(encoder.encode(character)) ?? character;
    }
    return result;
  };
}
