/**
 * Measures, and writes what it found: `docs/benchmarks/<backend>.json`, and from all of those `docs/benchmarks.md` and
 * its plots. A run is of one backend; results of other machines stay as they are.
 *
 *     deno task report [--backend wasm|webgpu] [--quick] [--exclusive] [--goals] [--measure-only | --render-only]
 *
 * @module
 */
import { Option } from "@commander-js/extra-typings";
import { cli, command } from "../cli/mod.ts";
import { createBackend } from "../mod.ts";
import { commit, FOLDER, keep, machine, type Report } from "./report/results.ts";

/** Peers whose versions belong to the results. */
const PEERS = ["onnxruntime-web", "@tensorflow/tfjs-backend-wasm", "@jax-js/jax"];

async function measure(
  options: { backend: "wasm" | "webgpu"; quick: boolean; exclusive: boolean },
): Promise<void> {
  const { backend, quick, exclusive } = options;
  const { measureAll } = await import("./report/suites.ts");
  const device = await (async () => {
    using created = await createBackend({ prefer: backend });
    return created.info.device;
  })();
  const started = performance.now();
  const { imports } = JSON.parse(await Deno.readTextFile(new URL("../imports.json", import.meta.url)));
  const about: Omit<Report, "results"> = {
    backend,
    device,
    machine: machine(),
    exclusive,
    quick,
    date: today(),
    commit: await commit(),
    versions: {
      deno: Deno.version.deno,
      v8: Deno.version.v8,
      ...Object.fromEntries(PEERS.map((name) => [name, imports[name].split("@").at(-1)])),
    },
    command: `deno task report --backend ${backend}${quick ? " --quick" : ""}${
      exclusive ? " --exclusive" : ""
    }`,
  };
  await Deno.mkdir(FOLDER, { recursive: true });
  // Written aside after every suite: what was measured survives a run that is cut off, and so does the last whole report.
  const aside = `${backend}.partial.json`;
  await measureAll({
    backend,
    quick,
    progress: progressFrom(started),
    keep: (results) => keep(aside, { ...about, results }),
  });
  await Deno.rename(new URL(aside, FOLDER), new URL(`${backend}.json`, FOLDER));
}

/** Measures the goals again; all else in the report stays. */
async function measureGoalsAgain(): Promise<void> {
  const { measureGoals } = await import("./report/suites.ts");
  const report: Report = JSON.parse(await Deno.readTextFile(new URL("wasm.json", FOLDER)));
  const goals: Report["results"]["goals"] = [];
  const goalsMeasured = { date: today(), commit: await commit() };
  await measureGoals({ backend: "wasm", quick: report.quick, progress: progressFrom(performance.now()) }, {
    goals,
  });
  await keep("wasm.json", { ...report, goalsMeasured, results: { ...report.results, goals } });
}

const today = () => new Date().toISOString().slice(0, 10);

const progressFrom = (started: number) => (what: string) =>
  console.error(`${((performance.now() - started) / 1000).toFixed(0).padStart(5)} s  ${what}`);

if (import.meta.main) {
  await cli(
    command("report", "Benchmarks of one backend, and docs/benchmarks.md from the results of all.")
      .addOption(
        new Option("--backend <name>", "where to compute").choices(["wasm", "webgpu"]).default(
          "wasm" as const,
        ),
      )
      .option(
        "--quick",
        "a few minutes: shorter sequences, a smaller model, fewer repeats; the page says so",
        false,
      )
      .option(
        "--exclusive",
        "nothing else runs on this machine: absolute figures hold, and not only ratios",
        false,
      )
      .option("--goals", "measure the goals alone, and put them into the report of WASM that is there")
      .option(
        "--measure-only",
        "write the JSON alone, for a machine that cannot download what draws the plots",
      )
      .option("--render-only", "write the page and the plots from the JSON that is there")
      .action(async ({ backend, quick, exclusive, goals, measureOnly, renderOnly }) => {
        if (goals) await measureGoalsAgain();
        else if (!renderOnly) await measure({ backend, quick, exclusive });
        if (!measureOnly) await (await import("./report/page.ts")).render();
      }),
  );
  Deno.exit(); // Workers of a peer would keep the process alive.
}
