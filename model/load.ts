/**
 * Loads a checkpoint: `config.json` and `generation_config.json`, `model.safetensors` or `pytorch_model.bin` or the shards
 * of either, `tokenizer.json` and what goes with it. Tensors are read, hashed, converted and uploaded in pieces, one after
 * another, so that the host holds one tensor at most, never a file.
 *
 * @module
 */
import type { DType, FloatType } from "../core/dtype.ts";
import type { Backend } from "../core/tensor.ts";
import { rangeError, show, typeError } from "../core/errors.ts";
import { type Quantization, quantizedRow, Quantizer } from "../core/quantize.ts";
import type { Tensor } from "../core/tensor.ts";
import { Hash, hash } from "./checksum.ts";
import {
  type GenerationConfig,
  parseConfig,
  parseGenerationConfig,
  type TransNormerConfig,
} from "./config.ts";
import { bitsOf, isInteger, matrixType, to16Bits } from "./matrices.ts";
import { toFloat32 } from "./safetensors.ts";
import { type HubOptions, openSource, reading, type Source } from "./source.ts";
import type { SamplingOptions } from "./sampling.ts";
import { PIECE_BYTES, type StoredTensor, type TensorPiece, type WeightFile } from "./stored.ts";
import type { Tokenizer } from "./tokenizer.ts";
import { readTokenizer } from "./tokenizer/files.ts";
import { findWeights, readJson } from "./weightFiles.ts";
import { mapWeights, type Weights } from "./weights.ts";

const OPERATION = "TransNormerLLM.load";

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
export interface LoadOptions extends HubOptions {
  /**
   * Where the model lives and computes. It stays the caller's: disposing the model does not dispose it. Default: one that
   * `createBackend()` makes, which the model owns and disposes with itself.
   */
  backend?: Backend;
  /**
   * How the backend stores the model's matrices: the embedding, those of linear layers, `lm_head`. Norms, θ and biases are
   * f32.
   *
   * - `"auto"`, the default: as the checkpoint stores them where the backend can, else `"f32"`. F16 needs a WebGPU device
   *   with `shader-f16`. Every answer is that of `"f32"`, bit for bit.
   * - `"f32"`; `"bf16"` and `"f16"`, rounded where they have more digits.
   * - `"int8"` and `"int4"`: quantised while they load, one at a time; with `"int4"` an embedding that does not serve as
   *   `lm_head` keeps 8 bits.
   *
   * A model that is quantised in its files takes `"auto"` only.
   */
  weights?: "auto" | DType;
  /** Of `"int8"` and `"int4"`: elements that share a scale; default 32. */
  group?: 32 | 64;
  /** Stops loading; its reason is thrown, and what was uploaded is given back. */
  signal?: AbortSignal;
  /** Called after each tensor. */
  onProgress?: (progress: LoadProgress) => void;
  /**
   * Called with `tokenizer.json` (or what other tokenizer files are turned into) and `tokenizer_config.json`, parsed,
   * before a tokenizer is made of them: these files come from whoever made the model. What it throws ends loading.
   */
  inspect?: (json: unknown, config: unknown) => Promise<void>;
  /** Used for URLs and the hub instead of the global `fetch`; then also for `file:` URLs. */
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
  /** If the checkpoint has one. */
  readonly tokenizer: Tokenizer | undefined;
  /** Sampling defaults of `generation_config.json`. Default: none. */
  readonly sampling?: SamplingOptions;
  /**
   * Hash of configuration and of all bytes of all weights: tells models apart. How the weights are stored counts where it
   * changes them.
   */
  readonly fingerprint: string;
}

/** Loads a checkpoint; see `TransNormerLLM.load`. */
export async function loadCheckpoint(
  backend: Backend,
  location: string | URL,
  options: LoadOptions,
): Promise<Checkpoint> {
  options.signal?.throwIfAborted();
  checkOptions(backend, options);
  const source = openSource(location, options);
  return await reading(source, async () => {
    const config = parseConfig(await readJson(source, "config.json"));
    checkStored(config, options);
    const generation = await readGenerationConfig(source);
    const tokenizer = await readTokenizer(source, options.inspect);
    using uploads = new Uploads(backend, config, options);
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

/** Checks what does not depend on the checkpoint. */
function checkOptions(backend: Backend, { weights = "auto", group = 32 }: LoadOptions): void {
  const { dtypes } = backend.machine, types = ["auto", ...dtypes, "int8", "int4"];
  if (!types.includes(weights)) {
    const known = types.map((type) => `"${type}"`).join(", ").replace(/, (?=[^,]*$)/, " or ");
    rangeError(OPERATION, `options.weights must be ${known} on this ${backend.name} backend`, weights);
  }
  if (group !== 32 && group !== 64) rangeError(OPERATION, "options.group must be 32 or 64", group);
}

function checkStored({ quantization }: TransNormerConfig, { weights = "auto" }: LoadOptions): void {
  if (quantization === undefined || weights === "auto") return;
  const detail = `config.json says that the checkpoint is quantised to ${quantization.bits} bits`;
  rangeError(OPERATION, 'options.weights must be "auto"', weights, detail);
}

async function readGenerationConfig(source: Source): Promise<GenerationConfig | undefined> {
  const json = await readJson(source, "generation_config.json", "optional");
  return json === undefined ? undefined : parseGenerationConfig(json);
}

/** Uploads what the config needs, file by file. */
async function readWeights(
  source: Source,
  config: TransNormerConfig,
  { signal, onProgress }: LoadOptions,
  uploads: Uploads,
): Promise<ExpectedWeights> {
  const weights = await findWeights(source);
  let expected = weights.names && expectedWeights(config, weights.names);
  let { totalBytes } = weights, bytes = 0;
  for (const name of weights.files) {
    const file = await weights.open(name);
    try {
      expected = withoutCopies(
        file,
        expected ?? expectedWeights(config, new Set(file.tensors.map(({ name }) => name))),
      );
      const { shapes } = expected;
      const isWanted = ({ name }: StoredTensor) => shapes.has(weightOf(name, config));
      for (const tensor of file.tensors) {
        checkWeight(tensor, shapes.get(weightOf(tensor.name, config)), config.quantization, name);
      }
      if (weights.names === undefined) { // no index, one file
        totalBytes = file.tensors.filter(isWanted).reduce((sum, { byteLength }) => sum + byteLength, 0);
      }
      for await (const piece of file.read(isWanted)) {
        signal?.throwIfAborted();
        bytes += piece.bytes.length;
        const weight = weightOf(piece.tensor.name, config);
        if (!uploads.add(weight, shapes.get(weight)!, piece, name, expected.tied)) continue;
        onProgress?.({ bytes, totalBytes, tensors: uploads.count, totalTensors: shapes.size });
      }
    } finally {
      await file.close();
    }
  }
  return expected!;
}

/** Weights on their way to the backend; disposing gives back what nobody took. */
class Uploads implements Disposable {
  readonly #backend: Backend;
  readonly #config: TransNormerConfig;
  readonly #weights: "auto" | DType;
  readonly #group: 32 | 64;
  readonly #tensors = new Map<string, Tensor>();
  readonly #hashes: (readonly [name: string, dtype: string, hash: string])[] = [];
  /** Quantised weights of which only integers or only scales have come. */
  readonly #parts = new Map<string, QuantizedParts>();
  /** Names of the tensors of which something has come. */
  readonly #seen = new Set<string>();
  /** Of the tensor whose pieces are coming. */
  #hash = new Hash();
  /** The bytes of the part of a quantised weight that is coming. */
  #part = new Uint8Array(0);
  /** Quantises the tensor whose pieces are coming. */
  #quantizer: Quantizer | undefined;
  /** Where elements are widened. */
  readonly #floats = new Float32Array(PIECE_BYTES / 2);

  constructor(backend: Backend, config: TransNormerConfig, { weights = "auto", group = 32 }: LoadOptions) {
    this.#backend = backend;
    this.#config = config;
    this.#weights = weights;
    this.#group = group;
  }

  /** Number of weights that are on the backend. */
  get count(): number {
    return this.#tensors.size;
  }

  /**
   * Takes a piece of a tensor that was checked.
   *
   * @param name the weight that it is, or that it is a part of @param published the weight's shape in the file
   * @param tied whether the embedding serves as `lm_head`
   * @returns whether the weight is whole now
   */
  add(
    name: string,
    published: readonly number[],
    piece: TensorPiece,
    file: string,
    tied: boolean,
  ): boolean {
    const { tensor: entry, begin, bytes } = piece;
    const isLast = begin + bytes.length === entry.byteLength;
    // θ is published as [heads, 1, headDim] and used as [heads, headDim].
    const shape = published.length === 3 ? [published[0], published[2]] : published;
    const isPart = entry.name !== name || INTEGERS.includes(entry.dtype);
    const type = published.length === 2 ? this.#typeOf(entry, tied) : "f32";
    if (begin === 0) {
      if (this.#seen.has(entry.name) || this.#tensors.has(name)) {
        rangeError(OPERATION, "a tensor must not come twice", entry.name, file);
      }
      this.#seen.add(entry.name);
      this.#hash = new Hash();
      if (isPart) this.#part = new Uint8Array(entry.byteLength);
      else if (isInteger(type)) {
        this.#quantizer = new Quantizer(shape, { bits: bitsOf(type), group: this.#group }, name);
      } else this.#tensors.set(name, this.#backend.empty(shape, type));
    }
    for (let at = 0; at < bytes.length; at += PIECE_BYTES) {
      const part = bytes.subarray(at, at + PIECE_BYTES);
      this.#hash.add(part);
      if (isPart) this.#part.set(part, begin + at);
      else this.#convert(name, type, entry, part, begin + at, file);
    }
    if (!isLast) return false;
    this.#hashes.push([entry.name, entry.dtype + this.#change(type, entry), this.#hash.hex()]);
    if (isPart) {
      const tensor = this.#join(name, shape, entry, this.#part);
      if (tensor !== undefined) this.#tensors.set(name, tensor);
      return tensor !== undefined;
    }
    if (isInteger(type)) {
      this.#tensors.set(name, this.#backend.quantized(this.#quantizer!.finish()));
      this.#quantizer = undefined;
    }
    return true;
  }

  /** How a matrix is stored on the backend. */
  #typeOf({ name, dtype }: StoredTensor, tied: boolean): DType {
    if (this.#weights !== "auto") return matrixType(name, this.#weights, tied);
    const stored = dtype.toLowerCase() as FloatType;
    return this.#backend.machine.dtypes.includes(stored) ? stored : "f32";
  }

  /** Takes a part of a tensor's bytes to the backend, or to where it is quantised. */
  #convert(
    name: string,
    type: DType,
    { name: tensor, dtype, byteLength }: StoredTensor,
    bytes: Uint8Array<ArrayBuffer>,
    begin: number,
    file: string,
  ): void {
    const where = `tensor ${show(tensor)} of ${file}`;
    if (dtype.toLowerCase() === type && type !== "f32") {
      const words = new Uint16Array(bytes.buffer, bytes.byteOffset, bytes.length / 2); // pieces are aligned
      this.#backend.write(this.#tensors.get(name)!, words, begin / 2);
      return;
    }
    const values = toFloat32(dtype, bytes, where, this.#floats);
    if (isInteger(type)) return this.#quantizer!.add(values);
    const target = this.#tensors.get(name)!;
    const elements = type === "f32" ? values : to16Bits(OPERATION, values, type, where);
    this.#backend.write(target, elements, begin / (byteLength / target.size));
  }

  /** What {@linkcode Checkpoint.fingerprint} says of a tensor that is not stored as it came. */
  #change(type: DType, { dtype }: StoredTensor): string {
    if (INTEGERS.includes(dtype) || type === "f32" || type === dtype.toLowerCase()) return "";
    return isInteger(type) ? ` as ${type}, ${this.#group}` : ` as ${type}`;
  }

  /** A quantised weight, once both its parts are there. */
  #join(
    name: string,
    shape: readonly number[],
    entry: StoredTensor,
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
  const tied = config.tieWordEmbeddings !== false && !names.has(LM_HEAD);
  mapWeights(config, tied, (name, shape) => {
    if (!names.has(name)) {
      if (config.gateDim !== undefined && name.includes(".qkvu_proj.")) refuseGate(name, config.gateDim);
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

/** TransNormerLLM3 is another model, of which too little is published to compute it. */
function refuseGate(name: string, gateDim: number): never {
  rangeError(
    OPERATION,
    `the checkpoint must hold ${
      show(name)
    }; instead it has a low-rank gate (gate_dim), as TransNormerLLM3 does: ` +
      "its published sizes fit embed -> gate_dim -> embed in place of the full u projection, but the names and the " +
      "activation of that gate are not known to this library, which does not guess",
    gateDim,
    "gate_dim of config.json",
  );
}

/**
 * What is expected when a file has been opened: an `lm_head` that is the very elements of the embedding, as PyTorch saves
 * tied weights, is not loaded a second time.
 */
export function withoutCopies({ tensors }: WeightFile, expected: ExpectedWeights): ExpectedWeights {
  const elements = (name: string) => tensors.find((tensor) => tensor.name === name)?.elements;
  const head = elements(LM_HEAD);
  if (expected.tied || head === undefined || head !== elements("model.embed_tokens.weight")) return expected;
  const shapes = new Map(expected.shapes);
  shapes.delete(LM_HEAD);
  return { shapes, tied: true };
}

const LM_HEAD = "lm_head.weight";

/**
 * Names of the published parameters. One of them without a place in the model (a bias with `bias: false`, θ of a layer
 * without LRPE, a layer too many) means that config and weights do not belong together, and the answers would be
 * wrong. Other tensors, such as buffers that can be computed, do not change what the model says and are ignored.
 */
const PARAMETER =
  /^(lm_head|model\.(embed_tokens|final_norm|layers\.\d+\.((token|channel)_norm|(token|channel)_mixer\..+)))\.(weight|bias|theta)$/;

/** Checks a tensor against the shape of the weight that it is or, with quantisation, that it is a part of. */
export function checkWeight(
  entry: StoredTensor,
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
