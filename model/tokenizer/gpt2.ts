/**
 * GPT-2's `vocab.json` and `merges.txt` as a `tokenizer.json`.
 *
 * @module
 */
import { refuse, type TokenizerJson } from "./json.ts";

/**
 * @param vocab parsed `vocab.json`: ids by token
 * @param merges `merges.txt`: two tokens a line, behind a line with its version
 * @param addsSpace whether a text that begins without a space gets one
 */
export function readGpt2(vocab: unknown, merges: string, addsSpace: boolean): TokenizerJson {
  if (typeof vocab !== "object" || vocab === null || Array.isArray(vocab)) {
    refuse("vocab.json as an object", vocab);
  }
  const lines = merges.split(/\r?\n/).filter((line, i) =>
    line !== "" && !(i === 0 && line.startsWith("#version"))
  );
  return {
    version: "1.0",
    truncation: null,
    padding: null,
    added_tokens: [],
    normalizer: null,
    pre_tokenizer: { type: "ByteLevel", add_prefix_space: addsSpace, trim_offsets: true, use_regex: true },
    post_processor: { type: "ByteLevel", add_prefix_space: true, trim_offsets: false, use_regex: true },
    decoder: { type: "ByteLevel", add_prefix_space: true, trim_offsets: true, use_regex: true },
    model: {
      type: "BPE",
      dropout: null,
      unk_token: null,
      continuing_subword_prefix: "",
      end_of_word_suffix: "",
      fuse_unk: false,
      byte_fallback: false,
      ignore_merges: false,
      vocab,
      merges: lines.map((line) => line.split(" ")),
    },
  };
}
