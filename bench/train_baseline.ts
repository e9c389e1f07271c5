/**
 * Trains what TransNormerLLM is compared with, by the same trainer, with the same data, options and first weights:
 *
 *     deno task bench:train-baseline --mixer softmax --data sotu --out out/softmax --seq-len 4096 --steps 2000
 *     deno task bench:train-baseline --mixer left-product --compare --data sotu --out out/first --steps 300
 *
 * @module
 */
import { mkdir, readFile, writeFile } from "node:fs/promises";
import { cli, interruption, oneOf } from "../cli/mod.ts";
import { rangeError } from "../core/errors.ts";
import type { Mixer } from "../train/backward.ts";
import { frugalTraining, runTraining, trainingCommand, type TrainingCommandOptions } from "../train/main.ts";
import { DEFAULT_RECIPE } from "../train/recipe.ts";
import { readConfig } from "../train/configs.ts";
import type { TrainingResult } from "../train/train.ts";
import { leftProductMixer, MIXERS, softmaxConfig, softmaxMixer } from "./baselines/mixers.ts";

/** What the papers' check allows: the two methods differ by rounding alone. */
const LARGEST_DIFFERENCE = 0.001;

/** Losses at the end of a run, natural logarithm. */
interface FinalLosses {
  /** Of the last step. */
  readonly training: number;
  /** Of the held-out text. */
  readonly heldOut: number;
}

/** What `--mixer` and `--compare` ask for, with the trainer's options. */
async function trainBaseline(
  { mixer, compare, ...options }: TrainingCommandOptions & { mixer: Mixer; compare?: true },
  stop: AbortSignal,
): Promise<void> {
  const { out, config = DEFAULT_RECIPE.config, resume } = options;
  const folder = compare ? `${out}/${mixer.name}` : out;
  const baseline = { ...options, out: folder };
  if (mixer === softmaxMixer && !resume) {
    await mkdir(folder, { recursive: true });
    await writeFile(
      `${folder}/config.json`,
      JSON.stringify(softmaxConfig(await readConfig(config)), null, 2),
    );
    baseline.config = `${folder}/config.json`;
  }
  const result = await runTraining(baseline, stop, mixer);
  if (!result.finished) stop.throwIfAborted();
  if (!compare) return;
  const lightning = await runTraining({ ...options, out: `${out}/lightning` }, stop);
  if (!lightning.finished) stop.throwIfAborted();

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

await cli(
  trainingCommand("bench:train-baseline", "Trains a baseline as deno task train does.", "webgpu")
    .optionsGroup("The baseline:")
    .requiredOption(
      "--mixer <name>",
      "softmax: a transformer, with rotary positions, all other layers TransNormerLLM's; left-product: " +
        "TransNormerLLM, its attention by the papers' first method",
      oneOf(MIXERS),
    )
    .option(
      "--compare",
      "train with Lightning Attention too, and print both final losses; those of left-product, the same numbers " +
        `computed otherwise, must not differ by more than ${LARGEST_DIFFERENCE}; the runs are folders in --out`,
    )
    .action(({ permissions, ...options }) =>
      permissions
        ? console.log(frugalTraining(import.meta.url, options))
        : trainBaseline(options, interruption())
    ),
);
