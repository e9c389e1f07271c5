/**
 * `deno task convert <model> --out <folder> [--weights bf16|f16|int8|int4] [--group 32|64]`:
 * a model in the layout that loads everywhere: weights in one `model.safetensors`, the tokenizer in `tokenizer.json` and
 * `tokenizer_config.json`. What comes from PyTorch's own files, from shards or from a URL then needs neither an unpickler
 * nor the network, and what comes with a SentencePiece model no reader of that.
 *
 * All matrices are converted: those of linear layers, `lm_head`, and the embedding. With int4 an embedding that is not tied
 * keeps 8 bits, as it costs nothing but its size: one row is read per token. Norms, θ and biases stay as they are.
 *
 * @module
 */
import { type FileHandle, mkdir, open, rename, rm, stat, writeFile } from "node:fs/promises";
import {
  cli,
  command,
  downloadLine,
  groupOption,
  interruption,
  location,
  oneOf,
  path,
  StatusLine,
  write,
} from "../cli/mod.ts";
import type { DType } from "../core/dtype.ts";
import { rangeError } from "../core/errors.ts";
import { quantizedRow, Quantizer } from "../core/quantize.ts";
import { parseConfig, type TransNormerConfig } from "../model/config.ts";
import { checkWeight, expectedWeights, SCALES, withoutCopies } from "../model/load.ts";
import { bitsOf, isInteger, matrixType, to16Bits } from "../model/matrices.ts";
import { readTokenizerFiles } from "../model/tokenizer/files.ts";
import { encodeSafetensorsHeader, toFloat32 } from "../model/safetensors.ts";
import { type DownloadProgress, openSource, readAll, reading, type Source } from "../model/source.ts";
import { PIECE_BYTES, type StoredTensor, type TensorPiece, type WeightFile } from "../model/stored.ts";
import { findWeights, readJson, type WeightFiles } from "../model/weightFiles.ts";

const OPERATION = "convertModel";

/** Files that go along as they are, if they are there. */
const COPIED = ["generation_config.json", "introduction.json"];

/** How matrices may be stored in the file. */
export type StoredWeights = Exclude<DType, "f32">;

/** Options of {@linkcode convertModel}. */
export interface ConvertOptions {
  /** How matrices are stored; absent: each as it is. */
  weights?: StoredWeights;
  /** Of integers: elements that share a scale; default 32. */
  group?: 32 | 64;
  /** Called after each tensor, with the bytes read so far and in all. */
  onProgress?: (name: string, bytes: number, totalBytes: number) => void;
  /** Called as bytes of a model on the hub come. */
  onDownload?: (progress: DownloadProgress) => void;
  /** Stops; its reason is thrown. */
  signal?: AbortSignal;
  /** Used for URLs and the hub instead of the global `fetch`. */
  fetch?: typeof fetch;
}

/**
 * Converts a model, one tensor after another. The result is written under a temporary name, then renamed.
 *
 * @param model a folder, URL or id on the hub that `TransNormerLLM.load` loads
 * @param folder where the converted model goes; it must not exist
 * @throws {RangeError} when the folder exists, the model is incomplete or quantised already, or a weight is not finite or
 * does not fit into its new type
 */
export async function convertModel(
  model: string | URL,
  folder: string,
  { weights, group = 32, onProgress, ...options }: ConvertOptions,
): Promise<void> {
  if (await stat(folder).then(() => true, () => false)) {
    rangeError(OPERATION, "the folder to write to must not exist", folder);
  }
  const source = openSource(model, options);
  await reading(source, async () => {
    const fields = await readJson(source, "config.json") as Record<string, unknown>;
    const config = parseConfig(fields);
    if (config.quantization !== undefined) {
      rangeError(OPERATION, "the model must not be quantised", `${config.quantization.bits} bits`);
    }
    await using files = keptOpen(await findWeights(source));
    const { kept, tied } = await keptTensors(files, config);
    const target = (tensor: StoredTensor) => targetOf(tensor, weights, tied);
    const partial = `${folder}.partial`;
    await mkdir(partial, { recursive: true });
    try {
      const file = await open(`${partial}/model.safetensors`, "w");
      try {
        const entries = [...kept.values()].flatMap((tensor) => storedAs(tensor, target(tensor), group));
        await file.writeFile(encodeSafetensorsHeader(entries, { format: "pt" }));
        await writeTensors(files, kept, file, { target, group, onProgress });
        await file.sync();
      } finally {
        await file.close();
      }
      const write = (name: string, json: unknown) =>
        writeFile(`${partial}/${name}`, `${JSON.stringify(json, undefined, 2)}\n`);
      await write("config.json", { ...fields, ...describe(weights, group) });
      const tokenizer = await readTokenizerFiles(source);
      if (tokenizer !== undefined) {
        await write("tokenizer.json", tokenizer.json);
        await write("tokenizer_config.json", tokenizer.config);
      }
      await copyFiles(source, partial);
      await rename(partial, folder);
    } catch (error) {
      await rm(partial, { recursive: true, force: true });
      throw error;
    }
  });
}

/** Weights in a single file stay open from their directory to their tensors, so that a server sends them once. */
function keptOpen(files: WeightFiles): WeightFiles & AsyncDisposable {
  if (files.files.length > 1) return { ...files, [Symbol.asyncDispose]: () => Promise.resolve() };
  let opened: WeightFile | undefined;
  return {
    ...files,
    async open(name) {
      opened ??= await files.open(name);
      return { ...opened, close: () => Promise.resolve() };
    },
    [Symbol.asyncDispose]: () => opened?.close() ?? Promise.resolve(),
  };
}

/** The tensors that the model needs, in the order in which they are read, and whether the embedding serves as `lm_head`. */
async function keptTensors(
  files: WeightFiles,
  config: TransNormerConfig,
): Promise<{ kept: ReadonlyMap<string, StoredTensor>; tied: boolean }> {
  const opened = [];
  for (const name of files.files) {
    const file = await files.open(name);
    await file.close();
    opened.push(file);
  }
  const names = new Set(opened.flatMap(({ tensors }) => tensors.map(({ name }) => name)));
  let expected = expectedWeights(config, names);
  for (const file of opened) expected = withoutCopies(file, expected);
  const kept = new Map<string, StoredTensor>();
  for (const { file, tensors } of opened) {
    for (const tensor of tensors) {
      if (!expected.shapes.has(tensor.name)) continue;
      checkWeight(tensor, expected.shapes.get(tensor.name), undefined, file);
      if (kept.has(tensor.name)) rangeError(OPERATION, "a tensor must not come twice", tensor.name, file);
      kept.set(tensor.name, tensor);
    }
  }
  return { kept, tied: expected.tied };
}

/** How a tensor is stored: absent as it is. */
function targetOf(
  { name, shape, dtype }: StoredTensor,
  weights: StoredWeights | undefined,
  tied: boolean,
): StoredWeights | undefined {
  if (weights === undefined || shape.length !== 2 || dtype.toLowerCase() === weights) return undefined;
  return matrixType(name, weights, tied) as StoredWeights;
}

/** What a tensor becomes in the file: itself, or integers and scales. */
function storedAs(
  { name, dtype, shape }: StoredTensor,
  target: StoredWeights | undefined,
  group: 32 | 64,
): { name: string; dtype: string; shape: readonly number[] }[] {
  if (target === undefined) return [{ name, dtype, shape }];
  if (!isInteger(target)) return [{ name, dtype: target.toUpperCase(), shape }];
  const [out, inDim] = shape, { bytes, groups } = quantizedRow(inDim, { bits: bitsOf(target), group });
  return [
    { name, dtype: target === "int8" ? "I8" : "U8", shape: [out, bytes] },
    { name: name + SCALES, dtype: "BF16", shape: [out, groups] },
  ];
}

/** What `config.json` says of the weights. */
function describe(weights: StoredWeights | undefined, group: 32 | 64): Record<string, unknown> {
  if (weights === undefined) return {};
  if (!isInteger(weights)) {
    return { torch_dtype: weights === "bf16" ? "bfloat16" : "float16" };
  }
  const quantization_config = {
    quant_method: "levin",
    version: 1,
    bits: bitsOf(weights),
    group_size: group,
  };
  return { quantization_config };
}

/** Writes all tensors behind the header, in its order. */
async function writeTensors(
  files: WeightFiles,
  kept: ReadonlyMap<string, StoredTensor>,
  to: FileHandle,
  { target, group, onProgress }: {
    target: (tensor: StoredTensor) => StoredWeights | undefined;
    group: 32 | 64;
    onProgress: ConvertOptions["onProgress"];
  },
): Promise<void> {
  const totalBytes = [...kept.values()].reduce((sum, { byteLength }) => sum + byteLength, 0);
  let read = 0, quantizer: Quantizer | undefined;
  for (const name of files.files) {
    const file = await files.open(name);
    try {
      for await (const piece of file.read(({ name }) => kept.has(name))) {
        const { tensor, begin, bytes } = piece, weights = target(tensor);
        if (weights !== undefined && isInteger(weights)) {
          if (begin === 0) {
            quantizer = new Quantizer(tensor.shape, { bits: bitsOf(weights), group }, tensor.name);
          }
          for (const values of floats(piece)) quantizer!.add(values);
          if (begin + bytes.length === tensor.byteLength) {
            const { values, scales } = quantizer!.finish();
            await to.writeFile(values);
            await to.writeFile(new Uint8Array(scales.buffer));
          }
        } else if (weights === undefined) await to.writeFile(bytes);
        else {
          for (const values of floats(piece)) {
            await to.writeFile(new Uint8Array(to16Bits(OPERATION, values, weights, tensor.name).buffer));
          }
        }
        read += bytes.length;
        if (begin + bytes.length === tensor.byteLength) onProgress?.(tensor.name, read, totalBytes);
      }
    } finally {
      await file.close();
    }
  }
}

/** A piece's elements, some at a time. */
function* floats({ tensor, bytes }: TensorPiece): Generator<Float32Array> {
  for (let at = 0; at < bytes.length; at += PIECE_BYTES) {
    yield toFloat32(tensor.dtype, bytes.subarray(at, at + PIECE_BYTES), tensor.name);
  }
}

async function copyFiles(source: Source, folder: string): Promise<void> {
  for (const name of COPIED) {
    const reader = await source.open(name);
    if (reader !== undefined) await writeFile(`${folder}/${name}`, await readAll(reader, name));
  }
}

const WEIGHTS = { bf16: "bf16", f16: "f16", int8: "int8", int4: "int4" } as const;

if (import.meta.main) {
  await cli(
    command("convert", "A model in one safetensors file, its weights as they are, as halves, or as integers.")
      .argument("<model>", "a folder, a URL or an id on the hub", location)
      .requiredOption("--out <folder>", "where the converted model goes; it must not exist", path)
      .option("--weights <type>", "bf16, f16, int8 or int4; default: as they are", oneOf(WEIGHTS))
      .addOption(groupOption())
      .action(async (model, { out, weights, group }) => {
        const stop = interruption();
        const status = new StatusLine();
        try {
          await convertModel(model, out, {
            weights,
            group,
            signal: stop,
            onDownload: downloadLine(status),
            onProgress(name, bytes, total) {
              stop.throwIfAborted();
              status.draw(`${(100 * bytes / total).toFixed(0).padStart(3)} %  ${name}`);
            },
          });
        } finally {
          status.end();
        }
        const { size } = await stat(`${out}/model.safetensors`);
        write(`${out}: ${(size / 2 ** 20).toFixed(1)} MiB\n`);
        stop.throwIfAborted();
      }),
  );
}
