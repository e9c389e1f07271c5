/**
 * What the host does of a decoded token on a GPU, at the published sizes with random weights in memory: `recorded` is the
 * time until a step returns, `submitted` until the device has it all, and `host` that in microseconds per dispatch. `bench/published.ts` times whole programs,
 * `bench/gpu.ts` kernels.
 *
 *     deno run -A bench/inference.ts [385M] [1B] [3B] [7B] [f32] [bf16] [int8] [int4]
 *
 * @module
 */
import assert from "node:assert/strict";
import { Backend } from "../core/tensor.ts";
import { createMachine } from "../gpu/machine.ts";
import { Decoding, readLogits } from "../model/mod.ts";
import { PUBLISHED, type PublishedName } from "./measure/checkpoints.ts";
import { noiseModel, STORED, type Stored } from "./measure/models.ts";
import { median } from "./measure/timing.ts";

/** Bytes per weight, in groups of 32 for integers. */
const BYTES: Readonly<Record<Stored, number>> = { f32: 4, bf16: 2, int8: 8.5 / 8, int4: 4.5 / 8 };

/** Models above this are not stored as f32. */
const MOST_F32 = 2e9;

/** Sessions that step together. */
const BATCH = 16;

const machine = await createMachine({}, "asked for by name");
const { device } = machine;
const backend = new Backend(machine);

async function model(name: PublishedName, dtype: Stored): Promise<void> {
  using model = noiseModel(backend, PUBLISHED[name], dtype);
  const { config } = model, count = model.parameterCount;
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
  const dispatches = await dispatchesOf(async () => {
    using logits = session.step(1);
    await logits.data();
  });
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
  const slots = Array.from({ length: BATCH }, () => batch.join(session));
  const batches: number[][] = [];
  for (const options of [{ seed: 1 }, { temperature: 0 }, { topK: 40, seed: 1 }]) {
    const answers = slots.map(() => new Decoding(model, [1], { ...options, maxTokens: Infinity }));
    const times: number[] = [];
    for (let i = 0; i < 60; i++) {
      const start = performance.now();
      using logits = batch.step(slots, slots.map((slot) => ids[slot + i]));
      const rows = await readLogits(logits, answers.map(({ candidates }) => candidates));
      for (const [row, answer] of answers.entries()) answer.next(rows[row]);
      times.push(performance.now() - start);
    }
    batches.push(times);
  }
  const ofBatch = await dispatchesOf(async () => {
    using logits = batch.step(slots, slots.map(() => 1));
    await logits.data();
  });
  const bytes = count * BYTES[dtype], ms = median(steps.slice(20));
  const cells = [
    `${name} ${dtype}`,
    `${(backend.bytesInUse / 1e9).toFixed(2)} GB`,
    ...[steps, recorded, submitted].map((times) => median(times.slice(20)).toFixed(2)),
    (1000 * median(submitted.slice(20)) / dispatches).toFixed(1),
    Math.min(...steps).toFixed(2),
    (bytes / ms / 1e9).toFixed(2),
    ...sampled.map((ms) => ms.toFixed(2)),
    `${dispatches} / ${ofBatch}`,
    ...batches.map((times) => median(times.slice(10)).toFixed(2)),
    (2048 / median(prefills) * 1000).toFixed(0),
  ];
  console.log(`| ${cells.join(" | ")} |`);
}

/** Dispatches that the work takes. */
async function dispatchesOf(work: () => Promise<void>): Promise<number> {
  const { prototype } = GPUComputePassEncoder, { dispatchWorkgroups } = prototype;
  let count = 0;
  prototype.dispatchWorkgroups = function (...workgroups) {
    count++;
    return dispatchWorkgroups.apply(this, workgroups);
  };
  try {
    await work();
  } finally {
    prototype.dispatchWorkgroups = dispatchWorkgroups;
  }
  return count;
}

console.log(`${device.name}, Deno ${Deno.version.deno}; milliseconds per token
| model | memory | step | recorded | submitted | host, µs | fastest | TB/s | greedy | top 40 | sampled from all | dispatches: one / ${BATCH} | ${BATCH}, all logits | greedy | top 40 | prefill of 2,048, tokens/s |
|---|${"--:|".repeat(15)}`);
const types = STORED.filter((type) => Deno.args.includes(type));
const names = Deno.args.filter((name) => !(STORED as readonly string[]).includes(name));
for (const name of names.length > 0 ? names : ["385M", "1B", "7B"]) {
  assert(name in PUBLISHED, `name some of ${Object.keys(PUBLISHED)}, and types of weights: ${STORED}`);
  const { decoder_embed_dim, decoder_layers } = PUBLISHED[name as PublishedName];
  for (const dtype of types.length > 0 ? types : STORED) {
    const isSmall = 12 * decoder_embed_dim ** 2 * decoder_layers < MOST_F32;
    if (dtype !== "f32" || isSmall) await model(name as PublishedName, dtype);
  }
}
backend.dispose();
