/**
 * Levin compared with llama.cpp in WebAssembly (`@wllama/wllama`): models of 141 M parameters with random weights in one
 * page of Chromium, all contestants in turns. With `--keep` it writes `docs/benchmarks/race.json`, from which
 * `deno task report --render-only` writes the page.
 *
 *     deno task bench:wllama [--rounds 5] [--threads 1,2] [--keep]
 *
 * @module
 */
import { pathToFileURL } from "node:url";
import { cli, command, integer, items } from "../cli/mod.ts";
import { writeCheckpoint } from "./measure/checkpoints.ts";
import { type Contestant, CONTEXTS, LLAMA, TRANSNORMER } from "./measure/race.ts";
import { bundle, openTrack, randomLlama, type Served } from "./measure/raceTrack.ts";
import { median } from "./measure/timing.ts";
import { commit, keep, kept, machine, type RaceReport, type RaceRow } from "./report/results.ts";

const GGML_TYPES = ["Q8_0", "Q4_K", "F32"] as const;
/** Decoding is short compared with what it continues: turns of it in a round. */
const DECODES = 3;
const CACHES = ["F16, flash attention", "F32"] as const;

await cli(
  command("bench:wllama", "Levin compared with llama.cpp in WebAssembly, in one page of Chromium.")
    .option("--rounds <n>", "rounds of all contestants", integer(1), 5)
    .option("--threads <1,2>", "numbers of threads", items(integer(1)), [1, 2])
    .option("--keep", "write docs/benchmarks/race.json")
    .action(async ({ rounds, threads, keep: keeps }) => {
      const begin = performance.now();
      const progress = (what: string) =>
        console.error(`${((performance.now() - begin) / 1000).toFixed(0).padStart(5)} s  ${what}`);
      const folder = await Deno.makeTempDir({ prefix: "levin-race-" });
      try {
        const served = await writeModels(folder, progress);
        for (const count of threads) {
          const found = await race(count, rounds, served, progress);
          if (!keeps) continue;
          // Those of other numbers of threads stay.
          const others = (await kept<RaceReport[]>("race.json") ?? [])
            .filter(({ threads }) => threads !== count);
          const reports = [...others, await report(count, rounds, found)];
          await keep("race.json", reports.toSorted((a, b) => a.threads - b.threads));
        }
      } finally {
        await Deno.remove(folder, { recursive: true });
      }
    }),
);

function contestants(threads: number): Contestant[] {
  return [
    ...(["int8", "int4"] as const).map((weights) => ({ engine: "Levin" as const, weights, threads })),
    ...GGML_TYPES.flatMap((weights) =>
      CACHES.map((cache) => ({ engine: "wllama" as const, weights, threads, cache }))
    ),
  ];
}

function describe(contestant: Contestant): string {
  const { engine, weights, threads } = contestant;
  return `${engine} ${weights}, ${threads === 1 ? "one thread" : `${threads} threads`}` +
    (contestant.engine === "Levin" ? "" : `, cache ${contestant.cache}`);
}

/** Writes the models of both into a folder: where the page finds them. */
async function writeModels(folder: string, progress: (what: string) => void): Promise<Served> {
  const file = (name: string) => pathToFileURL(`${folder}/${name}`);
  const served: Record<string, URL> = {};
  progress("writes a TransNormerLLM");
  await writeCheckpoint(folder, TRANSNORMER);
  for (const name of ["config.json", "model.safetensors"]) served[`/levin/${name}`] = file(name);
  for (const type of GGML_TYPES) {
    progress(`writes a llama of ${type}`);
    await Deno.writeFile(file(type), ReadableStream.from(randomLlama(LLAMA, type)));
    served[`/model/${type}`] = file(type);
  }
  return served;
}

/** All rounds with one number of threads. */
async function race(
  threads: number,
  rounds: number,
  models: Served,
  progress: (what: string) => void,
): Promise<Pick<RaceReport, "rows" | "versions">> {
  await using track = await openTrack(new URL("measure/racePage.ts", import.meta.url), {
    ...models,
    "/worker.js": await bundle(new URL("measure/raceWorker.ts", import.meta.url)),
  });
  const rows: RaceRow[] = [];
  for (const contestant of contestants(threads)) {
    progress(`${describe(contestant)}: loads and warms up`);
    await track.call("start", contestant);
    // Both engines begin in a baseline compiler.
    await track.call("decode", rows.length, CONTEXTS[0]);
    rows.push({ ...contestant, speeds: { prefill: [], decode64: [], decode2000: [] } });
  }
  const turns = async (
    what: string,
    count: number,
    measure: (racer: number, turn: number) => Promise<number>,
  ) => {
    const found = rows.map((): number[] => []);
    for (let turn = 1; turn <= count; turn++) {
      for (const [racer, row] of rows.entries()) {
        found[racer].push(await measure(racer, turn));
        const speed = found[racer].at(-1)!.toFixed(1);
        const frame = (await track.call<number>("longestFrame")).toFixed(0);
        progress(
          `${what}, ${turn} of ${count}, ${describe(row)}: ${speed} tokens/s; ` +
            `at most ${frame} ms between two frames of the page`,
        );
      }
    }
    for (const [racer, row] of rows.entries()) {
      console.log(`${what}, ${describe(row)}: ${median(found[racer]).toFixed(1)} tokens/s`);
    }
    return found;
  };
  const decode = (context: number) => (racer: number) => track.call<number>("decode", racer, context);
  const prefill = await turns("prefill", rounds, (racer, turn) => track.call<number>("prefill", racer, turn));
  const decode64 = await turns("decode after 64", DECODES * rounds, decode(CONTEXTS[0]));
  for (const [racer, row] of rows.entries()) {
    progress(`${describe(row)}: reads ${CONTEXTS[1]} tokens`);
    await track.call("decode", racer, CONTEXTS[1]);
  }
  const decode2000 = await turns("decode after 2,000", DECODES * rounds, decode(CONTEXTS[1]));
  return {
    rows: rows.map((row, racer) => ({
      ...row,
      speeds: { prefill: prefill[racer], decode64: decode64[racer], decode2000: decode2000[racer] },
    })),
    versions: { Chromium: track.browser, "llama.cpp": await track.call<string>("llamaCpp") },
  };
}

async function report(
  threads: number,
  rounds: number,
  { rows, versions }: Pick<RaceReport, "rows" | "versions">,
): Promise<RaceReport> {
  const { imports } = JSON.parse(await Deno.readTextFile(new URL("../imports.json", import.meta.url)));
  return {
    threads,
    machine: machine(),
    date: new Date().toISOString().slice(0, 10),
    commit: await commit(),
    versions: { ...versions, "@wllama/wllama": imports["@wllama/wllama"].split("@").at(-1) },
    command: `deno task bench:wllama --rounds ${rounds} --threads ${threads} --keep`,
    rows,
  };
}
