/**
 * Levin compared with llama.cpp in WebAssembly (`@wllama/wllama`): models of 141 M parameters with random weights in one
 * page of Chromium, all contestants in turns. Writes `docs/benchmarks/race.json`, from which `deno task report
 * --render-only` writes the page.
 *
 *     deno task bench:wllama [--rounds 5] [--threads 1,2] [--keep]
 *
 * @module
 */
import { pathToFileURL } from "node:url";
import { cli, command, integer, items } from "../cli/mod.ts";
import { writeCheckpoint } from "./measure/checkpoints.ts";
import { type Contestant, CONTEXTS, LLAMA, TRANSNORMER } from "./measure/race.ts";
import { bundle, openTrack, randomLlama } from "./measure/raceTrack.ts";
import { median } from "./measure/timing.ts";
import { commit, keep, machine, type RaceReport, type RaceRow } from "./report/results.ts";

const CACHES = ["F16, flash attention", "F32"] as const;

function contestants(threads: number): Contestant[] {
  return [
    ...(["int8", "int4", "f32"] as const).map((weights) => ({ engine: "Levin" as const, weights, threads })),
    ...(["Q8_0", "Q4_K", "F32"] as const).flatMap((weights) =>
      CACHES.map((cache) => ({ engine: "wllama" as const, weights, threads, cache }))
    ),
  ];
}

await cli(
  command("bench:wllama", "Levin compared with llama.cpp in WebAssembly, in one page of Chromium.")
    .option("--rounds <n>", "rounds of all contestants", integer(1), 5)
    .option("--threads <1,2>", "numbers of threads", items(integer(1)), [1, 2])
    .option("--keep", "write docs/benchmarks/race.json")
    .action(async ({ rounds, threads, keep: keeps }) => {
      const begin = performance.now();
      const progress = (what: string) =>
        console.error(`${((performance.now() - begin) / 1000).toFixed(0).padStart(5)} s  ${what}`);
      const rows: RaceRow[] = [];
      let browser = "";
      for (const count of threads) {
        const { rows: found, browser: name } = await race(count, rounds, progress);
        rows.push(...found);
        browser = name;
      }
      for (const { speeds, ...contestant } of rows) {
        console.log(
          [
            describe(contestant),
            ...Object.entries(speeds).map(([what, found]) =>
              `${what} ${median(found).toFixed(1)} (${Math.min(...found).toFixed(1)}–${
                Math.max(...found).toFixed(1)
              })`
            ),
          ].join("; "),
        );
      }
      if (keeps) await keep("race.json", await report(rows, browser));
    }),
);

function describe(contestant: Contestant): string {
  const { engine, weights, threads } = contestant;
  return `${engine} ${weights}, ${threads === 1 ? "one thread" : `${threads} threads`}` +
    (contestant.engine === "Levin" ? "" : `, cache ${contestant.cache}`);
}

/** All rounds with one number of threads. */
async function race(
  threads: number,
  rounds: number,
  progress: (what: string) => void,
): Promise<{ rows: RaceRow[]; browser: string }> {
  const checkpoint = await Deno.makeTempDir({ prefix: "levin-race-" });
  await using stack = new AsyncDisposableStack();
  stack.defer(() => Deno.remove(checkpoint, { recursive: true }));
  await writeCheckpoint(checkpoint, TRANSNORMER);
  const files = ["config.json", "model.safetensors"].map((name) => (
    [`/levin/${name}`, pathToFileURL(`${checkpoint}/${name}`)] as const
  ));
  const ggufs = (["Q8_0", "Q4_K", "F32"] as const).map((type) => (
    [`/model/${type}`, () => randomLlama(LLAMA, type)] as const
  ));
  const track = stack.use(
    await openTrack(new URL("measure/racePage.ts", import.meta.url), {
      ...Object.fromEntries([...files, ...ggufs]),
      "/worker.js": await bundle(new URL("measure/raceWorker.ts", import.meta.url)),
    }),
  );
  const rows: RaceRow[] = [];
  for (const contestant of contestants(threads)) {
    progress(`${describe(contestant)}: loads`);
    await track.call("start", contestant);
    rows.push({ ...contestant, speeds: { prefill: [], decode64: [], decode2000: [] } });
  }
  // Long contexts last: all rounds continue what the first has read. The first round warms up, and is not counted.
  for (let round = 0; round <= rounds; round++) {
    for (const [racer, { speeds, ...contestant }] of rows.entries()) {
      progress(`round ${round} of ${rounds}, ${describe(contestant)}`);
      const prefill = await track.call<number>("prefill", racer, round);
      const decode = await track.call<number>("decode", racer, CONTEXTS[0]);
      if (round > 0) speeds.prefill.push(prefill), speeds.decode64.push(decode);
    }
  }
  for (let round = 0; round <= rounds; round++) {
    for (const [racer, { speeds, ...contestant }] of rows.entries()) {
      progress(`round ${round} of ${rounds} after ${CONTEXTS[1]} tokens, ${describe(contestant)}`);
      const decode = await track.call<number>("decode", racer, CONTEXTS[1]);
      if (round > 0) speeds.decode2000.push(decode);
    }
  }
  return { rows, browser: await track.call<string>("browser") };
}

async function report(rows: RaceRow[], browser: string): Promise<RaceReport> {
  const { imports } = JSON.parse(await Deno.readTextFile(new URL("../imports.json", import.meta.url)));
  const { Wllama } = await import("@wllama/wllama/esm/index.js");
  return {
    machine: machine(),
    date: new Date().toISOString().slice(0, 10),
    commit: await commit(),
    versions: {
      Chromium: /Chrome\/([\d.]+)/.exec(browser)?.[1] ?? browser,
      "@wllama/wllama": imports["@wllama/wllama"].split("@").at(-1),
      "llama.cpp": Wllama.getLibllamaVersion(),
    },
    command: "deno task bench:wllama --keep",
    rows,
  };
}
