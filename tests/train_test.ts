import assert from "node:assert/strict";
import { readdir } from "node:fs/promises";
import { fileURLToPath, pathToFileURL } from "node:url";
import { type Backend, createBackend } from "../mod.ts";
import { parseConfig } from "../model/config.ts";
import { TransNormerLLM } from "../model/mod.ts";
import { Tokenizer } from "../model/tokenizer.ts";
import { lightningMixer, lossOf } from "../train/backward.ts";
import { byteTokenizer, configByName, initialWeights, SPECIAL_TOKENS } from "../train/configs.ts";
import { Corpus, readDocuments } from "../train/data.ts";
import { StatusLine } from "../cli/mod.ts";
import { renderCurve } from "../train/curve.ts";
import { convertModel } from "../train/convert.ts";
import { learningRateAt, Parameters } from "../train/optimizer.ts";
import { duration, Progress } from "../train/progress.ts";
import { evaluate, type StepReport, train, type TrainingOptions } from "../train/train.ts";
import { assertClose, eachBackend, seeded } from "./harness.ts";

const MAIN = fileURLToPath(new URL("../train/main.ts", import.meta.url));
const LOCK = `--lock=${fileURLToPath(new URL("../deno.lock", import.meta.url))}`;

/** A folder that holds a little text and a configuration, gone at the end of the test. */
class Workshop implements AsyncDisposable {
  readonly path: string = Deno.makeTempDirSync({ prefix: "levin train 100%25 " });
  readonly data: string = `${this.path}/text`;
  readonly config: string = `${this.path}/config.json`;

  constructor() {
    Deno.mkdirSync(this.data);
    const lines = (n: number) => "All states are small, and each is a sum of what came before. ".repeat(n);
    Deno.writeTextFileSync(`${this.data}/a.txt`, lines(4));
    Deno.writeTextFileSync(`${this.data}/b.md`, `${lines(2)}ſtåte 🎈 ${lines(2)}`);
    Deno.writeTextFileSync(`${this.data}/c.txt`, lines(3).toUpperCase());
    Deno.writeTextFileSync(`${this.data}/other.json`, "{}");
    const config = { decoder_embed_dim: 16, decoder_layers: 2, decoder_attention_heads: 2, hidden_dim: 16 };
    const whole = { ...configByName("tiny"), ...config, glu_dim: 24, linear_use_lrpe_list: [1, 0] };
    Deno.writeTextFileSync(this.config, JSON.stringify(whole));
  }

  /** Options of a short run into its own folder. */
  options(backend: Backend, out: string, more: Partial<TrainingOptions> = {}): TrainingOptions {
    return {
      ...{ backend, data: [this.data], out: `${this.path}/${out}`, config: this.config },
      ...{
        seqLen: 24,
        batch: 3,
        steps: 12,
        warmup: 3,
        learningRate: 0.01,
        seed: 7,
        saveEvery: 4,
        logEvery: 3,
      },
      ...more,
    };
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await Deno.remove(this.path, { recursive: true });
  }
}

/** Trains, and returns the loss of every step of this run. */
async function losses(options: TrainingOptions): Promise<number[]> {
  const steps: StepReport[] = [];
  await train({ ...options, onStep: (step) => steps.push(step) });
  return steps.map(({ loss }) => loss);
}

Deno.test("byte-level tokenizer: any text there and back, a document's begin token first", async () => {
  const tokenizer = await Tokenizer.create(byteTokenizer());
  for (
    const text of ["", "Hello, world.\n", " \t  spaces ", "ſtåte 🎈 𝔘 \u0000\u007f", "<|end|", "\r\n\r\n"]
  ) {
    const ids = tokenizer.encode(text);
    assert.deepEqual([...ids], [SPECIAL_TOKENS.begin, ...new TextEncoder().encode(text)], text);
    assert.equal(tokenizer.decode(ids), text);
  }
  assert.equal(tokenizer.size, 259);
  assert.equal(tokenizer.decode([72, SPECIAL_TOKENS.end, 105, SPECIAL_TOKENS.pad]), "Hi");
});

Deno.test("documents: folders in the order of names; every twentieth is held out", async () => {
  await using workshop = new Workshop();
  const documents = await readDocuments([workshop.data]);
  assert.deepEqual(documents.map(({ name }) => name.slice(-5)), ["a.txt", "/b.md", "c.txt"]);
  const few = await Corpus.create(documents);
  assert.equal(few.train.length + few.heldOut.length, documents.reduce((n, d) => n + d.bytes.length + 4, 0));
  const many = await Corpus.create(
    Array.from({ length: 41 }, (_, i) => ({ name: `${i}`, bytes: Uint8Array.of(i, i) })),
  );
  assert.deepEqual([...many.heldOut], [256, 19, 19, 257, 256, 39, 39, 257]);
  assert(!many.train.includes(19) && many.train.includes(40));

  await assert.rejects(readDocuments([]), /data must name at least one file or folder/);
  await assert.rejects(readDocuments([`${workshop.path}/none`]), /data must exist and be readable/);
  Deno.mkdirSync(`${workshop.path}/empty`);
  await assert.rejects(readDocuments([`${workshop.path}/empty`]), /must hold \.txt or \.md files/);
  for (const bytes of [new Uint8Array(0), Uint8Array.of(65)]) {
    await assert.rejects(Corpus.create([{ name: "tiny", bytes }]), /enough text to learn from/);
  }
});

Deno.test("the State of the Union: 233 documents, 11 of them held out", async () => {
  const documents = await readDocuments(["sotu"]);
  assert.equal(documents.length, 233);
  const corpus = await Corpus.create(documents);
  assert.equal(corpus.heldOut.filter((id) => id === SPECIAL_TOKENS.begin).length, 11);
});

Deno.test("windows are random, seeded, and shifted by one; the held-out text is predicted once", async () => {
  const bytes = Uint8Array.from({ length: 1000 }, (_, i) => i % 251);
  const corpus = await Corpus.create([{ name: "x", bytes }]);
  const { ids, labels } = corpus.windows(3, 4, 50, 9);
  ids.forEach((id, i) => {
    if (i % 50 < 49) assert.equal(labels[i], ids[i + 1]);
    if (id < 250) assert([id + 1, 257].includes(labels[i]), `${id} before ${labels[i]}`);
  });
  assert.deepEqual(corpus.windows(3, 4, 50, 9).ids, ids);
  assert.notDeepEqual(corpus.windows(4, 4, 50, 9).ids, ids);
  assert.notDeepEqual(corpus.windows(3, 4, 50, 8).ids, ids);
  const predicted = [...corpus.heldOutWindows(2, 20)].flatMap(({ labels }) =>
    [...labels].filter((l) => l >= 0)
  );
  assert.deepEqual(predicted, [...corpus.heldOut.subarray(1)]);
});

Deno.test("the learning rate rises linearly and falls along a cosine to a tenth", () => {
  assert.equal(learningRateAt(1, 1, 10, 110), 0.1);
  assert.equal(learningRateAt(10, 1, 10, 110), 1);
  assertClose([learningRateAt(60, 1, 10, 110), learningRateAt(110, 1, 10, 110)], [0.55, 0.1], 1e-12);
  assert.equal(learningRateAt(1, 1, 0, 1), 0.1);
});

Deno.test("the progress bar redraws on a terminal and is quiet elsewhere", () => {
  const report = { step: 5, loss: 1.5, learningRate: 1e-3, gradientNorm: 1, tokensPerSecond: 1234.4 };
  let text = "";
  const bar = new Progress(10, new StatusLine((part) => text += part, true));
  bar.step(report, 3);
  const line = `${"█".repeat(12)}${"░".repeat(12)} 5/10  loss 1.5000  lr 1.00e-3  1234 tokens/s  15s left`;
  assert.equal(text, `\r\x1b[K${line}`);
  text = "";
  const quiet = new Progress(10, new StatusLine((part) => text += part, false));
  quiet.step(report, 3);
  quiet.evaluation({ step: 5, heldOutLoss: 1, perplexity: Math.E, bitsPerByte: 1.5 });
  assert.equal(text, "step 5: held-out loss 1.0000, perplexity 2.718, 1.5000 bits per byte\n");
  assert.deepEqual([5, 187, 3720, NaN].map(duration), ["5s", "3m07s", "1h02m", "?"]);
});

Deno.test("loss curves: every run in the legend, steps as lines, evaluations as points", async () => {
  const log = Array.from({ length: 50 }, (_, i) => ({ step: i + 1, loss: 5 - i / 20 }));
  const svg = await renderCurve([
    { name: "lightning", log: [...log, { step: 50, bitsPerByte: 2.5 }] },
    { name: "softmax", log },
  ]);
  assert.match(svg, /^<svg[\s\S]*<\/svg>$/);
  assert.doesNotMatch(svg, /NaN|undefined/);
  for (const name of ["lightning", "softmax"]) assert(svg.includes(`>${name}<`), `the legend says ${name}`);
  assert.throws(() => renderCurve([{ name: "none", log: [] }]), /a run must have at least one step/);
});

eachBackend(
  "training: the loss falls, and the same seed gives the same losses",
  async (backend) => {
    await using workshop = new Workshop();
    const more = { steps: 60, saveEvery: 60 };
    const first = await losses(workshop.options(backend, "first", more));
    assert.equal(first.length, 60);
    assert(Math.abs(first[0] - Math.log(259)) < 0.1, `an untrained model knows nothing: ${first[0]}`);
    assert(first[59] < 0.5 * first[0], `loss fell from ${first[0]} to ${first[59]} only`);
    assert.deepEqual(await losses(workshop.options(backend, "second", more)), first);
    const other = await losses(workshop.options(backend, "third", { ...more, seed: 8, steps: 3 }));
    assert.notDeepEqual(other, first.slice(0, 3));
  },
);

eachBackend(
  "a checkpoint is a model that generates text; evaluation is its likelihood",
  async (backend) => {
    await using workshop = new Workshop();
    const result = await train(workshop.options(backend, "out", { steps: 8 }));
    assert(result.finished && result.evaluation !== undefined);
    using model = await TransNormerLLM.load(result.checkpoint, { backend });
    let text = "";
    for await (const piece of model.generate("All st", { maxTokens: 12, temperature: 0 })) text += piece.text;
    assert(text.length > 0);
    // Against the model's own score of the first window, held-out text being 5 % of three documents.
    const corpus = await Corpus.create(await readDocuments([workshop.data]));
    const window = corpus.heldOut.subarray(0, 13);
    const perplexity = await model.perplexity([...window]);
    using parameters = await loadedParameters(backend, result.checkpoint);
    const ids = Uint32Array.from(window.subarray(0, 12)), labels = Int32Array.from(window.subarray(1));
    using total = backend.zeros([1]);
    for (
      const state of await lossOf(
        parameters,
        { ids, labels, batch: 1, seqLen: 12, positions: [0] },
        total,
        {},
      )
    ) {
      state.dispose();
    }
    assertClose([Math.exp((await total.data())[0] / 12)], [perplexity], 1e-5);
    const report = (await evaluate(parameters, corpus, { batch: 3, seqLen: 24 }))!;
    assert.equal(report.heldOutLoss, result.evaluation.heldOutLoss);
    const other = (await evaluate(parameters, corpus, { batch: 1, seqLen: 24 }))!;
    assertClose([other.bitsPerByte], [report.bitsPerByte], 1e-6);
    const signal = AbortSignal.abort();
    assert.equal(await evaluate(parameters, corpus, { batch: 1, seqLen: 24 }, { signal }), undefined);
    const stopped = await train(workshop.options(backend, "stopped", { signal }));
    assert.deepEqual([stopped.step, stopped.finished], [0, false]);
    const still = await train(workshop.options(backend, "stopped", { signal, resume: true }));
    assert.equal(still.checkpoint, stopped.checkpoint);
  },
);

Deno.test("converted, a checkpoint is a model of halves, near the one that was trained", async () => {
  using backend = await createBackend({ prefer: "wasm" });
  await using workshop = new Workshop();
  const { checkpoint } = await train(workshop.options(backend, "out", { steps: 4 }));
  const target = `${workshop.path}/model`;
  await convertModel(checkpoint, target, { weights: "f16" });
  assert.deepEqual((await readdir(target)).sort(), [
    "config.json",
    "model.safetensors",
    "tokenizer.json",
    "tokenizer_config.json",
  ]);
  const size = async (folder: string) => (await Deno.stat(`${folder}/model.safetensors`)).size;
  assert(await size(target) < 0.6 * await size(checkpoint));
  using whole = await TransNormerLLM.load(checkpoint, { backend });
  using halved = await TransNormerLLM.load(target, { backend });
  using expected = whole.forward([[256, 65, 108, 108]]), actual = halved.forward([[256, 65, 108, 108]]);
  assertClose(await actual.data(), await expected.data(), 2e-3);
});

async function loadedParameters(backend: Backend, path: string): Promise<Parameters> {
  using model = await TransNormerLLM.load(path, { backend });
  const config = parseConfig(JSON.parse(Deno.readTextFileSync(`${path}/config.json`)));
  const values = new Map<string, Float32Array>();
  const { weights } = model;
  values.set("model.embed_tokens.weight", await weights.embedTokens.data());
  values.set("lm_head.weight", await weights.lmHead.data());
  for (const [l, layer] of weights.layers.entries()) {
    const name = `model.layers.${l}`;
    values.set(`${name}.token_mixer.qkvu_proj.weight`, await layer.qkvuProj.weight.data());
    values.set(`${name}.token_mixer.out_proj.weight`, await layer.outProj.weight.data());
    if (layer.theta) values.set(`${name}.token_mixer.lrpe.theta`, await layer.theta.data());
    for (const part of ["l1", "l2", "l3"] as const) {
      values.set(`${name}.channel_mixer.${part}.weight`, await layer[part].weight.data());
    }
  }
  return new Parameters(backend, config, (name) => ({ value: values.get(name)! }));
}

eachBackend("packed: states carry over steps, documents stay apart", async (backend) => {
  await using workshop = new Workshop();
  const corpus = await Corpus.create(await readDocuments([workshop.data]));
  const config = parseConfig(JSON.parse(Deno.readTextFileSync(workshop.config)));
  using parameters = new Parameters(backend, config, initialWeights(config, 7));
  for (const batch of [1, 2]) {
    const stripe = Math.floor(corpus.train.length / batch), segments = Math.floor((stripe - 1) / 24);
    // A learning rate of 0: the losses of one epoch are those of its documents, each read in one piece.
    const steps = await losses(
      workshop.options(backend, `packed${batch}`, { packed: true, batch, steps: segments, learningRate: 0 }),
    );
    let expected = 0, labels = 0;
    for (let lane = 0; lane < batch; lane++) {
      const tokens = corpus.train.subarray(lane * stripe, lane * stripe + segments * 24 + 1);
      const starts = [...tokens.keys()].filter((i) =>
        i < tokens.length - 1 && (i === 0 || tokens[i] === 256)
      );
      for (const [i, start] of starts.entries()) {
        const end = starts[i + 1] ?? tokens.length - 1;
        const ids = Uint32Array.from(tokens.subarray(start, end));
        const next = Int32Array.from(tokens.subarray(start + 1, end + 1), (id) => id === 256 ? -1 : id);
        using total = backend.zeros([1]);
        const whole = { ids, labels: next, batch: 1, seqLen: ids.length, positions: [0] };
        for (const state of await lossOf(parameters, whole, total, {})) state.dispose();
        expected += (await total.data())[0];
        labels += next.filter((label) => label >= 0).length;
      }
    }
    let found = 0;
    for (const [i, loss] of steps.entries()) {
      found += loss * corpus.packed(i, batch, 24).labels.filter((label) => label >= 0).length;
    }
    assertClose([found / labels], [expected / labels], 1e-6, `packed in ${batch} stripes`);
  }
});

eachBackend("stopped and resumed: the same losses and weights, bit for bit", async (backend) => {
  await using workshop = new Workshop();
  for (const more of [{ accumulate: 2 }, { packed: true, batch: 2 }]) {
    const kind = "packed" in more ? "packed" : "windows";
    const whole = await losses(workshop.options(backend, `${kind}-whole`, more));
    const stop = new AbortController();
    const found: number[] = [];
    const options = workshop.options(backend, `${kind}-parts`, { ...more, signal: stop.signal, logEvery: 1 });
    const stopped = await train({
      ...options,
      onStep: ({ step, loss }) => {
        found.push(loss);
        if (step === 5) stop.abort();
      },
    });
    assert.equal(stopped.step, 5);
    assert(!stopped.finished);
    // Settings need not be given again.
    const { data, out } = options;
    found.push(...await losses({ backend, data, out, resume: true }));
    assert.deepEqual(found, whole);
    const bytes = (name: string) =>
      Deno.readFile(`${workshop.path}/${kind}-${name}/step-000012/model.safetensors`);
    assert.deepEqual(await bytes("parts"), await bytes("whole"));
    // The log holds every step once.
    const log = Deno.readTextFileSync(`${out}/log.jsonl`).trim().split("\n").map((line) => JSON.parse(line));
    assert.deepEqual(log.filter(({ loss }) => loss !== undefined).map(({ loss }) => loss), whole);
  }
});

/** `deno task train` as a process. */
function command(workshop: Workshop, out: string, more: string[] = [], shell = ""): Deno.Command {
  const args = ["--data", workshop.data, "--out", `${workshop.path}/${out}`, "--backend", "wasm", ...more];
  const program = [Deno.execPath(), "run", LOCK, "--frozen", "--no-check", "-A", MAIN, ...args];
  return new Deno.Command("sh", {
    args: ["-c", `${shell} exec "$@"`, "sh", ...program],
    stdout: "piped",
    stderr: "piped",
  });
}

/** Settings of a short run, changed by `more`. */
function settings(workshop: Workshop, more: Record<string, number> = {}): string[] {
  const all = {
    "seq-len": 24,
    batch: 3,
    steps: 40,
    "learning-rate": 0.01,
    warmup: 3,
    "save-every": 2,
    ...more,
  };
  return [
    "--config",
    workshop.config,
    ...Object.entries(all).flatMap(([name, value]) => [`--${name}`, `${value}`]),
  ];
}

Deno.test("killed at any moment and resumed: the same weights, bit for bit", async () => {
  await using workshop = new Workshop();
  const short = settings(workshop, { steps: 24, "save-every": 1 });
  const whole = await command(workshop, "whole", short).output();
  assert(whole.success, new TextDecoder().decode(whole.stderr));
  const random = seeded(1);
  let kills = 0;
  for (let isFirst = true;; isFirst = false) {
    const process: Deno.ChildProcess = command(
      workshop,
      "parts",
      isFirst ? short : ["--resume", "--save-every", "1"],
    ).spawn();
    // A moment after the first checkpoint: within a step, or within the next checkpoint.
    let text = "", isDue = false;
    for await (const piece of process.stderr.pipeThrough(new TextDecoderStream())) {
      text += piece;
      if (isDue || !text.includes("saved")) continue;
      isDue = true;
      setTimeout(() => {
        try {
          process.kill("SIGKILL");
        } catch {
          // It had finished.
        }
      }, 25 * random());
    }
    await process.stdout.cancel();
    const { success, signal } = await process.status;
    for (const name of await readdir(`${workshop.path}/parts`)) {
      if (!name.startsWith("step-")) continue;
      const files = (await readdir(`${workshop.path}/parts/${name}`)).sort();
      assert.deepEqual(files, WHOLE_CHECKPOINT, `${name} is half a checkpoint`);
    }
    if (success) break;
    assert.equal(signal, "SIGKILL", text);
    kills++;
  }
  assert(kills >= 2, `the run was killed ${kills} times only`);
  for (const file of ["model.safetensors", "optimizer.safetensors"]) {
    const bytes = (out: string) => Deno.readFile(`${workshop.path}/${out}/step-000024/${file}`);
    assert.deepEqual(await bytes("parts"), await bytes("whole"), file);
  }
});

const WHOLE_CHECKPOINT = [
  "config.json",
  "model.safetensors",
  "optimizer.safetensors",
  "tokenizer.json",
  "training.json",
];

Deno.test("Ctrl-C saves and stops", async () => {
  await using workshop = new Workshop();
  const endless = settings(workshop, { steps: 1e6, "save-every": 1e6 });
  const process = command(workshop, "out", endless).spawn();
  let log = "";
  for await (const part of process.stderr.pipeThrough(new TextDecoderStream())) {
    const hadBegun = log.includes("M parameters");
    log += part;
    if (!hadBegun && log.includes("M parameters")) process.kill("SIGINT"); // before the first step, or within one
  }
  assert.equal((await process.status).code, 130, log);
  assert.match(await new Response(process.stdout).text(), /stopped after step \d+: .*step-\d+/);
});

Deno.test("a full disk stops training with a sentence, and the last good checkpoint stays", async () => {
  await using workshop = new Workshop();
  using backend = await createBackend({ prefer: "wasm" });
  const stop = new AbortController();
  const options = workshop.options(backend, "out", { steps: 12, logEvery: 1, signal: stop.signal });
  await train({ ...options, onStep: ({ step }) => step === 5 && stop.abort() });
  // No file may grow beyond 64 KiB: writing the model fails as it does where the disk is full.
  const limit = "trap '' XFSZ; ulimit -f 64;";
  const resumed = await command(workshop, "out", ["--resume", "--save-every", "2"], limit).output();
  assert.equal(resumed.code, 1);
  assert.match(
    new TextDecoder().decode(resumed.stderr),
    /Cannot save the checkpoint of step 6: .*; the last good checkpoint is .*\/step-000005\n$/s,
  );
  assert.deepEqual((await readdir(options.out)).sort(), ["log.jsonl", "step-000004", "step-000005"]);
  assert.equal((await train({ ...options, signal: undefined, resume: true })).step, 12);
});

eachBackend(
  "a loss that is not finite stops training and names the last good checkpoint",
  async (backend) => {
    await using workshop = new Workshop();
    const options = workshop.options(backend, "out", {
      steps: 40,
      warmup: 20,
      learningRate: 1e30,
      clip: 0,
      saveEvery: 1,
    });
    await assert.rejects(
      train(options),
      /loss and gradients must be finite: current value is \S+ \(step \d+, norm of the gradients .*; step \d+: loss .*; the last good checkpoint is .*step-\d+\)/,
    );
    const checkpoints = (await readdir(options.out)).filter((name) => name.startsWith("step-"));
    assert(checkpoints.length > 0);
  },
);

eachBackend("resuming: damage, other settings and other data are refused", async (backend) => {
  await using workshop = new Workshop();
  const options = workshop.options(backend, "out");
  await train({ ...options, steps: 12, saveEvery: 6 });
  const again = { ...options, saveEvery: 6, resume: true };
  await assert.rejects(train(options), /out must hold no checkpoint, unless it is to be resumed/);
  await assert.rejects(train(workshop.options(backend, "none", { resume: true })), /must hold a checkpoint/);
  await assert.rejects(train({ ...again, seqLen: 25 }), /seqLen must be as in the checkpoint to resume, 24/);
  const mixer = { ...lightningMixer, name: "softmax" };
  await assert.rejects(train({ ...again, mixer }), /mixer must be as in the checkpoint to resume, lightning/);
  await assert.rejects(train({ ...again, config: "tiny" }), /config must be as in the checkpoint to resume/);
  await assert.rejects(
    train({ ...again, data: [`${workshop.data}/a.txt`] }),
    /data must be that of the checkpoint/,
  );

  const model = `${options.out}/step-000012/model.safetensors`;
  const bytes = Deno.readFileSync(model);
  const before = /step-000012".*; delete it to resume from .*step-000006/s;
  Deno.writeFileSync(model, bytes.subarray(0, bytes.length - 1));
  await assert.rejects(train(again), before);
  bytes[bytes.length - 100] ^= 1;
  Deno.writeFileSync(model, bytes);
  await assert.rejects(train(again), /checksum of model\.safetensors is not the one/);
  Deno.removeSync(model);
  await assert.rejects(train(again), before);
  Deno.removeSync(`${options.out}/step-000012`, { recursive: true });
  assert.equal((await train(again)).step, 12);
});

eachBackend("training: bad options are refused", async (backend) => {
  await using workshop = new Workshop();
  const bad = (more: Partial<TrainingOptions>) => train(workshop.options(backend, "out", more));
  await assert.rejects(
    bad({ seqLen: 100_000 }),
    /seqLen must be at most \d+, the tokens of the training data/,
  );
  await assert.rejects(bad({ seqLen: 400, packed: true }), /in each of 3 stripes/);
  await assert.rejects(bad({ steps: 0 }), /steps must be an integer >= 1/);
  await assert.rejects(bad({ learningRate: NaN }), /learningRate must be finite and >= 0/);
  await assert.rejects(bad({ seed: -1 }), /seed must be an integer/);
  await assert.rejects(bad({ config: "huge" }), /config must be one of tiny, small, base, medium, large/);
  await assert.rejects(
    bad({ config: `${workshop.path}/none.json` }),
    /config must be a readable config\.json/,
  );
  Deno.writeTextFileSync(workshop.config, JSON.stringify({ ...configByName("tiny"), vocab_size: 256 }));
  await assert.rejects(bad({}), /vocab_size must be at least 259/);
});

/** Runs a command of the project and returns what it printed. */
async function runScript(script: string, args: string[], cwd?: string): Promise<string> {
  const { success, stdout, stderr } = await new Deno.Command(Deno.execPath(), {
    args: ["run", "--no-check", "-A", script, ...args],
    cwd,
  }).output();
  assert(success, new TextDecoder().decode(stderr));
  return new TextDecoder().decode(stdout);
}

Deno.test("commands take paths with spaces and percent signs, and file: URLs, wherever they lie", async () => {
  await using shop = new Workshop();
  // A checkout under such a path, of what the commands need.
  const checkout = `${shop.path}/a b%20c`;
  await Deno.mkdir(checkout);
  const root = fileURLToPath(new URL("..", import.meta.url));
  const isNeeded = (name: string) => !/^(\..*|assembly|docs|node_modules|out|serve|tests)$/.test(name);
  for await (const { name } of Deno.readDir(root)) {
    if (!isNeeded(name)) continue;
    await copyTree(`${root}/${name}`, `${checkout}/${name}`);
  }
  const script = (name: string) => `${checkout}/${name}`;
  const url = (path: string) => pathToFileURL(path).href;
  const sizes = ["--seq-len", "24", "--batch", "3", "--steps", "2", "--warmup", "1", "--backend", "wasm"];
  const out = `${shop.path}/out`;
  const places = ["--data", url(shop.data), "--out", url(out), "--config", url(shop.config)];
  await runScript(script("train/main.ts"), [...places, ...sizes]);
  const [step] = (await readdir(out)).filter((name) => name.startsWith("step-"));
  const model = `${shop.path}/the model`;
  await runScript(script("train/convert.ts"), [
    url(`${out}/${step}`),
    "--out",
    url(model),
    "--weights",
    "f16",
  ]);
  await runScript(script("train/convert.ts"), [
    url(model),
    "--out",
    url(`${model}-int8`),
    "--weights",
    "int8",
  ]);
  const plot = `${shop.path}/a plot.svg`;
  await runScript(script("bench/evaluate.ts"), [
    ...["--model", url(`${model}-int8`), "--baseline", url(model), "--max-loss", "5%"],
    ...["--data", url(`${shop.data}/a.txt`), "--lengths", "64", "--repeats", "0", "--svg", url(plot)],
  ]);
  assert.match(await Deno.readTextFile(plot), /^<svg/);
  assert((await readdir(`${model}-int8`)).includes("tokenizer.json"));
  const options = ["--max-tokens", "3", "--temperature", "0", "--backend", "wasm"];
  for (const place of [model, url(model), `${model}-int8`]) {
    const said = await runScript(script("examples/generate.ts"), ["--model", place, ...options, "All"]);
    assert(said.startsWith("All"));
  }
  await runScript(script("examples/generate.ts"), [...options, "All"], shop.path); // the shipped model
  const file = ["--file", url(`${shop.data}/a.txt`), "--backend", "wasm"];
  const { perplexity } = JSON.parse(
    await runScript(script("examples/score.ts"), ["--model", url(model), ...file]),
  );
  assert(perplexity > 1);
  await runScript(script("train/curve.ts"), [url(`${shop.path}/a curve.svg`), `a=${url(out)}`]);
  assert.match(await Deno.readTextFile(`${shop.path}/a curve.svg`), /^<svg/);
});

/** Copies a file, or a folder with all that it holds. */
async function copyTree(from: string, to: string): Promise<void> {
  if ((await Deno.stat(from)).isFile) return await Deno.copyFile(from, to);
  await Deno.mkdir(to);
  for await (const { name } of Deno.readDir(from)) await copyTree(`${from}/${name}`, `${to}/${name}`);
}
