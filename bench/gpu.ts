/**
 * Times the WebGPU kernels by the device's own clock and prints a table:
 *
 *     deno run -A bench/gpu.ts [lightning] [backward] [linear]
 *
 * Every figure is the median of repeated runs on a warm device. Inputs rotate between buffers, so that caches do not flatter.
 * Outputs are held to the float64 reference first. GPUs lower their clock while the host prepares
 * inputs, so work runs until a chain of dependent fmas takes no less time than before.
 *
 * @module
 */
import assert from "node:assert/strict";
import { alibiSlopes, lightningAttentionBackward, type Tensor } from "../mod.ts";
import { elementCount } from "../core/shape.ts";
import { Backend } from "../core/tensor.ts";
import { storeOf } from "../gpu/device.ts";
import { gradients } from "../gpu/gradients.ts";
import { createMachine } from "../gpu/machine.ts";
import { randomArray, relativeError } from "../tests/numbers.ts";
import * as reference from "../tests/reference.ts";
import { repeat } from "./baselines/mod.ts";
import { slowness } from "./measure/clock.ts";
import { median } from "./measure/timing.ts";

const RUNS = 15;
const SETS = 3;
const LIMIT = 2e-5;

const machine = await createMachine({}, "asked for by name", { gradients });
const { device, operations } = machine;
const backend = new Backend(machine);
const software = (await navigator.gpu.requestAdapter())!.info.isFallbackAdapter;

/** Whether the clock has been seen at its highest. */
let isWarm = false;

/** Milliseconds of `run(i)`: the median of {@linkcode RUNS}, each right behind other runs; `calls` calls at a time. */
async function time(run: (index: number) => void, calls = 1): Promise<number> {
  if (software) {
    run(0);
    return await device.time(() => run(1));
  }
  const start = performance.now(), least = isWarm ? 300 : 3000;
  for (let steady = 0; steady < 2 && performance.now() - start < 6000;) {
    for (let i = 0; i < 12 * calls; i++) run(i);
    const isSteady = await slowness(device) < 1.03;
    steady = isSteady && performance.now() - start > least ? steady + 1 : 0;
  }
  isWarm = true;
  const times: number[] = [];
  for (let i = 0; i < RUNS; i++) {
    for (let j = 0; j < 6 * calls; j++) run(j);
    const one = await device.time(() => {
      for (let j = 0; j < calls; j++) run(i * calls + j);
    });
    times.push(one / calls);
  }
  return median(times);
}

/** Tensors of one shape with different elements: views of one array of noise, at different offsets. */
function tensors(count: number, shape: readonly number[], dtype: "f32" | "bf16" = "f32"): Tensor[] {
  const size = elementCount(shape);
  const noise = randomArray([Math.min(size, 2 ** 22) + 4096], size % 1000);
  return Array.from({ length: count }, (_, index) => {
    const elements = noise.subarray(index * 128, index * 128 + noise.length - 4096);
    return backend.tensor(repeat(elements, new Float32Array(size)), shape, { dtype });
  });
}

function report(what: string, ms: number, flops: number, bytes: number, error: number): void {
  const rate = `${(flops / ms / 1e9).toFixed(1)} TFLOP/s  ${(bytes / ms / 1e9).toFixed(2)} TB/s`;
  console.log(
    `${what.padEnd(34)} ${ms.toFixed(4).padStart(9)} ms  ${rate.padStart(26)}  error ${
      error.toExponential(1)
    }`,
  );
  assert(error <= LIMIT, `${what}: RMS-relative error ${error} is not <= ${LIMIT}`);
}

async function attention(batch: number, heads: number, seqLen: number, dim: number): Promise<void> {
  const layout = "bhnd" as const;
  const sizes = {
    layout,
    batch,
    seqLen,
    heads,
    queryHeads: heads,
    keyHeads: heads,
    headDim: dim,
    valueDim: dim,
  };
  const slopes = Float64Array.from(alibiSlopes(heads));
  const pool = tensors(SETS + 2, [batch, heads, seqLen, dim]);
  const calls = Array.from({ length: SETS }, (_, set) => ({
    shape: sizes,
    q: pool[set],
    k: pool[(set + 1) % pool.length],
    v: pool[(set + 2) % pool.length],
    slopes,
    scale: 1,
    sequences: Array.from({ length: batch }, (_, b) => ({ batch: b, start: 0, length: seqLen })),
    initialState: undefined,
    output: backend.empty([batch, heads, seqLen, dim]),
    state: backend.empty([batch, heads, dim, dim]),
  }));
  // Columns of v do not mix: one column of the last head costs its float64 reference little.
  device.clear(storeOf(calls[0].output));
  operations.lightning(calls[0]);
  const head = batch * heads - 1, column = dim - 1;
  const [q, k, v, output] = await Promise.all(
    [calls[0].q, calls[0].k, calls[0].v, calls[0].output].map(async (tensor) =>
      (await tensor.data()).subarray(head * seqLen * dim, (head + 1) * seqLen * dim)
    ),
  );
  const only = (x: Float32Array) => Float32Array.from({ length: seqLen }, (_, t) => x[t * dim + column]);
  const expected = reference.lightningAttention(q, k, only(v), {
    batch: 1,
    heads: 1,
    seqLen,
    headDim: dim,
    valueDim: 1,
  }, { slopes: [slopes[heads - 1]] });
  const error = relativeError(only(output), expected.output);

  // Of short calls several at a time: one alone is timed with the GPU's own start and end.
  const tokens = batch * heads * seqLen;
  const ms = await time((index) => operations.lightning(calls[index % SETS]), tokens < 2 ** 19 ? 8 : 1);
  const flops = tokens * (4 * dim * dim + 64 * 2 * dim);
  report(`lightning ${batch}, ${heads}, ${seqLen}, ${dim}`, ms, flops, tokens * dim * 4 * 4, error);
  for (const tensor of pool) tensor.dispose();
  for (const { output, state } of calls) [output, state].forEach((tensor) => tensor.dispose());
}

async function attentionBackward(batch: number, heads: number, seqLen: number, dim: number): Promise<void> {
  const slopes = alibiSlopes(heads);
  const pool = tensors(SETS + 3, [batch, heads, seqLen, dim]);
  const run = (index: number) => {
    const [q, k, v, dOutput] = [0, 1, 2, 3].map((i) => pool[(index % SETS + i) % pool.length]);
    return Object.values(lightningAttentionBackward(q, k, v, dOutput, { slopes })) as Tensor[];
  };
  const dispose = (gradients: Tensor[]) => gradients.forEach((tensor) => tensor.dispose());
  // The last head, all of it.
  const gradients = run(0);
  const [q, k, v, dOutput, ...actual] = await Promise.all(
    [...pool.slice(0, 4), ...gradients.slice(0, 3)].map(async (tensor) =>
      (await tensor.data()).subarray(-seqLen * dim)
    ),
  );
  dispose(gradients);
  const sizes = { batch: 1, heads: 1, seqLen, headDim: dim, valueDim: dim };
  const expected = reference.lightningAttentionBackward(q, k, v, dOutput, sizes, {
    slopes: slopes.slice(-1),
  });
  const errors = [expected.dq, expected.dk, expected.dv].map((x, i) => relativeError(actual[i], x));

  const ms = await time((index) => dispose(run(index)));
  const tokens = batch * heads * seqLen;
  const flops = 3 * tokens * (4 * dim * dim + 64 * 2 * dim);
  const error = errors.every((error) => error <= LIMIT) ? Math.max(...errors) : NaN;
  report(`backward ${batch}, ${heads}, ${seqLen}, ${dim}`, ms, flops, tokens * dim * 4 * 7, error);
  for (const tensor of pool) tensor.dispose();
}

async function linear(
  rows: number,
  inDim: number,
  outDim: number,
  dtype: "f32" | "bf16" = "f32",
): Promise<void> {
  const [x, weight] = [tensors(SETS, [rows, inDim]), tensors(SETS, [outDim, inDim], dtype)];
  const output = Array.from({ length: SETS }, () => backend.empty([rows, outDim]));
  const run = (index: number) => {
    const set = index % SETS;
    operations.linear({
      x: x[set],
      weight: weight[set],
      bias: undefined,
      residual: undefined,
      rows,
      inDim,
      outDim,
      output: output[set],
    });
  };
  device.clear(storeOf(output[0]));
  run(0);
  const [a, w, y] = await Promise.all([x[0].data(), weight[0].data(), output[0].data()]);
  const found: number[] = [], expected: number[] = [];
  for (let sample = 0; sample < 256; sample++) {
    const row = sample * 7919 % rows, column = sample * 104729 % outDim;
    let sum = 0;
    for (let i = 0; i < inDim; i++) sum += a[row * inDim + i] * w[column * inDim + i];
    expected.push(sum);
    found.push(y[row * outDim + column]);
  }
  const ms = await time(run, rows < 256 ? 16 : 2);
  const bytes = 4 * (rows * inDim + rows * outDim) + (dtype === "f32" ? 4 : 2) * outDim * inDim;
  report(
    `linear ${rows} × ${inDim} → ${outDim} ${dtype}`,
    ms,
    2 * rows * inDim * outDim,
    bytes,
    relativeError(found, expected),
  );
  for (const tensor of [...x, ...weight, ...output]) tensor.dispose();
}

console.log(`${device.name}, Deno ${Deno.version.deno}, ${Deno.build.os} ${Deno.build.arch}`);
console.log("lightning: batch, heads, tokens, headDim = valueDim; f32. TB/s counts operands once.\n");
if (software) {
  await attention(1, 2, 600, 128);
  await attentionBackward(1, 2, 600, 128);
  await linear(100, 128, 100);
} else {
  const wanted = (what: string) => Deno.args.length === 0 || Deno.args.includes(what);
  if (wanted("lightning")) {
    for (const seqLen of [512, 2048, 8192, 32768, 131072]) await attention(1, 16, seqLen, 128);
    await attention(4, 32, 8192, 128);
    await attention(1, 32, 131072, 128); // 2 GiB per tensor: more than one binding holds
    for (const seqLen of [8192, 32768]) await attention(1, 8, seqLen, 64);
  }
  if (wanted("backward")) {
    await attentionBackward(1, 16, 32768, 128);
    await attentionBackward(4, 32, 8192, 128);
  }
  if (wanted("linear")) {
    await linear(4096, 4096, 4096);
    await linear(2048, 1024, 4096);
    await linear(512, 1024, 1024);
    for (const dtype of ["f32", "bf16"] as const) {
      await linear(2048, 4096, 4096, dtype);
      for (const rows of [1, 4, 16, 32, 64]) await linear(rows, 4096, 4096, dtype);
      await linear(1, 4096, 16384, dtype);
      await linear(1, 1024, 50272, dtype);
    }
  }
}
backend.dispose();
