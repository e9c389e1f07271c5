/** Models used on longer contexts than they were trained on: needles, losses by position, the command. */
import assert from "node:assert/strict";
import { fileURLToPath } from "node:url";
import { DIGITS, plant } from "../bench/measure/needles.ts";
import { lossAtPosition, needleRows, planRecall, type RecallResults } from "../bench/measure/recall.ts";
import { TransNormerLLM } from "../model/mod.ts";
import { parseConfig } from "../model/config.ts";
import { lightningMixer } from "../train/backward.ts";
import { loadCheckpointState } from "../train/checkpoint.ts";
import { Corpus } from "../train/data.ts";
import { Parameters } from "../train/optimizer.ts";
import { train } from "../train/train.ts";
import { inFolder } from "./folder.ts";
import { eachBackend } from "./harness.ts";

const ROOT = fileURLToPath(new URL("../", import.meta.url));
const encode = (text: string) => new TextEncoder().encode(text);
const decode = (bytes: Uint8Array) => new TextDecoder().decode(bytes);
const SENTENCES = Array.from({ length: 900 }, (_, i) => `Sentence ${i} says that ${i * i} is a square. `)
  .join(
    "",
  );
const SENTENCE = /The number of ([A-Z][a-z]{5}) is (\d{5})\. /g;

Deno.test("needles are pairs of sentences at their distances, and the text around them is as it was", () => {
  const { bytes, needles } = plant(encode(SENTENCES), { every: 200, distances: [100, 2000] }, 7);
  const text = decode(bytes);
  assert.equal(text.replaceAll(SENTENCE, ""), SENTENCES);
  assert(needles.length > 50, `${needles.length}`);
  for (const { at, distance } of needles) {
    const value = text.slice(at, at + DIGITS);
    assert.match(value, /^\d{5}$/);
    assert.equal(text.slice(at - distance, at - distance + DIGITS), value);
    // At least the distance that was drawn, at most that to the next end of a sentence or two.
    assert(distance >= 100 && distance <= 2000 + 200, `${distance}`);
  }
  // Each name has one number, twice but where the text ends before.
  const found = new Map<string, string[]>();
  for (const [, name, value] of text.matchAll(SENTENCE)) found.set(name, [...found.get(name) ?? [], value]);
  const counts = [...found.values()].map((values) => {
    assert.equal(new Set(values).size, 1);
    return values.length;
  });
  assert.equal(counts.filter((count) => count === 2).length, needles.length);
  assert(counts.every((count) => count <= 2));
  assert.deepEqual(plant(encode(SENTENCES), { every: 200, distances: [100, 2000] }, 7).bytes, bytes);
  assert.notDeepEqual(plant(encode(SENTENCES), { every: 200, distances: [100, 2000] }, 8).bytes, bytes);
  assert.equal(plant(encode(SENTENCES), { every: 10, distances: [100, 100], count: 3 }, 1).needles.length, 3);
});

Deno.test("rows ask for the digits of numbers that stand in them, the distance before", () => {
  const heldOut = Uint16Array.from([256, ...encode(SENTENCES), 257]);
  const rows = needleRows(heldOut, 512, 20);
  let asked = 0;
  for (const { ids, places } of rows) {
    assert.equal(places.length % DIGITS, 0);
    const text = decode(Uint8Array.from(ids));
    for (let i = 0; i < places.length; i += DIGITS, asked++) {
      const value = places.slice(i, i + DIGITS).map((place) => text[place + 1]).join("");
      const [, name] = /The number of (\w+) is $/.exec(text.slice(0, places[i] + 1))!;
      const first = text.indexOf(`The number of ${name} is ${value}. `);
      assert(first >= 0 && places[i] - first >= 512, `${name} ${value} at ${first}, asked at ${places[i]}`);
    }
  }
  assert.equal(asked, 20);
  assert.throws(() => needleRows(heldOut, 2 ** 17, 1), /needs more held-out text than \d+ bytes/);
});

Deno.test("a plan has each model at the shortest length first", () => {
  const names = planRecall(["tnl", "llama"], [2048, 8192]).map(({ name }) => name);
  assert.deepEqual(names, ["tnl 2048", "llama 2048", "tnl 8192", "llama 8192"]);
});

eachBackend("the loss at a position is what the model itself says of these tokens", async (backend) => {
  await inFolder(async (folder) => {
    const corpus = await Corpus.of({
      train: [encode(SENTENCES)],
      heldOut: [encode(SENTENCES.slice(0, 700))],
    });
    const { checkpoint } = await train({
      ...{ backend, data: corpus, out: folder, config: "tiny", seqLen: 32, batch: 2, steps: 3 },
    });
    const { config, weights } = await loadCheckpointState(folder);
    const values = new Map(weights.map(({ name, data }) => [name, data]));
    using network = new Parameters(backend, parseConfig(config), (name) => ({ value: values.get(name)! }));
    using model = await TransNormerLLM.load(checkpoint, { backend });
    const tokens = corpus.heldOut, first = 64, scored = 100, half = 32;
    let expected = 0, count = 0;
    for (let start = first; start < first + scored; start += half) {
      const end = Math.min(start + half, first + scored);
      // Its window begins half a position before; the first token is predicted after the others of that half.
      const ids = [...tokens.subarray(start - half, end + 1)];
      const { logprob } = await model.loglikelihood(ids.slice(0, half + 1), ids.slice(half + 1));
      expected -= logprob;
      count += end - start;
    }
    const { signal } = new AbortController();
    const loss = await lossAtPosition(
      { network, mixer: lightningMixer, signal },
      tokens,
      first,
      2 * half,
      scored,
    );
    assert.equal(count, scored);
    assert(Math.abs(loss - expected / count) < 1e-5, `${loss} and ${expected / count}`);
    const stop = AbortSignal.abort(new Error("stopped"));
    const stopped = lossAtPosition({ network, mixer: lightningMixer, signal: stop }, tokens, first, 64, 64);
    await assert.rejects(stopped, /stopped/);
  });
});

Deno.test("the command keeps each model, continues with the next, and refuses to mix recipes", async () => {
  await inFolder(async (folder) => {
    await Deno.writeTextFile(`${folder}/text.txt`, SENTENCES.repeat(3));
    const json = `${folder}/found.json`;
    const task = async (...more: string[]) => {
      const { code, stdout, stderr } = await new Deno.Command(Deno.execPath(), {
        args: [
          ...["task", "recall", "--size", "tiny", "--data", `${folder}/text.txt`, "--variants", "tnl"],
          ...["--steps", "3", "--tokens", "256", "--most", "512", "--scored", "256", "--trials", "4"],
          ...["--backend", "wasm", "--json", json, "--work", `${folder}/work`, ...more],
        ],
        cwd: ROOT,
      }).output();
      const text = (bytes: Uint8Array) => new TextDecoder().decode(bytes);
      return { code, out: text(stdout), errors: text(stderr) };
    };
    const rate = ["--learning-rate", "0.001"];
    const none = await task("--lengths", "64", "--sweep", `${folder}/none.json`);
    assert.notEqual(none.code, 0);
    assert.match(none.errors, /The sweep of tnl must come before/);
    const first = await task("--lengths", "64", ...rate);
    assert.equal(first.code, 0, first.errors);
    const second = await task("--lengths", "64,128", ...rate);
    assert.match(second.out, /^tnl 128: .*bits per byte.*\n.*\n.*\nfinished: /m, second.errors);
    assert.doesNotMatch(second.out, /^tnl 64:/m);
    const { runs, positions, distances }: RecallResults = JSON.parse(await Deno.readTextFile(json));
    assert.deepEqual(Object.keys(runs), ["tnl 64", "tnl 128"]);
    assert.deepEqual([positions, distances], [[512], [64, 128, 256]]);
    for (const { positions, recall, bitsPerByte, parameters } of Object.values(runs)) {
      assert(positions[0].loss < 6 && bitsPerByte < 9 && parameters > 1e5);
      assert.deepEqual(recall.map(({ distance, trials }) => [distance, trials]), [[64, 4], [128, 4], [
        256,
        4,
      ]]);
      assert(recall.every(({ bitsPerDigit }) => bitsPerDigit > 0 && bitsPerDigit < 12));
    }
    const other = await task("--lengths", "256", ...rate, "--steps", "4");
    assert.notEqual(other.code, 0);
    assert.match(other.errors, /was measured otherwise/);
    assert.equal((await task("--lengths", "100", ...rate)).code, 2);
  });
});
