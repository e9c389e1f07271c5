/**
 * Trains models on short sequences and uses them on long ones: loss by position, and whether they remember numbers that
 * were planted into the text, by distance. Stopped, by Ctrl-C or by `--seconds`, it continues where it was. Processes
 * with the same `--json` and `--work` share the work, each on a GPU of its own.
 *
 *     deno task text --out out/english.text.gz
 *     deno task recall --data out/english.text.gz --seconds 540
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
  number,
  path,
  StatusLine,
  text,
  tokens,
  UsageError,
  write,
} from "../cli/mod.ts";
import { createBackend } from "../mod.ts";
import { readText } from "../train/data.ts";
import { bestLearningRate, type Experiments, VARIANTS } from "./measure/experiments.ts";
import { planRecall, planted, type RecallRecipe, type RecallResults, runRecall } from "./measure/recall.ts";
import { fileName, readKept, Shared, workInTurns } from "./measure/sharing.ts";
import { commit } from "./report/results.ts";

const NAMES = Object.keys(VARIANTS);
/** The shortest and the longest position, and the shortest distance. */
const [LEAST, MOST, NEAR] = [1024, 2 ** 17, 64];

await cli(
  command("recall", "Trains models on short sequences, and keeps what they make of long ones.")
    .option("--size <name>", "configuration", text, "small")
    .option("--data <path>", "text, best a .text.gz of deno task text", path, "out/english.text.gz")
    .option("--variants <names>", NAMES.join(", "), (names: string) => names.split(","), ["tnl", "llama"])
    .option("--lengths <n,n,...>", "tokens of the sequences to train on", items(tokens), [2048, 8192])
    .option("--steps <n>", "of a run", integer(1), 2400)
    .option("--tokens <n>", "of a step", tokens, 2 ** 14)
    .option(
      "--learning-rate <x>",
      "highest; default: what the sweep of deno task experiment has found",
      number(),
    )
    .option("--sweep <file>", "where it was kept", path, "docs/evidence/training-small.json")
    .option("--most <n>", "longest context; distances go up to half of it", tokens, MOST)
    .option("--scored <n>", "tokens of held-out text whose loss is taken at each position", tokens, 2 ** 17)
    .option("--trials <n>", "numbers to be remembered at each distance", integer(1), 128)
    .option("--seconds <n>", "stop after this long, with a checkpoint", integer(1))
    .option("--json <file>", "results", path, "docs/evidence/recall.json")
    .option("--work <folder>", "checkpoints", path, "out/recall")
    .addOption(backendOption("webgpu"))
    .action(async (values) => {
      const { data, variants, lengths, most, seconds, json, work, sweep, learningRate, backend: prefer } =
        values;
      const { size, steps, tokens, scored, trials } = values;
      const unknown = variants.find((name) => !Object.hasOwn(VARIANTS, name));
      if (unknown !== undefined) throw new UsageError(`--variants must be some of ${NAMES}: ${unknown}`);
      if (lengths.some((length) => tokens % length !== 0)) {
        throw new UsageError(`--tokens must be a multiple of --lengths: ${tokens}`);
      }
      const begin = performance.now(), stop = interruption();
      const signal = seconds === undefined
        ? stop
        : AbortSignal.any([stop, AbortSignal.timeout(1000 * seconds)]);
      const recipe: RecallRecipe = {
        ...{ size, steps, tokens, scored, trials },
        positions: doublings(Math.min(LEAST, most), most),
        distances: doublings(NEAR, most / 2),
      };
      const swept = learningRate === undefined ? await readKept<Experiments>(sweep) : undefined;
      const rateOf = (variant: string) =>
        learningRate ?? bestLearningRate(VARIANTS[variant].family, swept?.runs ?? {});
      variants.forEach(rateOf); // fails before anything is measured
      const corpus = await planted(await readText([data]));
      using backend = await createBackend({ prefer, threads: "auto" });
      const about = {
        ...{ format: "levin recall 1" as const, ...recipe, device: backend.info.device },
        ...{ date: new Date().toISOString().slice(0, 10), commit: await commit() },
        data: { sha256: corpus.fingerprint, train: corpus.train.length, heldOut: corpus.heldOut.length },
      };
      const folder = `${work}/${recipe.size}`, status = new StatusLine();
      const shared = new Shared<RecallResults>(json, folder, (kept) => checkSame(kept, about, json));
      const plan = planRecall(variants, lengths);
      const left = (kept: RecallResults | undefined) =>
        plan.filter(({ name }) => kept?.runs[name] === undefined);
      await workInTurns(shared, left, {
        signal,
        onWait: () => status.draw("other processes have taken what is left"),
        async run(run) {
          const result = await runRecall(run, recipe, {
            ...{
              backend,
              corpus,
              learningRate: rateOf(run.variant),
              folder: `${folder}/${fileName(run.name)}`,
              signal,
            },
            onStep: ({ step, loss }) => status.draw(`${run.name}  step ${step}  loss ${loss.toFixed(4)}`),
            onEvaluate: (what) => status.draw(`${run.name}  ${what}`),
          });
          if (result === undefined) return false;
          await shared.keep(about, { [run.name]: result });
          status.end();
          const { bitsPerByte, tokensPerSecond, positions, recall } = result;
          const cells = (rows: readonly (readonly [number, number])[], digits: number) =>
            rows.map(([at, value]) => `${at}: ${value.toFixed(digits)}`).join(", ");
          write(
            `${run.name}: ${bitsPerByte.toFixed(4)} bits per byte, ${tokensPerSecond.toFixed(0)} tokens/s, ` +
              `${((performance.now() - begin) / 1000).toFixed(0)} s\n` +
              `  loss by position   ${cells(positions.map(({ position, loss }) => [position, loss]), 4)}\n` +
              `  recall by distance ${
                cells(recall.map(({ distance, recalled }) => [distance, recalled]), 2)
              }\n`,
          );
          return true;
        },
      });
      status.end();
      const count = left(await shared.read()).length;
      write(count === 0 ? `finished: ${json}\n` : `${count} runs are to come: the same command continues\n`);
      stop.throwIfAborted();
    }),
);

/** A number and its doubles up to another. */
function doublings(least: number, most: number): number[] {
  return Array.from({ length: Math.floor(Math.log2(most / least)) + 1 }, (_, i) => least * 2 ** i);
}

/** Runs that are to be compared must have one recipe, one text and one device. */
function checkSame(kept: RecallResults, about: Omit<RecallResults, "runs">, file: string): void {
  const facts = ({ date: _date, commit: _commit, ...same }: Omit<RecallResults, "runs">) =>
    JSON.stringify({ ...same, runs: undefined });
  if (facts(kept) !== facts(about)) {
    throw new RangeError(`${file} was measured otherwise: ${facts(kept)} instead of ${facts(about)}`);
  }
}
