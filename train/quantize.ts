/**
 * `deno task quantize <model> --bits 8|4 [--group 32|64] [--out <folder>] [--evaluate <text file>|sotu]`: a model
 * with integers for weights, in the published layout: `TransNormerLLM.load` reads it like any other.
 *
 * All matrices are quantised: those of linear layers, `lm_head`, and the embedding. An embedding that is not tied keeps
 * 8 bits whatever is asked for, as it costs nothing but its size: one row is read per token. Norms, θ and biases stay as
 * they are.
 *
 * @module
 */
import { mkdir, open, readFile, rename, rm, stat, writeFile } from "node:fs/promises";
import { cli, command, interruption, oneOf, path, StatusLine, write } from "../cli/mod.ts";
import { rangeError } from "../core/errors.ts";
import { quantize, quantizedRow } from "../core/quantize.ts";
import { createBackend } from "../mod.ts";
import { parseConfig } from "../model/config.ts";
import { checkWeight, expectedWeights, readIndex, readJson, SCALES } from "../model/load.ts";
import { TransNormerLLM } from "../model/mod.ts";
import {
  encodeSafetensorsHeader,
  readSafetensorsData,
  readSafetensorsHeader,
  type TensorEntry,
  toFloat32,
} from "../model/safetensors.ts";
import { openSource, readAll, reading, type Source } from "../model/source.ts";
import { Corpus, readDocuments, SOTU } from "./data.ts";

const OPERATION = "quantizeModel";

/** Files that go along as they are, if they are there. */
const COPIED = ["generation_config.json", "tokenizer.json", "tokenizer_config.json", "chat_template.jinja"];

/** Options of {@linkcode quantizeModel}. */
export interface QuantizeOptions {
  /** Bits of a weight. */
  bits: 8 | 4;
  /** Elements that share a scale; default 32. */
  group?: 32 | 64;
  /** Called after each tensor, with the bytes read so far and in all. */
  onProgress?: (name: string, bytes: number, totalBytes: number) => void;
}

/**
 * Quantises a model, one tensor after another. The result is written under a temporary name, then renamed.
 *
 * @param model a folder in the published layout, in one file or in shards
 * @param folder where the quantised model goes; it must not exist
 * @throws {RangeError} when the folder exists, the model is incomplete, quantised already, or a weight is not finite
 */
export async function quantizeModel(
  model: string,
  folder: string,
  { bits, group = 32, onProgress }: QuantizeOptions,
): Promise<void> {
  if (await stat(folder).then(() => true, () => false)) {
    rangeError(OPERATION, "the folder to write to must not exist", folder);
  }
  const source = openSource(model, {});
  await reading(source, () => quantizeFiles(source, folder, { bits, group, onProgress }));
}

async function quantizeFiles(
  source: Source,
  folder: string,
  { bits, group, onProgress }: QuantizeOptions & { group: 32 | 64 },
): Promise<void> {
  const fields = await readJson(source, "config.json") as Record<string, unknown>;
  const config = parseConfig(fields);
  if (config.quantization !== undefined) {
    rangeError(OPERATION, "the model must not be quantised", `${config.quantization.bits} bits`);
  }
  const files = await weightFiles(source);
  const { shapes, tied } = expectedWeights(
    config,
    new Set(files.flatMap(({ entries }) => entries.map(({ name }) => name))),
  );
  for (const { file, entries } of files) {
    for (const entry of entries) checkWeight(entry, shapes.get(entry.name), undefined, file);
  }
  const bitsOf = (name: string) => name.startsWith("model.embed_tokens.") && !tied ? 8 : bits;
  const kept = files.flatMap(({ entries }) => entries.filter(({ name }) => shapes.has(name)));
  const header = kept.flatMap((entry): { name: string; dtype: string; shape: readonly number[] }[] => {
    const [out, inDim] = entry.shape;
    if (entry.shape.length !== 2) return [entry];
    const { bytes, groups } = quantizedRow(inDim, { bits: bitsOf(entry.name), group });
    const dtype = bitsOf(entry.name) === 8 ? "I8" : "U8";
    return [
      { name: entry.name, dtype, shape: [out, bytes] },
      { name: entry.name + SCALES, dtype: "BF16", shape: [out, groups] },
    ];
  });
  const partial = `${folder}.partial`;
  await mkdir(partial, { recursive: true });
  try {
    const target = await open(`${partial}/model.safetensors`, "w");
    try {
      const metadata = { format: "levin", version: "1", bits: String(bits), group: String(group) };
      await target.writeFile(encodeSafetensorsHeader(header, metadata));
      const totalBytes = kept.reduce((sum, { begin, end }) => sum + end - begin, 0);
      let read = 0;
      for (const { file } of files) {
        for await (const { entry, bytes } of tensors(source, file)) {
          if (!shapes.has(entry.name)) continue;
          if (entry.shape.length === 2) {
            const values = toFloat32(entry.dtype, bytes, entry.name);
            const weight = quantize(values, entry.shape, { bits: bitsOf(entry.name), group });
            await target.writeFile(weight.values);
            await target.writeFile(new Uint8Array(weight.scales.buffer));
          } else await target.writeFile(bytes);
          onProgress?.(entry.name, read += bytes.length, totalBytes);
        }
      }
      await target.sync();
    } finally {
      await target.close();
    }
    const quantization_config = { quant_method: "levin", version: 1, bits, group_size: group };
    await writeFile(
      `${partial}/config.json`,
      JSON.stringify({ ...fields, quantization_config }, undefined, 2) + "\n",
    );
    for (const name of COPIED) {
      const reader = await source.open(name);
      if (reader !== undefined) await writeFile(`${partial}/${name}`, await readAll(reader, name));
    }
    await rename(partial, folder);
  } catch (error) {
    await rm(partial, { recursive: true, force: true });
    throw error;
  }
}

/** The files of a model's weights, with what they hold. */
async function weightFiles(
  source: Source,
): Promise<{ file: string; entries: readonly TensorEntry[] }[]> {
  const single = "model.safetensors";
  const reader = await source.open(single);
  await reader?.close();
  const names = reader === undefined ? [...(await readIndex(source)).files] : [single];
  return await Promise.all(names.map(async (file) => {
    const reader = await source.open(file);
    if (reader === undefined) rangeError(OPERATION, "every shard of the index must exist", file);
    try {
      return { file, entries: (await readSafetensorsHeader(reader, file)).entries };
    } finally {
      await reader.close();
    }
  }));
}

/** The tensors of a file, one after another. */
async function* tensors(source: Source, file: string): ReturnType<typeof readSafetensorsData> {
  const reader = (await source.open(file))!;
  try {
    yield* readSafetensorsData(reader, await readSafetensorsHeader(reader, file), file);
  } finally {
    await reader.close();
  }
}

/** Tokens of a window of held-out text, those that the shipped model was trained on at a time. */
const WINDOW = 4096;

/** What a model is evaluated on: a text as a whole, or the tokens held out of `"sotu"` in windows, as in training. */
async function evaluationTexts(name: string): Promise<string | Uint16Array[]> {
  if (name !== SOTU) return await readFile(name, "utf8");
  const { heldOut } = await Corpus.create(await readDocuments([SOTU]));
  return Array.from(
    { length: Math.ceil((heldOut.length - 1) / WINDOW) },
    (_, i) => heldOut.subarray(i * WINDOW, (i + 1) * WINDOW + 1),
  );
}

/** Mean negative log-likelihood, in nats per token; each window is read from a state of zero. */
async function loss(model: string, texts: string | readonly Uint16Array[]): Promise<number> {
  using backend = await createBackend({ threads: "auto" });
  using loaded = await TransNormerLLM.load(model, { backend });
  if (typeof texts === "string") return Math.log(await loaded.perplexity(texts));
  let sum = 0, tokens = 0;
  for (const ids of texts) {
    sum += (ids.length - 1) * Math.log(await loaded.perplexity(ids));
    tokens += ids.length - 1;
  }
  return sum / tokens;
}

const BITS = { 8: 8, 4: 4 } as const, GROUPS = { 32: 32, 64: 64 } as const;

if (import.meta.main) {
  await cli(
    command("quantize", "A model with weights of 8 or 4 bits.")
      .argument("<model>", "a folder in the published layout", path)
      .requiredOption("--bits <8|4>", "bits of a weight", oneOf(BITS))
      .option("--group <32|64>", "weights that share a scale", oneOf(GROUPS), GROUPS[32])
      .option("--out <folder>", "default: <model>-int8 or <model>-int4", path)
      .option(
        "--evaluate <text>",
        'then report the loss of both models on this file, or on what is held out of "sotu"',
        (name) => name === SOTU ? name : path(name),
      )
      .action(async (model, { bits, group, out = `${model}-int${bits}`, evaluate }) => {
        const stop = interruption();
        const texts = evaluate === undefined ? undefined : await evaluationTexts(evaluate);
        const status = new StatusLine();
        try {
          await quantizeModel(model, out, {
            bits,
            group,
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
        if (texts === undefined) return;
        const before = await loss(model, texts), after = await loss(out, texts);
        const change = (100 * (after / before - 1)).toFixed(2);
        write(`loss ${before.toFixed(4)} -> ${after.toFixed(4)} nats per token (${change} %)\n`);
        stop.throwIfAborted();
      }),
  );
}
