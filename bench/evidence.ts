/**
 * The papers' claims, and what was measured of them: `docs/evidence.md`, from results that were kept.
 *
 *     deno task evidence [--run [<claim>,<claim>,...] [--seconds <n>]] [--check]
 *
 * @module
 */
import { fileURLToPath } from "node:url";
import { cli, command, Failure, integer, interruption, UsageError, write } from "../cli/mod.ts";
import {
  CLAIMS,
  drawFigures,
  EXPERIMENT_CLAIMS,
  missingResults,
  PAGE,
  renderEvidence,
} from "./report/evidence.ts";

const ALL = [...CLAIMS, ...EXPERIMENT_CLAIMS], NAMES = ALL.map(({ name }) => name);
/** Commands that continue where `--seconds` has stopped them. */
const RESUMABLE = ["experiment", "recall", "bench:throughput", "bench:training"];
/** A command is not begun with less than this. */
const LEAST_SECONDS = 10;

await cli(
  command("evidence", "docs/evidence.md: the papers' claims, and what results that were kept say of them.")
    .option(
      "--run [claims]",
      "first measure what no result was kept of, of all claims or of these; stopped, it continues with what is missing",
    )
    .option("--seconds <n>", "end --run after this long", integer(1))
    .option("--check", "compare the page with the results instead of writing it")
    .action(async ({ run, seconds = Infinity, check }) => {
      if (run && check) throw new UsageError("--run and --check exclude each other");
      const claims = typeof run === "string" ? run.split(",") : NAMES;
      const unknown = claims.find((name) => !NAMES.includes(name));
      if (unknown !== undefined) throw new UsageError(`--run takes some of ${NAMES}: ${unknown}`);
      const stop = interruption(), begin = performance.now();
      const chosen = ALL.filter(({ name }) => claims.includes(name));
      for (const { command: words } of run ? await missingResults(chosen) : []) {
        const left = Math.floor(seconds - (performance.now() - begin) / 1000);
        if (left < LEAST_SECONDS) {
          write("time is over: the same command continues\n");
          break;
        }
        const limit = left < Infinity && RESUMABLE.includes(words[0]) ? ["--seconds", String(left)] : [];
        write(`deno task ${[...words, ...limit].join(" ")}\n`);
        const code = await runTask([...words, ...limit]);
        stop.throwIfAborted();
        if (code !== 0) throw new Failure(`deno task ${words.join(" ")} ended with ${code}`);
      }
      if (!check) await drawFigures();
      const page = await format(await renderEvidence());
      if (!check) return await Deno.writeTextFile(PAGE, page);
      if (await Deno.readTextFile(PAGE) !== page) {
        throw new Failure("docs/evidence.md differs from the results: deno task evidence");
      }
    }),
);

/** Runs a command in sight of the person, whose Ctrl-C it hears too; returns its exit status. */
async function runTask(words: readonly string[]): Promise<number> {
  const { code } = await new Deno.Command(Deno.execPath(), {
    args: ["task", ...words],
    cwd: fileURLToPath(new URL("../", import.meta.url)),
    stdin: "null",
    stdout: "inherit",
    stderr: "inherit",
  }).output();
  return code;
}

/** Markdown as the project formats it. */
async function format(markdown: string): Promise<string> {
  const process = new Deno.Command(Deno.execPath(), {
    args: ["fmt", "--ext", "md", "-"],
    cwd: fileURLToPath(new URL("../", import.meta.url)),
    stdin: "piped",
    stdout: "piped",
  }).spawn();
  await new Response(markdown).body!.pipeTo(process.stdin);
  const { code, stdout } = await process.output();
  if (code !== 0) throw new Failure("deno fmt has failed");
  return new TextDecoder().decode(stdout);
}
