/**
 * Whole models: reading a prompt and generating, token by token.
 *
 * @module
 */
import type { Backend, Tensor } from "../../mod.ts";
import { TransNormerLLM } from "../../model/mod.ts";
import { parseConfig } from "../../model/config.ts";
import { fromBfloat16s, toBfloat16s } from "../../core/bfloat16.ts";
import { elementBytes, type FloatType } from "../../core/dtype.ts";
import { dequantize, quantize, quantizedRow } from "../../core/quantize.ts";
import { elementCount } from "../../core/shape.ts";
import { mapWeights } from "../../model/weights.ts";
import { assertClose, randomArray, seeded } from "../../tests/numbers.ts";
import { type ConfigJson, referenceLogits, type Tensors } from "../../tests/reference_model.ts";
import { type Case, on } from "./cases.ts";

/** About 100 M parameters. */
export const HUNDRED_MILLION: ConfigJson = {
  vocab_size: 8192,
  decoder_embed_dim: 768,
  decoder_layers: 12,
  decoder_attention_heads: 12,
  hidden_dim: 768,
  glu_dim: 2048,
  linear_use_lrpe_list: Array.from({ length: 12 }, (_, l) => l === 0 ? 1 : 0),
};

/** About 5 M parameters: long contexts in a time that a person waits. */
export const FIVE_MILLION: ConfigJson = {
  vocab_size: 512,
  decoder_embed_dim: 256,
  decoder_layers: 6,
  decoder_attention_heads: 4,
  hidden_dim: 256,
  glu_dim: 704,
  linear_use_lrpe_list: Array.from({ length: 6 }, (_, l) => l === 0 ? 1 : 0),
};

/** Tokens whose logits are held to the float64 reference: prefill of all but the last, and a step. */
const CHECKED = 4;
/** Through all layers: f32; rows of x in 16 bits with weights of 8; rows in 8 bits with weights of 4. */
const LIMITS = { f32: 2e-5, bf16: 2e-5, int8: 2e-3, int4: 0.1 };

/**
 * A model with random weights, its matrices stored as `dtype`, integers in groups of `group`. Its answers were held to the float64
 * reference on the same weights.
 */
export async function randomModel(
  backend: Backend,
  json: ConfigJson,
  dtype: "f32" | "bf16" | "int8" | "int4" = "f32",
  group: 32 | 64 = 64,
): Promise<TransNormerLLM> {
  const config = parseConfig({ ...json, model_type: "transnormer" });
  const random = seeded(7);
  const tensors: Tensors = new Map();
  const parameters: Tensor[] = [];
  const weights = mapWeights(config, false, (name, shape) => {
    const data = new Float32Array(elementCount(shape));
    const magnitude = 1.7 / Math.sqrt(shape[shape.length - 1]);
    for (let i = 0; i < data.length; i++) data[i] = magnitude * (2 * random() - 1);
    const stored = shape.length === 2 ? dtype : "f32";
    let tensor: Tensor;
    if (stored === "int8" || stored === "int4") {
      const integers = quantize(data, shape, { bits: stored === "int8" ? 8 : 4, group });
      tensors.set(name, { shape: [...shape], data: dequantize(integers) });
      tensor = backend.quantized(integers);
    } else {
      const rounded = stored === "bf16" ? fromBfloat16s(toBfloat16s(data)) : data;
      tensors.set(name, { shape: [...shape], data: rounded });
      tensor = backend.tensor(rounded, shape.length === 3 ? [shape[0], shape[2]] : shape, { dtype: stored });
    }
    parameters.push(tensor);
    return tensor;
  });
  const model = new TransNormerLLM(backend, {
    config,
    weights,
    parameters,
    tokenizer: undefined,
    fingerprint: `random weights in ${dtype}, ${JSON.stringify(json)}`,
  });
  const ids = Array.from({ length: CHECKED }, () => Math.floor(config.vocabSize * random()));
  const expected = referenceLogits(json, tensors, [ids]).subarray((CHECKED - 2) * config.vocabSize);
  using session = model.session();
  using prompt = session.prefill(ids.slice(0, -1));
  assertClose(
    await prompt.data(),
    expected.subarray(0, config.vocabSize),
    LIMITS[dtype],
    "logits of a prefill",
  );
  using next = session.step(ids[CHECKED - 1]);
  assertClose(await next.data(), expected.subarray(config.vocabSize), LIMITS[dtype], "logits of a step");
  return model;
}

/** How matrices may be stored. */
export const STORED = ["f32", "bf16", "int8", "int4"] as const;
/** One of them. */
export type Stored = (typeof STORED)[number];

/**
 * A model of any size with weights that are nothing but noise, the same values whatever stores them, integers in groups of
 * 32: to measure speed. Normal numbers for each of billions of parameters would take minutes.
 */
export function noiseModel(backend: Backend, json: ConfigJson, dtype: Stored): TransNormerLLM {
  const config = parseConfig({ model_type: "transnormer", ...json });
  const source = toBfloat16s(randomArray([2 ** 22], 1).map((x) => x / 32));
  const wide = fromBfloat16s(source), bytes = new Uint8Array(source.buffer);
  const parameters: Tensor[] = [];
  const floats = (shape: readonly number[], type: FloatType, offset: number) => {
    const tensor = backend.empty(shape, type), noise = type === "f32" ? wide : source;
    for (let start = 0; start < tensor.size;) {
      const from = start === 0 ? 2 * offset % noise.length : 0;
      const part = noise.subarray(from, Math.min(noise.length, from + tensor.size - start));
      backend.write(tensor, part, start);
      start += part.length;
    }
    return tensor;
  };
  const integers = ([outDim, inDim]: readonly number[], bits: 8 | 4, offset: number) => {
    const row = quantizedRow(inDim, { bits, group: 32 }), values = new Uint8Array(outDim * row.bytes);
    for (let start = 0; start < values.length;) {
      const from = start === 0 ? offset % bytes.length : 0; // the low bytes of numbers are random, the high ones are few
      const part = bytes.subarray(from, Math.min(bytes.length, from + values.length - start));
      values.set(part, start);
      start += part.length;
    }
    const [scale] = toBfloat16s(Float32Array.of(1 / 32 / 2 ** (bits - 1)));
    const scales = new Uint16Array(outDim * row.groups).fill(scale);
    return backend.quantized({ shape: [outDim, inDim], bits, group: 32, values, scales });
  };
  const weights = mapWeights(config, config.tieWordEmbeddings ?? false, (_, shape) => {
    const flat = shape.length === 3 ? [shape[0], shape[2]] : shape, offset = 1000 * parameters.length;
    const stored = shape.length === 2 ? dtype : "f32";
    const tensor = stored === "int8" || stored === "int4"
      ? integers(flat, stored === "int8" ? 8 : 4, offset)
      : floats(flat, stored, offset);
    parameters.push(tensor);
    return tensor;
  });
  const fingerprint = `noise in ${dtype}, ${JSON.stringify(json)}`;
  return new TransNormerLLM(backend, { config, weights, parameters, tokenizer: undefined, fingerprint });
}

/** Bytes of weights in f32 that one token must read: all but the embedding, of which it takes a row. */
function weightBytes(model: TransNormerLLM): number {
  return 4 * (model.parameterCount - model.weights.embedTokens.size);
}

/** Bytes of weights that one token reads as they are stored. What is not a matrix counts as one: it is a thousandth. */
export function decodeBytes(model: TransNormerLLM): number {
  return weightBytes(model) / 4 * elementBytes(model.weights.lmHead.dtype as FloatType);
}

function describe(model: TransNormerLLM): string {
  return `${Math.round(model.parameterCount / 1e6)} M parameters${on(model.backend)}`;
}

/** One token after another: bound by reading the weights. The case lives as long as the model. */
export function decodeCase(model: TransNormerLLM): Case {
  const session = model.session();
  const isWhole = model.weights.lmHead.dtype === "f32";
  let id = 0;
  return {
    name: `decode, ${describe(model)}`,
    operations: 0,
    // Of quantised weights the bytes are not counted: they are compared with f32.
    bytes: isWhole ? weightBytes(model) : 0,
    tokens: 1,
    async run() {
      using logits = session.step(id++ % model.config.vocabSize);
      // What a generation does: the next token depends on them.
      await logits.data();
    },
    [Symbol.dispose]: () => session.dispose(),
  };
}

/** A prompt of `tokens` tokens. The case lives as long as the model. */
export function prefillCase(model: TransNormerLLM, tokens: number): Case {
  const ids = Uint32Array.from({ length: tokens }, (_, i) => i * 7919 % model.config.vocabSize);
  return {
    name: `prefill of ${tokens} tokens, ${describe(model)}`,
    // The last layer's logits are of one token.
    operations: 2 * tokens * (weightBytes(model) / 4 - model.weights.lmHead.size),
    bytes: 0,
    tokens,
    async run() {
      using session = model.session();
      using logits = session.prefill(ids);
      await logits.data();
    },
    [Symbol.dispose]() {},
  };
}
