/**
 * What threads give: attention, products and a model on 1, 2, 4, ... threads, and what idle ones take. Each number of
 * threads is measured right after a backend of one thread on the same operands, so that a slow moment meets both.
 *
 *     deno task bench:threads [--threads 1,2,4,8] [--repeats 5] [--idle 10]
 *
 * @module
 */
import process from "node:process";
import { cli, command, integer, items } from "../cli/mod.ts";
import { type Backend, createBackend, lightningAttention } from "../mod.ts";
import { linear } from "../core/ops.ts";
import { cores } from "../wasm/threads.ts";
import { noise } from "./measure/operands.ts";
import { decodeCase, prefillCase, randomModel } from "./measure/models.ts";
import { median, seconds, warmUp } from "./measure/timing.ts";

/** Layers of the published 385M, as many as are larger than the caches. */
const MODEL = {
  vocab_size: 16384,
  decoder_embed_dim: 1024,
  decoder_layers: 8,
  decoder_attention_heads: 8,
  hidden_dim: 1024,
  glu_dim: 2816,
};

await cli(
  command("bench:threads", "How attention, products and a model get faster with threads.")
    .option(
      "--threads <list>",
      "numbers of threads, by comma; default powers of two up to the cores",
      items(integer(1)),
    )
    .option("--repeats <n>", "measurements of each", integer(1), 5)
    .option("--idle <seconds>", "how long the last backend is left idle", integer(0), 10)
    .action(measure),
);

/** What is timed on a backend, by name. */
async function tasks(backend: Backend): Promise<Record<string, () => unknown>> {
  const tensor = (shape: number[], seed: number) => backend.tensor(noise(shape, seed), shape);
  const attention = (heads: number, seqLen: number) => {
    const [q, k, v] = [1, 2, 3].map((seed) => tensor([1, heads, seqLen, 64], seed));
    const slopes = Array.from({ length: heads }, (_, head) => 0.1 / (head + 1));
    return () => {
      for (const result of Object.values(lightningAttention(q, k, v, { slopes }))) result.dispose();
    };
  };
  const product = (rows: number, inDim: number, outDim: number) => {
    const x = tensor([rows, inDim], 1), weight = tensor([outDim, inDim], 2);
    return () => linear(x, weight).dispose();
  };
  const model = await randomModel(backend, MODEL, "bf16");
  return {
    "attention 16 × 8192 × 64": attention(16, 8192),
    "attention 1 × 65536 × 64": attention(1, 65536),
    "linear 1024³": product(1024, 1024, 1024),
    "linear 16 × 1024 → 4096": product(16, 1024, 4096),
    "prefill 512, bf16": () => prefillCase(model, 512).run(),
    "decode, bf16": decodeCase(model).run,
  };
}

async function measure(
  { threads, repeats, idle }: { threads?: number[]; repeats: number; idle: number },
): Promise<void> {
  const most = cores();
  const counts = threads ?? [1, 2, 4, 8, 16, 32].filter((count) => count <= most);
  using one = await createBackend({ prefer: "wasm" });
  const single = await tasks(one);
  const columns: Record<string, string[]> = {};
  console.log(`${one.info.device}, ${navigator.userAgent}, ${most} cores; medians of ${repeats}\n`);
  for (const count of counts) {
    using backend = await createBackend({ prefer: "wasm", threads: count });
    for (const [name, run] of Object.entries(await tasks(backend))) {
      await warmUp(single[name]);
      await warmUp(run);
      const times: number[] = [], ratios: number[] = [];
      for (let i = 0; i < repeats; i++) {
        const alone = await seconds(single[name]), together = await seconds(run);
        times.push(together);
        ratios.push(alone / together);
      }
      (columns[name] ??= []).push(`${(1000 * median(times)).toFixed(2)} ms, ${median(ratios).toFixed(2)} ×`);
    }
    if (count !== counts.at(-1) || idle === 0) continue;
    const before = process.cpuUsage();
    await new Promise((resolve) => setTimeout(resolve, 1000 * idle));
    const { user, system } = process.cpuUsage(before);
    console.log(`${count} idle threads took ${(user + system) / 1000} ms of CPU in ${idle} s\n`);
  }
  console.log(`| threads | ${counts.join(" | ")} |\n|---|${"--:|".repeat(counts.length)}`);
  for (const [name, cells] of Object.entries(columns)) console.log(`| ${name} | ${cells.join(" | ")} |`);
}
