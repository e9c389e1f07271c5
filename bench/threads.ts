/**
 * What threads give: attention, products and a model on 1, 2, 4, ... threads, and what idle ones take. Each number of
 * threads is measured in turns with a backend of one thread on the same operands, so that a slow moment meets both.
 *
 *     deno task bench:threads [--threads 1,2,4,8] [--seconds 2] [--idle 10]
 *
 * @module
 */
import process from "node:process";
import { cli, command, integer, items } from "../cli/mod.ts";
import { type Backend, createBackend, lightningAttention } from "../mod.ts";
import { linear } from "../core/ops.ts";
import { cores } from "../wasm/threads.ts";
import type { TransNormerLLM } from "../model/mod.ts";
import { noise } from "./measure/operands.ts";
import { decodeCase, prefillCase, randomModel } from "./measure/models.ts";
import { median, seconds, warmUp } from "./measure/timing.ts";

/** Layers of the published 385M, as many as are larger than the caches. */
const MODEL = {
  vocab_size: 4096,
  decoder_embed_dim: 1024,
  decoder_layers: 4,
  decoder_attention_heads: 8,
  hidden_dim: 1024,
  glu_dim: 2816,
};

/** What is timed, on a backend: made when its turn comes. */
const TASKS: Record<string, (backend: Backend) => () => unknown> = {
  "attention 16 × 8192 × 64": (backend) => attention(backend, 16, 8192),
  "attention 1 × 65536 × 64": (backend) => attention(backend, 1, 65536),
  "linear 1024³": (backend) => product(backend, 1024, 1024, 1024),
  "linear 16 × 1024 → 4096": (backend) => product(backend, 16, 1024, 4096),
};
const MODEL_TASKS: Record<string, (model: TransNormerLLM) => () => unknown> = {
  "decode, bf16": (model) => decodeCase(model).run,
  "prefill 512, bf16": (model) => prefillCase(model, 512).run,
};

await cli(
  command("bench:threads", "How attention, products and a model get faster with threads.")
    .option("--threads <list>", "by comma; default powers of two up to the cores", items(integer(1)))
    .option("--seconds <n>", "for each measurement, at least", integer(1), 2)
    .option("--idle <seconds>", "how long all threads are left idle", integer(0), 10)
    .action(measure),
);

function attention(backend: Backend, heads: number, seqLen: number): () => void {
  const shape = [1, heads, seqLen, 64];
  const [q, k, v] = [1, 2, 3].map((seed) => backend.tensor(noise(shape, seed), shape));
  const slopes = Array.from({ length: heads }, (_, head) => 0.1 / (head + 1));
  return () => {
    for (const result of Object.values(lightningAttention(q, k, v, { slopes }))) result.dispose();
  };
}

function product(backend: Backend, rows: number, inDim: number, outDim: number): () => void {
  const x = backend.tensor(noise([rows, inDim], 1), [rows, inDim]);
  const weight = backend.tensor(noise([outDim, inDim], 2), [outDim, inDim]);
  return () => linear(x, weight).dispose();
}

/** The others on many threads, each in turns with the first, which has one. A row of the table. */
async function row(name: string, [single, ...others]: (() => unknown)[], spent: number): Promise<void> {
  const cells: string[] = [];
  await warmUp(single);
  for (const run of others) {
    await warmUp(run);
    const times: number[] = [], ratios: number[] = [];
    for (const end = performance.now() + 1000 * spent; times.length === 0 || performance.now() < end;) {
      const alone = await seconds(single), together = await seconds(run);
      times.push(together);
      ratios.push(alone / together);
    }
    cells.push(`${(1000 * median(times)).toFixed(2)} ms, ${median(ratios).toFixed(2)} ×`);
  }
  console.log(`| ${name} | ${cells.join(" | ")} |`);
}

async function measure(
  { threads, seconds: spent, idle }: { threads?: number[]; seconds: number; idle: number },
): Promise<void> {
  const most = cores(), counts = threads ?? [1, 2, 4, 8, 16, 32].filter((count) => count <= most);
  const backends: Backend[] = [];
  for (const count of [1, ...counts]) backends.push(await createBackend({ prefer: "wasm", threads: count }));
  console.log(`${backends[0].info.device}, ${navigator.userAgent}, ${most} cores\n`);
  console.log(`| threads | ${counts.join(" | ")} |\n|---|${"--:|".repeat(counts.length)}`);
  for (const [name, make] of Object.entries(TASKS)) await row(name, backends.map(make), spent);
  const before = process.cpuUsage();
  await new Promise((resolve) => setTimeout(resolve, 1000 * idle));
  const { user, system } = process.cpuUsage(before);
  const models: TransNormerLLM[] = [];
  for (const backend of backends) models.push(await randomModel(backend, MODEL, "bf16"));
  for (const [name, make] of Object.entries(MODEL_TASKS)) await row(name, models.map(make), spent);
  console.log(`\nIdle, all of them took ${Math.round((user + system) / 1000)} ms of CPU in ${idle} s`);
  for (const backend of backends) backend.dispose();
}
