/**
 * What threads give: attention, products and a model on 1, 2, 4, ... threads, on as many physical cores, and at last on
 * all hyperthreads; and what small jobs take while every core computes something else. Each number of threads is measured
 * in turns with a backend of one thread on the same operands and cores, so that a slow moment meets both.
 *
 *     deno task bench:threads [--threads 1,2,4,8] [--rows ceilings,large,model,small,busy] [--seconds 1] [--idle 5]
 *
 * What bounds them is measured too: what N threads multiply in L1 and read from memory at best, and into which factors
 * their time falls (see `measure/trace.ts`). The large rows are of backends that note the times of their parts, which
 * takes some 0.2 microseconds for each, and whose workers never rest.
 *
 * Cores are told apart, kept to and made busy on Linux only; elsewhere the system places threads as it likes, and the
 * rows of a busy machine are missing.
 *
 * @module
 */
import process from "node:process";
import { cli, command, integer, items, number, oneOf, write } from "../cli/mod.ts";
import { type Backend, createBackend, lightningAttention, lightningAttentionStep } from "../mod.ts";
import { linear, norm } from "../core/ops.ts";
import { cores } from "../wasm/threads.ts";
import type { TransNormerLLM } from "../model/mod.ts";
import { findProcessors, Load, measuredSiblings, pin, type Processors, Taken } from "./measure/cores.ts";
import { decodeBytes, decodeCase, prefillCase, randomModel } from "./measure/models.ts";
import { noise } from "./measure/operands.ts";
import { Probes } from "./measure/probes.ts";
import { median, seconds, warmUp } from "./measure/timing.ts";
import { seeded } from "../tests/numbers.ts";
import { type Times, TracedBackend } from "./measure/trace.ts";

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
/** Bytes that readers go through together: no cache holds them. */
const READ_BYTES = 2 ** 29;
/** Milliseconds of a probe. */
const PROBE = 100;

const ROWS = { ceilings: "ceilings", large: "large", model: "model", small: "small", busy: "busy" };

await cli(
  command("bench:threads", "How attention, products and a model get faster with threads.")
    .option("--threads <list>", "by comma; default powers of two up to the cores", items(integer(1)))
    .option("--rows <list>", `by comma; default all: ${Object.keys(ROWS).join(",")}`, items(oneOf(ROWS)))
    .option("--seconds <n>", "for each measurement, at least", number("of at least 0.1", (n) => n >= 0.1), 1)
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
  /** Undefined where threads cannot be kept to processors. */
  readonly processors?: readonly number[];
}

/** Milliseconds that a run and one thread take in turns on the same processors. */
interface Turns {
  readonly alone: readonly number[];
  readonly together: readonly number[];
}

async function inTurns(
  single: () => unknown,
  run: () => unknown,
  { processors }: Column,
  spent: number,
): Promise<Turns> {
  if (processors !== undefined) await pin(processors);
  await warmUp(run, 0.1);
  const each = Math.min(await seconds(single), await seconds(run));
  const times = Math.max(1, Math.ceil(SHORTEST / 1000 / each));
  const often = async (one: () => unknown) => {
    const taken = await seconds(async () => {
      for (let i = 0; i < times; i++) await one();
    });
    return 1000 * taken / times;
  };
  const alone: number[] = [], together: number[] = [];
  for (const end = performance.now() + 1000 * spent; alone.length === 0 || performance.now() < end;) {
    alone.push(await often(single));
    together.push(await often(run));
  }
  return { alone, together };
}

/** Sums, not medians: a slice that a busy machine takes away is part of what a job costs. */
function sum(values: readonly number[]): number {
  return values.reduce((total, value) => total + value, 0);
}

/** How many times as fast as one thread a run was. */
function ratio({ alone, together }: Turns): number {
  return sum(alone) / sum(together);
}

/**
 * Between which ratios one thread compared with itself lies in nine of ten runs as long as this one: its turns are drawn
 * twice with replacement, and compared, again and again.
 */
function noiseFloor({ alone }: Turns, random: () => number): [number, number] {
  const draw = () => sum(alone.map(() => alone[Math.floor(random() * alone.length)]));
  const ratios = Array.from({ length: 400 }, () => draw() / draw()).sort((a, b) => a - b);
  return [ratios[20], ratios[379]];
}

/** Writes a row immediately: a run may be cut off. */
function row(name: string, cells: readonly string[]): void {
  write(`| ${name} | ${cells.join(" | ")} |\n`);
}

function percent(share: number): string {
  return (100 * share).toFixed(0);
}

/** Into which factors the time of threads falls, compared with one thread alone; and where they wait. */
async function factors(
  { threads, backend, measure }: Bench,
  run: () => unknown,
  alone: number,
  together: number,
  spent: number,
): Promise<string[]> {
  if (backend === undefined || threads === 1) return ["", "", ""];
  const often = (each: number) => Math.max(1, Math.min(100, Math.round(300 * spent / each)));
  const rounds = [];
  for (let i = 0; i < 3; i++) {
    rounds.push({
      parts: await measure!(run, often(together), false),
      cut: await measure!(run, often(alone), true),
    });
  }
  // The best of three: what other work took is not what is asked for.
  const least = (times: Times[]) => times.reduce((best, one) => one.total < best.total ? one : best);
  const parts = least(rounds.map(({ parts }) => parts)), cut = least(rounds.map(({ cut }) => cut));
  const factor = (value: number) => value.toFixed(2);
  return [
    [cut.total / alone, parts.busy / cut.busy, threads * parts.total / parts.busy].map(factor).join(" · "),
    [parts.outside, parts.before, parts.after, parts.between].map(percent).join(" · "),
    `${parts.wake.toFixed(0)} µs, ${factor(parts.came + 1)}, ${percent(parts.longest)} %, ${
      parts.jobs.toFixed(0)
    } / ${parts.parts.toFixed(0)}`,
  ];
}

/** A backend of a column, and what notes where its time goes. */
interface Bench extends Column {
  readonly backend: Backend;
  readonly measure?: (run: () => unknown, times: number, alone: boolean) => Promise<Times>;
}

/** Rows of what is large: times the speed of one thread, and why. Returns what each column takes in milliseconds. */
async function largeRows(
  name: string,
  benches: readonly Bench[],
  [single, ...runs]: (() => unknown)[],
  spent: number,
): Promise<number[]> {
  const speeds: string[] = [], why: string[][] = [[], [], []], times: number[] = [];
  await warmUp(single);
  for (const [index, run] of runs.entries()) {
    const turns = await inTurns(single, run, benches[index], spent);
    const taken = median(turns.together);
    speeds.push(`${ratio(turns).toFixed(2)} × (${taken.toPrecision(3)} ms)`);
    times.push(taken);
    const found = await factors(benches[index], run, median(turns.alone), taken, spent);
    found.forEach((cell, i) => why[i].push(cell));
  }
  row(name, speeds);
  row("– cut · slower · idle", why[0]);
  row("– idle: outside · before · after · between, %", why[1]);
  row("– wake, threads that came, longest part, jobs / parts", why[2]);
  return times;
}

/** Powers of two on as many cores, then all processors. */
function places({ cores, siblings }: Processors, counts: readonly number[] | undefined): Column[] {
  const all = [...cores, ...siblings];
  const usual = [1, 2, 4, 8, 16, 32, 64].filter((count) => count <= cores.length);
  return (counts ?? [...usual, ...siblings.length > 0 ? [all.length] : []])
    .map((threads) => ({ threads, processors: all.slice(0, threads) }));
}

/** The columns, after it was measured which processors share a core. */
async function findColumns(
  counts: readonly number[] | undefined,
  probes: Probes,
): Promise<{ columns: Column[]; found?: Processors }> {
  const told = await findProcessors();
  const refused = told === undefined
    ? "the system does not tell them apart"
    : await pin([...told.cores, ...told.siblings]).then(() => undefined, ({ message }: Error) => message);
  if (told === undefined || refused !== undefined) {
    const most = cores(), usual = [1, 2, 4, 8, 16, 32].filter((count) => count <= most);
    write(`${most} processors, placed by the system: ${refused}\n`);
    return { columns: (counts ?? usual).map((threads) => ({ threads })) };
  }
  const found = await measuredSiblings(told, async (processors) => {
    await pin(processors);
    let best = 0; // other work must not look like a shared core
    for (let i = 0; i < 3; i++) best = Math.max(best, await probes.multiply(processors.length, 30));
    return best;
  });
  const list = (processors: readonly number[]) => `${processors.length} (${processors.join(" ")})`;
  const seen = found.pairs.length === 0
    ? "as the system tells"
    : `measured: ${found.pairs.join("; ")} share one`;
  write(`cores: ${list(found.cores)}, second hyperthreads: ${list(found.siblings)}, ${seen}\n`);
  return { columns: places(found, counts), found };
}

async function measure(
  { threads: counts, rows = Object.keys(ROWS), seconds: spent, idle }: {
    threads?: number[];
    rows?: string[];
    seconds: number;
    idle: number;
  },
): Promise<void> {
  using probes = await Probes.start(Math.max(cores(), ...counts ?? []));
  const taken = new Taken(), random = seeded(1);
  const { columns, found } = await findColumns(counts, probes);
  using single = await createBackend({ prefer: "wasm" });
  write(`${single.info.device}, ${navigator.userAgent}\n\n`);
  const heads = columns.map(({ threads }) =>
    found !== undefined && threads > found.cores.length ? `${threads}, hyperthreads too` : `${threads}`
  );
  row("threads", heads);
  write(`|---|${"--:|".repeat(columns.length)}\n`);
  const here = async ({ processors }: Column) => {
    if (processors !== undefined) await pin(processors);
  };
  const told = (what: string) => row(`(meanwhile, ${what})`, [taken.describe()]);

  if (rows.includes("ceilings")) {
    const multiplied: number[] = [], read: number[] = [];
    for (const column of columns) {
      await here(column);
      multiplied.push(await probes.multiply(column.threads, 2 * PROBE));
    }
    row(
      "tile in L1",
      multiplied.map((rate) => `${(rate / multiplied[0]).toFixed(2)} × (${rate.toFixed(0)} GFLOP/s)`),
    );
    for (const column of columns) {
      await here(column);
      read.push(await probes.read(column.threads, READ_BYTES, PROBE));
    }
    row("reading memory", read.map((rate) => `${(rate / read[0]).toFixed(2)} × (${rate.toFixed(1)} GB/s)`));
    told("ceilings");
  }

  if (rows.includes("large") || rows.includes("model")) {
    const traced: TracedBackend[] = [], benches: Bench[] = [];
    for (const column of columns) {
      if (column.threads === 1) benches.push({ ...column, backend: await createBackend({ prefer: "wasm" }) });
      else {
        const one = await TracedBackend.start(column.threads);
        traced.push(one);
        benches.push({ ...column, backend: one.backend, measure: (...args) => one.measure(...args) });
      }
    }
    const backends = [single, ...benches.map(({ backend }) => backend)];
    if (rows.includes("large")) {
      for (const [name, make] of Object.entries(TASKS)) {
        await largeRows(name, benches, backends.map(make), spent);
      }
      told("large rows");
    }
    if (rows.includes("model")) {
      const models: TransNormerLLM[] = [];
      for (const backend of backends) models.push(await randomModel(backend, MODEL, "bf16"));
      for (const [name, make] of Object.entries(MODEL_TASKS)) {
        const times = await largeRows(name, benches, models.map(make), spent);
        if (name !== DECODE) continue;
        const bytes = decodeBytes(models[0]), cells: string[] = [];
        for (const [index, column] of columns.entries()) {
          await here(column);
          const rate = bytes / times[index] / 1e6;
          const ceiling = await probes.read(column.threads, bytes, PROBE);
          cells.push(`${(100 * rate / ceiling).toFixed(0)} % of ${ceiling.toFixed(1)} GB/s`);
        }
        row("– of what they can read", cells);
      }
      told("model");
    }
    for (const { backend } of benches) backend.dispose();
  }

  if (!rows.includes("small") && !rows.includes("busy")) return;
  const backends = [single];
  for (const { threads } of columns) backends.push(await createBackend({ prefer: "wasm", threads }));
  for (const [name, make] of Object.entries(SMALL_TASKS)) {
    const [alone, ...runs] = backends.map(make);
    await warmUp(alone);
    for (const busy of [false, true]) {
      if (!rows.includes(busy ? "busy" : "small") || busy && found === undefined) continue;
      const cells: string[] = [];
      for (const [index, run] of runs.entries()) {
        const column = columns[index];
        await using _load = new Load(busy ? column.processors! : []);
        const turns = await inTurns(alone, run, column, spent), [low, high] = noiseFloor(turns, random);
        cells.push(`${ratio(turns).toFixed(2)} × (itself ${low.toFixed(2)}–${high.toFixed(2)})`);
      }
      row(busy ? `${name}, cores busy` : name, cells);
    }
  }
  told("small rows");
  const before = process.cpuUsage();
  await new Promise((resolve) => setTimeout(resolve, 1000 * idle));
  const { user, system } = process.cpuUsage(before);
  write(`Idle, all of them took ${Math.round((user + system) / 1000)} ms of CPU in ${idle} s\n`);
  for (const backend of backends.slice(1)) backend.dispose();
}
