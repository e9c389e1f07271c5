/**
 * Loads a checkpoint: `config.json`, `model.safetensors` or its shards, `tokenizer.json`. Tensors are read, converted
 * and uploaded one after another, so that the host holds one at a time, never a file.
 *
 * @module
 */
import type { Backend } from "../core/tensor.ts";
import { rangeError, show, typeError } from "../core/errors.ts";
import { type Quantization, quantizedRow } from "../core/quantize.ts";
import type { Tensor } from "../core/tensor.ts";
import { Checksum } from "./checksum.ts";
import { parseConfig, type TransNormerConfig } from "./config.ts";
import {
  type ByteReader,
  readSafetensorsData,
  readSafetensorsHeader,
  type TensorEntry,
  toFloat32,
} from "./safetensors.ts";
import { openSource, readAll, type Source } from "./source.ts";
import { Tokenizer } from "./tokenizer.ts";
import { mapWeights, type Weights } from "./weights.ts";

const OPERATION = "TransNormerLLM.load";

/** How far loading is. */
export interface LoadProgress {
  /** Bytes of tensors that were read. */
  readonly bytes: number;
  /** Bytes of tensors in all, where the checkpoint says so beforehand. */
  readonly totalBytes: number | undefined;
  /** Tensors that were uploaded. */
  readonly tensors: number;
  /** Tensors in all. */
  readonly totalTensors: number;
}

/** Options of `TransNormerLLM.load`. */
export interface LoadOptions {
  /** Where the model lives and computes. It stays the caller's: disposing the model does not dispose it. */
  backend: Backend;
  /** Stops loading; its reason is thrown, and what was uploaded is given back. */
  signal?: AbortSignal;
  /** Called after each tensor. */
  onProgress?: (progress: LoadProgress) => void;
  /** Used for URLs instead of the global `fetch`; then also for `file:` URLs. */
  fetch?: typeof fetch;
}

/** A loaded checkpoint. */
export interface Checkpoint {
  /** Checked configuration. */
  readonly config: TransNormerConfig;
  /** On the backend. */
  readonly weights: Weights<Tensor>;
  /** The tensors of `weights`, each once. */
  readonly parameters: readonly Tensor[];
  /** Where the checkpoint has a `tokenizer.json`. */
  readonly tokenizer: Tokenizer | undefined;
  /** Checksum of configuration and weights: tells models apart. */
  readonly fingerprint: string;
}

/** Loads a checkpoint; see `TransNormerLLM.load`. */
export async function loadCheckpoint(location: string | URL, options: LoadOptions): Promise<Checkpoint> {
  const { backend, signal } = options ?? {};
  if (typeof backend !== "object" || backend === null) {
    typeError(OPERATION, "options.backend must be a Backend, made by createBackend()", backend);
  }
  signal?.throwIfAborted();
  const source = openSource(location, options);
  const config = parseConfig(await readJson(source, "config.json"));
  const tokenizerJson = await readJson(source, "tokenizer.json", "optional");
  const tokenizer = tokenizerJson === undefined
    ? undefined
    : await Tokenizer.create(tokenizerJson, await readJson(source, "tokenizer_config.json", "optional"));

  const uploaded = new Map<string, Tensor>();
  const sums = new Map<string, string>();
  try {
    const weights = await loadWeights(source, config, options, uploaded, sums);
    // Sorted, so that the order of tensors and their distribution over shards do not matter.
    const fingerprint = new Checksum().text(JSON.stringify([config, [...sums].sort()])).hex();
    return { config, weights, parameters: [...uploaded.values()], tokenizer, fingerprint };
  } catch (error) {
    for (const tensor of uploaded.values()) tensor.dispose();
    throw error;
  }
}

/** Opens the checkpoint's one file, or the shards that its index names, and uploads what the config needs. */
async function loadWeights(
  source: Source,
  config: TransNormerConfig,
  options: LoadOptions,
  uploaded: Map<string, Tensor>,
  sums: Map<string, string>,
): Promise<Weights<Tensor>> {
  const single = "model.safetensors";
  let reader = await source.open(single);
  const index = reader === undefined ? await readIndex(source) : undefined;
  let expected = index === undefined ? undefined : expectedWeights(config, index.names);
  let totalBytes = index?.totalBytes;
  let bytes = 0;
  const parts = new Map<string, QuantizedParts>();
  for (const file of index?.files ?? [single]) {
    reader ??= await source.open(file);
    if (reader === undefined) rangeError(OPERATION, "every shard of the index must exist", file);
    try {
      const header = await readSafetensorsHeader(reader, file);
      if (expected === undefined) {
        expected = expectedWeights(config, new Set(header.entries.map((entry) => entry.name)));
        totalBytes = header.dataBytes;
      }
      for (const entry of header.entries) {
        checkWeight(entry, expected.shapes.get(weightOf(entry.name, config)), config.quantization, file);
      }
      for await (const { entry, bytes: data } of readSafetensorsData(reader, header, file)) {
        options.signal?.throwIfAborted();
        bytes += data.length;
        const name = weightOf(entry.name, config), published = expected.shapes.get(name);
        if (published === undefined) continue;
        if (uploaded.has(name)) rangeError(OPERATION, "a tensor must not come twice", entry.name, file);
        // θ is published as [heads, 1, headDim] and used as [heads, headDim].
        const shape = published.length === 3 ? [published[0], published[2]] : published;
        if (entry.name !== name || INTEGERS.includes(entry.dtype)) {
          const part = entry.name === name
            ? { bits: entry.dtype === "I8" ? 8 : 4, values: data } as const
            : { scales: new Uint16Array(data.buffer, data.byteOffset, data.length / 2) };
          const { bits, values, scales } = { ...parts.get(name), ...part } as QuantizedParts;
          parts.set(name, { bits, values, scales });
          if (bits === undefined || values === undefined || scales === undefined) continue;
          parts.delete(name);
          const { group } = config.quantization!;
          uploaded.set(name, options.backend.quantized({ shape, bits, group, values, scales }));
          sums.set(name, new Checksum().sample(values).sample(scales).hex());
        } else {
          const values = toFloat32(entry.dtype, data, `tensor ${show(entry.name)} of ${file}`);
          uploaded.set(name, options.backend.tensor(values, shape));
          sums.set(name, new Checksum().sample(values).hex());
        }
        options.onProgress?.({
          bytes,
          totalBytes,
          tensors: uploaded.size,
          totalTensors: expected.shapes.size,
        });
      }
    } finally {
      await reader.close();
      reader = undefined;
    }
  }
  for (const [name, { scales }] of parts) {
    const [has, lacks] = scales === undefined ? ["integers", "scales"] : ["scales", "integers"];
    rangeError(OPERATION, `${show(name)} must come with its ${lacks}`, `${has} alone`);
  }
  return mapWeights(config, expected!.tied, (name) => {
    const tensor = uploaded.get(name);
    return tensor ?? rangeError(OPERATION, `the shards must hold ${show(name)}, as the index says`, tensor);
  });
}

/**
 * Element types of a quantised weight's integers: 8 bits as they are, `[out, in]`; 4 bits two to a byte,
 * `[out, ⌈in / 2⌉]`. Scales are BF16 `[out, ⌈in / group⌉]`, under the weight's name with this behind it.
 */
const INTEGERS: readonly string[] = ["I8", "U8"];
export const SCALES = ".scales";

/** What has come of a quantised weight. */
interface QuantizedParts {
  bits?: 8 | 4;
  values?: Uint8Array;
  scales?: Uint16Array;
}

/** The weight that a tensor belongs to: itself, or the one whose scales it holds. */
function weightOf(name: string, { quantization }: TransNormerConfig): string {
  return quantization !== undefined && name.endsWith(SCALES) ? name.slice(0, -SCALES.length) : name;
}

/** Names and shapes that the config asks for, all of them found among the names of the checkpoint. */
export function expectedWeights(
  config: TransNormerConfig,
  names: ReadonlySet<string>,
): { shapes: Map<string, readonly number[]>; tied: boolean } {
  const shapes = new Map<string, readonly number[]>();
  const tied = config.tieWordEmbeddings && !names.has("lm_head.weight");
  mapWeights(config, tied, (name, shape) => {
    if (!names.has(name)) {
      rangeError(OPERATION, `the checkpoint must hold ${show(name)}, as config.json demands`, undefined);
    }
    shapes.set(name, shape);
  });
  for (const name of names) {
    if (!shapes.has(name) && PARAMETER.test(name)) {
      rangeError(OPERATION, "the checkpoint must hold no parameter that config.json has no use for", name);
    }
  }
  return { shapes, tied };
}

/**
 * Names of the published parameters. One of them without a place in the model (a bias with `bias: false`, θ of a layer
 * without LRPE, a layer too many) means that config and weights do not belong together, and the answers would be
 * wrong. Other tensors, such as buffers that can be computed, do not change what the model says and are ignored.
 */
const PARAMETER =
  /^(lm_head|model\.(embed_tokens|final_norm|layers\.\d+\.((token|channel)_norm|(token|channel)_mixer\..+)))\.(weight|bias|theta)$/;

/** Checks a tensor against the shape of the weight that it is or, with quantisation, that it is a part of. */
export function checkWeight(
  entry: TensorEntry,
  weight: readonly number[] | undefined,
  quantization: Quantization | undefined,
  file: string,
): void {
  if (weight === undefined) return;
  let shape = weight, dtypes: readonly string[] = ["F32", "F16", "BF16"];
  if (quantization !== undefined && weight.length === 2) {
    const [out, inner] = weight;
    if (entry.name.endsWith(SCALES)) {
      dtypes = ["BF16"];
      shape = [out, quantizedRow(inner, quantization).groups];
    } else {
      dtypes = [...dtypes, ...INTEGERS];
      if (entry.dtype === "U8") shape = [out, Math.ceil(inner / 2)];
    }
  }
  if (entry.shape.length !== shape.length || entry.shape.some((n, axis) => n !== shape[axis])) {
    rangeError(
      OPERATION,
      `the shape of ${show(entry.name)} must be [${shape.join(", ")}], as config.json demands`,
      entry.shape,
      file,
    );
  }
  if (!dtypes.includes(entry.dtype)) {
    const known = dtypes.join(", ").replace(/, (?=[^,]*$)/, " or ");
    typeError(OPERATION, `the dtype of ${show(entry.name)} must be ${known}`, entry.dtype, file);
  }
}

/** The shards of `model.safetensors.index.json`, in order of first mention. */
export async function readIndex(
  source: Source,
): Promise<{ files: Set<string>; names: Set<string>; totalBytes: number | undefined }> {
  const file = "model.safetensors.index.json";
  const index = await readJson(source, file, "optional") as
    | { weight_map?: unknown; metadata?: { total_size?: unknown } }
    | undefined;
  if (index === undefined) {
    rangeError(OPERATION, `the checkpoint must have model.safetensors or ${file}`, undefined);
  }
  const map = index?.weight_map;
  if (typeof map !== "object" || map === null || Array.isArray(map)) {
    rangeError(OPERATION, "weight_map must map names of tensors to files", map, file);
  }
  for (const shard of Object.values(map)) {
    if (typeof shard !== "string" || !/^[\w-][\w.-]*\.safetensors$/.test(shard)) {
      rangeError(OPERATION, "weight_map must name .safetensors files beside it", shard, file);
    }
  }
  const total = index?.metadata?.total_size;
  return {
    files: new Set(Object.values(map)),
    names: new Set(Object.keys(map)),
    totalBytes: Number.isSafeInteger(total) ? total as number : undefined,
  };
}

/** A JSON file of a checkpoint. */
export async function readJson(source: Source, name: string, optional?: "optional"): Promise<unknown> {
  const reader: ByteReader | undefined = await source.open(name);
  if (reader === undefined) {
    if (optional) return undefined;
    rangeError(OPERATION, `the checkpoint must have ${name}`, undefined);
  }
  const bytes = await readAll(reader);
  try {
    return JSON.parse(new TextDecoder("utf-8", { fatal: true }).decode(bytes));
  } catch (error) {
    rangeError(OPERATION, `${name} must be JSON in UTF-8`, (error as Error).message);
  }
}
