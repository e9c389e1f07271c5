/**
 * `deno task train`: trains a TransNormerLLM on text, byte by byte.
 *
 * @module
 */
import { parseArgs } from "node:util";
import { createBackend } from "../core/backend.ts";
import { BackendError, rangeError } from "../core/errors.ts";
import type { Mixer } from "./backward.ts";
import { localPath } from "./path.ts";
import { Progress } from "./progress.ts";
import { DEFAULT_RECIPE, type Recipe } from "./recipe.ts";
import { train, type TrainingOptions, type TrainingResult } from "./train.ts";

const HELP = `Usage: deno task train --data <files or folders> --out <folder> [options]

  --data <path>          file, folder (its .txt and .md files) or "sotu"; several by repeating it
  --out <folder>         checkpoints (ordinary model folders) and log.jsonl go here
  --resume               continue from the last checkpoint in --out, with its settings

  --config <name>        tiny, small, medium, or a config.json        ${DEFAULT_RECIPE.config}
  --seq-len <n>          tokens per sequence                          ${DEFAULT_RECIPE.seqLen}
  --batch <n>            sequences per batch                          ${DEFAULT_RECIPE.batch}
  --accumulate <n>       batches per step                             ${DEFAULT_RECIPE.accumulate}
  --steps <n>            steps in all                                 ${DEFAULT_RECIPE.steps}
  --learning-rate <x>    highest learning rate                        ${DEFAULT_RECIPE.learningRate}
  --warmup <n>           steps up to it; a cosine leads down          ${DEFAULT_RECIPE.warmup}
  --weight-decay <x>     decoupled decay of the matrices              ${DEFAULT_RECIPE.weightDecay}
  --clip <x>             limit of the gradients' norm; 0: none        ${DEFAULT_RECIPE.clip}
  --beta1, --beta2 <x>   AdamW's moments                              ${DEFAULT_RECIPE.beta1}, ${DEFAULT_RECIPE.beta2}
  --seed <n>             first weights and order of the data          ${DEFAULT_RECIPE.seed}
  --packed               documents in order, states carried from step to step

  --backend <name>       auto, webgpu or wasm                         auto
  --threads <n>          of the WASM backend, or auto                 auto
  --recompute            less memory, more computing: keep only the inputs of layers
  --log-every <n>        steps between readbacks of losses            10
  --save-every <n>       steps between checkpoints                    250
  --evaluate-every <n>   steps between evaluations                    250
  --keep <n>             checkpoints to keep                          2

Ctrl-C saves a checkpoint and stops; a second Ctrl-C stops immediately.
`;

const TEXTS = ["data", "out", "config", "backend", "threads"] as const;
const FLAGS = ["packed", "recompute", "resume", "help"] as const;
const NUMBERS = [
  ...["seqLen", "batch", "accumulate", "steps", "learningRate", "warmup", "weightDecay", "clip", "beta1"],
  ...["beta2", "seed", "logEvery", "saveEvery", "evaluateEvery", "keep"],
] as const;

/** `seqLen` to `seq-len`. */
function spelled(name: string): string {
  return name.replace(/[A-Z]/g, (letter) => `-${letter.toLowerCase()}`);
}

/**
 * The command. `mixer` takes the place of Lightning Attention, for baselines.
 *
 * @returns how the run ended; nothing after `--help`
 */
export async function main(args: string[], mixer?: Mixer): Promise<TrainingResult | undefined> {
  const values = parseArgs({
    args,
    options: Object.fromEntries([
      ...[...TEXTS, ...NUMBERS].map((name) => [
        spelled(name),
        { type: "string" as const, multiple: name === "data" },
      ]),
      ...FLAGS.map((name) => [name, { type: "boolean" as const }]),
    ]),
  }).values as Record<string, string | string[] | boolean | undefined>;
  if (values.help) {
    console.log(HELP);
    return undefined;
  }
  const numbers: Record<string, number> = {};
  for (const name of NUMBERS) {
    const text = values[spelled(name)];
    if (text === undefined) continue;
    numbers[name] = Number(text);
    if (text === "" || Number.isNaN(numbers[name])) {
      rangeError("train", `--${spelled(name)} must be a number`, text);
    }
  }
  const { data, out, config, backend: prefer = "auto", threads = "auto" } = values as Record<
    string,
    string | undefined
  >;
  if (data === undefined || out === undefined) {
    rangeError("train", "--data and --out must be given", args.join(" "), "--help lists all options");
  }

  const stop = new AbortController();
  const interrupt = () => {
    if (stop.signal.aborted) Deno.exit(130);
    stop.abort();
  };
  Deno.addSignalListener("SIGINT", interrupt);
  using backend = await createBackend({
    prefer: prefer as "auto",
    threads: threads === "auto" ? threads : Number(threads),
  });
  const options: TrainingOptions = {
    ...numbers as Partial<Recipe>,
    data: (data as unknown as string[]).map(localPath),
    out: localPath(out),
    backend,
    config: config && localPath(config),
    packed: values.packed as boolean | undefined,
    recompute: values.recompute as boolean | undefined,
    resume: values.resume as boolean | undefined,
    signal: stop.signal,
    mixer,
  };
  const encoder = new TextEncoder();
  let progress: Progress | undefined;
  let first: { step: number; time: number } | undefined;
  try {
    const result = await train({
      ...options,
      onStart: ({ recipe, step, parameters, trainTokens, heldOutTokens }) => {
        progress = new Progress(
          recipe.steps,
          (text) => Deno.stderr.writeSync(encoder.encode(text)),
          Deno.stderr.isTerminal(),
        );
        progress.note(
          `${recipe.config}: ${
            (parameters / 1e6).toFixed(2)
          } M parameters; ${trainTokens} tokens to learn from, ` +
            `${heldOutTokens} held out; ${backend.name}, ${backend.info.device}` +
            (step > 0 ? `; resumed after step ${step}` : ""),
        );
        first = { step, time: performance.now() };
      },
      onStep: (report) => {
        const seconds = (performance.now() - first!.time) / 1000;
        progress!.step(report, seconds / (report.step - first!.step));
      },
      onEvaluation: (evaluation) => progress!.evaluation(evaluation),
      onSave: (path) => progress!.note(`saved ${path}`),
    });
    progress!.end();
    console.log(
      `${result.finished ? "finished" : "stopped"} after step ${result.step}: ${result.checkpoint}`,
    );
    return result;
  } finally {
    progress?.end();
    Deno.removeSignalListener("SIGINT", interrupt);
  }
}

/** Runs a command; where it fails, says why and ends the process. */
export async function runCommand(command: () => Promise<unknown>): Promise<void> {
  try {
    await command();
  } catch (error) {
    // What a person can mend is a sentence; everything else shows where it came from.
    const isPlain = error instanceof RangeError || error instanceof TypeError ||
      error instanceof BackendError;
    console.error(
      isPlain || error instanceof Error && error.message.startsWith("Cannot ") ? error.message : error,
    );
    Deno.exit(1);
  }
}

if (import.meta.main) await runCommand(() => main(Deno.args));
