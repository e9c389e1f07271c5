/**
 * Normalisers: what happens to a text before it is cut into tokens.
 *
 * @module
 */
import { compilePattern, type Hub } from "./pattern.ts";
import { flatten, type Part, type PatternJson, refuse, SPACE } from "./json.ts";

/** Text to text. */
export type Normalizer = (text: string) => string;

/** The normaliser of a file. */
export function createNormalizer(hub: Hub, part: Part | null): Normalizer {
  const steps = flatten(part, "normalizers").map((step) => createStep(hub, step));
  return (text) => steps.reduce((result, step) => step(result), text);
}

/**
 * Whether the first piece of the normalised text is at the beginning of the text itself and, with `withOthers`, no
 * other piece is.
 */
export function keepsBeginning(part: Part | null, withOthers: boolean): boolean {
  return flatten(part, "normalizers").every(({ type, content }) =>
    type === "NFC" || !withOthers && (
        ["NFD", "NFKC", "NFKD", "Lowercase", "Prepend"].includes(type as string) ||
        type === "Replace" && content !== ""
      )
  );
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
 * SentencePiece's own map: a double-array trie (Darts) from UTF-8 to the places of strings that end with a zero.
 * Clusters of characters of up to five bytes are looked up whole, then each character; the shortest entry that begins it counts.
 */
function precompiled({ precompiled_charsmap }: Part): Normalizer {
  if (precompiled_charsmap === null || precompiled_charsmap === undefined) return (text) => text;
  if (typeof precompiled_charsmap !== "string") refuse("a charsmap in base64", precompiled_charsmap);
  const bytes = Uint8Array.from(atob(precompiled_charsmap), (character) => character.charCodeAt(0));
  if (bytes.length === 0) return (text) => text;
  const trieBytes = new DataView(bytes.buffer).getUint32(0, true);
  if (trieBytes % 4 !== 0 || 4 + trieBytes > bytes.length) refuse("a whole charsmap", bytes.length);
  const trie = new Uint32Array(bytes.slice(4, 4 + trieBytes).buffer), strings = bytes.subarray(4 + trieBytes);
  const encoder = new TextEncoder(), decoder = new TextDecoder("utf-8", { ignoreBOM: true });
  const offsetOf = (unit: number) => unit >>> 10 << ((unit & 1 << 9) >>> 6);
  const lookUp = (text: string): string | undefined => {
    let position = offsetOf(trie[0]);
    for (const byte of encoder.encode(text)) {
      if (byte === 0) return undefined;
      position ^= byte;
      const unit = trie[position] ?? 0;
      if ((unit & (1 << 31 | 0xff)) !== byte) return undefined;
      position ^= offsetOf(unit);
      if (unit >>> 8 & 1) {
        const start = (trie[position] ?? 0) & 0x7fffffff;
        return decoder.decode(strings.subarray(start, strings.indexOf(0, start)));
      }
    }
    return undefined;
  };
  const clusters = new Intl.Segmenter("und", { granularity: "grapheme" });
  return (text) => {
    let result = "";
    for (const { segment } of clusters.segment(text)) {
      const whole = encoder.encode(segment).length < 6 ? lookUp(segment) : undefined;
      if (whole !== undefined) result += whole;
      else for (const character of segment) result += lookUp(character) ?? character;
    }
    return result;
  };
}
