/**
 * What threads give: attention, products and a model on 1, 2, 4, ... threads, on as many physical cores, and at last on
 * all hyperthreads; and what small jobs take while every core computes something else. Each number of threads is measured
 * in turns with a backend of one thread on the same operands and cores, so that a slow moment meets both.
 *
 *     deno task bench:threads [--threads 1,2,4,8] [--seconds 1] [--idle 5]
 *
 * Cores are told apart, kept to and made busy on Linux only; elsewhere the system places threads as it likes, and the
 * rows of a busy machine are missing.
 *
 * @module
 */
import process from "node:process";
import { cli, command, integer, items } from "../cli/mod.ts";
import { type Backend, createBackend, lightningAttention, lightningAttentionStep } from "../mod.ts";
import { linear, norm } from "../core/ops.ts";
import { cores } from "../wasm/threads.ts";
import type { TransNormerLLM } from "../model/mod.ts";
import { findProcessors, Load, pin, type Processors } from "./measure/cores.ts";
import { decodeBytes, decodeCase, prefillCase, randomModel } from "./measure/models.ts";
import { noise } from "./measure/operands.ts";
import type { Reading } from "./measure/reader.ts";
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
/** Jobs of 10 to 300 microseconds, which a busy machine delays most. */
const SMALL_TASKS: typeof TASKS = {
  "norm 64 × 1024": (backend) => {
    const x = backend.tensor(noise([64, 1024], 1), [64, 1024]);
    return () => norm(x).dispose();
  },
  "step of 8 × 128": (backend) => {
    const x = backend.tensor(noise([1, 8, 128], 1), [1, 8, 128]), state = backend.zeros([1, 8, 128, 128]);
    const slopes = Array.from({ length: 8 }, (_, head) => 0.1 / (head + 1));
    return () => lightningAttentionStep(x, x, x, state, { slopes }).dispose();
  },
  "linear 1 × 1024 → 1024": (backend) => product(backend, 1, 1024, 1024),
  "linear 8 × 512 → 512": (backend) => product(backend, 8, 512, 512),
  "attention 4 × 256 × 64": (backend) => attention(backend, 4, 256),
};
const DECODE = "decode, bf16";
const MODEL_TASKS: Record<string, (model: TransNormerLLM) => () => unknown> = {
  [DECODE]: (model) => decodeCase(model).run,
  "prefill 512, bf16": (model) => prefillCase(model, 512).run,
};

/** Milliseconds of the shortest measurement: the clock of a busy machine jumps by slices of a few. */
const SHORTEST = 10;

await cli(
  command("bench:threads", "How attention, products and a model get faster with threads.")
    .option("--threads <list>", "by comma; default powers of two up to the cores", items(integer(1)))
    .option("--seconds <n>", "for each measurement, at least", integer(1), 1)
    .option("--idle <seconds>", "how long all threads are left idle", integer(0), 5)
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

/** A number of threads, and where they run. */
interface Column {
  readonly threads: number;
  readonly backend: Backend;
  /** Undefined where threads cannot be kept to processors. */
  readonly processors?: readonly number[];
}

/** How many times as fast as one thread a column is, in turns on the same processors. */
async function speedup(
  single: () => unknown,
  run: () => unknown,
  { processors }: Column,
  spent: number,
): Promise<{ ratio: number; taken: number }> {
  if (processors !== undefined) await pin(processors);
  await warmUp(single);
  await warmUp(run);
  const each = Math.min(await seconds(single), await seconds(single));
  const times = Math.max(1, Math.ceil(SHORTEST / 1000 / each));
  const often = async (one: () => unknown) => {
    for (let i = 0; i < times; i++) await one();
  };
  const alone: number[] = [], together: number[] = [];
  for (const end = performance.now() + 1000 * spent; alone.length === 0 || performance.now() < end;) {
    alone.push(await seconds(() => often(single)));
    together.push(await seconds(() => often(run)));
  }
  // Sums: a slice that a busy machine takes away is part of what a job costs.
  const sum = (values: number[]) => values.reduce((total, value) => total + value);
  return { ratio: sum(alone) / sum(together), taken: median(together) / times };
}

/** A row of the table: all columns compared with one thread. */
async function row(
  name: string,
  columns: readonly Column[],
  [single, ...runs]: (() => unknown)[],
  spent: number,
): Promise<number[]> {
  const cells: string[] = [], times: number[] = [];
  for (const [index, run] of runs.entries()) {
    const { ratio, taken } = await speedup(single, run, columns[index], spent);
    cells.push(`${ratio.toFixed(2)} × (${(1000 * taken).toPrecision(3)} ms)`);
    times.push(taken);
  }
  console.log(`| ${name} | ${cells.join(" | ")} |`);
  return times;
}

/** The same while every processor of a column has other work. */
async function busyRow(
  name: string,
  columns: readonly Column[],
  [single, ...runs]: (() => unknown)[],
  spent: number,
): Promise<void> {
  const cells: string[] = [];
  for (const [index, run] of runs.entries()) {
    const column = columns[index];
    await using _load = new Load(column.processors!);
    cells.push(`${(await speedup(single, run, column, spent)).ratio.toFixed(2)} ×`);
  }
  console.log(`| ${name}, cores busy | ${cells.join(" | ")} |`);
}

/** Gigabytes per second that threads read together, of as many bytes as a token of the model reads. */
async function readCeiling({ threads, processors }: Column, bytes: number, spent: number): Promise<number> {
  const readers = Array.from(
    { length: threads },
    () => new Worker(new URL("measure/reader.ts", import.meta.url), { type: "module" }),
  );
  try {
    const share = Math.ceil(bytes / threads / 128) * 128;
    const read = (milliseconds: number) =>
      Promise.all(readers.map((reader) =>
        new Promise<number>((resolve, reject) => {
          reader.onmessage = ({ data }) => resolve(data);
          reader.onerror = ({ message }) => reject(new Error(message));
          reader.postMessage({ bytes: share, milliseconds } satisfies Reading);
        })
      ));
    await read(100);
    if (processors !== undefined) await pin(processors);
    return (await read(1000 * spent)).reduce((total, rate) => total + rate);
  } finally {
    for (const reader of readers) reader.terminate();
  }
}

/** Powers of two on as many cores, then all processors. */
function places({ cores, siblings }: Processors, counts: readonly number[] | undefined): number[][] {
  const all = [...cores, ...siblings];
  const usual = [1, 2, 4, 8, 16, 32, 64].filter((count) => count <= cores.length);
  return (counts ?? [...usual, ...siblings.length > 0 ? [all.length] : []]).map((count) =>
    all.slice(0, count)
  );
}

async function measure(
  { threads, seconds: spent, idle }: { threads?: number[]; seconds: number; idle: number },
): Promise<void> {
  const found = await findProcessors();
  const most = cores(), counts = threads ?? [1, 2, 4, 8, 16, 32].filter((count) => count <= most);
  const create = (threads: number) => createBackend({ prefer: "wasm", threads });
  const columns: Column[] = [], single = await create(1);
  if (found === undefined) {
    for (const threads of counts) columns.push({ threads, backend: await create(threads) });
  } else {
    for (const processors of places(found, threads)) {
      columns.push({ threads: processors.length, processors, backend: await create(processors.length) });
    }
  }
  const backends = [single, ...columns.map(({ backend }) => backend)];
  const where = found === undefined
    ? `${most} processors, placed by the system`
    : `${found.cores.length} cores, ${found.siblings.length} second hyperthreads`;
  console.log(`${single.info.device}, ${navigator.userAgent}, ${where}\n`);
  const heads = columns.map(({ threads, processors }) =>
    found !== undefined && processors!.length > found.cores.length ? `${threads}, all hyperthreads` : threads
  );
  console.log(`| threads | ${heads.join(" | ")} |\n|---|${"--:|".repeat(columns.length)}`);
  for (const [name, make] of Object.entries({ ...TASKS, ...SMALL_TASKS })) {
    await row(name, columns, backends.map(make), spent);
  }
  if (found !== undefined) {
    for (const [name, make] of Object.entries(SMALL_TASKS)) {
      await busyRow(name, columns, backends.map(make), spent);
    }
  }
  const before = process.cpuUsage();
  await new Promise((resolve) => setTimeout(resolve, 1000 * idle));
  const { user, system } = process.cpuUsage(before);
  const models: TransNormerLLM[] = [];
  for (const backend of backends) models.push(await randomModel(backend, MODEL, "bf16"));
  for (const [name, make] of Object.entries(MODEL_TASKS)) {
    const times = await row(name, columns, models.map(make), spent);
    if (name !== DECODE) continue;
    const bytes = decodeBytes(models[0]), cells: string[] = [];
    for (const [index, column] of columns.entries()) {
      const rate = bytes / times[index] / 1e9, ceiling = await readCeiling(column, bytes, spent);
      cells.push(`${(100 * rate / ceiling).toFixed(0)} % of ${ceiling.toFixed(1)} GB/s`);
    }
    console.log(`| of what they can read | ${cells.join(" | ")} |`);
  }
  console.log(`\nIdle, all of them took ${Math.round((user + system) / 1000)} ms of CPU in ${idle} s`);
  for (const backend of backends) backend.dispose();
}
