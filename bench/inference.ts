/**
 * Inference on a GPU at the published sizes, random weights as bf16 and as f32: `linear`, decoding and prefill.
 *
 *     deno run -A bench/inference.ts [linear] [385M] [1B] [3B] [7B]
 *
 * The bits of bf16 are first held to those of f32. `enqueue` is the host's part of a step.
 *
 * @module
 */
import assert from "node:assert/strict";
import type { Tensor } from "../mod.ts";
import { fromBfloat16s, toBfloat16s } from "../core/bfloat16.ts";
import { elementCount } from "../core/shape.ts";
import { Backend } from "../core/tensor.ts";
import { createMachine } from "../gpu/machine.ts";
import { parseConfig } from "../model/config.ts";
import { TransNormerLLM } from "../model/mod.ts";
import { mapWeights } from "../model/weights.ts";
import { randomArray } from "../tests/numbers.ts";
import { median } from "./measure/timing.ts";

type Stored = "f32" | "bf16";

/** Published configurations: embed, layers, heads, glu, vocab. */
const SIZES: Readonly<Record<string, readonly [number, number, number, number, number]>> = {
  "small": [64, 2, 2, 96, 300],
  "385M": [1024, 24, 8, 2816, 50272],
  "1B": [2048, 16, 16, 5632, 64000],
  "3B": [2560, 32, 20, 6912, 64000],
  "7B": [4096, 30, 32, 11008, 64000],
};
/** Models above this are not stored as f32. */
const MOST_F32 = 2e9;

const machine = await createMachine({}, "asked for by name");
const { device, operations } = machine;
const backend = new Backend(machine);

const NOISE = toBfloat16s(randomArray([2 ** 22], 1).map((x) => x / 32)), WIDE_NOISE = fromBfloat16s(NOISE);

/** A tensor of noise, the same values whatever stores them; different for each offset. */
function noise(shape: readonly number[], dtype: Stored, offset = 0): Tensor {
  const tensor = backend.empty(shape, dtype), source = dtype === "f32" ? WIDE_NOISE : NOISE;
  for (let start = 0; start < tensor.size;) {
    const from = start === 0 ? 2 * offset % source.length : 0;
    const part = source.subarray(from, Math.min(source.length, from + tensor.size - start));
    backend.write(tensor, part, start);
    start += part.length;
  }
  return tensor;
}

/** Milliseconds of a call on the device: the median of 15 times of several calls each. */
async function time(run: (index: number) => void, calls: number): Promise<number> {
  for (const end = performance.now() + 700; performance.now() < end;) {
    await device.time(() => {
      for (let i = 0; i < calls; i++) run(i);
    });
  }
  const times: number[] = [];
  for (let i = 0; i < 15; i++) {
    for (let j = 0; j < calls; j++) run(j);
    const all = await device.time(() => {
      for (let j = 0; j < calls; j++) run(i * calls + j);
    });
    times.push(all / calls);
  }
  return median(times);
}

async function linear(rows: number, inDim: number, outDim: number): Promise<void> {
  const line: string[] = [];
  const outputs: Float32Array[] = [];
  for (const dtype of ["f32", "bf16"] as const) {
    const weights = [0, 1, 2, 3].map((i) => noise([outDim, inDim], dtype, 1000 * i));
    const x = noise([rows, inDim], "f32", 77), output = backend.empty([rows, outDim]);
    const run = (index: number) =>
      operations.linear({
        x,
        weight: weights[index % weights.length],
        bias: undefined,
        residual: undefined,
        rows,
        inDim,
        outDim,
        output,
      });
    run(0);
    outputs.push(await output.data());
    const ms = await time(run, rows <= 64 ? 16 : 2), bytes = weights[0].size * (dtype === "f32" ? 4 : 2);
    line.push(`${ms.toFixed(4)} ms ${(bytes / ms / 1e9).toFixed(2)} TB/s`);
    for (const tensor of [...weights, x, output]) tensor.dispose();
  }
  const flops = (2 * rows * inDim * outDim / Number.parseFloat(line[1]) / 1e9).toFixed(1);
  const same = outputs[0].every((value, i) => Object.is(value, outputs[1][i]));
  console.log(
    `| linear ${rows} × ${inDim} → ${outDim} | ${
      line.join(" | ")
    } | ${flops} TFLOP/s as bf16 | bits ${same} |`,
  );
}

async function model(name: string, dtype: Stored): Promise<void> {
  const [embed, layers, heads, glu, vocab] = SIZES[name];
  const config = parseConfig({
    model_type: "transnormer",
    vocab_size: vocab,
    decoder_embed_dim: embed,
    hidden_dim: embed,
    decoder_layers: layers,
    decoder_attention_heads: heads,
    glu_dim: glu,
    linear_use_lrpe_list: Array.from({ length: layers }, (_, l) => l === 0 ? 1 : 0),
  });
  const parameters: Tensor[] = [];
  const weights = mapWeights(config, false, (_, shape) => {
    const flat = shape.length === 3 ? [shape[0], shape[2]] : shape;
    const tensor = noise(flat, shape.length === 2 ? dtype : "f32", 1000 * parameters.length);
    parameters.push(tensor);
    return tensor;
  });
  const count = parameters.reduce((sum, { shape }) => sum + elementCount(shape), 0);
  using model = new TransNormerLLM(backend, {
    config,
    weights,
    parameters,
    tokenizer: undefined,
    fingerprint: name,
  });
  const ids = Uint32Array.from({ length: 2048 }, (_, i) => i * 7919 % vocab);
  const prefills: number[] = [];
  for (let i = 0; i < 4; i++) {
    using session = model.session();
    const start = performance.now();
    using logits = session.prefill(ids);
    await logits.data();
    prefills.push(performance.now() - start);
  }
  using session = model.session();
  const steps: number[] = [], enqueued: number[] = [];
  for (let i = 0; i < 120; i++) {
    const start = performance.now();
    using logits = session.step(ids[i]);
    enqueued.push(performance.now() - start);
    const read = await logits.data();
    assert(Number.isFinite(read[7]));
    steps.push(performance.now() - start);
  }
  const read = (count - weights.embedTokens.size) * (dtype === "f32" ? 4 : 2);
  const ms = median(steps.slice(20));
  console.log(
    `| ${name} ${dtype} | decode ${ms.toFixed(2)} ms (best ${Math.min(...steps).toFixed(2)}) | enqueue ${
      median(enqueued.slice(20)).toFixed(2)
    } ms | ${(read / ms / 1e9).toFixed(2)} TB/s | prefill 2048: ${
      (2048 / median(prefills) * 1000).toFixed(0)
    } tokens/s | ${(backend.bytesInUse / 1e9).toFixed(2)} GB |`,
  );
}

const wanted = Deno.args.length > 0 ? Deno.args : ["linear", "385M", "1B", "7B"];
console.log(`${device.name}, Deno ${Deno.version.deno}`);
for (const what of wanted) {
  if (what === "linear") {
    for (const rows of [1, 4, 16, 32, 64, 200, 2048]) await linear(rows, 4096, 4096);
    await linear(1, 1024, 4096);
    await linear(1, 2816, 1024);
    await linear(1, 4096, 22016);
    await linear(1, 1024, 50272);
    continue;
  }
  assert(what in SIZES, `name some of linear, ${Object.keys(SIZES)}`);
  const [embed, layers] = SIZES[what];
  for (const dtype of ["bf16", "f32"] as const) {
    if (dtype === "bf16" || 12 * embed * embed * layers < MOST_F32) await model(what, dtype);
  }
}
backend.dispose();
