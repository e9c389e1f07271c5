import fc from "fast-check";
import assert from "node:assert/strict";
import {
  EDGE,
  leftProductMixer,
  llamaConfig,
  MIXERS,
  softmaxConfig,
  softmaxMixer,
} from "../bench/baselines/mixers.ts";
import { rotate, softmaxAttention } from "../bench/baselines/reference.ts";
import { type Backend, createBackend } from "../mod.ts";
import { parseConfig } from "../model/config.ts";
import type { Mixer } from "../train/backward.ts";
import { lossAndGradients } from "../train/backward.ts";
import { configByName, initialWeights } from "../train/configs.ts";
import { Parameters } from "../train/optimizer.ts";
import { train } from "../train/train.ts";
import {
  ascending,
  assertClose,
  assertSameBits,
  edges,
  poison,
  randomArray,
  Scope,
  WITHOUT_WEBGPU,
} from "./harness.ts";
import * as reference from "./reference.ts";
import { toBnhd } from "./reference.ts";
import { type Attend, type ConfigJson, referenceLogits } from "./reference_model.ts";

/** Registers a test on WebGPU, the baselines' one backend. Every tensor that it leaves behind fails it. */
function onWebgpu(name: string, body: (backend: Backend) => void | Promise<void>): void {
  Deno.test({
    name: `${name} (webgpu)`,
    ignore: WITHOUT_WEBGPU,
    fn: async () => {
      using backend = await createBackend({ prefer: "webgpu" });
      await body(backend);
      assert.equal(backend.bytesInUse, 0, "the test or the baseline left tensors undisposed");
    },
  });
}

/** Exponential and logarithm add their roundings to those of lightning attention's products. */
const LIMIT = 4e-6;

/** Lengths around the edges of tiles, of one, two and more of them. */
const LENGTHS = ascending(0, 1, 3, EDGE / 2 - 1, ...edges(EDGE, 1, 2), 3 * EDGE + 8);

interface Case {
  batch: number;
  heads: number;
  seqLen: number;
  headDim: number;
  valueDim: number;
  slopes?: number[];
  /** Factor of q: larger ones make scores that differ more. */
  size?: number;
  seed: number;
}

const dimension = fc.integer({ min: 1, max: 32 }).map((n) => 4 * n);
const anyCase: fc.Arbitrary<Case> = fc.record({
  batch: fc.constantFrom(1, 2),
  heads: fc.constantFrom(1, 2, 3),
  seqLen: fc.integer({ min: 0, max: 150 }),
  headDim: dimension,
  valueDim: dimension,
  slope: fc.constantFrom(0, 1e-7, 0.01, 0.5, 100, Infinity),
  size: fc.constantFrom(1, 10),
  seed: fc.nat(1000),
}).map(({ slope, ...c }) => ({ ...c, slopes: Array.from({ length: c.heads }, (_, h) => slope / (h + 1)) }));

type Expected = Record<"output" | "dq" | "dk" | "dv", ArrayLike<number>>;

/** Output and gradients in float64, layout `[batch, heads, seqLen, dim]`. */
type Oracle = (
  q: ArrayLike<number>,
  k: ArrayLike<number>,
  v: ArrayLike<number>,
  dOutput: ArrayLike<number>,
  c: Case,
) => Expected;

const leftProductOracle: Oracle = (q, k, v, dOutput, c) => {
  const { output } = reference.lightningAttention(q, k, v, c, c);
  const { dq, dk, dv } = reference.lightningAttentionBackward(q, k, v, dOutput, c, c);
  return { output, dq, dk, dv };
};

/** The chain rule through scores, softmax and rotation, pair by pair. */
const softmaxOracle: Oracle = (q, k, v, dOutput, c) => {
  const { batch, seqLen, headDim: d, valueDim: e } = c, scale = 1 / Math.sqrt(d);
  const heads = batch * c.heads;
  const rotatedQ = rotate(q, c, 1), rotatedK = rotate(k, c, 1);
  const output = softmaxAttention(
    rotatedQ,
    rotatedK,
    v,
    { heads, seqLen, headDim: d, valueDim: e },
    scale,
  );
  const dq = new Float64Array(q.length), dk = new Float64Array(k.length), dv = new Float64Array(v.length);
  const dot = (x: ArrayLike<number>, i: number, y: ArrayLike<number>, j: number, n: number) => {
    let sum = 0;
    for (let c = 0; c < n; c++) sum += x[i * n + c] * y[j * n + c];
    return sum;
  };
  for (let h = 0; h < heads; h++) {
    for (let i = h * seqLen; i < (h + 1) * seqLen; i++) {
      const keys = Array.from({ length: i - h * seqLen + 1 }, (_, j) => h * seqLen + j);
      const scores = keys.map((j) => scale * dot(rotatedQ, i, rotatedK, j, d));
      const top = Math.max(...scores);
      const total = scores.reduce((sum, score) => sum + Math.exp(score - top), 0);
      const weights = scores.map((score) => Math.exp(score - top) / total);
      const dWeights = keys.map((j) => dot(dOutput, i, v, j, e));
      const mean = weights.reduce((sum, weight, n) => sum + weight * dWeights[n], 0);
      keys.forEach((j, n) => {
        const dScore = scale * weights[n] * (dWeights[n] - mean);
        for (let c = 0; c < d; c++) {
          dq[i * d + c] += dScore * rotatedK[j * d + c];
          dk[j * d + c] += dScore * rotatedQ[i * d + c];
        }
        for (let c = 0; c < e; c++) dv[j * e + c] += weights[n] * dOutput[i * e + c];
      });
    }
  }
  return { output, dq: rotate(dq, c, -1), dk: rotate(dk, c, -1), dv };
};

/** Runs a case forward and backward, and holds output and gradients to the oracle. */
async function check(backend: Backend, mixer: Mixer, oracle: Oracle, c: Case): Promise<void> {
  using scope = new Scope();
  const shapes = { q: [c.batch, c.heads, c.seqLen, c.headDim], v: [c.batch, c.heads, c.seqLen, c.valueDim] };
  const q = randomArray(shapes.q, c.seed).map((x) => x * (c.size ?? 1));
  const k = randomArray(shapes.q, c.seed + 1);
  const v = randomArray(shapes.v, c.seed + 2), dOutput = randomArray(shapes.v, c.seed + 3);
  const expected = oracle(q, k, v, dOutput, c);
  const bnhd = (data: Float32Array, [batch, heads, seqLen, dim]: number[]) =>
    scope.keep(
      backend.tensor(toBnhd(data, [batch, heads, seqLen, dim]), [batch, seqLen, heads, dim]),
    );
  const operands = [bnhd(q, shapes.q), bnhd(k, shapes.q), bnhd(v, shapes.v)] as const;
  const options = { slopes: c.slopes, layout: "bnhd" as const };
  poison(backend, shapes.q, shapes.q, shapes.q, shapes.q, shapes.v, shapes.v);
  const result = scope.keep(mixer.forward(...operands, options));
  const gradients = scope.keep(
    mixer.backward(...operands, bnhd(dOutput, shapes.v), options, result),
  );
  const actual = { output: result.output, ...gradients };
  for (const [name, values] of Object.entries(expected)) {
    const shape = name === "dq" || name === "dk" ? shapes.q : shapes.v;
    const wanted = toBnhd(Float64Array.from(values), shape);
    // Scores ten times as large are known to a tenth of the digits.
    const limit = LIMIT * (c.size ?? 1), what = `${name} of ${JSON.stringify(c)}`;
    const data = await actual[name as keyof Expected].data();
    if (mixer === softmaxMixer && shape === shapes.q) {
      // P ⊙ (dP − D) is a difference of numbers of order one, and of weights near 0 and 1 little but rounding is left.
      const worst = Math.max(...data.map((x, i) => Math.abs(x - wanted[i])));
      const largest = Math.max(...wanted.map(Math.abs));
      assert(worst <= limit * Math.max(largest, 1), `${what}: error ${worst}, largest ${largest}`);
    } else assertClose(data, wanted, limit, what);
  }
}

const ORACLES = [[softmaxMixer, softmaxOracle], [leftProductMixer, leftProductOracle]] as const;

for (const [mixer, oracle] of ORACLES) {
  onWebgpu(`${mixer.name}: output and gradients at lengths over the edges of tiles`, async (backend) => {
    for (const seqLen of LENGTHS) {
      const sizes = { batch: 1, heads: 2, headDim: 32, valueDim: 32, slopes: [0.1, 0.002] };
      await check(backend, mixer, oracle, { ...sizes, seqLen, seed: seqLen });
    }
  });

  onWebgpu(`${mixer.name}: output and gradients of any shape`, async (backend) => {
    await fc.assert(fc.asyncProperty(anyCase, (c) => check(backend, mixer, oracle, c)), { numRuns: 25 });
  });

  onWebgpu(`${mixer.name}: the same bits every time`, async (backend) => {
    using scope = new Scope();
    const shape = [2, 150, 2, 64];
    const [q, k, v, dOutput] = [1, 2, 3, 4].map((seed) =>
      scope.keep(backend.tensor(randomArray(shape, seed), shape))
    );
    const options = { slopes: [0.5, 0.01], layout: "bnhd" as const };
    const run = () => {
      const result = scope.keep(mixer.forward(q, k, v, options));
      return { ...result, ...scope.keep(mixer.backward(q, k, v, dOutput, options, result)) };
    };
    const first = run(), second = run();
    for (const name of ["output", "dq", "dk", "dv"] as const) {
      assertSameBits(await second[name].data(), await first[name].data(), name);
    }
  });

  onWebgpu(`${mixer.name}: what it does not compute is refused`, (backend) => {
    using scope = new Scope();
    const make = (...shape: number[]) => scope.keep(backend.zeros(shape));
    const x = make(1, 5, 2, 8), state = make(1, 2, 8, 8), odd = make(1, 5, 2, 6), large = make(1, 5, 2, 132);
    const call = (q = x, options = {}) => () => mixer.forward(q, q, q, { layout: "bnhd", ...options });
    assert.throws(call(x, { initialState: state }), /must be neither packed nor continued/);
    assert.throws(call(x, { cuSeqlens: [0, 5] }), /must be neither packed nor continued/);
    assert.throws(call(x, { layout: "bhnd" }), /layout must be "bnhd"/);
    assert.throws(call(odd), /headDim must be a multiple of 4 up to 128: current value is 6/);
    assert.throws(call(large), /headDim must be a multiple of 4 up to 128: current value is 132/);
    assert.throws(
      () => mixer.forward(x, make(1, 4, 2, 8), x, { layout: "bnhd" }),
      /k must have shape/,
    );
  });

  Deno.test(`${mixer.name}: says aloud that it needs WebGPU`, async () => {
    using backend = await createBackend({ prefer: "wasm" });
    using x = backend.zeros([1, 5, 2, 8]);
    assert.throws(
      () => mixer.forward(x, x, x, { layout: "bnhd" }),
      /as it needs WebGPU: current backend is wasm/,
    );
  });
}

onWebgpu("softmax: scores of thousands, rising and falling to the end", async (backend) => {
  using scope = new Scope();
  // Only the last element is used, whose pair rotates slowest: by 0.03 over all of the length.
  const seqLen = 200, headDim = 128, sizes = { heads: 1, seqLen, headDim, valueDim: 4 };
  const column = (value: (j: number) => number) =>
    Float32Array.from(
      { length: seqLen * headDim },
      (_, i) => i % headDim === headDim - 1 ? value(Math.floor(i / headDim)) : 0,
    );
  const q = column(() => 100), v = randomArray([seqLen, 4], 5);
  for (const direction of [1, -1]) {
    const k = column((j) => direction * j * 4);
    const c = { ...sizes, batch: 1, seed: 0 };
    const expected = softmaxAttention(
      rotate(q, c, 1),
      rotate(k, c, 1),
      v,
      sizes,
      1 / Math.sqrt(headDim),
    );
    const operands = ([[q, headDim], [k, headDim], [v, 4]] as const).map(([data, dim]) =>
      scope.keep(backend.tensor(data, [1, seqLen, 1, dim]))
    );
    const { output } = scope.keep(
      softmaxMixer.forward(operands[0], operands[1], operands[2], { layout: "bnhd" }),
    );
    // Of scores of 7000, f32 knows no more than some 4e-4.
    assertClose(await output.data(), expected, 1e-3);
  }
});

Deno.test("the softmax oracle's gradients are those of finite differences", () => {
  const c = { batch: 1, heads: 2, seqLen: 5, headDim: 4, valueDim: 8, seed: 1 };
  const [q, k] = [1, 2].map((seed) => Float64Array.from(randomArray([1, 2, 5, 4], seed)));
  const v = Float64Array.from(randomArray([1, 2, 5, 8], 3)), dOutput = randomArray([1, 2, 5, 8], 4);
  const loss = () => {
    const output = Float64Array.from(softmaxOracle(q, k, v, dOutput, c).output);
    return output.reduce((sum, x, i) => sum + x * dOutput[i], 0);
  };
  const { dq, dk, dv } = softmaxOracle(q, k, v, dOutput, c);
  for (const [operand, gradient] of [[q, dq], [k, dk], [v, dv]] as const) {
    const differences = operand.map((value, i) => {
      operand[i] = value + 1e-5;
      const above = loss();
      operand[i] = value - 1e-5;
      const below = loss();
      operand[i] = value;
      return (above - below) / 2e-5;
    });
    assertClose(gradient, differences, 1e-8);
  }
});

/** A configuration of two small layers, the first with LRPE, whose dimensions are multiples of 4. */
const SMALL = {
  ...configByName("tiny"),
  ...{ decoder_embed_dim: 16, hidden_dim: 16, glu_dim: 24, linear_use_lrpe_list: [1, 0] },
};

/** Trains a few steps on a little text, and returns their losses and the held-out loss. */
async function losses(backend: Backend, config: unknown, mixer?: Mixer, recompute = false) {
  const folder = await Deno.makeTempDir({ prefix: "levin-mixer-" });
  try {
    const text = "All states are small, and each is a sum of what came before. ".repeat(12);
    await Deno.writeTextFile(`${folder}/a.txt`, text);
    await Deno.writeTextFile(`${folder}/config.json`, JSON.stringify(config));
    const found: number[] = [];
    const { evaluation } = await train({
      ...{ backend, mixer, recompute, data: [`${folder}/a.txt`], out: `${folder}/out` },
      ...{ config: `${folder}/config.json`, seqLen: 24, batch: 3, steps: 6, warmup: 2, learningRate: 0.01 },
      onStep: ({ loss }) => found.push(loss),
    });
    return [...found, evaluation!.heldOutLoss];
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
}

onWebgpu("a model trains with the left product as with lightning attention", async (backend) => {
  using wasm = await createBackend({ prefer: "wasm" });
  const expected = await losses(wasm, SMALL);
  assertClose(await losses(backend, SMALL, leftProductMixer), expected, 1e-5);
});

onWebgpu("a transformer learns, and recomputing changes no bit of it", async (backend) => {
  const config = softmaxConfig(SMALL);
  const found = await losses(backend, config, softmaxMixer);
  assert(found[5] < found[0] - 0.2, `losses ${found}`);
  assert.deepEqual(await losses(backend, config, softmaxMixer, true), found);
});

Deno.test("the transformer has the parameters of the model that it is compared with, but θ", async () => {
  using backend = await createBackend({ prefer: "wasm" });
  const count = (config: Record<string, unknown>) => {
    const network = parseConfig(config);
    using parameters = new Parameters(backend, network, initialWeights(network, 1));
    return parameters.count;
  };
  const small = configByName("small");
  assert.equal(count(softmaxConfig(small)), count(small) - 256);
  assert.deepEqual(Object.keys(MIXERS), ["softmax", "left-product"]);
});

/** Softmax attention with rotary positions, in float64. */
const attendBySoftmax: Attend = (q, k, v, { batch, heads, seqLen, headDim, valueDim }) => {
  const c = { batch, heads, seqLen, headDim, valueDim, seed: 0 };
  const sizes = { heads: batch * heads, seqLen, headDim, valueDim };
  return softmaxAttention(rotate(q, c, 1), rotate(k, c, 1), v, sizes, 1 / Math.sqrt(headDim));
};

const ARCHITECTURES = { "a LLaMA": llamaConfig(SMALL), "TNL with softmax": softmaxConfig(SMALL) };
for (const [what, config] of Object.entries(ARCHITECTURES)) {
  onWebgpu(`${what}: loss and gradients are those of the float64 model`, async (backend) => {
    const network = parseConfig(config), batch = 2, seqLen = 9;
    const initial = new Map<string, Float32Array>();
    using parameters = new Parameters(backend, network, (name, shape) => {
      const one = name.endsWith("norm.weight") ? 1 : 0;
      initial.set(name, randomArray(shape, 1 + initial.size).map((x) => one + x / 3));
      return { value: initial.get(name)! };
    });
    const ids = Uint32Array.from({ length: batch * seqLen }, (_, i) => i * 37 % network.vocabSize);
    const labels = Int32Array.from(ids, (_, i) => i * 53 % network.vocabSize);
    const rows = [0, 1].map((b) => [...ids.subarray(b * seqLen, (b + 1) * seqLen)]);
    const reference = (tensors: ReadonlyMap<string, { data: ArrayLike<number> }>) => {
      const logits = referenceLogits(config as unknown as ConfigJson, tensors, rows, attendBySoftmax);
      return labels.reduce((sum, label, i) => {
        const row = logits.subarray(i * network.vocabSize, (i + 1) * network.vocabSize),
          top = Math.max(...row);
        return sum + top - row[label] + Math.log(row.reduce((sum, x) => sum + Math.exp(x - top), 0));
      }, 0);
    };
    using total = backend.zeros([1]);
    using gradients = parameters.gradients();
    const segment = { ids, labels, batch, seqLen, positions: [0, 0] };
    const options = { mixer: softmaxMixer };
    for (const state of await lossAndGradients(parameters, gradients.tree, segment, 1, total, options)) {
      state.dispose();
    }
    const tensors = new Map([...initial].map(([name, data]) => [name, { data: Float64Array.from(data) }]));
    assertClose(await total.data(), [reference(tensors)], 1e-5, "loss");
    for (const [i, { name, value }] of parameters.list.entries()) {
      // Along a random direction: one difference checks all elements.
      const { data } = tensors.get(name)!, start = data.slice(), direction = randomArray(value.shape, 90 + i);
      const lossAt = (h: number) => {
        data.forEach((_, j) => data[j] = start[j] + h * direction[j]);
        return reference(tensors);
      };
      const expected = (lossAt(1e-5) - lossAt(-1e-5)) / 2e-5;
      data.set(start);
      const found = (await gradients.list[i].data()).reduce((sum, g, j) => sum + g * direction[j], 0);
      assert(
        Math.abs(found - expected) <= 1e-4 * Math.abs(expected) + 1e-4,
        `${name}: ${found}, ${expected}`,
      );
    }
  });
}
