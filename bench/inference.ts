/**
 * What the host does of a decoded token on a GPU, at the published sizes with random weights in memory: `recorded` is the
 * time until a step returns, `submitted` until the device has it all. `bench/published.ts` times whole programs,
 * `bench/gpu.ts` kernels.
 *
 *     deno run -A bench/inference.ts [385M] [1B] [3B] [7B]
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
import { PUBLISHED, type PublishedName } from "./measure/checkpoints.ts";
import { median } from "./measure/timing.ts";

type Stored = "f32" | "bf16";

/** Models above this are not stored as f32. */
const MOST_F32 = 2e9;

/** Sessions that step together. */
const BATCH = 16;

const machine = await createMachine({}, "asked for by name");
const { device } = machine;
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

async function model(name: PublishedName, dtype: Stored): Promise<void> {
  const config = parseConfig({ model_type: "transnormer", ...PUBLISHED[name] });
  const parameters: Tensor[] = [];
  const weights = mapWeights(config, true, (_, shape) => {
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
  const ids = Uint32Array.from({ length: 2048 }, (_, i) => i * 7919 % config.vocabSize);
  const prefills: number[] = [];
  for (let i = 0; i < 4; i++) {
    using session = model.session();
    const start = performance.now();
    using logits = session.prefill(ids);
    await logits.data();
    prefills.push(performance.now() - start);
  }
  using session = model.session();
  const steps: number[] = [], recorded: number[] = [], submitted: number[] = [];
  for (let i = 0; i < 120; i++) {
    const start = performance.now();
    using logits = session.step(ids[i]);
    recorded.push(performance.now() - start);
    device.flush();
    submitted.push(performance.now() - start);
    const read = await logits.data();
    assert(Number.isFinite(read[7]));
    steps.push(performance.now() - start);
  }
  const sampled: number[] = [];
  for (const options of [{ temperature: 0 }, { topK: 40, seed: 1 }, { seed: 1 }]) {
    const times: number[] = [];
    let last = NaN;
    for await (const _ of model.generate(ids.subarray(0, 8), { ...options, maxTokens: 100 })) {
      times.push(performance.now() - last);
      last = performance.now();
    }
    sampled.push(median(times.slice(20)));
  }
  using batch = model.batch(BATCH);
  const slots = Array.from({ length: BATCH }, () => batch.join(model.session()));
  const batches: number[] = [];
  for (let i = 0; i < 60; i++) {
    const start = performance.now();
    using logits = batch.step(slots, slots.map((slot) => ids[slot + i]));
    await logits.data();
    batches.push(performance.now() - start);
  }
  const bytes = count * (dtype === "f32" ? 4 : 2), ms = median(steps.slice(20));
  const cells = [
    `${name} ${dtype}`,
    `${(backend.bytesInUse / 1e9).toFixed(2)} GB`,
    ...[steps, recorded, submitted].map((times) => median(times.slice(20)).toFixed(2)),
    Math.min(...steps).toFixed(2),
    (bytes / ms / 1e9).toFixed(2),
    ...sampled.map((ms) => ms.toFixed(2)),
    median(batches.slice(10)).toFixed(2),
    (2048 / median(prefills) * 1000).toFixed(0),
  ];
  console.log(`| ${cells.join(" | ")} |`);
}

console.log(`${device.name}, Deno ${Deno.version.deno}; milliseconds per token
| model | memory | step | recorded | submitted | fastest | TB/s | greedy | top 40 | sampled from all | ${BATCH} at a time | prefill of 2,048, tokens/s |
|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|`);
for (const name of Deno.args.length > 0 ? Deno.args : ["385M", "1B", "7B"]) {
  assert(name in PUBLISHED, `name some of ${Object.keys(PUBLISHED)}`);
  const { decoder_embed_dim, decoder_layers } = PUBLISHED[name as PublishedName];
  for (const dtype of ["bf16", "f32"] as const) {
    const isSmall = 12 * decoder_embed_dim ** 2 * decoder_layers < MOST_F32;
    if (dtype === "bf16" || isSmall) await model(name as PublishedName, dtype);
  }
}
backend.dispose();
