/**
 * `deno task curve <out.svg> <name>=<folder> ...`: the loss curves of training runs, from their `log.jsonl`.
 *
 * @module
 */
import { readFile, writeFile } from "node:fs/promises";
import { parse, View } from "vega";
import { compile, type TopLevelSpec } from "vega-lite";
import { cli, command, path, UsageError } from "../cli/mod.ts";
import { message, rangeError } from "../core/errors.ts";

/** A training run. */
export interface Run {
  /** Name in the legend. */
  readonly name: string;
  /** The lines of its log: steps and evaluations. */
  readonly log: readonly { readonly step: number; readonly loss?: number; readonly bitsPerByte?: number }[];
}

const COLORS = ["#d9480f", "#1971c2", "#2b8a3e", "#868e96"];
/** Steps on either side that the training loss is averaged over: a single batch says little. */
const SMOOTHING = 20;

/**
 * Draws runs over one another: the training loss in bits per token, thin and averaged over neighbouring steps, and the
 * held-out bits per byte, in points.
 *
 * @returns an SVG document
 * @throws {RangeError} when a run has no step
 */
export function renderCurve(runs: readonly Run[]): Promise<string> {
  const steps = runs.flatMap(({ name, log }) => {
    const lines = log.filter(({ loss }) => loss !== undefined);
    if (lines.length === 0) rangeError("renderCurve", "a run must have at least one step", name);
    return lines.map(({ step, loss }) => ({ run: name, step, bits: loss! / Math.LN2 }));
  });
  const evaluations = runs.flatMap(({ name, log }) =>
    log.filter(({ bitsPerByte }) => bitsPerByte !== undefined)
      .map(({ step, bitsPerByte }) => ({ run: name, step, bits: bitsPerByte! }))
  );
  const x = { field: "step", type: "quantitative" as const, title: "step" };
  const y = {
    field: "bits",
    type: "quantitative" as const,
    title: null,
    scale: { type: "log" as const, nice: true },
    axis: { values: [1, 1.25, 1.5, 2, 2.5, 3, 4, 5, 6, 8], format: "~g" },
  };
  const color = {
    field: "run",
    type: "nominal" as const,
    scale: { domain: runs.map(({ name }) => name), range: COLORS.slice(0, runs.length) },
    legend: { title: null, orient: "top" as const, symbolType: "stroke" },
  };
  const spec: TopLevelSpec = {
    background: "white",
    padding: 16,
    width: 720,
    height: 360,
    title: "Bits per byte: training (lines) and held-out text (points)",
    layer: [
      {
        data: { values: steps },
        transform: [{
          window: [{ op: "mean", field: "bits", as: "smooth" }],
          frame: [-SMOOTHING, SMOOTHING],
          groupby: ["run"],
          sort: [{ field: "step" }],
        }],
        mark: { type: "line", strokeWidth: 1.5, clip: true },
        encoding: { x, y: { ...y, field: "smooth" }, color },
      },
      {
        data: { values: evaluations },
        mark: { type: "point", filled: true, size: 45, opacity: 1 },
        encoding: { x, y, color },
      },
    ],
    config: {
      font: "Helvetica, Arial, sans-serif",
      view: { stroke: null },
      title: { anchor: "start", fontSize: 15, offset: 8 },
      axis: { labelFontSize: 11, titleFontSize: 12, titleFontWeight: "normal", gridColor: "#e9ecef" },
      legend: { labelFontSize: 12, labelLimit: 1000 },
    },
  };
  return new View(parse(compile(spec).spec), { renderer: "none" }).toSVG();
}

/** `<name>=<folder>`. */
function namedFolder(text: string, others: { name: string; folder: string }[] = []) {
  const [, name, folder] = /^([^=]+)=(.+)$/.exec(text) ?? [];
  if (name === undefined) throw new UsageError(`a run must be <name>=<folder>, not '${text}'`);
  return [...others, { name, folder: path(folder) }];
}

async function readRun({ name, folder }: { name: string; folder: string }): Promise<Run> {
  const file = `${folder}/log.jsonl`, lines = (await readFile(file, "utf8")).trim().split("\n");
  try {
    return { name, log: lines.map((line) => JSON.parse(line)) };
  } catch (cause) {
    throw new RangeError(message("curve", "every line of a log must be JSON", file), { cause });
  }
}

if (import.meta.main) {
  await cli(
    command("curve", "Loss curves of training runs as SVG.")
      .argument("<out.svg>", "where the picture goes", path)
      .argument("<name=folder...>", "runs: a name for the legend, and what was --out", namedFolder)
      .action(async (target, runs) => {
        await writeFile(target, `${await renderCurve(await Promise.all(runs.map(readRun)))}\n`);
      }),
  );
}
