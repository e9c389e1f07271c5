/**
 * Checkpoints of random weights on disk: the published sizes, or any other.
 *
 * @module
 */
import { toBfloat16 } from "../../core/bfloat16.ts";
import { elementCount } from "../../core/shape.ts";
import { parseConfig } from "../../model/config.ts";
import { encodeSafetensorsHeader } from "../../model/safetensors.ts";
import { mapWeights } from "../../model/weights.ts";
import type { ConfigJson } from "../../tests/reference_model.ts";

/** A published configuration: embed, layers, heads, glu, vocab. */
function published(
  [decoder_embed_dim, decoder_layers, decoder_attention_heads, glu_dim, vocab_size]: readonly number[],
  linear_act_fun = "swish",
): ConfigJson {
  return {
    vocab_size,
    decoder_embed_dim,
    decoder_layers,
    decoder_attention_heads,
    hidden_dim: decoder_embed_dim,
    glu_dim,
    linear_act_fun,
    linear_use_lrpe_list: Array.from({ length: decoder_layers }, (_, l) => l === 0 ? 1 : 0),
    tie_word_embeddings: true,
  };
}

/** The configurations that the authors published, by the names of their models. */
export const PUBLISHED = {
  "385M": published([1024, 24, 8, 2816, 50272], "none"),
  "1B": published([2048, 16, 16, 5632, 64000]),
  "3B": published([2560, 32, 20, 6912, 64000]),
  "7B": published([4096, 30, 32, 11008, 64000]),
} as const;

/** The name of a published configuration. */
export type PublishedName = keyof typeof PUBLISHED;

/** Words that are written at a time. */
const WORDS = 2 ** 22;

/**
 * Writes a checkpoint with random weights in BF16, as large as a trained one's: evenly distributed up to `1.7 / √in`, so
 * that a product keeps the magnitude of its rows.
 *
 * @param onProgress called with the bytes written and the bytes in all
 */
export async function writeCheckpoint(
  folder: string,
  json: ConfigJson,
  onProgress?: (bytes: number, totalBytes: number) => void,
): Promise<void> {
  const config = { model_type: "transnormer", torch_dtype: "bfloat16", ...json };
  const tensors: { name: string; dtype: string; shape: readonly number[] }[] = [];
  const tied = json.tie_word_embeddings === true;
  mapWeights(parseConfig(config), tied, (name, shape) => tensors.push({ name, dtype: "BF16", shape }));
  await Deno.mkdir(folder, { recursive: true });
  await Deno.writeTextFile(`${folder}/config.json`, JSON.stringify(config, undefined, 2));
  using file = await Deno.open(`${folder}/model.safetensors`, { write: true, create: true, truncate: true });
  const write = async (bytes: Uint8Array) => {
    for (let at = 0; at < bytes.length;) at += await file.write(bytes.subarray(at));
  };
  await write(encodeSafetensorsHeader(tensors));
  const words = new Uint16Array(WORDS), values = new Uint16Array(65536);
  const totalBytes = tensors.reduce((sum, { shape }) => sum + 2 * elementCount(shape), 0);
  let written = 0, random = 7;
  for (const { shape } of tensors) {
    const magnitude = 1.7 / Math.sqrt(shape[shape.length - 1]);
    values.forEach((_, i) => values[i] = toBfloat16(magnitude * (i / 32768 - 1)));
    const size = elementCount(shape);
    for (let at = 0; at < size; at += WORDS) {
      const count = Math.min(WORDS, size - at);
      for (let i = 0; i < count; i++) {
        random ^= random << 13; // xorshift32 (Marsaglia, 2003): 14 GB take a while as it is
        random ^= random >>> 17;
        random ^= random << 5;
        words[i] = values[random >>> 16];
      }
      await write(new Uint8Array(words.buffer, 0, 2 * count));
      written += 2 * count;
      onProgress?.(written, totalBytes);
    }
  }
}
