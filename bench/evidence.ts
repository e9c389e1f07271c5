/**
 * The papers' claims, and what was measured of them: `docs/evidence.md`, from results that were kept.
 *
 *     deno task evidence [--run] [--check]
 *
 * @module
 */
import { fileURLToPath } from "node:url";
import { cli, command, Failure, interruption, UsageError, write } from "../cli/mod.ts";
import { missingResults, PAGE, renderEvidence } from "./report/evidence.ts";

await cli(
  command("evidence", "docs/evidence.md: the papers' claims, and what results that were kept say of them.")
    .option("--run", "first measure what no result was kept of; stopped, it continues with what is missing")
    .option("--check", "compare the page with the results instead of writing it")
    .action(async ({ run, check }) => {
      if (run && check) throw new UsageError("--run and --check exclude each other");
      const stop = interruption();
      for (const result of run ? await missingResults() : []) {
        write(`deno task ${result.command.join(" ")}\n`);
        const code = await runTask(result.command);
        stop.throwIfAborted();
        if (code !== 0) throw new Failure(`deno task ${result.command.join(" ")} ended with ${code}`);
      }
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
