/**
 * Training speed against the length of sequences, with the same number of tokens in every step: the papers' claim that
 * lightning attention trains as fast at any length.
 *
 *     deno task bench:training [--backend auto] [--config small] [--tokens 65536] [--lengths 1024,4096,...] [--repeats 5]
 *                              [--mixer lightning|softmax|left-product|llama] [--recompute] [--profile] [--json <file>]
 *
 * A step is forward, backward, clipping and AdamW. Lengths are measured in turns, so that a slow moment of the machine
 * meets all of them. Memory is the most that a step's tensors and scratch take together, on a GPU with a clock. With
 * `--profile` a step of each length is taken apart instead, on the GPU: the time of its kernels by the device's own
 * clock, what they reach, and the host's part. With `--json` the result is added to a file, which keeps those of other mixers:
 * `docs/benchmarks/training.json` is drawn by `deno task report --render-only`.
 *
 * @module
 */
import { Option } from "@commander-js/extra-typings";
import {
  backendOption,
  cli,
  command,
  integer,
  interruption,
  items,
  path,
  StatusLine,
  text,
  tokens as tokenCount,
  UsageError,
  write,
} from "../cli/mod.ts";
import { createBackend } from "../mod.ts";
import { lightningMixer, type Mixer } from "../train/backward.ts";
import { configByName } from "../train/configs.ts";
import { llamaConfig, MIXERS, softmaxConfig, softmaxMixer } from "./baselines/mixers.ts";
import { PUBLISHED, type PublishedName } from "./measure/checkpoints.ts";
import { gpuBackend, profileStep } from "./measure/profile.ts";
import { type Speed, trainingSpeed, TrainingSteps } from "./measure/training.ts";
import { readKept } from "./measure/sharing.ts";
import { commit, type TrainingReport } from "./report/results.ts";

const mixers: Readonly<Record<string, Mixer>> = {
  [lightningMixer.name]: lightningMixer,
  ...MIXERS,
  llama: softmaxMixer,
};
/** What the mixer's model changes of the configuration. */
const configs: Readonly<Record<string, typeof llamaConfig>> = { softmax: softmaxConfig, llama: llamaConfig };

await cli(
  command("bench:training", "Training speed against the length of sequences, tokens per step held constant.")
    .addOption(backendOption())
    .option(
      "--config <name>",
      "tiny, small, base, medium, large, or a published size: 385M, ...",
      text,
      "small",
    )
    .option("--tokens <n>", "of a step", tokenCount, 65536)
    .option(
      "--lengths <n,n,...>",
      "tokens of a sequence; each must divide --tokens",
      items(tokenCount),
      [1024, 2048, 4096, 8192, 16384, 32768, 65536],
    )
    .option("--repeats <n>", "measurements of each", integer(1), 5)
    .addOption(
      new Option("--mixer <name>", "what mixes tokens; llama: in a LLaMA of the same size").choices(
        Object.keys(mixers),
      ).default(
        lightningMixer.name,
      ),
    )
    .option("--recompute", "keep only the input of each layer for the backward pass", false)
    .option("--profile", "where the time of a step goes, on the GPU", false)
    .option("--seconds <n>", "end after this long, with what has been measured by then", integer(1))
    .option("--json <file>", "add what was measured, of one device, model and size", path)
    .action(async (values) => {
      const { tokens, lengths, repeats, recompute } = values, mixer = mixers[values.mixer];
      if (!lengths.every((length) => tokens % length === 0)) {
        throw new UsageError(`--lengths must divide --tokens, ${tokens}: current value is ${lengths}`);
      }
      const named = namedConfig(values.config);
      const config = configs[values.mixer]?.(named) ?? named;
      if (values.profile) {
        const { backend, machine: { device } } = await gpuBackend();
        using _ = backend;
        using steps = new TrainingSteps(backend, config, tokens, { mixer, recompute });
        console.log(
          `${values.config}, ${mixer.name}, ${
            (steps.parameters / 1e6).toFixed(1)
          } M parameters, ${device.name}`,
        );
        for (const length of lengths) await profileStep(device, steps, length);
        return;
      }
      using backend = await createBackend({ prefer: values.backend, threads: "auto" });
      const stop = interruption(), status = new StatusLine();
      const signal = values.seconds === undefined
        ? stop
        : AbortSignal.any([stop, AbortSignal.timeout(1000 * values.seconds)]);
      const speeds = await trainingSpeed(backend, config, {
        ...{ tokens, lengths, repeats, mixer, recompute, signal },
        onStep: (length, seconds) => status.draw(`${length}: a step in ${seconds.toFixed(2)} s`),
      });
      status.end();
      write(
        `${values.config}, ${values.mixer}, ${tokens} tokens per step, ${backend.name}, ${backend.info.device}\n\n`,
      );
      if (values.json !== undefined && speeds.length > 0) {
        await keepSpeeds(values.json, backend.info.device, values, speeds);
      }
      write(
        "| tokens per sequence | tokens per second | over the shortest | memory, GiB |\n|---:|---:|---:|---:|\n",
      );
      for (const { length, tokensPerSecond, bytes } of speeds) {
        const share = (100 * tokensPerSecond / speeds[0].tokensPerSecond).toFixed(0);
        const memory = bytes === undefined ? "" : (bytes / 2 ** 30).toFixed(2);
        write(`| ${length} | ${Math.round(tokensPerSecond)} | ${share} % | ${memory} |\n`);
      }
      stop.throwIfAborted();
    }),
);

function namedConfig(name: string): Record<string, unknown> {
  return Object.hasOwn(PUBLISHED, name) ? { ...PUBLISHED[name as PublishedName] } : configByName(name);
}

/** Adds a run to what is kept; of another device, model or size nothing stays. */
async function keepSpeeds(
  file: string,
  device: string,
  { config, tokens, recompute, mixer }: { config: string; tokens: number; recompute: boolean; mixer: string },
  speeds: readonly Speed[],
) {
  const method = `${mixer} attention`;
  // Where the result goes, and how long it may take, do not matter to it.
  const args = Deno.args.join(" ").replace(/ ?--(json|seconds) \S+/g, "");
  const before = await readKept<TrainingReport>(file);
  const same = before?.device === device && before.config === config && before.tokens === tokens &&
    (before.recompute ?? false) === recompute;
  const report: TrainingReport = {
    device,
    date: new Date().toISOString().slice(0, 10),
    commit: await commit(),
    versions: { deno: Deno.version.deno },
    config,
    tokens,
    ...recompute && { recompute },
    commands: { ...same && before.commands, [method]: `deno task bench:training ${args}` },
    speeds: [
      ...same ? before.speeds.filter((point) => point.method !== method) : [],
      ...speeds.map((speed) => ({ method, ...speed })),
    ],
  };
  await Deno.writeTextFile(file, `${JSON.stringify(report, null, 2)}\n`);
}
