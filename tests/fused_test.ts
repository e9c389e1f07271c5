/**
 * What decoding calls on WebGPU: fused operations, and what a token costs in dispatches and objects.
 */
import assert from "node:assert/strict";
import { Backend, type Quantization, quantize, type Tensor } from "../mod.ts";
import { fromBfloat16s, toBfloat16s } from "../core/bfloat16.ts";
import { mixerStep, normLinear, step, topLogits } from "../core/ops/fused.ts";
import { gatherRows } from "../core/ops.ts";
import { fits, multiplyFewRows, type Shape } from "../gpu/fewRows.ts";
import { storeOf } from "../gpu/device.ts";
import { createMachine, WebgpuMachine, type WebgpuRequirements } from "../gpu/machine.ts";
import { parseConfig } from "../model/config.ts";
import { Decoding, readLogits, type Session, TransNormerLLM } from "../model/mod.ts";
import { mapWeights } from "../model/weights.ts";
import {
  assertClose,
  assertSameBits,
  poison,
  randomArray,
  Scope,
  upload,
  WITHOUT_WEBGPU,
} from "./harness.ts";
import * as reference from "./reference.ts";
import { type ConfigJson, randomTensors, referenceLogits, SMALL, type Tensors } from "./reference_model.ts";
import { smallDevice } from "./small_device.ts";

const LIMIT = 2e-6;
const EPS = 1e-6;

function gpuTest(
  name: string,
  body: (backend: Backend) => Promise<void>,
  requirements?: WebgpuRequirements,
): void {
  Deno.test({
    name: `WebGPU: ${name}`,
    ignore: WITHOUT_WEBGPU,
    fn: async () => {
      using backend = new Backend(await createMachine({}, "asked for by the test", requirements));
      await body(backend);
      assert.equal(backend.bytesInUse, 0, "the test or the operation left tensors undisposed");
    },
  });
}

/** `x weightᵀ / sqrt(mean(normed²) + eps) + bias`, in float64. */
function referenceNormLinear(
  x: Float32Array,
  normed: Float32Array,
  weight: ArrayLike<number>,
  bias: Float32Array | undefined,
  [rows, inDim, outDim]: readonly [number, number, number],
): Float64Array {
  const product = reference.linear(x, weight, [rows, inDim, outDim]);
  for (let row = 0; row < rows; row++) {
    let square = 0;
    for (let i = 0; i < inDim; i++) square += normed[row * inDim + i] ** 2 / inDim;
    for (let o = 0; o < outDim; o++) {
      product[row * outDim + o] = product[row * outDim + o] / Math.sqrt(square + EPS) + (bias?.[o] ?? 0);
    }
  }
  return product;
}

/** Storage of weights; those of one list hold the same values, and give the same bits. */
const STORED: readonly (readonly ("f32" | "bf16" | Quantization)[])[] = [
  ["f32", "bf16"],
  [{ bits: 8, group: 32 }],
  [{ bits: 4, group: 32 }],
  [{ bits: 4, group: 64 }],
];

async function checkNormLinear(
  backend: Backend,
  [rows, inDim, outDim]: readonly [number, number, number],
  extra: "gate" | "residual",
  stored: (typeof STORED)[number],
): Promise<void> {
  using scope = new Scope();
  const what = `normLinear ${rows} × ${inDim} → ${outDim} with ${extra}, ${JSON.stringify(stored)}`;
  const [x, tx] = upload(scope, backend, [rows, inDim], 1);
  const [other, tOther] = upload(scope, backend, [rows, inDim], 2, 3);
  const isOther = extra === "residual", normed = isOther ? other : x;
  const [bias, tBias] = upload(scope, backend, [outDim], 3);
  const [gateBias, tGateBias] = upload(scope, backend, [outDim], 4);
  const [residual, tResidual] = upload(scope, backend, [rows, outDim], 5);
  const bits = [6, 7].map((seed) => toBfloat16s(randomArray([outDim, inDim], seed)));
  const [weight, gate] = bits.map((bits) => {
    const data = fromBfloat16s(bits), [format] = stored;
    return typeof format === "string"
      ? data
      : reference.quantizedWeight(quantize(data, [outDim, inDim], format));
  });
  const sizes = [rows, inDim, outDim] as const;

  const left = referenceNormLinear(x, normed, weight, bias, sizes);
  const right = referenceNormLinear(x, normed, gate, gateBias, sizes);
  const expected = left.map((value, i) => isOther ? value + residual[i] : value * right[i]);
  const results: Float32Array[] = [];
  for (const format of stored) {
    const [tWeight, tGate] = bits.map((bits) => {
      const data = format === "bf16" ? bits : fromBfloat16s(bits), shape = [outDim, inDim];
      if (typeof format === "string") return scope.keep(backend.tensor(data, shape, { dtype: format }));
      return scope.keep(backend.quantized(quantize(data as Float32Array, shape, format)));
    });
    const options = isOther
      ? { normed: tOther, residual: tResidual }
      : { gate: { weight: tGate, bias: tGateBias } };
    poison(backend, [rows, outDim]);
    const y = scope.keep(normLinear(tx, { weight: tWeight, bias: tBias }, options));
    results.push(await y.data());
    assertClose(results.at(-1)!, expected, LIMIT, what);

    // A row alone gives the bits that it gives in company.
    const row = rows - 1, one = (tensor: Tensor) => scope.keep(gatherRows(tensor, [row]));
    const alone = scope.keep(normLinear(one(tx), { weight: tWeight, bias: tBias }, {
      ...options,
      ...isOther ? { normed: one(tOther), residual: one(tResidual) } : {},
    }));
    assertSameBits(await alone.data(), results.at(-1)!.slice(row * outDim), `${what}, alone`);
  }
  for (const result of results.slice(1)) assertSameBits(result, results[0], what);
}

/** Numbers of rows that take different kernels and shapes, each with one extra: every combination would compile for minutes. */
const ROWS = [[1, "gate"], [3, "residual"], [5, "gate"], [16, "residual"], [17, "gate"], [
  64,
  "residual",
]] as const;

async function checkNormLinears(backend: Backend, stored = STORED): Promise<void> {
  for (const [rows, extra] of ROWS) {
    for (const [inDim, outDim] of [[8, 3], [64, 70], [136, 9]]) {
      await checkNormLinear(backend, [rows, inDim, outDim], extra, ["f32", "bf16"]);
      if (rows % 4 !== 1) continue;
      for (const formats of stored.slice(1)) {
        await checkNormLinear(backend, [rows, inDim, outDim], extra, formats);
      }
    }
  }
}

gpuTest("a norm as a factor of the product that reads it", async (backend) => {
  await checkNormLinears(backend);
  for (const inDim of [1024, 1032, 2056]) { // 64 and 128 threads share a column
    for (const rows of [1, 3, 20]) await checkNormLinear(backend, [rows, inDim, 9], "gate", ["f32", "bf16"]);
  }
  // Tiles as wide as they become, and many workgroups.
  for (const rows of [7, 20, 50]) await checkNormLinear(backend, [rows, 24, 4100], "gate", ["f32"]);
});

gpuTest("a product of few rows has the same bits in every shape", async (backend) => {
  const { device } = backend.machine as WebgpuMachine, [rows, inDim, outDim] = [20, 512, 70];
  using scope = new Scope();
  const store = (shape: number[], seed: number) => storeOf(upload(scope, backend, shape, seed)[1]);
  const x = store([rows, inDim], 1), weight = store([outDim, inDim], 2);
  const shapes: Shape[] = [
    { kernel: "teams", ROWS: 1 },
    { kernel: "teams", ROWS: 16 },
    { kernel: "tiles", ROW_GROUPS: 2, COLUMN_GROUPS: 4, STEP: 1 },
    { kernel: "tiles", ROW_GROUPS: 8, COLUMN_GROUPS: 2, STEP: 2 },
  ];
  const results: Float32Array[] = [];
  for (const shape of shapes) {
    poison(backend, [rows, outDim]);
    const output = scope.keep(backend.empty([rows, outDim]));
    const product = {
      ...{ x, bias: undefined, residual: undefined, output: storeOf(output), rows, inDim, outDim },
      weight: { store: weight, rowLength: inDim, inside: inDim },
      norm: { normed: x, eps: EPS },
    };
    assert(fits(device, product, shape));
    multiplyFewRows(device, product, shape);
    results.push(await output.data());
    assertSameBits(results.at(-1)!, results[0], JSON.stringify(shape));
  }
});

gpuTest("a product of few rows where a workgroup has 16 KiB, WebGPU's least", async () => {
  using backend = new Backend(new WebgpuMachine(await smallDevice(), "asked for by the test"));
  await checkNormLinears(backend, STORED.slice(0, 1));
});

async function checkMixerStep(
  backend: Backend,
  [batch, heads, headDim]: readonly [number, number, number],
  { lrpe, rows, activation }: { lrpe: boolean; rows?: number[]; activation: "silu" | "1+elu" },
): Promise<void> {
  using scope = new Scope();
  const what = `mixerStep ${batch}, ${heads}, ${headDim}, ${JSON.stringify({ lrpe, rows, activation })}`;
  const hidden = heads * headDim, keys = lrpe ? 2 * headDim : headDim, all = rows === undefined ? batch : 9;
  const [x, tx] = upload(scope, backend, [batch, 1, 4 * hidden], 1);
  const [theta, tTheta] = upload(scope, backend, [heads, headDim], 2);
  const [before, tState] = upload(scope, backend, [all, heads, keys, headDim], 3);
  const slopes = Array.from({ length: heads }, (_, h) => [0, 1e-7, 0.3, 2][h % 4]);
  const positions = Array.from({ length: batch }, (_, b) => 1000 * b + 7);
  const split = reference.splitHeads(x, hidden, heads, activation);
  const encoded = (part: Float64Array) =>
    lrpe ? reference.lrpe(part, theta, [batch, 1, heads, headDim], positions) : part;
  const expected = Float32Array.from(before), size = heads * keys * headDim;
  const place = (b: number) => rows?.[b] ?? b;
  const attended = new Float64Array(batch * hidden);
  for (let b = 0; b < batch; b++) {
    const { output, state } = reference.lightningAttention(
      encoded(split.q).subarray(b * heads * keys, (b + 1) * heads * keys),
      encoded(split.k).subarray(b * heads * keys, (b + 1) * heads * keys),
      split.v.subarray(b * hidden, (b + 1) * hidden),
      { batch: 1, heads, seqLen: 1, headDim: keys, valueDim: headDim },
      { slopes, initialState: before.subarray(place(b) * size, (place(b) + 1) * size) },
    );
    attended.set(output, b * hidden);
    expected.set(state, place(b) * size);
  }
  poison(backend, [batch, 1, hidden], [batch, 1, hidden]);
  const options = { heads, activation, slopes, theta: lrpe ? tTheta : undefined };
  const tokens = { ids: new Uint32Array(batch), positions, rows };
  let tAttended: Tensor | undefined;
  const tGated = scope.keep(step(backend, [batch, 1, hidden], {}, tokens, (held) => {
    const results = mixerStep(tx, tState, held, options);
    tAttended = scope.keep(results.attended);
    return results.gated;
  }));
  assertClose(await tAttended!.data(), attended, LIMIT, what);
  assertClose(await tGated.data(), attended.map((o, i) => o * split.u[i]), LIMIT, `${what}, gated`);
  assertClose(await tState.data(), expected, LIMIT, `${what}, state`);
}

async function checkMixerSteps(backend: Backend): Promise<void> {
  for (const lrpe of [false, true]) {
    await checkMixerStep(backend, [1, 2, 8], { lrpe, activation: "silu" });
    await checkMixerStep(backend, [3, 5, 68], { lrpe, activation: "1+elu" });
    await checkMixerStep(backend, [2, 4, 16], { lrpe, rows: [8, 3], activation: "silu" });
  }
}

gpuTest("a token between the projections of a mixer", checkMixerSteps);
for (const limits of [{ windowBytes: 24576, workgroups: 3 }, { windowBytes: 65536, workgroups: 7 }]) {
  gpuTest(`fused operations where a binding holds ${limits.windowBytes} bytes`, async (backend) => {
    await checkNormLinears(backend);
    await checkMixerStep(backend, [3, 5, 24], { lrpe: true, activation: "1+elu" });
    await checkMixerStep(backend, [9, 1, 24], { lrpe: false, activation: "silu" });
    await checkTopLogits(backend, randomArray([17 * 5000], 9), 7, 17);
  }, { limits });
}

/** Holds the largest logits of each row to a sort, and the sum to float64. */
async function checkTopLogits(
  backend: Backend,
  logits: Float32Array,
  count: number,
  rows: number,
): Promise<void> {
  using scope = new Scope();
  const vocab = logits.length / rows, width = 4 + 2 * count;
  poison(backend, [rows, width]);
  const top = scope.keep(topLogits(scope.keep(backend.tensor(logits, [rows, vocab])), count)!);
  const data = await top.data();
  assert.equal(data.length, rows * width);
  for (let row = 0; row < rows; row++) {
    const found = data.subarray(row * width, (row + 1) * width);
    checkTopOfRow(logits.subarray(row * vocab, (row + 1) * vocab), count, found);
  }
}

function checkTopOfRow(logits: Float32Array, count: number, found: Float32Array): void {
  const [max, sum, faults, , ...pairs] = found;
  const ids = [...logits.keys()].sort((a, b) => logits[b] - logits[a] || a - b).slice(0, count);
  const what = `${count} of ${logits.length}`;
  assert.equal(faults, 0, what);
  assert.deepEqual(pairs.slice(0, 2 * ids.length), ids.flatMap((id) => [logits[id], id]), what);
  for (let i = 2 * ids.length; i < pairs.length; i += 2) {
    assert.equal(pairs[i], Math.fround(-3.4028234663852886e38));
  }
  const total = logits.reduce((sum, logit) => sum + Math.exp(logit - max), 0);
  assertClose([max + Math.log(sum)], [max + Math.log(total)], 1e-6, what);
}

gpuTest("the largest logits, ties in the order of ids", async (backend) => {
  for (const size of [1, 2, 23, 1023, 1024, 1025, 5000, 64000]) {
    for (const count of [1, 2, 7, 64]) {
      for (const rows of [1, 3]) {
        await checkTopLogits(backend, randomArray([rows * size], size).map((x) => 12 * x), count, rows);
      }
    }
    // Many ties, and logits that rule tokens out.
    await checkTopLogits(backend, randomArray([size], 3).map((x) => Math.round(2 * x)), 64, 1);
    if (size > 2) {
      using scope = new Scope();
      const some = randomArray([size], 4);
      for (const [at, value] of [[size - 1, NaN], [0, Infinity]]) {
        const faulty = Float32Array.from(some);
        faulty[at] = value;
        const top = scope.keep(topLogits(scope.keep(backend.tensor(faulty, [size])), 5)!);
        assert((await top.data())[2] > 0, `${value} at ${at}`);
      }
    }
  }
});

gpuTest("a choice among the likeliest is the choice among all", async (backend) => {
  using network = model(backend, EVEN);
  const vocab = EVEN.vocab_size, prompt = [3, 1, 4];
  for (
    const options of [
      { temperature: 0 },
      { topK: 1 },
      { topK: 5, seed: 3 },
      { topK: 64, topP: 0.8, minP: 0.05, temperature: 0.7, seed: 9 },
    ]
  ) {
    // Reading back: 4 numbers and 2 for each candidate, not the logits.
    const reads: number[] = [], read = backend.machine.read;
    backend.machine.read = (tensor) => {
      reads.push(tensor.size);
      return read.call(backend.machine, tensor);
    };
    const items = await Array.fromAsync(network.generate(prompt, { ...options, maxTokens: 12 }));
    backend.machine.read = read;
    assert.deepEqual(reads, items.map(() => 4 + 2 * (options.topK ?? 1)));

    const decoding = new Decoding(network, prompt, { ...options, maxTokens: 12 });
    using session = network.session();
    let logits = session.prefill(prompt);
    for (const { token, logprob } of items) {
      const data = await logits.data();
      logits.dispose();
      const expected = decoding.next(data);
      assert.equal(token, expected.token);
      assertClose([logprob], [expected.logprob], 1e-5);
      logits = session.step(token);
    }
    logits.dispose();
    assert(items.every(({ token }) => token < vocab));
  }
});

/** Sizes that are multiples of 8, as those of published models are. */
const EVEN: ConfigJson = {
  ...SMALL,
  decoder_embed_dim: 48,
  hidden_dim: 64,
  glu_dim: 72,
  decoder_attention_heads: 4,
};

/** Those and of 32, so that rows of quantised weights need no padding, as those of published models. */
const GROUPED: ConfigJson = { ...EVEN, decoder_embed_dim: 64, glu_dim: 96 };

/** Random tensors of a model; with a format those that its quantised matrices stand for. */
function tensorsOf(json: ConfigJson, format?: Quantization): Tensors {
  const tensors = randomTensors(json, 5);
  for (const [name, { shape, data }] of tensors) {
    if (format === undefined || shape.length !== 2) continue;
    const weight = quantize(Float32Array.from(data), shape, format);
    tensors.set(name, { shape, data: Float32Array.from(reference.quantizedWeight(weight)) });
  }
  return tensors;
}

/** A small model of these sizes in f32, or with matrices in a format. */
function model(backend: Backend, json: ConfigJson, format?: Quantization): TransNormerLLM {
  const tensors = randomTensors(json, 5), parameters: Tensor[] = [];
  const config = parseConfig({ ...json, model_type: "transnormer" });
  const weights = mapWeights(config, false, (name, shape) => {
    const flat = shape.length === 3 ? [shape[0], shape[2]] : shape;
    const data = Float32Array.from(tensors.get(name)!.data);
    const isQuantized = format !== undefined && shape.length === 2;
    parameters.push(
      isQuantized ? backend.quantized(quantize(data, flat, format)) : backend.tensor(data, flat),
    );
    return parameters.at(-1)!;
  });
  return new TransNormerLLM(backend, {
    config,
    weights,
    parameters,
    tokenizer: undefined,
    fingerprint: "random",
  });
}

/** How often fused operations were called since the last time. */
function calls({ machine }: Backend): () => number {
  const fused = machine.fused!, { mixerStep } = fused;
  let count = 0;
  fused.mixerStep = (call) => {
    count++;
    mixerStep(call);
  };
  return () => {
    const result = count;
    count = 0;
    return result;
  };
}

/** Calls of methods of WebGPU during `run`, by name. */
async function counted(run: () => Promise<void>): Promise<Record<string, number>> {
  const counts: Record<string, number> = {}, restore: (() => void)[] = [];
  const watched: [object, string][] = [
    [GPUComputePassEncoder.prototype, "dispatchWorkgroups"],
    [GPUCommandEncoder.prototype, "beginComputePass"],
    [GPUQueue.prototype, "submit"],
    [GPUQueue.prototype, "writeBuffer"],
    [GPUBuffer.prototype, "mapAsync"],
    [GPUDevice.prototype, "createBindGroup"],
    [GPUDevice.prototype, "createBuffer"],
    [GPUDevice.prototype, "createComputePipeline"],
  ];
  for (const [prototype, name] of watched) {
    const methods = prototype as Record<string, (...all: unknown[]) => unknown>, method = methods[name];
    counts[name] = 0;
    methods[name] = function (...all) {
      counts[name]++;
      return method.apply(this, all);
    };
    restore.push(() => methods[name] = method);
  }
  try {
    await run();
  } finally {
    for (const undo of restore) undo();
  }
  return counts;
}

gpuTest(
  "a token takes five dispatches per layer, two uploads, one submit, one read, and makes no object",
  async (backend) => {
    using network = model(backend, EVEN);
    using session = network.session();
    const called = calls(backend);
    const ids = [3, 1, 4, 1, 5, 9, 2, 6], { vocab_size, decoder_layers } = EVEN;
    const exact = referenceLogits(EVEN, randomTensors(EVEN, 5), [ids]);
    for (const [i, id] of ids.entries()) {
      const counts = await counted(async () => {
        using logits = session.step(id);
        assertClose(
          await logits.data(),
          exact.subarray(i * vocab_size, (i + 1) * vocab_size),
          1e-4,
          `token ${i}`,
        );
      });
      const recorded = called();
      if (i < 4) continue; // buffers, bind groups and pipelines are made for the first ones
      assert.equal(recorded, 0, "layers are enqueued from the plan of the token before");
      assert.deepEqual(counts, {
        dispatchWorkgroups: 5 * decoder_layers + 3,
        beginComputePass: 1,
        submit: 1,
        writeBuffer: 2, // the token, and parameters of all dispatches
        mapAsync: 1,
        createBindGroup: 0,
        createBuffer: 0,
        createComputePipeline: 0,
      });
    }
  },
);

gpuTest("with integer weights too, alone and in company", async (backend) => {
  for (const format of [{ bits: 8, group: 32 }, { bits: 4, group: 32 }] as const) {
    using network = model(backend, GROUPED, format);
    const ids = [3, 1, 4, 1, 5, 9], { vocab_size, decoder_layers } = GROUPED;
    const exact = referenceLogits(GROUPED, tensorsOf(GROUPED, format), [ids]);
    using session = network.session(), batch = network.batch(3);
    const slots = [0, 1, 2].map(() => batch.join(session));
    for (const [i, id] of ids.entries()) {
      let alone = new Float32Array(), together = new Float32Array();
      const one = await counted(async () => {
        using logits = session.step(id);
        alone = new Float32Array(await logits.data());
      });
      const three = await counted(async () => {
        using logits = batch.step(slots, [id, 2, id]);
        together = new Float32Array(await logits.data());
      });
      const expected = exact.subarray(i * vocab_size, (i + 1) * vocab_size);
      assertClose(alone, expected, 1e-4, `token ${i}, ${format.bits} bits`);
      for (const row of [0, 2]) {
        assertSameBits(together.slice(row * vocab_size, (row + 1) * vocab_size), alone, "in company");
      }
      assert.equal(one.dispatchWorkgroups, 5 * decoder_layers + 3);
      assert.equal(three.dispatchWorkgroups, 5 * decoder_layers + 3);
    }
  }
});

gpuTest(
  "a step of a batch that chooses on the device takes two uploads, one submit, one read of few numbers",
  async (backend) => {
    using network = model(backend, EVEN);
    using batch = network.batch(16), session = network.session();
    const slots = Array.from({ length: 16 }, () => batch.join(session)), called = calls(backend);
    const { vocab_size, decoder_layers } = EVEN, sizes: number[] = [], read = backend.machine.read;
    backend.machine.read = (tensor) => {
      sizes.push(tensor.size);
      return read.call(backend.machine, tensor);
    };
    for (let i = 0; i < 8; i++) {
      called();
      const counts = await counted(async () => {
        using logits = batch.step(slots, slots.map((slot) => (slot + i) % vocab_size));
        await readLogits(logits, slots.map((slot) => 1 + slot % 5));
      });
      if (i < 4) continue; // buffers, bind groups and pipelines are made for the first ones
      assert.equal(called(), 0, "layers are enqueued from the plan of the step before");
      assert.deepEqual(counts, {
        dispatchWorkgroups: 5 * decoder_layers + 5,
        beginComputePass: 1,
        submit: 1,
        writeBuffer: 2,
        mapAsync: 1,
        createBindGroup: 0,
        createBuffer: 0,
        createComputePipeline: 0,
      });
    }
    backend.machine.read = read;
    assert.deepEqual(sizes, Array(8).fill(16 * (4 + 2 * 5)));
  },
);

gpuTest("in a batch each row is chosen as alone, from the likeliest or from all", async (backend) => {
  using network = model(backend, EVEN);
  const all = [
    { temperature: 0 },
    { seed: 4 },
    { topK: 3, seed: 5 },
    { topK: 64, topP: 0.7, seed: 6 },
    { topK: 9, repetitionPenalty: 1.3, seed: 7 },
  ];
  const decodings = () => all.map((options) => new Decoding(network, [3], options));
  const answers = decodings(), exact = decodings();
  using batch = network.batch(all.length), session = network.session();
  const slots = all.map(() => batch.join(session));
  let tokens = all.map(() => 3);
  for (let i = 0; i < 8; i++) {
    using logits = batch.step(slots, tokens);
    const rows = await readLogits(logits, answers.map(({ candidates }) => candidates));
    const data = await logits.data(), vocab = data.length / all.length;
    assert.deepEqual(rows.map((row) => row instanceof Float32Array), [false, true, false, false, true]);
    for (const row of [1, 4]) {
      assertSameBits(rows[row] as Float32Array, data.slice(row * vocab, (row + 1) * vocab), "all");
    }
    const chosen = exact.map((answer, row) => answer.next(data.subarray(row * vocab, (row + 1) * vocab)));
    const items = answers.map((answer, row) => answer.next(rows[row]));
    tokens = items.map(({ token }) => token);
    assert.deepEqual(tokens, chosen.map(({ token }) => token));
    assertClose(items.map(({ logprob }) => logprob), chosen.map(({ logprob }) => logprob), 1e-5);
  }
});

gpuTest("a row with a wrong logit is read as a whole, and the other rows are not", async (backend) => {
  using scope = new Scope();
  const vocab = 40, data = randomArray([3 * vocab], 2);
  data[vocab + 7] = NaN;
  const logits = scope.keep(backend.tensor(data, [3, vocab]));
  const rows = await readLogits(logits, [2, 2, undefined]);
  assert(!(rows[0] instanceof Float32Array) && rows[0].ids.length === 2);
  assertSameBits(rows[1] as Float32Array, data.slice(vocab, 2 * vocab), "the wrong row");
  assertSameBits(rows[2] as Float32Array, data.slice(2 * vocab), "the row that wants all");
  await assert.rejects(readLogits(logits, [1]), RangeError);
});

/** The logits of a session's steps; `between` runs after each. */
async function logitsOf(session: Session, ids: readonly number[], between: () => void): Promise<number[][]> {
  const read: number[][] = [];
  for (const id of ids) {
    using logits = session.step(id);
    read.push([...await logits.data()]);
    between();
  }
  return read;
}

gpuTest("a plan is given up when its buffers are taken, and the bits stay the same", async (backend) => {
  using network = model(backend, EVEN);
  const ids = [3, 1, 4, 1, 5, 9, 2, 6, 5, 3, 5], called = calls(backend);
  using plain = network.session();
  const expected = await logitsOf(plain, ids, () => {});
  called();

  // Tensors of every size take the idle buffers, some for long, and leave NaN in them.
  const random = randomArray([64], 8);
  const held: Tensor[] = [];
  let turn = 0, recorded = 0, repeated = 0;
  using disturbed = network.session();
  const read = await logitsOf(disturbed, ids, () => {
    if (called() === 0) repeated++;
    else recorded++;
    if (++turn % 3 === 0) return;
    for (let i = 0; i < 40; i++) {
      const size = Math.ceil(2 ** (11 * Math.abs(random[(turn + 7 * i) % 64])));
      held.push(backend.tensor(new Float32Array(size).fill(NaN), [size]));
    }
    if (turn % 3 === 2) { for (const tensor of held.splice(0)) tensor.dispose(); }
  });
  for (const tensor of held) tensor.dispose();
  assert.deepEqual(read, expected);
  assert(repeated > 0 && recorded > 1, `${repeated} of ${ids.length} were repeated`);
});

gpuTest("plans of sessions do not disturb one another", async (backend) => {
  using network = model(backend, EVEN);
  const texts = [[3, 1, 4, 1, 5, 9], [2, 7, 1, 8, 2, 8], [1, 6, 1, 8, 0, 3]];
  const expected: number[][][] = [];
  for (const ids of texts) {
    using session = network.session();
    expected.push(await logitsOf(session, ids, () => {}));
  }
  // In turns, all of a turn in one batch of commands, all logits alive; and a fork of one in the middle.
  const sessions = texts.map(() => network.session());
  for (let i = 0; i < texts[0].length; i++) {
    const logits = sessions.map((session, s) => session.step(texts[s][i]));
    for (const [s, tensor] of logits.entries()) {
      assert.deepEqual([...await tensor.data()], expected[s][i]);
      tensor.dispose();
    }
    if (i !== 2) continue;
    using fork = sessions[0].fork();
    assert.deepEqual(await logitsOf(fork, texts[0].slice(3), () => {}), expected[0].slice(3));
  }
  for (const session of sessions) session.dispose();

  // Steps that nobody waits for.
  using session = network.session();
  for (const id of texts[0].slice(0, -1)) session.step(id).dispose();
  assert.deepEqual(await logitsOf(session, texts[0].slice(-1), () => {}), expected[0].slice(-1));
});

gpuTest(
  "a plan ends with the tables that were forgotten, and with a fault of the device",
  async (backend) => {
    using network = model(backend, EVEN);
    const { device } = backend.machine as WebgpuMachine, ids = [3, 1, 4, 1, 5, 9];
    using plain = network.session();
    const expected = await logitsOf(plain, ids, () => {});
    using session = network.session();
    const called = calls(backend);
    const read = await logitsOf(session, ids, () => {
      // The oldest constants make room, the decays of the model's layers among them: their buffer is written.
      for (let i = 0; i < 1100; i++) device.constant(`a test's ${i}`, () => new Float32Array(1000));
      const others = Array.from({ length: 60 }, () => backend.tensor(new Float32Array(8).fill(NaN), [8]));
      for (const other of others) other.dispose();
    });
    assert.deepEqual(read, expected);
    assert(called() > 0);

    // What a device reports that had no memory for the batch that follows.
    const { popErrorScope } = GPUDevice.prototype;
    for (const id of [4, 2]) session.step(id).dispose(); // tables are made for the first, the second is recorded
    called();
    using spoilt = session.step(2);
    GPUDevice.prototype.popErrorScope = function () {
      GPUDevice.prototype.popErrorScope = popErrorScope;
      return popErrorScope.call(this).then(() => new GPUOutOfMemoryError("no memory, for the test"));
    };
    try {
      assert.equal(called(), 0, "it was enqueued from a plan");
      await assert.rejects(spoilt.data(), { reason: "out-of-memory" });
    } finally {
      GPUDevice.prototype.popErrorScope = popErrorScope;
    }
    assert.throws(() => session.step(3), { reason: "out-of-memory" });
    assert(session.disposed, "some layers may have read the token");
    using next = network.session();
    assert.deepEqual(await logitsOf(next, ids, () => {}), expected);
  },
);
