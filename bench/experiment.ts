/**
 * Runs the experiments of `docs/evidence.md` that train, one after another, and keeps each result when it is there.
 * Stopped, by Ctrl-C or by `--seconds`, it continues where it was. Processes with the same `--json` and `--work` share
 * the work, each on a GPU of its own: each takes a run that no other has taken.
 *
 *     deno task text --out out/english.text.gz
 *     deno task experiment --size small --data out/english.text.gz --seconds 540
 *
 * @module
 */
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
  write,
} from "../cli/mod.ts";
import { UsageError } from "../cli/mod.ts";
import { createBackend } from "../mod.ts";
import { readCorpus } from "../train/data.ts";
import {
  type ExperimentRecipe,
  type Experiments,
  planRuns,
  readyRuns,
  runExperiment,
  sweepRuns,
  VARIANTS,
} from "./measure/experiments.ts";
import { fileName, readKept, Shared, workInTurns } from "./measure/sharing.ts";
import { commit } from "./report/results.ts";

/** Steps, and sequences of a batch, by size: what an H100 trains in half a minute, or one to two. */
const SIZES: Readonly<Record<string, { steps: number; batch: number }>> = {
  tiny: { steps: 240, batch: 2 },
  small: { steps: 240, batch: 32 },
  medium: { steps: 600, batch: 8 },
};
const NAMES = Object.keys(VARIANTS);

await cli(
  command("experiment", "Trains the models that docs/evidence.md compares, and keeps their losses.")
    .option("--size <name>", `${Object.keys(SIZES).join(", ")}`, text, "small")
    .option("--data <path>", "text, best a .text.gz of deno task text", path, "out/english.text.gz")
    .option("--variants <names>", NAMES.join(", "), (names: string) => names.split(","), NAMES.slice(0, -1))
    .option("--seeds <n,n,...>", "first weights and order of the data", items(integer(1)), [1, 2, 3])
    .option("--steps <n>", "of a run; those of the sweep take two fifths", integer(1))
    .option("--batch <n>", "sequences of a step", integer(1))
    .option("--seq-len <n>", "tokens of a sequence", integer(1), 2048)
    .option("--sweep <file>", "results whose sweep to go by, instead of one of this size", path)
    .option("--seconds <n>", "stop after this long, with a checkpoint", integer(1))
    .option("--json <file>", "results; default: docs/evidence/training-<size>.json", path)
    .option("--work <folder>", "checkpoints", path, "out/experiments")
    .option("--list", "what has been kept and what is to come")
    .addOption(backendOption("webgpu"))
    .action(async (options) => {
      const { size, variants, seeds, seqLen, work } = options;
      if (!Object.hasOwn(SIZES, size)) {
        throw new UsageError(`--size must be one of ${Object.keys(SIZES)}: ${size}`);
      }
      const unknown = variants.find((name) => !Object.hasOwn(VARIANTS, name));
      if (unknown !== undefined) throw new UsageError(`--variants must be some of ${NAMES}: ${unknown}`);
      const file = options.json ?? `docs/evidence/training-${size}.json`;
      const recipe = { size, seqLen, ...SIZES[size] };
      const { steps = recipe.steps, batch = recipe.batch } = options;
      const swept = options.sweep === undefined
        ? {}
        : sweepRuns((await readKept<Experiments>(options.sweep))?.runs);
      const known = (kept: Experiments | undefined) => ({ ...swept, ...kept?.runs });
      const plan = (kept: Experiments | undefined) => planRuns(variants, seeds, known(kept));
      if (options.list) {
        const kept = await readKept<Experiments>(file);
        for (const { name } of plan(kept)) {
          write(`${known(kept)[name]?.bitsPerByte?.toFixed(4) ?? "  -   "}  ${name}\n`);
        }
        return;
      }
      const begin = performance.now(), stop = interruption();
      const deadline = options.seconds === undefined
        ? stop
        : AbortSignal.any([stop, AbortSignal.timeout(1000 * options.seconds)]);
      const corpus = await readCorpus([options.data]);
      using backend = await createBackend({ prefer: options.backend, threads: "auto" });
      const about = {
        ...{ format: "levin experiments 1" as const, ...recipe, steps, batch, device: backend.info.device },
        ...{ date: new Date().toISOString().slice(0, 10), commit: await commit() },
        data: { sha256: corpus.fingerprint, train: corpus.train.length, heldOut: corpus.heldOut.length },
      };
      const folder = `${work}/${size}`, status = new StatusLine();
      const shared = new Shared<Experiments>(file, folder, (kept) => checkSame(kept, about, file));
      await workInTurns(shared, (kept) => readyRuns(plan(kept), known(kept)), {
        signal: deadline,
        onWait: () => status.draw("other processes have taken what can be run now"),
        async run(run, kept) {
          const all = plan(kept), place = all.findIndex(({ name }) => name === run.name) + 1;
          const result = await runExperiment(run, { size, steps, seqLen, batch }, {
            ...{ backend, corpus, folder: `${folder}/${fileName(run.name)}`, signal: deadline },
            runs: known(kept),
            onStep: ({ step, loss }) =>
              status.draw(`${place}/${all.length}  ${run.name}  step ${step}  loss ${loss.toFixed(4)}`),
          });
          if (result === undefined) return false;
          await shared.keep(about, { [run.name]: result });
          const { bitsPerByte, learningRate, tokensPerSecond } = result;
          const seconds = ((performance.now() - begin) / 1000).toFixed(0);
          status.end();
          write(
            `${run.name}: ${bitsPerByte.toFixed(4)} bits per byte, learning rate ${learningRate}, ` +
              `${tokensPerSecond.toFixed(0)} tokens/s, ${seconds} s\n`,
          );
          return true;
        },
      });
      status.end();
      const kept = await shared.read();
      const left = plan(kept).filter(({ name }) => known(kept)[name] === undefined).length;
      write(left === 0 ? `finished: ${file}\n` : `${left} runs are to come: the same command continues\n`);
      stop.throwIfAborted();
    }),
);

/** Runs that are to be compared must have one recipe, one text and one device. */
function checkSame(kept: Experiments, about: Omit<Experiments, "runs">, file: string): void {
  const facts = (
    { steps, seqLen, batch, device, data }: ExperimentRecipe & Pick<Experiments, "device" | "data">,
  ) => JSON.stringify({ steps, seqLen, batch, device, data: data.sha256 });
  if (facts(kept) !== facts(about)) {
    throw new RangeError(`${file} was measured otherwise: ${facts(kept)} instead of ${facts(about)}`);
  }
}
