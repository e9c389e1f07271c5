/**
 * Trains what TransNormerLLM is compared with, by the same trainer, with the same data, options and first weights:
 *
 *     deno task bench:train-baseline --mixer softmax --data sotu --out out/softmax --seq-len 4096 --steps 2000
 *     deno task bench:train-baseline --mixer left-product --compare --data sotu --out out/first --steps 300
 *
 * @module
 */
import { mkdir, readFile, writeFile } from "node:fs/promises";
import { parseArgs } from "node:util";
import { rangeError } from "../core/errors.ts";
import { main, runCommand } from "../train/main.ts";
import { DEFAULT_RECIPE } from "../train/recipe.ts";
import { readConfig } from "../train/configs.ts";
import type { TrainingResult } from "../train/train.ts";
import { leftProductMixer, MIXERS, softmaxConfig, softmaxMixer } from "./baselines/mixers.ts";

const HELP = `Usage: deno task bench:train-baseline --mixer <name> [--compare] [options of deno task train]

  --mixer softmax        a transformer: softmax attention, rotary positions; all other layers TransNormerLLM's
  --mixer left-product   TransNormerLLM, its attention by the papers' first method
  --compare              train with Lightning Attention too, and print both final losses; those of left-product, the
                         same numbers computed otherwise, must not differ from them by more than 0.001. The runs are
                         folders in --out

The backend is WebGPU. The trainer's options:
`;

/** What the papers' check allows: the two methods differ by rounding alone. */
const LARGEST_DIFFERENCE = 0.001;

/** Losses at the end of a run, natural logarithm. */
interface FinalLosses {
  /** Of the last step. */
  readonly training: number;
  /** Of the held-out text. */
  readonly heldOut: number;
}

async function trainBaseline(args: string[]): Promise<void> {
  // Options that are the trainer's are read here, too, and handed on as they are; the last of two counts.
  const { values, tokens } = parseArgs({
    args,
    options: {
      mixer: { type: "string" },
      compare: { type: "boolean" },
      out: { type: "string" },
      config: { type: "string", default: DEFAULT_RECIPE.config },
      resume: { type: "boolean" },
      help: { type: "boolean" },
    },
    strict: false,
    tokens: true,
  });
  if (values.help) {
    console.log(HELP);
    await main(["--help"]);
    return;
  }
  const own = new Set(tokens.flatMap((token) => {
    if (token.kind !== "option" || token.name !== "mixer" && token.name !== "compare") return [];
    return token.name === "mixer" && !token.inlineValue ? [token.index, token.index + 1] : [token.index];
  }));
  const others = ["--backend", "webgpu", ...args.filter((_, index) => !own.has(index))];
  const { out, config, resume } = values as { out?: string; config: string; resume?: boolean };
  const mixer = Object.hasOwn(MIXERS, String(values.mixer)) ? MIXERS[String(values.mixer)] : undefined;
  if (mixer === undefined) {
    rangeError("train-baseline", `--mixer must be one of ${Object.keys(MIXERS).join(", ")}`, values.mixer);
  }
  if (typeof out !== "string") rangeError("train-baseline", "--out must be given", args.join(" "));

  const folder = values.compare ? `${out}/${mixer.name}` : out;
  const baseline = [...others, "--out", folder];
  if (mixer === softmaxMixer && !resume) {
    await mkdir(folder, { recursive: true });
    await writeFile(
      `${folder}/config.json`,
      JSON.stringify(softmaxConfig(await readConfig(config)), null, 2),
    );
    baseline.push("--config", `${folder}/config.json`);
  }
  const result = await main(baseline, mixer);
  if (!values.compare || !result?.finished) return;
  const lightning = await main([...others, "--out", `${out}/lightning`]);
  if (!lightning?.finished) return;

  const found = {
    [mixer.name]: await finalLosses(folder, result),
    lightning: await finalLosses(`${out}/lightning`, lightning),
  };
  console.log(`\n| after step ${result.step} | training loss | held-out loss |\n|---|---:|---:|`);
  for (const [name, { training, heldOut }] of Object.entries(found)) {
    console.log(`| ${name} | ${training.toFixed(6)} | ${heldOut.toFixed(6)} |`);
  }
  const difference = {
    training: found[mixer.name].training - found.lightning.training,
    heldOut: found[mixer.name].heldOut - found.lightning.heldOut,
  };
  console.log(
    `| difference | ${difference.training.toExponential(1)} | ${difference.heldOut.toExponential(1)} |`,
  );
  const isWithin = Object.values(difference).every((x) => Math.abs(x) <= LARGEST_DIFFERENCE);
  if (mixer === leftProductMixer && !isWithin) {
    rangeError(
      "train-baseline",
      `final losses must not differ by more than ${LARGEST_DIFFERENCE}`,
      Object.values(difference),
    );
  }
}

async function finalLosses(folder: string, { step, evaluation }: TrainingResult): Promise<FinalLosses> {
  const lines = (await readFile(`${folder}/log.jsonl`, "utf8")).trim().split("\n").map((line) =>
    JSON.parse(line)
  );
  const last = lines.findLast((line) => line.step === step && line.loss !== undefined);
  return { training: last.loss, heldOut: evaluation!.heldOutLoss };
}

await runCommand(() => trainBaseline(Deno.args));
