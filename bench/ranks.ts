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
import { CONVENTIONAL, LIGHTNING, NUMBERS, type Panel, renderPanels } from "./report/plot.ts";

/** One measurement, as `measure/ranks.ts` prints it. */
export interface Row {
  readonly what: string;
  readonly ranks: number;
  readonly tokens: number;
  readonly tokensPerSecond: number;
  readonly seconds: number;
  /** The least and the most of those of which {@linkcode seconds} is the median. */
  readonly range: readonly [number, number];
  /** That all ranks send together. */
  readonly bytes: number;
  readonly device: string;
}

/** What a run kept. */
export interface Scaling {
  readonly date: string;
  readonly deno: string;
  readonly rows: readonly Row[];
}

const COLORS = [CONVENTIONAL[1], LIGHTNING[0], CONVENTIONAL[0], LIGHTNING[1]];
const LENGTHS = "8192,16384,32768,65536,131072,262144,524288,1048576";

/** Draws tokens per second and bytes against the length, for each kind of work that was measured. */
export function renderScaling({ rows }: Scaling): Promise<string> {
  const panels = [...new Set(rows.map(({ what }) => what))].flatMap((what): Panel[] => {
    const own = rows.filter((row) => row.what === what);
    const panel = (title: string, of: readonly Row[], y: (row: Row) => number, labels: string): Panel[] => {
      const counts = [...new Set(of.map(({ ranks }) => ranks))].sort((a, b) => a - b);
      if (counts.length === 0) return [];
      const name = (ranks: number) => ranks === 1 ? "1 process" : `${ranks} processes`;
      return [{
        title: `${what}: ${title}`,
        values: of.map((row) => ({ method: name(row.ranks), length: row.tokens, y: y(row) })),
        methods: counts.map(name),
        colors: COLORS.slice(0, counts.length),
        labels,
      }];
    };
    return [
      ...panel("tokens per second", own, ({ tokensPerSecond }) => tokensPerSecond, NUMBERS),
      ...panel(
        "MiB that all send",
        own.filter(({ ranks }) => ranks > 1),
        ({ bytes }) => bytes / 2 ** 20,
        NUMBERS,
      ),
    ];
  });
  return renderPanels(panels);
}

/**
 * How much faster several processes are than one: with a prompt of the same length, and with training steps of as many
 * tokens for each process.
 */
export function speedups(rows: readonly Row[]): string[] {
  return rows.filter(({ ranks }) => ranks > 1).flatMap((row) => {
    const isTraining = row.what !== "prefill", tokens = isTraining ? row.tokens / row.ranks : row.tokens;
    const alone = rows.find((one) => one.what === row.what && one.ranks === 1 && one.tokens === tokens);
    if (alone === undefined) return [];
    const times = (row.tokensPerSecond / alone.tokensPerSecond).toFixed(2);
    const length = `${tokens} tokens${isTraining ? " for each" : ""}`;
    return [`${row.what}, ${length}: ${times} × with ${row.ranks} processes`];
  });
}

async function measure(processes: number, gpus: boolean, args: readonly string[]): Promise<Row[]> {
  const rows: Row[] = [];
  const program = fileURLToPath(new URL("measure/ranks.ts", import.meta.url));
  const code = await launch({
    processes,
    gpus,
    program,
    args,
    onLine: (line) => {
      console.log(line);
      const row = JSON.parse(line);
      if ("tokensPerSecond" in row) rows.push(row);
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
      .option("--gpus", "each process sees one GPU of its own")
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
      .action(
        async ({ out, plot, processes, backend, gpus = false, prompts, batches, sequences, ...model }) => {
          const file = `${out}.json`;
          if (!plot) {
            if (model.embed % 64 > 0) throw new UsageError("--embed must be a multiple of 64");
            const { layers, embed, passTokens } = model;
            const own = [layers, embed, passTokens ?? []].flat().map(String);
            const args = [backend, prompts, batches, sequences, ...own];
            const rows: Row[] = [];
            for (const count of processes) {
              rows.push(...await measure(count, gpus, args));
              const kept: Scaling = { date: new Date().toISOString(), deno: Deno.version.deno, rows };
              await writeFile(file, `${JSON.stringify(kept, null, 2)}\n`); // what there is, should the next fail
            }
            for (const line of speedups(rows)) console.log(line);
          }
          const kept: Scaling = JSON.parse(await readFile(file, "utf8"));
          await writeFile(`${out}.svg`, `${await renderScaling(kept)}\n`);
        },
      ),
  );
}
