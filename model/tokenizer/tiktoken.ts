/**
 * Files of tiktoken, a byte string and its rank a line, as a `tokenizer.json`.
 *
 * @module
 */
import { contentOf } from "./added.ts";
import { levelName } from "./bytes.ts";
import { fromBase64 } from "./charsmap.ts";
import { MAX_TOKEN_CHARACTERS, MAX_TOKENS, refuse, type TokenizerJson } from "./json.ts";

/** The names that such a file has in checkpoints. */
export const TIKTOKEN_FILES: readonly string[] = ["transnormer_100k.tiktoken", "tokenizer.tiktoken"];

/**
 * The pattern of TransNormerLLM3. Its `(?i:...)` is written out, the long s too: engines differ in what they fold.
 */
const PATTERN =
  "'(?:[sS\u017f]|[tT]|[rR][eE]|[vV][eE]|[mM]|[lL][lL]|[dD])|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}|" +
  " ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+";

/** Special tokens that the authors' class has, by their distance from the last rank. */
const PUBLISHED: Readonly<Record<string, number>> = {
  "<|J2PM|>": 0,
  "<|endoftext|>": 1,
  "<|fim_prefix|>": 2,
  "<|fim_middle|>": 3,
  "<|fim_suffix|>": 4,
  "<s>": 5,
  "<pad>": 6,
  "<unk>": 7,
  "<mask>": 8,
  "<|endofprompt|>": 20,
};
const PUBLISHED_NAMES = {
  bos_token: "<s>",
  eos_token: "<|endoftext|>",
  pad_token: "<pad>",
  unk_token: "<unk>",
  mask_token: "<mask>",
};

/** A configuration with the special tokens of the authors' class, unless it has its own. */
export function withPublishedTokens(
  config: Readonly<Record<string, unknown>>,
  ranks: number,
): Readonly<Record<string, unknown>> {
  const published = Object.entries(PUBLISHED).map(([content, distance]) => [
    ranks + distance,
    { content, special: true },
  ]);
  const added = (config.added_tokens_decoder ?? Object.fromEntries(published)) as Record<string, unknown>;
  const contents = new Set(Object.values(added).map(contentOf));
  const names = Object.entries(PUBLISHED_NAMES).filter(([, content]) => contents.has(content));
  return { ...Object.fromEntries(names), ...config, added_tokens_decoder: added };
}

/**
 * @param text the file
 * @param name of the file, for errors
 */
export function readTiktoken(text: string, name: string): TokenizerJson {
  const tokens: string[] = [];
  for (const line of text.split(/\r?\n/)) {
    if (line === "") continue;
    const [, base64, rank] = /^(\S+) (\d{1,9})$/.exec(line) ??
      refuse(`${name} of lines with a byte string in base64 and its rank`, line.slice(0, 80));
    const token = levelName(fromBase64(base64, `${name} with byte strings`));
    if (token === "" || tokens[Number(rank)] !== undefined || Number(rank) >= text.length) {
      refuse(`${name} with one byte string of each rank`, line.slice(0, 80));
    }
    if (token.length > MAX_TOKEN_CHARACTERS || Number(rank) >= MAX_TOKENS) {
      refuse(`${name} with at most ${MAX_TOKENS} tokens of ${MAX_TOKEN_CHARACTERS} bytes`, `rank ${rank}`);
    }
    tokens[Number(rank)] = token;
  }
  const hole = tokens.findIndex((token) => token === undefined);
  const ids = new Map(Array.from(tokens, (token, rank) => [token, rank]));
  if (tokens.length === 0 || hole !== -1 || ids.size < tokens.length) {
    refuse(`${name} with one byte string of each rank`, hole === -1 ? tokens.length : hole);
  }
  // Every two neighbours that are a token together are merged, by the rank of that token.
  const merges = tokens.flatMap((token) =>
    Array.from({ length: token.length - 1 }, (_, i) => [token.slice(0, i + 1), token.slice(i + 1)])
      .filter((parts) => parts.every((part) => ids.has(part)))
  );
  return {
    version: "1.0",
    truncation: null,
    padding: null,
    added_tokens: [],
    normalizer: { type: "NFC" },
    pre_tokenizer: {
      type: "Sequence",
      pretokenizers: [
        { type: "Split", pattern: { Regex: PATTERN }, behavior: "Isolated", invert: false },
        { type: "ByteLevel", add_prefix_space: false, trim_offsets: true, use_regex: false },
      ],
    },
    post_processor: null,
    decoder: { type: "ByteLevel", add_prefix_space: true, trim_offsets: true, use_regex: true },
    model: {
      type: "BPE",
      dropout: null,
      unk_token: null,
      continuing_subword_prefix: null,
      end_of_word_suffix: null,
      fuse_unk: false,
      byte_fallback: false,
      ignore_merges: true,
      vocab: Object.fromEntries(ids),
      merges,
      ranks_tokens: true,
    },
  };
}
