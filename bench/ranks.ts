/**
 * `deno task bench:ranks`: tokens per second and bytes exchanged against the length, with one process and with more. Rows
 * are printed as they are measured and kept as JSON; the plot is drawn from that.
 *
 * @module
 */
import { readFile, writeFile } from "node:fs/promises";
import { fileURLToPath } from "node:url";
import { cli, command, integer, items, oneOf, path, UsageError } from "../cli/mod.ts";
import { launch } from "../distributed/launch.ts";
import { type RanksReport, type RanksRow, renderScaling, speedups } from "./report/ranks.ts";
import { commit } from "./report/results.ts";

const LENGTHS = "8192,16384,32768,65536,131072,262144,524288,1048576";

/** The row that a line holds, if it holds one. */
function rowOf(line: string): RanksRow[] {
  if (!line.startsWith("{")) return [];
  const row = JSON.parse(line);
  return "tokensPerSecond" in row ? [row] : [];
}

async function measure(processes: number, gpus: boolean, args: readonly string[]): Promise<RanksRow[]> {
  const rows: RanksRow[] = [];
  const program = fileURLToPath(new URL("measure/ranks.ts", import.meta.url));
  const code = await launch({
    processes,
    gpus,
    program,
    args,
    onLine: (line) => {
      console.log(line);
      rows.push(...rowOf(line));
    },
  });
  if (code !== 0) throw new Error(`Cannot measure ${processes} processes as they ended with status ${code}`);
  return rows;
}

if (import.meta.main) {
  await cli(
    command("bench:ranks", "Prompts and training over ranks against the length, as JSON and SVG.")
      .option("--out <name>", "writes <name>.json and <name>.svg", path, "out/ranks")
      .option("--plot", "only draws <name>.svg from <name>.json")
      .option("--processes <list>", "how many", items(integer(1)), [1, 2])
      .option(
        "--backend <name>",
        "wasm or webgpu",
        oneOf({ wasm: "wasm", webgpu: "webgpu" } as const),
        "webgpu",
      )
      .option("--gpus", "each process sees one GPU, its own")
      .option("--prompts <list>", "tokens of each prompt; none: an empty text", String, LENGTHS)
      .option("--batches <list>", "tokens of a training step, for each process", String, "8192,32768,131072")
      .option(
        "--sequences <list>",
        "the same with parts of one sequence, in a single pass",
        String,
        "8192,32768,65536",
      )
      .option("--layers <n>", "of the model", integer(1), 8)
      .option("--embed <n>", "width of the model, a multiple of 64", integer(64), 512)
      .option("--pass-tokens <n>", "most tokens of a part of a prompt", integer(1))
      .option("--rows <file>", "takes what measure/ranks.ts printed there, instead of measuring", path)
      .action(async ({ out, plot, rows: printed, processes, backend, gpus = false, ...given }) => {
        const file = `${out}.json`, rows: RanksRow[] = [];
        const keep = async () => {
          const report: RanksReport = {
            date: new Date().toISOString().slice(0, 10),
            commit: await commit(),
            versions: { deno: Deno.version.deno },
            command: `deno task bench:ranks${gpus ? " --gpus" : ""} --backend ${backend}`,
            rows,
          };
          await writeFile(file, `${JSON.stringify(report, null, 2)}\n`);
        };
        if (printed !== undefined) {
          rows.push(...(await readFile(printed, "utf8")).split("\n").flatMap(rowOf));
          await keep();
        } else if (!plot) {
          const { prompts, batches, sequences, layers, embed, passTokens } = given;
          if (embed % 64 > 0) throw new UsageError("--embed must be a multiple of 64");
          const model = [layers, embed, passTokens ?? []].flat().map(String);
          for (const count of processes) {
            rows.push(...await measure(count, gpus, [backend, prompts, batches, sequences, ...model]));
            await keep(); // what there is, should the next fail
          }
        }
        const kept: RanksReport = JSON.parse(await readFile(file, "utf8"));
        for (const line of speedups(kept.rows)) console.log(line);
        await writeFile(`${out}.svg`, `${await renderScaling(kept)}\n`);
      }),
  );
}
