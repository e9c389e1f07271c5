/** Experiments: their plan, a run that is stopped and resumed, prepared text. */
import assert from "node:assert/strict";
import { fileURLToPath } from "node:url";
import {
  bestLearningRate,
  type Experiments,
  planRuns,
  readyRuns,
  runExperiment,
  SWEEP,
  sweepRates,
  VARIANTS,
} from "../bench/measure/experiments.ts";
import { parseConfig } from "../model/config.ts";
import { mapWeights } from "../model/weights.ts";
import { elementCount } from "../core/shape.ts";
import { configByName } from "../train/configs.ts";
import { Corpus, decodePrepared, encodePrepared, readCorpus, readDocuments, split } from "../train/data.ts";
import { inFolder } from "./folder.ts";
import { eachBackend } from "./harness.ts";

const ROOT = fileURLToPath(new URL("../", import.meta.url));
const TEXT = "All states are small, and each is a sum of what came before. ".repeat(30);
const corpusOf = (text: string) => Corpus.create([{ name: "text", bytes: new TextEncoder().encode(text) }]);
const RECIPE = { size: "tiny", steps: 6, seqLen: 32, batch: 2 };

Deno.test("a plan has the sweep of each family first, then seed after seed", () => {
  const names = planRuns(["tnl", "no-gate", "llama"], [1, 2]).map(({ name }) => name);
  const sweeps = ["tnl", "llama"].flatMap((family) => SWEEP.map((rate) => `${family} sweep ${rate}`));
  assert.deepEqual(names, [...sweeps, "tnl 1", "no-gate 1", "llama 1", "tnl 2", "no-gate 2", "llama 2"]);
  const run = (heldOutLoss: number) => ({ heldOutLoss }) as Experiments["runs"][string];
  const runs = Object.fromEntries(SWEEP.map((rate, i) => [`tnl sweep ${rate}`, run([2, 1, NaN][i])]));
  assert.equal(bestLearningRate("tnl", runs), SWEEP[1]);
  assert.throws(() => bestLearningRate("llama", runs), /The sweep of llama must come before/);
  const ready = (kept: Experiments["runs"]) =>
    readyRuns(planRuns(["tnl", "no-gate"], [1], kept), kept).map(({ name }) => name);
  assert.deepEqual(ready({}), SWEEP.map((rate) => `tnl sweep ${rate}`));
  assert.deepEqual(ready({ ...runs, "tnl 1": run(1) }), ["no-gate 1"]);
});

Deno.test("a sweep doubles its highest rate as long as that is the best", () => {
  const losses = (...found: number[]) =>
    Object.fromEntries(
      found.map((heldOutLoss, i) => [
        `tnl sweep ${0.001 * 2 ** i}`,
        { heldOutLoss } as Experiments["runs"][string],
      ]),
    );
  assert.deepEqual(sweepRates("tnl", {}), SWEEP);
  assert.deepEqual(sweepRates("tnl", losses(3, 1, 2)), SWEEP);
  assert.deepEqual(sweepRates("tnl", losses(3, 2, 1)), [...SWEEP, 0.008]);
  assert.deepEqual(sweepRates("tnl", losses(3, 2, 1, NaN)), [...SWEEP, 0.008]);
  assert.equal(bestLearningRate("tnl", losses(3, 2, 1, NaN)), 0.004);
  assert.equal(bestLearningRate("tnl", losses(5, 4, 3, 1, 2)), 0.008);
  assert.deepEqual(sweepRates("tnl", losses(5, 4, 3, 2, 1)), [...SWEEP, 0.008, 0.016, 0.032]);
  assert.equal(sweepRates("tnl", losses(9, 8, 7, 6, 5, 4)).at(-1), 0.032);
});

Deno.test("variants have the parameters of TransNormerLLM, but for what they lack", () => {
  const count = (name: string) => {
    let sum = 0;
    mapWeights(parseConfig(VARIANTS[name].config(configByName("small"))), false, (_, shape) => {
      sum += elementCount(shape);
    });
    return sum;
  };
  const tnl = count("tnl"), layers = 6, embed = 256;
  assert(Math.abs(count("llama") / tnl - 1) < 0.002, `${count("llama")} and ${tnl}`);
  assert.equal(count("softmax"), tnl - embed);
  assert.equal(count("no-gate"), tnl - layers * embed * embed);
  assert.equal(count("rmsnorm"), tnl + (3 * layers + 1) * embed);
  assert.equal(count("layernorm"), tnl + 2 * (3 * layers + 1) * embed);
  for (const same of ["no-temperature", "1+elu", "identity", "glu-silu", "left-product"]) {
    assert.equal(count(same), tnl);
  }
});

eachBackend(
  "an experiment that is stopped and resumed has the result of one that was not",
  async (backend) => {
    await inFolder(async (folder) => {
      const corpus = await corpusOf(TEXT);
      const run = { name: "no-gate 1", variant: "no-gate", seed: 1, learningRate: undefined };
      const runs = { [`tnl sweep ${SWEEP[1]}`]: { heldOutLoss: 1 } as Experiments["runs"][string] };
      const shared = { backend, corpus, runs };
      const never = new AbortController().signal;
      const whole = await runExperiment(run, RECIPE, { ...shared, folder: `${folder}/a`, signal: never });
      const stop = new AbortController(), parted = `${folder}/b`;
      // Stopped before its first step is over: a checkpoint after that step.
      stop.abort();
      assert.equal(
        await runExperiment(run, RECIPE, { ...shared, folder: parted, signal: stop.signal }),
        undefined,
      );
      const resumed = await runExperiment(run, RECIPE, { ...shared, folder: parted, signal: never });
      const facts = (result: typeof whole) => ({ ...result, tokensPerSecond: 0 });
      assert.deepEqual(facts(resumed), facts(whole));
      assert.equal(whole!.learningRate, SWEEP[1]);
      assert(whole!.heldOutLoss < Math.log(259), `${whole!.heldOutLoss}`);
      // Finished, but the result was lost: it is trained once more.
      const again = await runExperiment(run, RECIPE, { ...shared, folder: parted, signal: never });
      assert.deepEqual(facts(again), facts(whole));
    });
  },
);

Deno.test("the command keeps each result, continues with the next, and refuses to mix recipes", async () => {
  await inFolder(async (folder) => {
    await Deno.writeTextFile(`${folder}/text.txt`, TEXT);
    const task = async (...more: string[]) => {
      const { code, stdout, stderr } = await new Deno.Command(Deno.execPath(), {
        args: [
          ...["task", "experiment", "--size", "tiny", "--data", `${folder}/text.txt`, "--seq-len", "32"],
          ...[
            "--batch",
            "2",
            "--backend",
            "wasm",
            "--json",
            `${folder}/found.json`,
            "--work",
            `${folder}/work`,
          ],
          ...more,
        ],
        cwd: ROOT,
      }).output();
      const text = (bytes: Uint8Array) => new TextDecoder().decode(bytes);
      return { code, out: text(stdout), errors: text(stderr) };
    };
    const runs = async () => JSON.parse(await Deno.readTextFile(`${folder}/found.json`)).runs;
    const names = async () => Object.keys(await runs());
    const planned = async (variants: string[]) =>
      planRuns(variants, [1], await runs()).map(({ name }) => name);
    const first = await task("--variants", "tnl", "--seeds", "1", "--steps", "5");
    assert.equal(first.code, 0, first.errors);
    assert.deepEqual(await names(), await planned(["tnl"]));
    const second = await task("--variants", "tnl,rmsnorm", "--seeds", "1", "--steps", "5");
    assert.match(second.out, /^rmsnorm 1: .*bits per byte.*\nfinished: /m);
    assert.doesNotMatch(second.out, /^tnl/m);
    const other = await task("--variants", "tnl", "--seeds", "2", "--steps", "6");
    assert.notEqual(other.code, 0);
    assert.match(other.errors, /was measured otherwise/);
    assert.deepEqual(await names(), [...await planned(["tnl"]), "rmsnorm 1"]);
    // The sweep of another file serves as well.
    const found = `${folder}/found.json`,
      more = ["--seeds", "1", "--steps", "3", "--json", `${folder}/other.json`];
    const swept = await task("--variants", "layernorm", ...more, "--sweep", found);
    assert.match(swept.out, /^layernorm 1: .*\nfinished: /m, swept.errors);
    assert.doesNotMatch(swept.out, /sweep/);
    const wrong = await task("--variants", "gpt");
    assert.equal(wrong.code, 2);
  });
});

Deno.test("processes that share their results share the work, and lose nothing", async () => {
  await inFolder(async (folder) => {
    await Deno.writeTextFile(`${folder}/text.txt`, TEXT);
    const outputs = await Promise.all([1, 2].map(async () => {
      const { code, stdout, stderr } = await new Deno.Command(Deno.execPath(), {
        args: [
          ...["task", "experiment", "--size", "tiny", "--data", `${folder}/text.txt`, "--seq-len", "32"],
          ...[
            "--batch",
            "2",
            "--steps",
            "5",
            "--backend",
            "wasm",
            "--variants",
            "tnl,no-gate",
            "--seeds",
            "1,2",
          ],
          ...["--json", `${folder}/found.json`, "--work", `${folder}/work`],
        ],
        cwd: ROOT,
      }).output();
      assert.equal(code, 0, new TextDecoder().decode(stderr));
      return new TextDecoder().decode(stdout);
    }));
    const { runs } = JSON.parse(await Deno.readTextFile(`${folder}/found.json`));
    const planned = planRuns(["tnl", "no-gate"], [1, 2], runs).map(({ name }) => name).sort();
    assert.deepEqual(Object.keys(runs).sort(), planned);
    // Each run was made once, by one of them.
    const done = outputs.flatMap((output) =>
      [...output.matchAll(/^(.*): .* bits per byte/gm)].map(([, name]) => name)
    );
    assert.deepEqual(done.sort(), planned);
    for (const output of outputs) assert.match(output, /^finished: /m);
  });
});

Deno.test("a prepared text is the text that it was made of, and damage is noticed", async () => {
  const documents = await readDocuments(["sotu"]), parts = split(documents);
  const file = await encodePrepared(parts, ["sotu: public domain"]);
  await inFolder(async (folder) => {
    const path = `${folder}/sotu.text.gz`;
    await Deno.writeFile(path, file);
    assert.equal((await readCorpus([path])).fingerprint, (await Corpus.create(documents)).fingerprint);
    assert.deepEqual((await decodePrepared(file, path)).sources, ["sotu: public domain"]);
    await assert.rejects(readCorpus([path, "sotu"]), /a prepared text must be the only data/);
    await assert.rejects(readCorpus([`${folder}/none.text.gz`]), /data must exist and be readable/);
    await assert.rejects(decodePrepared(file.slice(0, -100), path), /data must be a whole prepared text/);
    await assert.rejects(decodePrepared(new Uint8Array(9), path), /data must be a whole prepared text/);
  });
});
