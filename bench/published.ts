/**
 * Models of the published sizes with random weights: loading from a warm page cache, memory, prefill and decoding, for
 * `docs/benchmarks.md`. With `--check` the logits of a prompt are held to the float64 reference first.
 *
 *     deno task bench:published [--sizes 385M,1B] [--weights auto,int4] [--backend wasm|webgpu] [--threads n] [--check] [--keep]
 *
 * @module
 */
import {
  backendOption,
  cli,
  command,
  integer,
  interruption,
  items,
  oneOf,
  path,
  StatusLine,
  threads,
} from "../cli/mod.ts";
import type { DType } from "../core/dtype.ts";
import { fromHalf, toHalf } from "../core/half.ts";
import { createBackend, dequantize, quantize } from "../mod.ts";
import { bitsOf, isInteger, matrixType } from "../model/matrices.ts";
import type { Backend } from "../core/tensor.ts";
import { TransNormerLLM } from "../model/mod.ts";
import { decodeSafetensors, toFloat32 } from "../model/safetensors.ts";
import { relativeError } from "../tests/numbers.ts";
import { type ConfigJson, referenceLogits, type Tensors } from "../tests/reference_model.ts";
import { PUBLISHED, type PublishedName, writeCheckpoint } from "./measure/checkpoints.ts";
import { commit, keep, kept, machine, type PublishedRow } from "./report/results.ts";
import { median, seconds } from "./measure/timing.ts";

type Weights = "auto" | DType;
const SIZES = Object.fromEntries(Object.keys(PUBLISHED).map((name) => [name, name])) as {
  [N in PublishedName]: N;
};
const WEIGHTS = { auto: "auto", f32: "f32", bf16: "bf16", f16: "f16", int8: "int8", int4: "int4" } as const;

/** Through all layers, RMS-relative; on WASM rows of x have 16 bits with weights of 8, and 8 with weights of 4. */
const LIMITS: Readonly<Record<DType, number>> = { f32: 2e-5, bf16: 2e-5, f16: 2e-5, int8: 5e-3, int4: 0.3 };

/** Tokens whose logits are held to the reference: a prefill of all but the last, and a step. */
const CHECKED = [3, 1141, 592, 65, 35, 8979, 3238, 46264];

await cli(
  command("bench:published", "Models of the published sizes with random weights.")
    .option("--sizes <names>", "385M, 1B, 3B, 7B", items(oneOf(SIZES)), ["385M"] as PublishedName[])
    .option(
      "--weights <types>",
      "auto, f32, bf16, f16, int8, int4",
      items(oneOf(WEIGHTS)),
      ["auto"] as Weights[],
    )
    .addOption(backendOption())
    .option("--threads <n>", 'of WASM; "auto": one per core', threads, 1)
    .option("--prompt <tokens>", "that are read", integer(1), 512)
    .option("--tokens <n>", "that are written", integer(1), 32)
    .option("--folder <folder>", "where checkpoints are kept; default: they are removed", path)
    .option("--keep", "the results, for docs/benchmarks.md: deno task report --render-only")
    .option("--check", "first hold the logits to the float64 reference")
    .action(async ({ sizes, weights, backend: prefer, threads, folder, keep, ...options }) => {
      const stop = interruption();
      const base = folder ?? await Deno.makeTempDir();
      try {
        let hasHeading = false;
        for (const size of sizes) {
          const checkpoint = `${base}/${size}`;
          await writeOnce(checkpoint, PUBLISHED[size], stop);
          for (const type of weights) {
            stop.throwIfAborted();
            using backend = await createBackend({ prefer, threads });
            if (!hasHeading) heading(backend, options.prompt);
            hasHeading = true;
            const row = await measure(backend, checkpoint, size, type, options, stop);
            tell(row);
            if (keep) await keepRow(row);
          }
          if (folder === undefined) await Deno.remove(checkpoint, { recursive: true });
        }
      } finally {
        if (folder === undefined) await Deno.remove(base, { recursive: true });
      }
    }),
);

/** Writes a checkpoint unless the folder holds it. */
async function writeOnce(folder: string, json: ConfigJson, stop: AbortSignal): Promise<void> {
  try {
    await Deno.stat(`${folder}/model.safetensors`);
    return;
  } catch (error) {
    if (!(error instanceof Deno.errors.NotFound)) throw error;
  }
  const status = new StatusLine();
  try {
    await writeCheckpoint(`${folder}.partial`, json, (bytes, total) => {
      stop.throwIfAborted();
      status.draw(`writing ${folder}: ${(100 * bytes / total).toFixed(0)} %`);
    });
    await Deno.rename(`${folder}.partial`, folder);
  } finally {
    status.end();
  }
}

function heading({ name, info }: Backend, prompt: number): void {
  const columns = [
    "model",
    "weights",
    "load, s",
    "GB/s of file",
    "host at most, GB",
    "weights, GB",
    "held at most, GB",
    `prefill of ${prompt}, tokens/s`,
    "first token, ms",
    "decode, ms per token",
    "error of logits",
  ];
  console.log(`${name}, ${info.device}, threads: ${info.threads}, ${navigator.userAgent}\n`);
  console.log(`| ${columns.join(" | ")} |\n|---|---|${"--:|".repeat(columns.length - 2)}`);
}

async function measure(
  backend: Backend,
  folder: string,
  size: PublishedName,
  weights: Weights,
  { prompt, tokens, check }: { prompt: number; tokens: number; check?: true },
  signal: AbortSignal,
): Promise<PublishedRow> {
  let bytes = 0, peak = 0;
  const before = Deno.memoryUsage().rss, held = backend.bytesReserved;
  const start = performance.now();
  using model = await TransNormerLLM.load(folder, {
    backend,
    weights,
    signal,
    onProgress(progress) {
      bytes = progress.bytes;
      // What the backend holds is in the process on WASM, and on the device on WebGPU.
      const own = backend.name === "wasm" ? backend.bytesReserved - held : 0;
      peak = Math.max(peak, Deno.memoryUsage().rss - before - own);
    },
  });
  using last = backend.zeros([1]);
  await last.data(); // what was uploaded before is there
  const load = (performance.now() - start) / 1000, loaded = backend.bytesReserved;
  const error = check ? await hold(model, folder, PUBLISHED[size]) : undefined;

  const ids = Array.from({ length: prompt }, (_, i) => i * 7919 % model.config.vocabSize);
  const read = async (count: number) => {
    using session = model.session();
    using logits = session.prefill(ids.slice(0, count));
    await logits.data();
  };
  await read(prompt); // kernels are compiled
  const prefills = [];
  for (let turn = 0; turn < 3; turn++) prefills.push(await seconds(() => read(prompt)));
  const times: number[] = [];
  let since = performance.now();
  for await (const _ of model.generate(ids.slice(0, 8), { temperature: 0, maxTokens: tokens + 1, signal })) {
    times.push(performance.now() - since);
    since = performance.now();
  }
  const [firstToken, ...others] = times;
  const { device, threads } = backend.info;
  return {
    backend: backend.name,
    device,
    machine: machine(),
    date: new Date().toISOString().slice(0, 10),
    commit: await commit(),
    versions: { deno: Deno.version.deno, v8: Deno.version.v8 },
    threads,
    model: size,
    weights: model.weights.lmHead.dtype,
    load,
    bytes: { file: bytes, host: peak, weights: loaded, held: backend.bytesReserved },
    prompt,
    prefill: prompt / median(prefills),
    firstToken,
    decode: median(others),
    error,
  };
}

function tell({ model, weights, load, bytes, prefill, firstToken, decode, error }: PublishedRow): void {
  const gigabytes = (value: number) => (value / 1e9).toFixed(2);
  const cells = [
    model,
    weights,
    load.toFixed(1),
    gigabytes(bytes.file / load),
    gigabytes(bytes.host),
    gigabytes(bytes.weights),
    gigabytes(bytes.held),
    prefill.toFixed(0),
    firstToken.toFixed(1),
    decode.toFixed(2),
    error?.toExponential(1) ?? "",
  ];
  console.log(`| ${cells.join(" | ")} |`);
}

/** In place of an earlier result of the same model, weights, threads and device. */
async function keepRow(row: PublishedRow): Promise<void> {
  const name = ({ backend, device, threads, model, weights }: PublishedRow) =>
    [backend, device, threads, model, weights].join();
  const rows = await kept<PublishedRow[]>("published.json") ?? [];
  const at = rows.findIndex((other) => name(other) === name(row));
  await keep("published.json", at < 0 ? [...rows, row] : rows.with(at, row));
}

/** Compares the logits with those that the float64 reference computes from the same weights, as the backend stores them. */
async function hold(model: TransNormerLLM, folder: string, json: ConfigJson): Promise<number> {
  const file = decodeSafetensors(await Deno.readFile(`${folder}/model.safetensors`), folder);
  const { dtype, quantization } = model.weights.layers[0].l1.weight, tensors: Tensors = new Map();
  for (const { name, shape, dtype: stored, bytes } of file.tensors.values()) {
    let data: Float32Array = toFloat32(stored, bytes, name);
    if (shape.length === 2) {
      const type = matrixType(name, dtype, json.tie_word_embeddings === true);
      if (isInteger(type)) {
        data = dequantize(quantize(data, shape, { bits: bitsOf(type), group: quantization!.group }));
      } else if (type === "f16") data = fromHalf(toHalf(data));
    }
    tensors.set(name, { shape: [...shape], data });
  }
  const expected = referenceLogits(json, tensors, [CHECKED]), { vocab_size } = json;
  using session = model.session();
  using prompt = session.prefill(CHECKED.slice(0, -1));
  using next = session.step(CHECKED.at(-1)!);
  let largest = 0;
  for (const [name, logits, row] of [["prefill", prompt, -2], ["step", next, -1]] as const) {
    const rows = expected.subarray(expected.length + row * vocab_size);
    const error = relativeError(await logits.data(), rows.subarray(0, vocab_size));
    const limit = LIMITS[dtype];
    if (!(error <= limit)) {
      throw new Error(`The logits of a ${name} must be within ${limit} of float64: ${error}`);
    }
    largest = Math.max(largest, error);
  }
  return largest;
}
