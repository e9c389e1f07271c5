/**
 * Training speed against the length of sequences, with the same number of tokens in every step: the papers' claim that
 * lightning attention trains as fast at any length.
 *
 *     deno task bench:training [--backend auto] [--config small] [--tokens 65536] [--lengths 1024,4096,...] [--repeats 5]
 *                              [--mixer lightning|softmax|left-product] [--keep]
 *
 * A step is forward, backward, clipping and AdamW. Lengths are measured in turns, so that a slow moment of the machine
 * meets all of them. With `--keep` the result goes to docs/benchmarks/training.json, with those of other mixers there,
 * for the next `deno task report --render-only`.
 *
 * @module
 */
import { parseArgs } from "node:util";
import { createBackend } from "../mod.ts";
import { lightningMixer } from "../train/backward.ts";
import { configByName } from "../train/configs.ts";
import { MIXERS, softmaxConfig, softmaxMixer } from "./baselines/mixers.ts";
import { type Speed, trainingSpeed } from "./measure/training.ts";
import { commit, keep, kept, type TrainingReport } from "./report/results.ts";

const { values } = parseArgs({
  options: {
    backend: { type: "string", default: "auto" },
    config: { type: "string", default: "small" },
    tokens: { type: "string", default: "65536" },
    lengths: { type: "string", default: "1024,2048,4096,8192,16384,32768,65536" },
    repeats: { type: "string", default: "5" },
    mixer: { type: "string", default: lightningMixer.name },
    keep: { type: "boolean", default: false },
  },
});
const tokens = Number(values.tokens), repeats = Number(values.repeats);
const lengths = values.lengths.split(",").map(Number);
if (!lengths.every((length) => Number.isInteger(length) && length >= 1 && tokens % length === 0)) {
  console.error(`--lengths must be integers >= 1 that divide --tokens, ${tokens}: ${values.lengths}`);
  Deno.exit(2);
}
const mixers = { [lightningMixer.name]: lightningMixer, ...MIXERS };
if (!Object.hasOwn(mixers, values.mixer)) {
  console.error(`--mixer must be one of ${Object.keys(mixers).join(", ")}: ${values.mixer}`);
  Deno.exit(2);
}
const mixer = mixers[values.mixer], named = configByName(values.config);
const config = mixer === softmaxMixer ? softmaxConfig(named) : named;
using backend = await createBackend({ prefer: values.backend as "auto", threads: "auto" });
const speeds = await trainingSpeed(backend, config, { tokens, lengths, repeats, mixer });
console.log(
  `${values.config}, ${mixer.name}, ${tokens} tokens per step, ${backend.name}, ${backend.info.device}\n`,
);
if (values.keep) await keepSpeeds(backend.info.device, values.config, tokens, mixer.name, speeds);
console.log("| tokens per sequence | tokens per second | over the shortest |\n|---:|---:|---:|");
for (const { length, tokensPerSecond } of speeds) {
  const share = (100 * tokensPerSecond / speeds[0].tokensPerSecond).toFixed(0);
  console.log(`| ${length} | ${Math.round(tokensPerSecond)} | ${share} % |`);
}

/** Adds a run to what is kept; of another device, model or size nothing stays. */
async function keepSpeeds(
  device: string,
  config: string,
  tokens: number,
  mixer: string,
  speeds: readonly Speed[],
) {
  const method = `${mixer} attention`, args = Deno.args.filter((arg) => arg !== "--keep");
  const before = await kept<TrainingReport>("training.json");
  const same = before?.device === device && before.config === config && before.tokens === tokens;
  const report: TrainingReport = {
    device,
    date: new Date().toISOString().slice(0, 10),
    commit: await commit(),
    versions: { deno: Deno.version.deno },
    config,
    tokens,
    commands: { ...same && before.commands, [method]: ["deno task bench:training", ...args].join(" ") },
    speeds: [
      ...same ? before.speeds.filter((point) => point.method !== method) : [],
      ...speeds.map((speed) => ({ method, ...speed })),
    ],
  };
  await keep("training.json", report);
}
