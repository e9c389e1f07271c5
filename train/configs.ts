/**
 * Models to train: configurations by name, first weights, and the byte-level tokenizer.
 *
 * @module
 */
import { readFile } from "node:fs/promises";
import { message, rangeError } from "../core/errors.ts";
import { elementCount } from "../core/shape.ts";
import type { TransNormerConfig } from "../model/config.ts";
import { randomNumbers } from "../model/sampling.ts";
import { CHARACTER_OF_BYTE } from "../model/tokenizer/bytes.ts";

/** Ids from 0 to 255 are bytes; these follow. */
export const SPECIAL_TOKENS = { begin: 256, end: 257, pad: 258 } as const;

/** 256 bytes and the special tokens. */
export const VOCAB_SIZE = 259;

/** What sizes differ in; `lrpe`: first layers with LRPE, by default one, as in the published models. */
interface Size {
  readonly layers: number;
  readonly embed: number;
  readonly heads: number;
  readonly glu: number;
  readonly lrpe?: number;
}

/** Sizes by name: parameters with the byte-level vocabulary. */
const SIZES = {
  /** 0.14 M: tests, and a CPU in seconds. */
  tiny: { layers: 2, embed: 64, heads: 2, glu: 176 },
  /** 5.3 M: what the library ships, trained. */
  small: { layers: 6, embed: 256, heads: 4, glu: 704 },
  /** 11.3 M: 11.7 MB in int8. LRPE where the decay forgets within some 2,000 tokens, so that no position is too far. */
  base: { layers: 6, embed: 384, heads: 6, glu: 960, lrpe: 4 },
  /** 27 M. */
  medium: { layers: 8, embed: 512, heads: 8, glu: 1408 },
  /** 125 M. */
  large: { layers: 16, embed: 768, heads: 12, glu: 2112 },
} as const satisfies Record<string, Size>;

/** A `config.json` by name: `"tiny"`, `"small"`, `"base"`, `"medium"` or `"large"`. Throws a `RangeError` for others. */
export function configByName(name: string): Record<string, unknown> {
  if (!Object.hasOwn(SIZES, name)) {
    rangeError("train", `config must be one of ${Object.keys(SIZES).join(", ")} or a config.json`, name);
  }
  const { layers, embed, heads, glu, lrpe = 1 }: Size = SIZES[name as keyof typeof SIZES];
  return {
    model_type: "transnormer",
    architectures: ["TransnormerForCausalLM"],
    bos_token_id: SPECIAL_TOKENS.begin,
    eos_token_id: SPECIAL_TOKENS.end,
    pad_token_id: SPECIAL_TOKENS.pad,
    vocab_size: VOCAB_SIZE,
    decoder_embed_dim: embed,
    decoder_layers: layers,
    decoder_attention_heads: heads,
    hidden_dim: embed,
    glu_dim: glu,
    norm_type: "simplermsnorm",
    linear_act_fun: "silu",
    linear_use_lrpe_list: Array.from({ length: layers }, (_, l) => l < lrpe ? 1 : 0),
    bias: false,
    no_scale_embedding: false,
    tie_word_embeddings: false,
    init_std: 0.02,
  };
}

/**
 * First weights, seeded: matrices from a normal distribution of deviation 0.02, those that write to the residual stream
 * divided by the root of their number (GPT-2's rule), norms 1, biases 0, θ the angles of the authors' code.
 */
export function initialWeights(
  config: TransNormerConfig,
  seed: number,
): (name: string, shape: readonly number[]) => { value: Float32Array } {
  const random = randomNumbers(seed);
  return (name, shape) => {
    const value = new Float32Array(elementCount(shape));
    if (name.endsWith("theta")) {
      // 10000^(−2i/n) over all heads together.
      return { value: value.map((_, i) => 10000 ** (-2 * i / value.length)) };
    }
    if (shape.length === 1) return { value: value.fill(name.endsWith("norm.weight") ? 1 : 0) };
    const isResidual = name.endsWith("out_proj.weight") || name.endsWith("l3.weight");
    const deviation = 0.02 / (isResidual ? Math.sqrt(2 * config.layers) : 1);
    // Box-Muller; 1 − random is never 0.
    return {
      value: value.map(() =>
        deviation * Math.sqrt(-2 * Math.log(1 - random())) * Math.cos(2 * Math.PI * random())
      ),
    };
  };
}

/** `tokenizer.json` of the byte-level vocabulary: a prompt begins with the begin token, as documents do. */
export function byteTokenizer(): Record<string, unknown> {
  const content = { begin: "<|begin|>", end: "<|end|>", pad: "<|pad|>" };
  const special = Object.keys(SPECIAL_TOKENS) as (keyof typeof SPECIAL_TOKENS)[];
  const begin = { SpecialToken: { id: content.begin, type_id: 0 } };
  return {
    version: "1.0",
    truncation: null,
    padding: null,
    added_tokens: special.map((name) => ({
      id: SPECIAL_TOKENS[name],
      content: content[name],
      single_word: false,
      lstrip: false,
      rstrip: false,
      normalized: false,
      special: true,
    })),
    normalizer: null,
    pre_tokenizer: { type: "ByteLevel", add_prefix_space: false, trim_offsets: true, use_regex: false },
    post_processor: {
      type: "TemplateProcessing",
      single: [begin, { Sequence: { id: "A", type_id: 0 } }],
      pair: [begin, { Sequence: { id: "A", type_id: 0 } }, { Sequence: { id: "B", type_id: 1 } }],
      special_tokens: {
        [content.begin]: { id: content.begin, ids: [SPECIAL_TOKENS.begin], tokens: [content.begin] },
      },
    },
    decoder: { type: "ByteLevel", add_prefix_space: false, trim_offsets: true, use_regex: false },
    model: {
      type: "BPE",
      dropout: null,
      unk_token: null,
      continuing_subword_prefix: null,
      end_of_word_suffix: null,
      fuse_unk: false,
      byte_fallback: false,
      vocab: Object.fromEntries(CHARACTER_OF_BYTE.map((character, byte) => [character, byte])),
      merges: [],
    },
  };
}

/** A `config.json` by the name of its size, or by its path. */
export async function readConfig(nameOrPath: string): Promise<Record<string, unknown>> {
  if (!nameOrPath.endsWith(".json")) return configByName(nameOrPath);
  try {
    return JSON.parse(await readFile(nameOrPath, "utf8"));
  } catch (cause) {
    throw new RangeError(message("train", "config must be a readable config.json", nameOrPath), { cause });
  }
}
