/**
 * `deno task train`: trains a TransNormerLLM on text, byte by byte.
 *
 * @module
 */
import {
  backendOption,
  cli,
  command,
  frugalCommand,
  integer,
  interruption,
  number,
  path,
  permissionsOption,
  precisionOption,
  precisionOptions,
  several,
  text,
  threads,
  write,
} from "../cli/mod.ts";
import { createBackend } from "../backend.ts";
import type { Backend } from "../core/tensor.ts";
import type { Mixer } from "./backward.ts";
import { SOTU } from "./data.ts";
import { Progress } from "./progress.ts";
import { DEFAULT_RECIPE, type Recipe } from "./recipe.ts";
import { train, type TrainingRanks, type TrainingResult } from "./train.ts";

/**
 * A command with the trainer's options.
 *
 * @param backend where it computes if nothing else is said
 */
export function trainingCommand(task: string, summary: string, backend?: "webgpu") {
  // Not defaults of the options: what is omitted comes from the checkpoint when a run is resumed.
  const setting = (what: string, name: keyof Recipe) => `${what} (default: ${DEFAULT_RECIPE[name]})`;
  const notNegative = number("of at least 0", (x) => x >= 0);
  const fraction = number("of at least 0 and below 1", (x) => x >= 0 && x < 1);
  return command(task, summary)
    .requiredOption(
      "--data <path>",
      'file, folder (its .txt and .md files) or "sotu"; may be repeated; or one .text.gz of deno task text',
      several((data) => data === SOTU ? data : path(data)),
    )
    .requiredOption("--out <folder>", "checkpoints (ordinary model folders) and log.jsonl go here", path)
    .option("--resume", "continue from the last checkpoint in --out, with its settings")
    .optionsGroup("Settings that the losses depend on:")
    .option(
      "--config <name>",
      setting("tiny, small, base, medium, large, or a config.json", "config"),
      (config) => config.endsWith(".json") ? path(config) : text(config),
    )
    .option("--seq-len <n>", setting("tokens per sequence", "seqLen"), integer(1))
    .option("--batch <n>", setting("sequences per batch", "batch"), integer(1))
    .option("--accumulate <n>", setting("batches per step", "accumulate"), integer(1))
    .option("--steps <n>", setting("steps in all", "steps"), integer(1))
    .option("--learning-rate <x>", setting("highest learning rate", "learningRate"), notNegative)
    .option("--warmup <n>", setting("steps up to it; a cosine leads down", "warmup"), notNegative)
    .option("--weight-decay <x>", setting("decoupled decay of the matrices", "weightDecay"), notNegative)
    .option("--clip <x>", setting("limit of the gradients' norm; 0: none", "clip"), notNegative)
    .option("--beta1 <x>", setting("AdamW's first moment", "beta1"), fraction)
    .option("--beta2 <x>", setting("AdamW's second moment", "beta2"), fraction)
    .option("--seed <n>", setting("first weights and order of the data", "seed"), integer(0, 2 ** 32 - 1))
    .option("--packed", "documents in order, states carried from step to step")
    .optionsGroup("Computing and saving:")
    .addOption(backendOption(backend))
    .addOption(precisionOption())
    .option("--threads <n>", 'of the WASM backend; "auto": one per core', threads, "auto")
    .option("--recompute", "less memory, more computing: keep only the inputs of layers")
    .option("--log-every <n>", "steps between readbacks of losses (default: 10)", integer(1))
    .option("--save-every <n>", "steps between checkpoints (default: 250)", integer(1))
    .option("--evaluate-every <n>", "steps between evaluations (default: 250)", integer(1))
    .option("--keep <n>", "checkpoints to keep (default: 2)", integer(1))
    .addOption(permissionsOption())
    .addHelpText("after", "\nCtrl-C saves a checkpoint and stops; a second Ctrl-C stops immediately.");
}

/** A command that trains with some options and may do nothing else. */
export function frugalTraining(
  script: string,
  { data, config, out, precision }: { data: string[]; config?: string; out: string; precision?: string },
): string {
  return frugalCommand(script, {
    read: [...data.filter((path) => path !== SOTU), config?.endsWith(".json") ? config : undefined],
    write: [out],
    ffi: precision === "f16",
  });
}

/** What {@linkcode trainingCommand} reads. */
export type TrainingCommandOptions = ReturnType<ReturnType<typeof trainingCommand>["opts"]>;

/**
 * Trains as a command does: with progress on stderr, and where the checkpoint is on stdout.
 *
 * @param mixer takes the place of Lightning Attention, for baselines
 * @param ranksOn the processes that train together, with this one's backend; the first of them reports
 */
export async function runTraining(
  { backend: prefer, precision, threads, ...options }: TrainingCommandOptions,
  signal: AbortSignal,
  mixer?: Mixer,
  ranksOn?: (backend: Backend) => Promise<TrainingRanks>,
): Promise<TrainingResult> {
  using backend = await createBackend({ prefer, threads, signal, ...await precisionOptions(precision) });
  const ranks = await ranksOn?.(backend);
  const reports = ranks === undefined || ranks.rank === 0;
  let progress: Progress | undefined;
  let first: { step: number; time: number } | undefined;
  try {
    const result = await train({
      ...options,
      backend,
      mixer,
      signal,
      ranks,
      onStart: ({ recipe, step, parameters, trainTokens, heldOutTokens, memory }) => {
        if (!reports) return;
        progress = new Progress(recipe.steps);
        progress.note(
          `${recipe.config}: ${
            (parameters / 1e6).toFixed(2)
          } M parameters; ${trainTokens} tokens to learn from, ` +
            `${heldOutTokens} held out; ${backend.name}, ${backend.info.device}` +
            (precision === "f32" ? "" : `, products ${backend.info.units}`) +
            (ranks === undefined ? "" : `; ${ranks.size} processes`) +
            (step > 0 ? `; resumed after step ${step}` : ""),
        );
        progress.note(
          `a step holds ${mib(memory.parameters)} MiB of parameters, gradients and moments, and up to ` +
            `${mib(memory.activations)} MiB of activations`,
        );
        first = { step, time: performance.now() };
      },
      onStep: (report) => {
        if (first === undefined) return;
        const seconds = (performance.now() - first.time) / 1000;
        progress!.step(report, seconds / (report.step - first.step));
      },
      onEvaluation: (evaluation) => progress?.evaluation(evaluation),
      onSave: (path) => progress?.note(`saved ${path}`),
    });
    progress?.end();
    const end = `${
      result.finished ? "finished" : "stopped"
    } after step ${result.step}: ${result.checkpoint}\n`;
    if (reports) write(end);
    return result;
  } finally {
    progress?.end();
  }
}

const mib = (bytes: number) => Math.ceil(bytes / 2 ** 20);

if (import.meta.main) {
  await cli(
    trainingCommand("train", "Trains a model on text, byte by byte.").action(
      async ({ permissions, ...options }) => {
        if (permissions) return write(`${frugalTraining(import.meta.url, options)}\n`);
        const stop = interruption();
        const { finished } = await runTraining(options, stop);
        if (!finished) stop.throwIfAborted();
      },
    ),
  );
}
