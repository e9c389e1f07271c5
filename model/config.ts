/**
 * `config.json` of a TransNormerLLM checkpoint, checked.
 *
 * @module
 */
import { rangeError, show, typeError } from "../core/errors.ts";
import { type Activation, ACTIVATIONS } from "../core/ops.ts";
import type { Quantization } from "../core/quantize.ts";
import { Sampler, type SamplingOptions } from "./sampling.ts";

/** What the library keeps of `config.json`. */
export interface TransNormerConfig {
  /** `vocab_size`. */
  readonly vocabSize: number;
  /** `decoder_embed_dim`: width of the residual stream. */
  readonly embedDim: number;
  /** `decoder_layers`. */
  readonly layers: number;
  /** `decoder_attention_heads`; divides `hiddenDim`. */
  readonly heads: number;
  /** `hidden_dim`: width of query, key, value and gate, all heads together. */
  readonly hiddenDim: number;
  /** `glu_dim`; −1 there means `decoder_embed_dim`. */
  readonly gluDim: number;
  /** `linear_act_fun`, `"swish"` written `"silu"`. */
  readonly activation: Activation;
  /** `linear_use_lrpe_list`, one value per layer. */
  readonly useLrpe: readonly boolean[];
  /**
   * `norm_type`: `"simplermsnorm"` is `"srmsnorm"`; `"rmsnorm"` has a weight and no bias; everything else is LayerNorm,
   * as in the authors' code.
   */
  readonly norm: "srmsnorm" | "rmsnorm" | "layernorm";
  /** `glu_act_fun`: activation of the channel mixer's first factor. Default: none, SGLU. Published models have none. */
  readonly gluActivation: Activation;
  /** `use_output_gate`, default true: `u ⊙ norm(o)` in the token mixer. Published models have it. */
  readonly outputGate: boolean;
  /** `use_output_norm`, default true: `norm(o)` in the token mixer; a gate needs it. Published models have it. */
  readonly outputNorm: boolean;
  /** `use_decay_temperature`, default true: lower layers forget faster. Published models have it. */
  readonly decayTemperature: boolean;
  /** `bias`: whether the linear layers, except the last, have one. */
  readonly bias: boolean;
  /** Factor of the embedding: `sqrt(decoder_embed_dim)`, or 1 where `no_scale_embedding` is true. */
  readonly embeddingScale: number;
  /**
   * `tie_word_embeddings`: the embedding serves as `lm_head` where the checkpoint has none. Absent: the checkpoint
   * decides, as transformers' default was true when the published models were made. Of a loaded model: whether it does.
   */
  readonly tieWordEmbeddings: boolean | undefined;
  /** `gate_dim`, the inner size of TransNormerLLM3's low-rank gate, which the library does not compute; if any. */
  readonly gateDim?: number;
  /** `bos_token_id`, if any. */
  readonly bosTokenId: number | undefined;
  /** `eos_token_id`: a number, several or none. Of a loaded model also those of `generation_config.json`. */
  readonly eosTokenIds: readonly number[];
  /** `quantization_config` of `deno task convert`; undefined where weights are floating-point numbers. */
  readonly quantization?: Quantization;
}

const OPERATION = "TransNormerLLM.load";

/** Other spellings of activations. The authors' code takes every name it does not know for the identity. */
const SPELLINGS: Readonly<Record<string, Activation>> = {
  "swish": "silu",
  "none": "identity",
  "linear": "identity",
  "": "identity",
};

/** Norms by `norm_type`. */
const NORMS: Readonly<Record<string, TransNormerConfig["norm"] | undefined>> = {
  simplermsnorm: "srmsnorm",
  rmsnorm: "rmsnorm",
};

/**
 * Checks a parsed `config.json`. Keys that inference does not need are ignored; absent keys take the authors'
 * defaults, except sizes, which must be there.
 *
 * A misspelt `linear_act_fun` is refused, not taken for the identity: the answers would be wrong without a word.
 *
 * @throws {TypeError} when a value is of the wrong kind
 * @throws {RangeError} when a value does not exist or does not fit the others
 */
export function parseConfig(json: unknown): TransNormerConfig {
  if (typeof json !== "object" || json === null || Array.isArray(json)) {
    typeError(OPERATION, "config.json must hold an object", json);
  }
  const fields = json as Record<string, unknown>;
  const modelType = fields.model_type ?? "transnormer";
  if (modelType !== "transnormer") {
    rangeError(OPERATION, `model_type must be "transnormer"`, modelType, "config.json");
  }
  const embedDim = size(fields, "decoder_embed_dim");
  const hiddenDim = size(fields, "hidden_dim");
  const heads = size(fields, "decoder_attention_heads");
  if (hiddenDim % heads !== 0) {
    rangeError(OPERATION, "decoder_attention_heads must divide hidden_dim", heads, `hidden_dim ${hiddenDim}`);
  }
  const layers = size(fields, "decoder_layers");
  const outputGate = flag(fields, "use_output_gate", { preset: true });
  const outputNorm = flag(fields, "use_output_norm", { preset: true });
  if (outputGate && !outputNorm) {
    rangeError(OPERATION, "use_output_norm must be true with an output gate", outputNorm, "config.json");
  }
  return {
    vocabSize: size(fields, "vocab_size"),
    embedDim,
    layers,
    heads,
    hiddenDim,
    gluDim: fields.glu_dim === -1 ? embedDim : size(fields, "glu_dim"),
    activation: activation(fields.linear_act_fun ?? "silu", "linear_act_fun"),
    useLrpe: useLrpe(fields.linear_use_lrpe_list ?? [], layers),
    norm: NORMS[text(fields, "norm_type", "simplermsnorm")] ?? "layernorm",
    gluActivation: activation(fields.glu_act_fun ?? "none", "glu_act_fun"),
    outputGate,
    outputNorm,
    decayTemperature: flag(fields, "use_decay_temperature", { preset: true }),
    bias: flag(fields, "bias"),
    embeddingScale: flag(fields, "no_scale_embedding") ? 1 : Math.sqrt(embedDim),
    tieWordEmbeddings: isGiven(fields, "tie_word_embeddings")
      ? flag(fields, "tie_word_embeddings")
      : undefined,
    gateDim: isGiven(fields, "gate_dim") ? size(fields, "gate_dim") : undefined,
    bosTokenId: tokenIds(fields, "bos_token_id")[0],
    eosTokenIds: tokenIds(fields, "eos_token_id"),
    quantization: quantization(fields.quantization_config),
  };
}

/** What the library keeps of `generation_config.json`. */
export interface GenerationConfig {
  /** `eos_token_id`: a number, several or none. */
  readonly eosTokenIds: readonly number[];
  /** Defaults of sampling; those that the file does not give are absent. */
  readonly sampling: SamplingOptions;
}

/**
 * Checks a parsed `generation_config.json`: end-of-sequence tokens, and how to sample unless the caller says otherwise.
 * `do_sample: false` is temperature 0; a `top_k` below 1 and `null` mean none.
 *
 * @throws {TypeError} when a value is of the wrong kind @throws {RangeError} when it is out of range
 */
export function parseGenerationConfig(json: unknown): GenerationConfig {
  const file = "generation_config.json";
  if (typeof json !== "object" || json === null || Array.isArray(json)) {
    typeError(OPERATION, `${file} must hold an object`, json);
  }
  const fields = json as Record<string, unknown>;
  const names = {
    temperature: "temperature",
    top_k: "topK",
    top_p: "topP",
    min_p: "minP",
    repetition_penalty: "repetitionPenalty",
  } as const;
  const sampling: { -readonly [key in (typeof names)[keyof typeof names]]?: number } = {};
  for (const [key, name] of Object.entries(names)) {
    const value = fields[key];
    if (!isGiven(fields, key) || key === "top_k" && typeof value === "number" && value < 1) continue;
    try {
      new Sampler({ [name]: value });
    } catch (error) {
      const why = (error as Error).message.replace(/^.* as \w+ must be (.*): current value is .*$/, "$1");
      const refuse = error instanceof TypeError ? typeError : rangeError;
      refuse(OPERATION, `${key} must be ${why}`, value, file);
    }
    sampling[name] = value as number;
  }
  if (isGiven(fields, "do_sample") && !flag(fields, "do_sample", { file })) sampling.temperature = 0;
  return { eosTokenIds: tokenIds(fields, "eos_token_id", file), sampling };
}

/** `null` counts as absent, as in transformers. */
function isGiven(fields: Record<string, unknown>, key: string): boolean {
  return fields[key] !== undefined && fields[key] !== null;
}

function quantization(value: unknown): Quantization | undefined {
  if (value === undefined || value === null) return undefined;
  const fields = value as Record<string, unknown>;
  if (typeof value !== "object" || fields.quant_method !== "levin" || fields.version !== 1) {
    const method = typeof value === "object" ? `${fields.quant_method} ${fields.version}` : value;
    rangeError(
      OPERATION,
      `quantization_config must have quant_method "levin" and version 1`,
      method,
      "config.json",
    );
  }
  const { bits, group_size: group } = fields;
  if (bits !== 8 && bits !== 4) rangeError(OPERATION, "bits must be 8 or 4", bits, "config.json");
  if (group !== 32 && group !== 64) {
    rangeError(OPERATION, "group_size must be 32 or 64", group, "config.json");
  }
  return { bits, group };
}

function size(fields: Record<string, unknown>, key: string): number {
  const value = fields[key];
  if (typeof value !== "number") typeError(OPERATION, `${key} must be a number`, value, "config.json");
  if (!Number.isInteger(value) || value < 1 || value > 2 ** 31 - 1) {
    rangeError(OPERATION, `${key} must be an integer from 1 to 2^31 - 1`, value, "config.json");
  }
  return value;
}

function flag(
  fields: Record<string, unknown>,
  key: string,
  { preset = false, file = "config.json" } = {},
): boolean {
  const value = fields[key] ?? preset;
  if (typeof value !== "boolean") typeError(OPERATION, `${key} must be true or false`, value, file);
  return value;
}

function text(fields: Record<string, unknown>, key: string, preset: string): string {
  const value = fields[key] ?? preset;
  if (typeof value !== "string") typeError(OPERATION, `${key} must be a string`, value, "config.json");
  return value;
}

function activation(value: unknown, key: string): Activation {
  if (typeof value !== "string") {
    typeError(OPERATION, `${key} must be a string`, value, "config.json");
  }
  const name = Object.hasOwn(SPELLINGS, value) ? SPELLINGS[value] : value;
  const known = ACTIVATIONS.find((activation) => activation === name);
  if (known === undefined) {
    const names = [...ACTIVATIONS, ...Object.keys(SPELLINGS)].map(show).join(", ");
    rangeError(OPERATION, `${key} must be one of ${names}`, value, "config.json");
  }
  return known;
}

/** `[]` means no layer; the authors read entry l for layer l and so allow more entries than layers. */
function useLrpe(value: unknown, layers: number): boolean[] {
  if (!Array.isArray(value)) {
    typeError(OPERATION, "linear_use_lrpe_list must be an array", value, "config.json");
  }
  if (value.length !== 0 && value.length < layers) {
    rangeError(
      OPERATION,
      `linear_use_lrpe_list must be empty or have one value for each of ${layers} layers`,
      value.length,
      "config.json",
    );
  }
  value.forEach((use, layer) => {
    if (use !== 0 && use !== 1 && typeof use !== "boolean") {
      rangeError(OPERATION, "linear_use_lrpe_list must hold 0 and 1", use, `layer ${layer} in config.json`);
    }
  });
  // At least what the file lists: a hostile number of layers is found out by the weights it lacks.
  return value.map(Boolean);
}

function tokenIds(fields: Record<string, unknown>, key: string, file = "config.json"): number[] {
  const value = fields[key] ?? [];
  const ids: unknown[] = Array.isArray(value) ? value : [value];
  for (const id of ids) {
    if (!Number.isSafeInteger(id) || (id as number) < 0) {
      rangeError(OPERATION, `${key} must be an integer >= 0, several or null`, id, file);
    }
  }
  return ids as number[];
}
