/**
 * What the report measures on one backend, as data: kernels compared with their ceilings, baselines and peers; time and
 * memory against length; norms against width; generation against context; training against length.
 *
 * @module
 */
import { type Backend, BackendError, createBackend, type Tensor } from "../../mod.ts";
import { lightningMixer, type Mixer } from "../../train/backward.ts";
import { configByName } from "../../train/configs.ts";
import { attempt } from "../measure/backends.ts";
import { SoftmaxSession } from "../baselines/generation.ts";
import { softmaxConfig, softmaxMixer } from "../baselines/mixers.ts";
import { Baselines } from "../baselines/mod.ts";
import {
  ATTENTION_SIZES,
  type Case,
  ceilingCase,
  leftProductBackwardCase,
  leftProductCase,
  lightningBackwardCase,
  lightningCase,
  linearCase,
  normCase,
  recurrenceCase,
  softmaxCase,
  stepCase,
} from "../measure/cases.ts";
import { compare, median, secondsEach } from "../measure/timing.ts";
import { decodeCase, FIVE_MILLION, HUNDRED_MILLION, prefillCase, randomModel } from "../measure/models.ts";
import { noise } from "../measure/operands.ts";
import type { Absent, KernelRow, Results } from "./results.ts";
import { trainingSpeed } from "../measure/training.ts";

/** How much to measure. */
export interface Extent {
  readonly backend: "wasm" | "webgpu";
  /** Shorter sequences, fewer repeats. */
  readonly quick: boolean;
  /** Called before each measurement. */
  readonly progress: (what: string) => void;
  /** Called after each suite with what there is. */
  readonly keep: (results: Results) => Promise<void>;
}

const HEADS = { heads: 8, headDim: 64, valueDim: 64 };
/** A single run that would take longer than this many seconds is skipped. */
const PATIENCE = { quick: 1, full: 12 };

/** Runs all suites. */
export async function measureAll(extent: Extent): Promise<void> {
  const results: Results = {
    goals: [],
    kernels: [],
    lengths: [],
    norms: [],
    generation: [],
    training: [],
    absent: [],
  };
  for (
    const suite of [
      measureGoals,
      measureKernels,
      measureLengths,
      measureNorms,
      measureGeneration,
      measureTraining,
    ]
  ) {
    await suite(extent, results);
    await extent.keep(results);
  }
}

/** Rounds of all goals: other work on the machine may last longer than the measurement of one. */
const GOAL_ROUNDS = { quick: 1, full: 3 };

/** Measures the goals of the report: the middle of some rounds. */
export async function measureGoals(
  { backend, quick, progress }: Omit<Extent, "keep">,
  { goals }: Pick<Results, "goals">,
): Promise<void> {
  // They are of WASM; the GPU's kernels have the device's clock (bench/gpu.ts).
  if (backend !== "wasm") return;
  const { GOALS } = await import("./goals.ts");
  const values = GOALS.map((): number[] => []);
  for (let round = 0; round < GOAL_ROUNDS[quick ? "quick" : "full"]; round++) {
    for (const [index, { what, measure }] of GOALS.entries()) {
      progress(what);
      values[index].push(await measure(quick ? 3 : 9));
    }
  }
  goals.push(...GOALS.map(({ what, unit, goal, most = false }, index) => (
    { what, unit, goal, most, value: median(values[index]) }
  )));
}

/** A kernel's row: the case compared with each of the others, which are made one after another. */
async function kernelRow(
  one: Case,
  others: (() => Case | Promise<Case>)[],
  { quick, progress }: Extent,
  absent: Absent[],
): Promise<KernelRow> {
  progress(one.name);
  const repeats = quick ? 2 : 7;
  const comparisons: { name: string; ratio: number }[] = [];
  for (const make of others) {
    const made = await attempt(async () => await make());
    if (made instanceof Error) {
      absent.push({ what: `comparison with ${one.name}`, reason: firstLine(made) });
      continue;
    }
    using other = made;
    comparisons.push({ name: other.name, ratio: (await compare(one, other, { repeats })).ratio });
  }
  const seconds = await secondsEach(one, { repeats });
  const amount = one.operations > 0 ? one.operations : one.bytes;
  return {
    what: one.name,
    seconds,
    tokensPerSecond: one.tokens / seconds,
    ...amount > 0 &&
      { rate: { value: amount / seconds / 1e9, unit: one.operations > 0 ? "GFLOP/s" : "GB/s" } },
    comparisons,
  };
}

async function measureKernels(extent: Extent, { kernels, absent }: Results): Promise<void> {
  using backend = await createBackend({ prefer: extent.backend });
  const baselines = new Baselines();
  const isWasm = backend.name === "wasm";
  // The ceilings are those of a CPU.
  const ceiling = (one: Case) => isWasm ? [() => ceilingCase(baselines, one)] : [];
  const add = async (one: Case, others: (() => Case | Promise<Case>)[]) => {
    using _ = one;
    kernels.push(await kernelRow(one, [...ceiling(one), ...others], extent, absent));
  };
  const onnx = () => import("../peers/onnxruntime.ts");
  const tfjs = () => import("../peers/tfjs.ts");
  const jax = () => import("../peers/jax.ts");

  for (const sizes of ATTENTION_SIZES.slice(0, extent.quick ? 1 : undefined)) {
    const peers: (() => Case | Promise<Case>)[] = [];
    if (isWasm) peers.push(() => leftProductCase(baselines, sizes), () => softmaxCase(baselines, sizes));
    if (sizes.seqLen === 2048) {
      peers.push(() => recurrenceCase(backend, sizes));
      peers.push(async () => (await jax()).jaxAttentionCase(extent.backend, sizes));
    }
    // Beyond 2048 tokens it fails, and the report says how.
    if (isWasm && sizes.seqLen <= 4096) peers.push(async () => (await onnx()).onnxAttentionCase(sizes));
    await add(await lightningCase(backend, sizes), peers);
    const forward = () => lightningCase(backend, sizes);
    const left = isWasm && sizes.seqLen === 2048 ? [() => leftProductBackwardCase(baselines, sizes)] : [];
    await add(await lightningBackwardCase(backend, sizes), [forward, ...left]);
  }
  await add(await stepCase(backend, 64, 16, 128), []);
  for (const [rows, inDim, outDim] of [[512, 512, 512], [1024, 1024, 1024], [1, 4096, 4096]]) {
    const jaxLinear = async () => (await jax()).jaxLinearCase(extent.backend, rows, inDim, outDim);
    const peers = isWasm
      ? [
        async () => (await onnx()).onnxLinearCase(rows, inDim, outDim),
        async () => (await tfjs()).tfjsLinearCase(rows, inDim, outDim),
        jaxLinear,
      ]
      : [jaxLinear];
    await add(await linearCase(backend, rows, inDim, outDim), peers);
  }
  const onnxNorm = isWasm ? [async () => (await onnx()).onnxNormCase(16384, 1024)] : [];
  await add(await normCase(backend, 16384, 1024), onnxNorm);
  await add(await normCase(backend, 16384, 1024, { affine: true }), []);
  using model = await randomModel(backend, extent.quick ? FIVE_MILLION : HUNDRED_MILLION);
  await add(prefillCase(model, 768), []);
  await add(decodeCase(model), []);
}

/** A method whose cost against length is measured. */
interface Method {
  readonly name: string;
  readonly pass: "forward" | "backward";
  /** How time grows with length. */
  readonly order: 1 | 2;
  /** A case with separate memory, and how much that is after a run. */
  make(length: number): Promise<{ one: Case; bytes: () => number; dispose: () => void }>;
}

function methods(extent: Extent): Method[] {
  const own = (
    pass: Method["pass"],
    make: (backend: Backend, sizes: typeof HEADS & { seqLen: number }) => Promise<Case>,
  ): Method => ({
    name: `lightning attention (${extent.backend === "wasm" ? "WASM" : "WebGPU"})`,
    pass,
    order: 1,
    async make(seqLen) {
      const backend = await createBackend({ prefer: extent.backend });
      try {
        const one = await make(backend, { ...HEADS, seqLen });
        return { one, bytes: () => backend.bytesReserved, dispose: () => backend.dispose() };
      } catch (error) {
        backend.dispose();
        throw error;
      }
    },
  });
  const baseline = (
    name: string,
    pass: Method["pass"],
    make: (baselines: Baselines, sizes: typeof HEADS & { seqLen: number }) => Case,
  ): Method => ({
    name,
    pass,
    order: 2,
    // deno-lint-ignore require-await -- as the others
    async make(seqLen) {
      const baselines = new Baselines();
      const one = make(baselines, { ...HEADS, seqLen });
      return { one, bytes: () => baselines.bytesReserved, dispose: () => one[Symbol.dispose]() };
    },
  });
  const all = [own("forward", lightningCase), own("backward", lightningBackwardCase)];
  if (extent.backend === "wasm") {
    all.push(
      baseline("left product", "forward", leftProductCase),
      baseline("softmax attention", "forward", softmaxCase),
      baseline("left product", "backward", leftProductBackwardCase),
    );
  }
  return all;
}

/** Lengths from 1024 on, doubling. */
function doubling(most: number): number[] {
  return Array.from({ length: Math.log2(most / 1024) + 1 }, (_, i) => 1024 * 2 ** i);
}

async function measureLengths(extent: Extent, { lengths, absent }: Results): Promise<void> {
  const patience = extent.quick ? PATIENCE.quick : PATIENCE.full;
  for (const method of methods(extent)) {
    const what = `${method.name}, ${method.pass}`;
    for (const length of doubling(extent.quick ? 4096 : 131072)) {
      const before = lengths.findLast(({ method: name, pass }) =>
        name === method.name && pass === method.pass
      );
      const expected = before === undefined ? 0 : before.seconds * (length / before.length) ** method.order;
      if (expected > patience) {
        absent.push({
          what: `${what}, ${length} tokens`,
          reason: `skipped: would take ${expected.toFixed(0)} s`,
        });
        break;
      }
      extent.progress(`${what}, ${length} tokens`);
      let made;
      try {
        made = await method.make(length);
      } catch (error) {
        if (!(error instanceof BackendError)) throw error;
        absent.push({ what: `${what}, ${length} tokens`, reason: firstLine(error) });
        break;
      }
      try {
        const seconds = await secondsEach(made.one, { repeats: expected > 1 ? 3 : 5 });
        lengths.push({ method: method.name, pass: method.pass, length, seconds, bytes: made.bytes() });
      } finally {
        made.one[Symbol.dispose]();
        made.dispose();
      }
    }
  }
}

/** Elements of each tensor. */
const NORM_SIZE = 2 ** 22;

async function measureNorms(extent: Extent, { norms }: Results): Promise<void> {
  using backend = await createBackend({ prefer: extent.backend });
  for (
    const width of [128, 256, 512, 1024, 2048, 4096, 8192].filter((_, i) => !extent.quick || i % 2 === 1)
  ) {
    const rows = NORM_SIZE / width;
    const cases: [string, () => Promise<Case>][] = [
      ["SRMSNorm", () => normCase(backend, rows, width)],
      ["LayerNorm", () => normCase(backend, rows, width, { affine: true })],
    ];
    if (extent.backend === "wasm") {
      const onnx = async () => (await import("../peers/onnxruntime.ts")).onnxNormCase(rows, width);
      cases.push(["onnxruntime-web RMSNorm", onnx]);
    }
    for (const [method, make] of cases) {
      extent.progress(`${method} of ${width}`);
      using one = await make();
      norms.push({ method, width, gigabytesPerSecond: one.bytes / await secondsEach(one) / 1e9 });
    }
  }
}

/** Tokens generated for one measurement. */
const GENERATED = 64;

/** A sequence that can be brought to a length, and continues from there token by token. */
interface Generator extends Disposable {
  readonly method: string;
  /** Brings it to a length. */
  reach(length: number): void;
  /** Reads a token: logits of the next. */
  step(id: number): Tensor | Promise<Tensor>;
}

async function measureGeneration(extent: Extent, { generation }: Results): Promise<void> {
  using backend = await createBackend({ prefer: extent.backend });
  const lengths = doubling(extent.quick ? 8192 : 131072);
  for (const make of [lightningGenerator, softmaxGenerator]) {
    using generator = await make(backend, lengths.at(-1)! + GENERATED);
    for (const length of lengths) {
      extent.progress(`generation after ${length} tokens, ${generator.method}`);
      const generate = {
        async run() {
          generator.reach(length);
          for (let i = 0; i < GENERATED; i++) {
            using logits = await generator.step(i);
            await logits.data();
          }
        },
      };
      generation.push({
        method: generator.method,
        length,
        tokensPerSecond: GENERATED / await secondsEach(generate),
      });
    }
  }
}

async function lightningGenerator(backend: Backend): Promise<Generator> {
  const model = await randomModel(backend, FIVE_MILLION), session = model.session();
  return {
    method: `TransNormerLLM, ${Math.round(model.parameterCount / 1e6)} M parameters`,
    // (Where it is beyond, a token costs the same.)
    reach(length) {
      while (session.position < length) {
        const tokens = Math.min(1024, length - session.position);
        session.prefill(Uint32Array.from({ length: tokens }, (_, i) => i % model.config.vocabSize)).dispose();
      }
    },
    step: (id) => session.step(id),
    [Symbol.dispose]: () => model.dispose(),
  };
}

async function softmaxGenerator(backend: Backend, capacity: number): Promise<Generator> {
  const model = await randomModel(backend, softmaxConfig(FIVE_MILLION));
  const session = new SoftmaxSession(model, capacity);
  session.fill(noise([2 ** 20 - 3], 1));
  return {
    method: "the same with softmax attention over a cache",
    reach: (length) => session.position = length,
    step: (id) => session.step(id),
    [Symbol.dispose]() {
      session[Symbol.dispose]();
      model.dispose();
    },
  };
}

/** Sizes of training runs that end in a time that a person waits. */
const TRAINING = {
  wasm: { config: "tiny", full: 131072, quick: 4096 },
  webgpu: { config: "small", full: 65536, quick: 8192 },
};

async function measureTraining(extent: Extent, { training, absent }: Results): Promise<void> {
  using backend = await createBackend({ prefer: extent.backend });
  const { config, full, quick } = TRAINING[extent.backend];
  const tokens = extent.quick ? quick : full;
  const own = configByName(config);
  const models: [string, Mixer, Record<string, unknown>][] = [["lightning attention", lightningMixer, own]];
  // The baseline has a WebGPU kernel only.
  if (extent.backend === "webgpu") models.push(["softmax attention", softmaxMixer, softmaxConfig(own)]);
  for (const [method, mixer, model] of models) {
    extent.progress(`training, ${method}`);
    try {
      const speeds = await trainingSpeed(backend, model, {
        tokens,
        lengths: doubling(tokens),
        repeats: extent.quick ? 2 : 3,
        mixer,
      });
      training.push(
        ...speeds.map((speed) => ({ method: `${method}, "${config}", ${tokens} tokens per step`, ...speed })),
      );
    } catch (error) {
      if (!(error instanceof BackendError)) throw error;
      absent.push({
        what: `training, ${method}, ${config}, ${tokens} tokens per step`,
        reason: firstLine(error),
      });
    }
  }
}

/** The first line of an error's message, without the folders of the machine that a peer was built on. */
function firstLine(error: Error): string {
  return error.message.split("\n")[0].replaceAll(/(?<=^|\s)\/(?:[^\s/]+\/)+/g, "");
}
