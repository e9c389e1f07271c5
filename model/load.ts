/**
 * Loads a checkpoint: `config.json` and `generation_config.json`, `model.safetensors` or its shards, `tokenizer.json`
 * and what goes with it. Tensors are read, hashed, converted and uploaded one after another, so that the host holds one
 * at a time, never a file.
 *
 * @module
 */
import type { Backend } from "../core/tensor.ts";
import { rangeError, show, typeError } from "../core/errors.ts";
import { type Quantization, quantizedRow } from "../core/quantize.ts";
import type { Tensor } from "../core/tensor.ts";
import { hash } from "./checksum.ts";
import {
  type GenerationConfig,
  parseConfig,
  parseGenerationConfig,
  type TransNormerConfig,
} from "./config.ts";
import {
  type ByteReader,
  readSafetensorsData,
  readSafetensorsHeader,
  type SafetensorsHeader,
  type TensorEntry,
  toFloat32,
} from "./safetensors.ts";
import { absent, openRequired, openSource, readAll, reading, type Source } from "./source.ts";
import type { SamplingOptions } from "./sampling.ts";
import { Tokenizer } from "./tokenizer.ts";
import { mapWeights, type Weights } from "./weights.ts";

const OPERATION = "TransNormerLLM.load";
const TEMPLATE = "chat_template.jinja", TEMPLATE_BYTES = 2 ** 20;
const SINGLE = "model.safetensors", INDEX = "model.safetensors.index.json";

/** Progress of loading. */
export interface LoadProgress {
  /** Bytes of tensors that were read. */
  readonly bytes: number;
  /** Bytes of tensors in all, if the checkpoint says so beforehand. */
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
  /**
   * Called with `tokenizer.json` and `tokenizer_config.json`, parsed, before a tokenizer is made of them: these files come
   * from whoever made the model. What it throws ends loading.
   */
  inspect?: (json: unknown, config: unknown) => Promise<void>;
  /**
   * Hosts that a remote checkpoint may redirect to, besides its own; one that begins with a dot stands for all names that
   * end with it. Default: none, but for Hugging Face its own stores.
   */
  redirects?: readonly string[];
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
  /** If the checkpoint has a `tokenizer.json`. */
  readonly tokenizer: Tokenizer | undefined;
  /** Sampling defaults of `generation_config.json`. Default: none. */
  readonly sampling?: SamplingOptions;
  /** Hash of configuration and of all bytes of all weights: tells models apart. */
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
  return await reading(source, async () => {
    const config = parseConfig(await readJson(source, "config.json"));
    const generation = await readGenerationConfig(source);
    const tokenizer = await readTokenizer(source, options.inspect);
    using uploads = new Uploads(backend, config);
    const { tied } = await readWeights(source, config, options, uploads);
    const weights = uploads.finish(tied);
    const fingerprint = uploads.fingerprint();
    const eosTokenIds = [...new Set([...config.eosTokenIds, ...generation?.eosTokenIds ?? []])];
    return {
      config: { ...config, tieWordEmbeddings: tied, eosTokenIds },
      weights,
      parameters: uploads.take(),
      tokenizer,
      sampling: generation?.sampling,
      fingerprint,
    };
  });
}

async function readGenerationConfig(source: Source): Promise<GenerationConfig | undefined> {
  const json = await readJson(source, "generation_config.json", "optional");
  return json === undefined ? undefined : parseGenerationConfig(json);
}

/** The tokenizer; a `chat_template.jinja` wins over what `tokenizer_config.json` says. */
async function readTokenizer(
  source: Source,
  inspect: LoadOptions["inspect"],
): Promise<Tokenizer | undefined> {
  const json = await readJson(source, "tokenizer.json", "optional");
  if (json === undefined) return undefined;
  let config = await readJson(source, "tokenizer_config.json", "optional");
  const template = await source.open(TEMPLATE);
  if (template !== undefined) {
    const chat_template = new TextDecoder().decode(await readAll(template, TEMPLATE, TEMPLATE_BYTES));
    config = { ...config as Record<string, unknown> | undefined, chat_template };
  }
  await inspect?.(json, config ?? {});
  return await Tokenizer.create(json, config);
}

/** Opens the checkpoint's one file, or the shards that its index names, and uploads what the config needs. */
async function readWeights(
  source: Source,
  config: TransNormerConfig,
  { signal, onProgress }: LoadOptions,
  uploads: Uploads,
): Promise<ExpectedWeights> {
  const single = await source.open(SINGLE);
  const index = single === undefined ? await readIndex(source) : undefined;
  let expected = index && expectedWeights(config, index.names);
  let totalBytes = index?.totalBytes, bytes = 0;
  for await (
    const { file, reader, header } of weightFiles(source, single, index?.files ?? new Set([SINGLE]))
  ) {
    expected ??= expectedWeights(config, new Set(header.entries.map(({ name }) => name)));
    if (index === undefined) totalBytes = header.dataBytes;
    const { shapes } = expected;
    for (const entry of header.entries) {
      checkWeight(entry, shapes.get(weightOf(entry.name, config)), config.quantization, file);
    }
    for await (const { entry, bytes: data } of readSafetensorsData(reader, header, file)) {
      signal?.throwIfAborted();
      bytes += data.length;
      const name = weightOf(entry.name, config), shape = shapes.get(name);
      if (shape === undefined || !uploads.add(name, shape, entry, data, file)) continue;
      onProgress?.({ bytes, totalBytes, tensors: uploads.count, totalTensors: shapes.size });
    }
  }
  return expected!;
}

/** The files of the weights, one after another, each with its header read, and closed before the next. */
async function* weightFiles(
  source: Source,
  single: ByteReader | undefined,
  files: ReadonlySet<string>,
): AsyncGenerator<{ file: string; reader: ByteReader; header: SafetensorsHeader }> {
  for (const file of files) {
    const reader = single ?? await source.open(file) ??
      rangeError(OPERATION, "every shard of the index must exist", file, source.instead(file));
    try {
      yield { file, reader, header: await readSafetensorsHeader(reader, file) };
    } finally {
      await reader.close();
    }
  }
}

/** Weights on their way to the backend; disposing gives back what nobody took. */
class Uploads implements Disposable {
  readonly #backend: Backend;
  readonly #config: TransNormerConfig;
  readonly #tensors = new Map<string, Tensor>();
  readonly #hashes: (readonly [name: string, dtype: string, hash: string])[] = [];
  /** Quantised weights of which only integers or only scales have come. */
  readonly #parts = new Map<string, QuantizedParts>();

  constructor(backend: Backend, config: TransNormerConfig) {
    this.#backend = backend;
    this.#config = config;
  }

  /** Number of weights that are on the backend. */
  get count(): number {
    return this.#tensors.size;
  }

  /**
   * Takes the bytes of a tensor that was checked.
   *
   * @param name the weight that it is, or that it is a part of @param published the weight's shape in the file
   * @returns whether the weight is whole now
   */
  add(
    name: string,
    published: readonly number[],
    entry: TensorEntry,
    bytes: Uint8Array<ArrayBuffer>,
    file: string,
  ): boolean {
    if (this.#tensors.has(name)) {
      rangeError(OPERATION, "a tensor must not come twice", entry.name, file);
    }
    this.#hashes.push([entry.name, entry.dtype, hash(bytes)]);
    // θ is published as [heads, 1, headDim] and used as [heads, headDim].
    const shape = published.length === 3 ? [published[0], published[2]] : published;
    const isPart = entry.name !== name || INTEGERS.includes(entry.dtype);
    const tensor = isPart
      ? this.#join(name, shape, entry, bytes)
      : this.#backend.tensor(toFloat32(entry.dtype, bytes, `tensor ${show(entry.name)} of ${file}`), shape);
    if (tensor !== undefined) this.#tensors.set(name, tensor);
    return tensor !== undefined;
  }

  /** A quantised weight, once both its parts are there. */
  #join(
    name: string,
    shape: readonly number[],
    entry: TensorEntry,
    bytes: Uint8Array<ArrayBuffer>,
  ): Tensor | undefined {
    const parts: QuantizedParts = entry.name === name
      ? { ...this.#parts.get(name), bits: entry.dtype === "I8" ? 8 : 4, values: bytes }
      : {
        ...this.#parts.get(name),
        scales: new Uint16Array(bytes.buffer, bytes.byteOffset, bytes.length / 2),
      };
    this.#parts.set(name, parts);
    const { bits, values, scales } = parts;
    if (bits === undefined || values === undefined || scales === undefined) return undefined;
    this.#parts.delete(name);
    return this.#backend.quantized({ shape, bits, group: this.#config.quantization!.group, values, scales });
  }

  /** The model's parameters, all of which must have come. */
  finish(tied: boolean): Weights<Tensor> {
    for (const [name, { scales }] of this.#parts) {
      const [has, lacks] = scales === undefined ? ["integers", "scales"] : ["scales", "integers"];
      rangeError(OPERATION, `${show(name)} must come with its ${lacks}`, `${has} alone`);
    }
    return mapWeights(this.#config, tied, (name) => {
      const tensor = this.#tensors.get(name);
      return tensor ?? rangeError(OPERATION, `the shards must hold ${show(name)}, as the index says`, tensor);
    });
  }

  /** See {@linkcode Checkpoint.fingerprint}. Sorted: the order of tensors and the shards they are in do not matter. */
  fingerprint(): string {
    const text = JSON.stringify([this.#config, [...this.#hashes].sort()]);
    return hash(new TextEncoder().encode(text));
  }

  /** The tensors, each once, which are the caller's from now on. */
  take(): Tensor[] {
    const tensors = [...this.#tensors.values()];
    this.#tensors.clear();
    return tensors;
  }

  [Symbol.dispose](): void {
    for (const tensor of this.take()) tensor.dispose();
  }
}

/**
 * Element types of a quantised weight's integers: 8 bits as they are, `[out, in]`; 4 bits two to a byte,
 * `[out, ⌈in / 2⌉]`. Scales are BF16 `[out, ⌈in / group⌉]`, under the weight's name with this suffix.
 */
const INTEGERS: readonly string[] = ["I8", "U8"];
export const SCALES = ".scales";

/** The parts of a quantised weight that have been read. */
interface QuantizedParts {
  bits?: 8 | 4;
  values?: Uint8Array;
  scales?: Uint16Array;
}

/** The weight that a tensor belongs to: itself, or the one whose scales it holds. */
function weightOf(name: string, { quantization }: TransNormerConfig): string {
  return quantization !== undefined && name.endsWith(SCALES) ? name.slice(0, -SCALES.length) : name;
}

/** What a config asks for. */
export interface ExpectedWeights {
  /** Published shapes by name. */
  readonly shapes: ReadonlyMap<string, readonly number[]>;
  /** Whether the embedding serves as `lm_head`. */
  readonly tied: boolean;
}

/** Names and shapes that the config asks for, all of them found among the names of the checkpoint. */
export function expectedWeights(config: TransNormerConfig, names: ReadonlySet<string>): ExpectedWeights {
  const shapes = new Map<string, readonly number[]>();
  const tied = config.tieWordEmbeddings !== false && !names.has("lm_head.weight");
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
    const [out, inDim] = weight;
    if (entry.name.endsWith(SCALES)) {
      dtypes = ["BF16"];
      shape = [out, quantizedRow(inDim, quantization).groups];
    } else {
      dtypes = [...dtypes, ...INTEGERS];
      if (entry.dtype === "U8") shape = [out, Math.ceil(inDim / 2)];
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
  const index = await readJson(source, INDEX, "optional") as
    | { weight_map?: unknown; metadata?: { total_size?: unknown } }
    | undefined;
  if (index === undefined) absent(source, [SINGLE, INDEX]);
  const map = index?.weight_map;
  if (typeof map !== "object" || map === null || Array.isArray(map)) {
    rangeError(OPERATION, "weight_map must map names of tensors to files", map, INDEX);
  }
  for (const shard of Object.values(map)) {
    if (typeof shard !== "string" || !/^[\w-][\w.-]*\.safetensors$/.test(shard)) {
      rangeError(OPERATION, "weight_map must name .safetensors files beside it", shard, INDEX);
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
  const reader = optional ? await source.open(name) : await openRequired(source, name);
  if (reader === undefined) return undefined;
  const bytes = await readAll(reader, name);
  try {
    return JSON.parse(new TextDecoder("utf-8", { fatal: true }).decode(bytes));
  } catch (error) {
    rangeError(OPERATION, `${name} must be JSON in UTF-8`, (error as Error).message);
  }
}
