/** Evaluations: of what text, against what training says, how they are kept and compared. */
import assert from "node:assert/strict";
import {
  compare,
  type Evaluation,
  plot,
  readReport,
  regressions,
  table,
} from "../bench/report/evaluation.ts";
import { evaluationTokens, lossAt, readEvaluationText, speedsAt } from "../bench/measure/evaluation.ts";
import { createBackend } from "../mod.ts";
import { TransNormerLLM } from "../model/mod.ts";
import { configByName } from "../train/configs.ts";
import { Corpus, readDocuments } from "../train/data.ts";
import { train } from "../train/train.ts";
import { inFolder } from "./folder.ts";
import { assertClose, eachBackend } from "./harness.ts";

Deno.test("of sotu only what training holds out is evaluated, of files all of it unless asked", async () => {
  const sotu = await readEvaluationText(["sotu"]);
  const { heldOut } = await Corpus.create(await readDocuments(["sotu"]));
  assert.deepEqual([sotu.documents.length, sotu.bytes], [11, heldOut.length - 2 * 11]);
  await inFolder(async (folder) => {
    const one = `${folder}/one.txt`, two = `${folder}/two.txt`;
    // Held out are the last 5 %, which begin within a character.
    await Deno.writeTextFile(one, "a".repeat(94) + "ſbcde");
    await Deno.writeTextFile(two, "x".repeat(60));
    assert.deepEqual((await readEvaluationText([folder])).documents, [
      "a".repeat(94) + "ſbcde",
      "x".repeat(60),
    ]);
    const held = await readEvaluationText([folder], { heldOut: true });
    assert.deepEqual([held.documents, held.bytes], [["bcde", "xxx"], 7]);
    const cut = await readEvaluationText([one, two], { bytes: 95 }); // within the same character
    assert.deepEqual([cut.documents, cut.bytes], [["a".repeat(94)], 94]);
    const more = await readEvaluationText([one, two], { bytes: 102 });
    assert.deepEqual(more.documents, ["a".repeat(94) + "ſbcde", "xx"]);
    // Where documents end is part of what a text is.
    await Deno.writeTextFile(two, "a".repeat(94) + "ſ");
    await Deno.writeTextFile(one, "bcde");
    const [whole, parts] = [await readEvaluationText([two]), await readEvaluationText([two, one])];
    await Deno.writeTextFile(two, "a".repeat(94) + "ſbcde");
    const joined = await readEvaluationText([two]);
    assert.equal(new Set([whole.sha256, parts.sha256, joined.sha256]).size, 3);

    await Deno.writeFile(one, Uint8Array.of(65, 0xff, 65));
    await assert.rejects(readEvaluationText([one]), /as data must be UTF-8: .*one\.txt/);
    await Deno.writeTextFile(one, "");
    await assert.rejects(readEvaluationText([one]), /Cannot run evaluate as data must hold text/);
    await assert.rejects(readEvaluationText([`${folder}/none`]), /Cannot run evaluate as data must exist/);
  });
});

eachBackend("an evaluation says of a model what its training said", async (backend) => {
  await inFolder(async (folder) => {
    const lines = (n: number) => "All states are small, and each is a sum of what came before. ".repeat(n);
    await Deno.mkdir(`${folder}/text`);
    for (const [i, n] of [30, 20, 25].entries()) {
      await Deno.writeTextFile(`${folder}/text/${i}.txt`, lines(n));
    }
    const config = { decoder_embed_dim: 16, decoder_layers: 2, decoder_attention_heads: 2, hidden_dim: 16 };
    const whole = { ...configByName("tiny"), ...config, glu_dim: 24, linear_use_lrpe_list: [1, 0] };
    await Deno.writeTextFile(`${folder}/config.json`, JSON.stringify(whole));
    const { checkpoint, evaluation } = await train({
      ...{ backend, data: [`${folder}/text`], out: `${folder}/run`, config: `${folder}/config.json` },
      ...{ seqLen: 24, batch: 3, steps: 2, warmup: 1 },
    });
    using model = await TransNormerLLM.load(checkpoint!, { backend });
    const text = await readEvaluationText([`${folder}/text`], { heldOut: true });
    assert.equal(text.documents.length, 3);
    const tokens = evaluationTokens(model, text, "it");
    let read = 0;
    const found = await lossAt(model, tokens, 24, { onTokens: (count) => read += count });
    assertClose([found.loss, found.bitsPerByte], [evaluation!.heldOutLoss, evaluation!.bitsPerByte], 1e-5);
    assert.equal(read, tokens.ids.length - 1);
    // The whole text as one window: each token after all before it, but for those that begin a document.
    const all = await lossAt(model, tokens, tokens.ids.length);
    let nats = 0;
    const isBeginning = (i: number) => tokens.beginnings.has(i);
    for (let i = 1; i < tokens.ids.length; i++) {
      if (isBeginning(i)) continue;
      nats -= (await model.loglikelihood(tokens.ids.subarray(0, i), tokens.ids.subarray(i, i + 1))).logprob;
    }
    assertClose([all.loss], [nats / (tokens.ids.length - 3)], 1e-4);
    await assert.rejects(lossAt(model, tokens, 24, { signal: AbortSignal.abort("enough") }), /enough/);

    const speeds = await speedsAt([{ model, tokens }, { model, tokens }], 24, { repeats: 3 });
    assert.equal(speeds.length, 2);
    for (const { least, median, most, turns } of speeds.flatMap(({ read, write }) => [read, write])) {
      assert.equal(turns.length, 3);
      assert(0 < least && least <= median && median <= most && turns.includes(median));
    }
    const stopped = { repeats: 1e9, signal: AbortSignal.abort("enough") };
    await assert.rejects(speedsAt([{ model, tokens }], 24, stopped), /enough/);
    assert.equal(model.sessions.size, 0);
  });
});

Deno.test("a model without a tokenizer is refused by its name", async () => {
  using backend = await createBackend({ prefer: "wasm" });
  using model = await TransNormerLLM.load("tests/golden/tnl", { backend });
  const text = { documents: ["a"], bytes: 1, sha256: "" };
  assert.throws(() => evaluationTokens(model, text, "tnl"), /must have a tokenizer: current value is "tnl"/);
});

const speed = (...turns: number[]) => {
  const [least, median, most] = turns.toSorted((a, b) => a - b);
  return { least, median, most, turns };
};

const KEPT: Evaluation = {
  format: "levin evaluation 1",
  model: "sotu",
  fingerprint: "f",
  parameters: 1000,
  weights: "f32",
  backend: {
    name: "wasm",
    device: "relaxed SIMD",
    threads: 2,
    cores: 2,
    os: "linux x86_64",
    runtime: "Deno/2",
  },
  date: "2026-11-25",
  data: { sources: ["sotu"], documents: 11, bytes: 1000, sha256: "s" },
  lengths: [
    { length: 1024, loss: 1, bitsPerByte: 1.5, read: speed(900, 1000, 1200), write: speed(90, 100, 300) },
    { length: 8192, loss: 0.9, bitsPerByte: 1.4, read: speed(900, 1000, 1100), write: speed(90, 100, 110) },
  ],
};

/** An evaluation with something changed at its second length. */
const changed = (
  change: Partial<Evaluation["lengths"][number]>,
  more: Partial<Evaluation> = {},
): Evaluation => ({
  ...KEPT,
  ...more,
  lengths: [KEPT.lengths[0], { ...KEPT.lengths[1], ...change }],
});

Deno.test("a regression is what is more than its limit worse, by its length and what it is", () => {
  const limits = { maxLoss: 0.01, maxSlowdown: 0.1 };
  const worse = (current: Evaluation, inTurns = false) =>
    regressions(compare(current, KEPT, { inTurns }), limits);
  assert.deepEqual(worse(KEPT), []);
  assert.deepEqual(worse(changed({ bitsPerByte: 1.4 * 1.0099 })), []);
  assert.deepEqual(worse(changed({ bitsPerByte: 1.4 * 1.0101 })), [
    "at 8K bits per byte change by +1.01 %, +1.00 % is allowed",
  ]);
  assert.deepEqual(worse(changed({ bitsPerByte: 1 })), []);
  assert.equal(worse(changed({ bitsPerByte: NaN })).length, 1);
  assert.deepEqual(worse(changed({ read: speed(901, 901, 901) })), []);
  assert.deepEqual(worse(changed({ read: speed(899, 899, 899), write: speed(80, 85, 87) })), [
    "at 8K the speed of reading changes by −10.1 %, −10.0 % is allowed",
    "at 8K the speed of writing changes by −15.0 %, −10.0 % is allowed",
  ]);
  // In turns each is compared with the other of its turn: one slow moment met both.
  const turns = { read: speed(900, 500, 1100) };
  const slow = { ...KEPT, lengths: [KEPT.lengths[0], { ...KEPT.lengths[1], read: speed(900, 500, 1100) }] };
  assert.deepEqual(regressions(compare(changed(turns), slow, { inTurns: true }), limits), []);
  assert.equal(worse(changed({ read: speed(1000, 800, 850) }), true).length, 1);
  // Speeds of another machine, or none, say nothing.
  const elsewhere = { backend: { ...KEPT.backend, cores: 64 } };
  const [, other] = compare(changed({ read: speed(1, 1, 1) }, elsewhere), KEPT, { inTurns: false });
  assert.deepEqual(other, { length: 8192, loss: 0 });
  assert.deepEqual(worse(changed({ read: undefined, write: undefined })), []);
  assert.throws(
    () => compare({ ...KEPT, data: { ...KEPT.data, sha256: "t" } }, KEPT, { inTurns: false }),
    /data must be the text of the baseline, sotu of 1000 bytes/,
  );
  assert.throws(
    () => compare(changed({ length: 4096 }), KEPT, { inTurns: false }),
    /lengths must be among those of the baseline, 1K,8K: current value is 4096/,
  );
});

Deno.test("a report comes back as it was kept, and nothing else is taken for one", async () => {
  await inFolder(async (folder) => {
    const file = `${folder}/report.json`;
    const comparison = compare(KEPT, KEPT, { inTurns: false });
    await Deno.writeTextFile(file, JSON.stringify({ ...KEPT, baseline: KEPT, comparison, regressions: [] }));
    assert.deepEqual(await readReport(file), KEPT);
    const wrong: [string, RegExp][] = [
      ["{", /what --json has written.*report\.json.*no JSON/],
      ["{}", /format: /],
      [JSON.stringify({ ...KEPT, lengths: [{ length: 1024 }] }), /lengths\.0\.loss: /],
    ];
    for (const [text, reason] of wrong) {
      await Deno.writeTextFile(file, text);
      await assert.rejects(readReport(file), reason);
    }
  });
});

Deno.test("table and plot say all that was measured", async () => {
  const slower = changed({ bitsPerByte: 1.45, read: speed(700, 800, 850) });
  const report = {
    ...slower,
    weights: "int4",
    baseline: KEPT,
    comparison: compare(slower, KEPT, { inTurns: false }),
  };
  const [head, , , row] = table(report).trimEnd().split("\n").map((line) =>
    line.split(/ *\| */).slice(1, -1)
  );
  assert.deepEqual(head.filter((cell) => cell === "change").length, 3);
  assert.deepEqual(row, [
    ...["8K", "1.4500", "+3.57 %", "0.9000"],
    ...["800 (700–850)", "−20.0 %", "100 (90–110)", "+0.00 %"],
  ]);
  const alone = table({ ...KEPT, lengths: KEPT.lengths.map(({ read: _, write: __, ...loss }) => loss) });
  assert.doesNotMatch(alone, /change|tokens\/s|undefined|NaN/);
  const svg = await plot(report);
  assert.match(svg, /^<svg/);
  for (
    const text of ["Bits per byte", "Reading, tokens", "Writing, tokens", "sotu, int4", "baseline: sotu, f32"]
  ) {
    assert(svg.includes(text), text);
  }
  assert.doesNotMatch(svg, /NaN|undefined|…/);
  assert.equal(svg.match(/aria-roledescription="rule mark"/g)?.length, 8); // two models, two lengths, two speeds
  assert.doesNotMatch(
    await plot({ ...KEPT, lengths: [{ length: 1024, loss: 1, bitsPerByte: 1 }] }),
    /Reading/,
  );
});
