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
  type Run,
  runExperiment,
  VARIANTS,
} from "./measure/experiments.ts";
import { commit } from "./report/results.ts";

/** Steps, and sequences of a batch, by size: what an H100 trains in half a minute. */
const SIZES: Readonly<Record<string, { steps: number; batch: number }>> = {
  tiny: { steps: 240, batch: 2 },
  small: { steps: 240, batch: 32 },
  medium: { steps: 150, batch: 32 },
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
      if (options.list) {
        const kept = await read(file);
        for (const { name } of planRuns(variants, seeds, kept?.runs)) {
          write(`${kept?.runs[name]?.bitsPerByte?.toFixed(4) ?? "  -   "}  ${name}\n`);
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
        command: `deno task experiment ${Deno.args.join(" ")}`,
        data: { sha256: corpus.fingerprint, train: corpus.train.length, heldOut: corpus.heldOut.length },
      };
      const folder = `${work}/${size}`, status = new StatusLine();
      await Deno.mkdir(folder, { recursive: true });
      while (!deadline.aborted) {
        const kept = await read(file);
        checkSame(kept, about, file);
        const plan = planRuns(variants, seeds, kept?.runs), ready = readyRuns(plan, kept?.runs ?? {});
        if (ready.length === 0) break;
        using taken = await takeOne(ready, folder);
        if (taken === undefined) {
          status.draw("other processes have taken what can be run now");
          await waitASecond(deadline);
          continue;
        }
        const { run } = taken, runs = (await read(file))?.runs ?? {};
        if (runs[run.name] !== undefined) continue; // finished by another process in the meantime
        const place = plan.findIndex(({ name }) => name === run.name) + 1;
        const result = await runExperiment(run, { size, steps, seqLen, batch }, {
          ...{ backend, corpus, runs, folder: `${folder}/${fileName(run)}`, signal: deadline },
          onStep: ({ step, loss }) =>
            status.draw(`${place}/${plan.length}  ${run.name}  step ${step}  loss ${loss.toFixed(4)}`),
        });
        if (result === undefined) break;
        await keep(file, folder, about, { [run.name]: result });
        status.end();
        const seconds = ((performance.now() - begin) / 1000).toFixed(0);
        write(
          `${run.name}: ${
            result.bitsPerByte.toFixed(4)
          } bits per byte, learning rate ${result.learningRate}, ` +
            `${result.tokensPerSecond.toFixed(0)} tokens/s, ${seconds} s\n`,
        );
      }
      status.end();
      const runs = (await read(file))?.runs ?? {};
      const left = planRuns(variants, seeds, runs).filter(({ name }) => runs[name] === undefined).length;
      write(left === 0 ? `finished: ${file}\n` : `${left} runs are to come: the same command continues\n`);
      stop.throwIfAborted();
    }),
);

/** Name of what belongs to a run, in the folder of checkpoints. */
function fileName({ name }: Run): string {
  return name.replaceAll(" ", "-");
}

/** The first run that no other process works on, taken until it is disposed or this process ends. */
async function takeOne(runs: readonly Run[], folder: string): Promise<{ run: Run } & Disposable | undefined> {
  for (const run of runs) {
    const lock = await Deno.open(`${folder}/${fileName(run)}.lock`, { create: true, write: true });
    if (await lock.tryLock(true)) return { run, [Symbol.dispose]: () => lock.close() };
    lock.close();
  }
}

/** Waits for what other processes do, unless it is time to stop. */
function waitASecond(signal: AbortSignal): Promise<void> {
  const { promise, resolve } = Promise.withResolvers<void>(), timer = setTimeout(resolve, 1000);
  signal.addEventListener("abort", () => resolve(), { once: true });
  return promise.finally(() => clearTimeout(timer));
}

/** Results that were kept, if any. */
async function read(file: string): Promise<Experiments | undefined> {
  try {
    return JSON.parse(await Deno.readTextFile(file));
  } catch (error) {
    if (error instanceof Deno.errors.NotFound) return undefined;
    throw error;
  }
}

/** Adds results to those that this and other processes have kept. The file is written whole or not at all. */
async function keep(
  file: string,
  folder: string,
  about: Omit<Experiments, "runs">,
  runs: Experiments["runs"],
): Promise<void> {
  using lock = await Deno.open(`${folder}/results.lock`, { create: true, write: true });
  await lock.lock(true);
  const kept = await read(file);
  checkSame(kept, about, file);
  const all: Experiments = { ...about, runs: { ...kept?.runs, ...runs } };
  await Deno.writeTextFile(`${file}.partial`, `${JSON.stringify(all, null, 2)}\n`);
  await Deno.rename(`${file}.partial`, file);
}

/** Runs that are to be compared must have one recipe, one text and one device. */
function checkSame(
  kept: Experiments | undefined,
  about: Omit<Experiments, "runs">,
  file: string,
): void {
  if (kept === undefined) return;
  const facts = (
    { steps, seqLen, batch, device, data }: ExperimentRecipe & Pick<Experiments, "device" | "data">,
  ) => JSON.stringify({ steps, seqLen, batch, device, data: data.sha256 });
  if (facts(kept) !== facts(about)) {
    throw new RangeError(`${file} was measured otherwise: ${facts(kept)} instead of ${facts(about)}`);
  }
}
