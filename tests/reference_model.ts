/**
 * The oracle for a whole TransNormerLLM: float64, from `config.json` and tensors by their published names, written
 * from the papers' equations on top of `reference.ts` and sharing nothing with `model/`. Also small random checkpoints
 * to compare on, as files.
 *
 * @module
 */
import type { Activation } from "../core/machine.ts";
import { alibiSlopes, layerSlopes } from "../core/decay.ts";
import { seeded } from "./numbers.ts";
import { activate, embedding, lightningAttention, linear, lrpe, norm, splitHeads } from "./reference.ts";

/** `config.json`, as far as the model's answers depend on it. */
export interface ConfigJson {
  vocab_size: number;
  decoder_embed_dim: number;
  decoder_layers: number;
  decoder_attention_heads: number;
  hidden_dim: number;
  glu_dim: number;
  linear_act_fun?: string;
  linear_use_lrpe_list?: (number | boolean)[];
  norm_type?: string;
  glu_act_fun?: string;
  use_output_gate?: boolean;
  use_output_norm?: boolean;
  use_decay_temperature?: boolean;
  bias?: boolean;
  no_scale_embedding?: boolean;
  tie_word_embeddings?: boolean;
  eos_token_id?: number | number[] | null;
  bos_token_id?: number | null;
}

/** Tensors by name. */
export type Tensors = Map<string, { shape: number[]; data: Float32Array }>;

/** A small config to vary. */
export const SMALL: ConfigJson = {
  vocab_size: 23,
  decoder_embed_dim: 12,
  decoder_layers: 2,
  decoder_attention_heads: 3,
  hidden_dim: 18,
  glu_dim: 10,
  linear_act_fun: "silu",
  linear_use_lrpe_list: [1, 0],
};

/** Random tensors of every parameter that the config has. */
export function randomTensors(config: ConfigJson, seed: number): Tensors {
  const random = seeded(seed);
  const tensors: Tensors = new Map();
  const add = (name: string, shape: number[], spread: number, center = 0) => {
    const size = shape.reduce((product, n) => product * n, 1);
    const data = Float32Array.from({ length: size }, () => center + spread * (2 * random() - 1));
    tensors.set(name, { shape, data });
  };
  const { decoder_embed_dim: D, hidden_dim: H, decoder_attention_heads: heads, vocab_size } = config;
  const G = config.glu_dim === -1 ? D : config.glu_dim;
  const dense = (name: string, out: number, inner: number) => {
    add(`${name}.weight`, [out, inner], 2 / Math.sqrt(inner));
    if (config.bias) add(`${name}.bias`, [out], 0.5);
  };
  const layerNorm = (name: string, width: number) => {
    if ((config.norm_type ?? "simplermsnorm") === "simplermsnorm") return;
    add(`${name}.weight`, [width], 0.5, 1);
    if (config.norm_type !== "rmsnorm") add(`${name}.bias`, [width], 0.5);
  };
  add("model.embed_tokens.weight", [vocab_size, D], 1);
  for (let l = 0; l < config.decoder_layers; l++) {
    const layer = `model.layers.${l}`;
    layerNorm(`${layer}.token_norm`, D);
    dense(`${layer}.token_mixer.qkvu_proj`, (config.use_output_gate === false ? 3 : 4) * H, D);
    if (config.linear_use_lrpe_list?.[l]) {
      add(`${layer}.token_mixer.lrpe.theta`, [heads, 1, H / heads], 0.5, 0.5);
    }
    if (config.use_output_norm !== false) layerNorm(`${layer}.token_mixer.norm`, H);
    dense(`${layer}.token_mixer.out_proj`, D, H);
    layerNorm(`${layer}.channel_norm`, D);
    dense(`${layer}.channel_mixer.l1`, G, D);
    dense(`${layer}.channel_mixer.l2`, G, D);
    dense(`${layer}.channel_mixer.l3`, D, G);
  }
  layerNorm("model.final_norm", D);
  if (!config.tie_word_embeddings) add("lm_head.weight", [vocab_size, D], 2 / Math.sqrt(D));
  return tensors;
}

/** What mixes tokens, layout `[batch, heads, seqLen, dim]`. */
export type Attend = (
  q: Float64Array,
  k: Float64Array,
  v: Float64Array,
  sizes: Parameters<typeof lightningAttention>[3],
  slopes: number[],
) => Float64Array;

/** Logits `[batch, seqLen, vocab]` of rows of equal length. */
export function referenceLogits(
  config: ConfigJson,
  tensors: ReadonlyMap<string, { data: ArrayLike<number> }>,
  ids: number[][],
  attend: Attend = (q, k, v, sizes, slopes) => lightningAttention(q, k, v, sizes, { slopes }).output,
): Float64Array {
  const batch = ids.length, seqLen = ids[0].length, rows = batch * seqLen;
  const { decoder_embed_dim: D, hidden_dim: H, decoder_attention_heads: heads, decoder_layers } = config;
  const G = config.glu_dim === -1 ? D : config.glu_dim;
  const headDim = H / heads;
  const name = config.linear_act_fun ?? "silu";
  const activation = (name === "swish" ? "silu" : name === "none" ? "identity" : name) as Activation;
  const get = (name: string) => {
    const tensor = tensors.get(name);
    if (tensor === undefined) throw new Error(`the reference misses ${name}`);
    return tensor.data;
  };
  const dense = (name: string, x: Float64Array, inner: number, out: number, residual?: Float64Array) =>
    linear(
      x,
      get(`${name}.weight`),
      [rows, inner, out],
      config.bias ? get(`${name}.bias`) : undefined,
      residual,
    );
  const normed = (name: string, x: Float64Array, width: number, gate?: Float64Array) =>
    (config.norm_type ?? "simplermsnorm") === "simplermsnorm"
      ? norm(x, width, 1e-6, undefined, gate)
      : config.norm_type === "rmsnorm"
      ? norm(x, width, 1e-6, { weight: get(`${name}.weight`) }, gate)
      : norm(x, width, 1e-5, { weight: get(`${name}.weight`), bias: get(`${name}.bias`) }, gate);

  const scale = config.no_scale_embedding ? 1 : Math.sqrt(D);
  let x = embedding(get("model.embed_tokens.weight"), D, ids.flat(), scale);
  for (let l = 0; l < decoder_layers; l++) {
    const layer = `model.layers.${l}`;
    const h = normed(`${layer}.token_norm`, x, D);
    const parts = config.use_output_gate === false ? 3 : 4;
    const joint = dense(`${layer}.token_mixer.qkvu_proj`, h, D, parts * H);
    let { q, k, v, u } = splitHeads(joint, H, heads, activation, parts);
    let d = headDim;
    if (config.linear_use_lrpe_list?.[l]) {
      const theta = get(`${layer}.token_mixer.lrpe.theta`), zeros = ids.map(() => 0);
      q = lrpe(q, theta, [batch, seqLen, heads, headDim], zeros);
      k = lrpe(k, theta, [batch, seqLen, heads, headDim], zeros);
      d = 2 * headDim;
    }
    const swap = (x: Float64Array, dim: number) => exchange(x, [batch, seqLen, heads, dim]);
    const output = attend(
      swap(q, d),
      swap(k, d),
      swap(v, headDim),
      { batch, heads, seqLen, headDim: d, valueDim: headDim },
      config.use_decay_temperature === false ? alibiSlopes(heads) : layerSlopes(heads, l, decoder_layers),
    );
    const attention = exchange(output, [batch, heads, seqLen, headDim]);
    const gated = config.use_output_norm === false
      ? attention
      : normed(`${layer}.token_mixer.norm`, attention, H, u);
    x = dense(`${layer}.token_mixer.out_proj`, gated, H, D, x);
    const c = normed(`${layer}.channel_norm`, x, D);
    const a = dense(`${layer}.channel_mixer.l1`, c, D, G), b = dense(`${layer}.channel_mixer.l2`, c, D, G);
    x = dense(
      `${layer}.channel_mixer.l3`,
      activate(a, G, (config.glu_act_fun ?? "identity") as Activation).map((value, i) => value * b[i]),
      G,
      D,
      x,
    );
  }
  const last = normed("model.final_norm", x, D);
  const head = tensors.has("lm_head.weight") ? "lm_head.weight" : "model.embed_tokens.weight";
  return linear(last, get(head), [rows, D, config.vocab_size]);
}

/** Exchanges dimensions 1 and 2 of four, in float64. */
function exchange(x: Float64Array, [n0, n1, n2, n3]: readonly number[]): Float64Array {
  const y = new Float64Array(x.length);
  for (let a = 0; a < n0; a++) {
    for (let b = 0; b < n1; b++) {
      for (let c = 0; c < n2; c++) {
        for (let i = 0; i < n3; i++) {
          y[((a * n2 + c) * n1 + b) * n3 + i] = x[((a * n1 + b) * n2 + c) * n3 + i];
        }
      }
    }
  }
  return y;
}

/** Element types that a checkpoint may be written in. */
export type FileType = "F32" | "F16" | "BF16";

/** A safetensors file, written here by hand so that reading is not tested against our own writing. */
export function safetensorsFile(tensors: Tensors, dtype: FileType = "F32"): Uint8Array<ArrayBuffer> {
  const header: Record<string, unknown> = {};
  const parts: Uint8Array[] = [];
  let end = 0;
  for (const [name, { shape, data }] of tensors) {
    const part = new Uint8Array(data.length * (dtype === "F32" ? 4 : 2));
    const view = new DataView(part.buffer);
    data.forEach((value, i) => {
      if (dtype === "F32") view.setFloat32(4 * i, value, true);
      else if (dtype === "F16") view.setFloat16(2 * i, value, true);
      else view.setUint16(2 * i, toBfloat16(value), true);
    });
    header[name] = { dtype, shape, data_offsets: [end, end + part.length] };
    end += part.length;
    parts.push(part);
  }
  const json = new TextEncoder().encode(JSON.stringify(header));
  const length = new Uint8Array(8);
  new DataView(length.buffer).setBigUint64(0, BigInt(json.length), true);
  return concat([length, json, ...parts]);
}

/** The values that a file of the type can hold. */
export function rounded(tensors: Tensors, dtype: FileType): Tensors {
  const round = (value: number) => {
    if (dtype === "F32") return value;
    if (dtype === "F16") return Math.f16round(value);
    return new Float32Array(Uint32Array.of(toBfloat16(value) << 16).buffer)[0];
  };
  return new Map([...tensors].map(([name, { shape, data }]) => [name, { shape, data: data.map(round) }]));
}

/** Upper half of the f32, rounded to nearest (ties do not matter here). */
function toBfloat16(value: number): number {
  return new Uint32Array(Float32Array.of(value).buffer)[0] + 0x8000 >>> 16;
}

/** One after another. */
export function concat(parts: Uint8Array[]): Uint8Array<ArrayBuffer> {
  const bytes = new Uint8Array(parts.reduce((sum, part) => sum + part.length, 0));
  let offset = 0;
  for (const part of parts) {
    bytes.set(part, offset);
    offset += part.length;
  }
  return bytes;
}

/** A checkpoint's files. */
export type Files = Record<string, Uint8Array<ArrayBuffer>>;

/** Text as a file. */
export function textFile(value: unknown): Uint8Array<ArrayBuffer> {
  return new TextEncoder().encode(typeof value === "string" ? value : JSON.stringify(value));
}

/** The characters that byte-level vocabularies write the 256 bytes as, from their published description. */
const BYTE_CHARACTERS: string[] = (() => {
  const printable = [[0x21, 0x7e], [0xa1, 0xac], [0xae, 0xff]];
  let next = 256;
  return Array.from(
    { length: 256 },
    (_, byte) =>
      String.fromCodePoint(printable.some(([from, to]) => byte >= from && byte <= to) ? byte : next++),
  );
})();

/** A byte-level `tokenizer.json`: ids 0 to 255 are the bytes, then merges, then special and added tokens. */
export function byteLevelJson(): Record<string, unknown> {
  const vocab = Object.fromEntries(BYTE_CHARACTERS.map((character, byte) => [character, byte]));
  const merges = [["h", "e"], ["l", "l"], ["he", "ll"], ["hell", "o"], [
    BYTE_CHARACTERS[0xe2],
    BYTE_CHARACTERS[0x82],
  ]];
  merges.forEach(([a, b], i) => vocab[a + b] = 256 + i);
  const added = (id: number, content: string, special: boolean) => ({
    id,
    content,
    special,
    single_word: false,
    lstrip: false,
    rstrip: false,
    normalized: false,
  });
  return {
    version: "1.0",
    added_tokens: [added(261, "<|end|>", true), added(262, "<tab>", false)],
    normalizer: null,
    pre_tokenizer: { type: "ByteLevel", add_prefix_space: false, trim_offsets: false, use_regex: false },
    post_processor: null,
    decoder: { type: "ByteLevel", add_prefix_space: false, trim_offsets: false, use_regex: false },
    model: { type: "BPE", vocab, merges, unk_token: null, byte_fallback: false },
  };
}

/** The files of an unsharded checkpoint. */
export function checkpoint(config: unknown, tensors: Tensors, dtype: FileType = "F32"): Files {
  return { "config.json": textFile(config), "model.safetensors": safetensorsFile(tensors, dtype) };
}

/** Where {@linkcode serving} serves from. */
export const SERVED = "https://models.test/small";

/** A `fetch` that serves files under {@linkcode SERVED}, streamed in uneven pieces and without a length. */
export function serving(files: Files, onPiece?: (file: string) => void): typeof fetch {
  return (input, init) => {
    const url = new URL(input instanceof Request ? input.url : input);
    const name = url.pathname.replace("/small/", "");
    if (!Object.hasOwn(files, name)) return Promise.resolve(new Response("none", { status: 404 }));
    let offset = 0, piece = 1;
    const body = new ReadableStream<Uint8Array>({
      pull(controller) {
        onPiece?.(name);
        if (init?.signal?.aborted) return controller.error(init.signal.reason);
        if (offset >= files[name].length) return controller.close();
        controller.enqueue(files[name].slice(offset, offset + piece));
        offset += piece;
        piece = piece * 3 % 1009;
      },
    });
    return Promise.resolve(new Response(body));
  };
}
