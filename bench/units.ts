/**
 * Times products, prefill and training on the matrix units of Dawn, by the device's own clock:
 *
 *     deno run -A bench/units.ts [<dawn.node>] [check] [tune] [products] [prefill:<size>] [train:<size>] [curves:<config>]
 *
 * Dawn is npm's `webgpu`, or a file `dawn.node` of it where there is no registry. `tune` goes through shapes of tiles at 4096³,
 * operands rounded before; `fast` in a row means that Dawn's bounds checks are off. Some rows lack a part of the kernel, to
 * tell what the rest takes: their results are wrong. The others are held to float64 at random places first. All are compiled
 * before any is timed, and timed in turns, as the card lowers its clock while the host compiles. A chain of fmas tells the
 * clock: the figure is how much longer it takes than the fastest seen.
 *
 * @module
 */
import assert from "node:assert/strict";
import { createRequire } from "node:module";
import { resolve } from "node:path";
import { toBfloat16s } from "../core/bfloat16.ts";
import { Backend } from "../core/tensor.ts";
import type { Device, Store, TimedDispatch } from "../gpu/device.ts";
import { gradients } from "../gpu/gradients.ts";
import { createMachine, type WebgpuMachine } from "../gpu/machine.ts";
import { units } from "../gpu/units/mod.ts";
import { type Matrices, matricesOf } from "../gpu/units/matrices.ts";
import * as shaders from "../gpu/units/shaders.ts";
import { multiply, type Operand, operandOf, SHAPES, type TileShape } from "../gpu/units/product.ts";
import type { GpuObject } from "../backend.ts";
import type { LinearCall } from "../core/machine.ts";
import type { Tensor } from "../mod.ts";
import { dawnPackage, FEATURES } from "../cli/dawn.ts";
import { parseConfig } from "../model/config.ts";
import { TransNormerLLM } from "../model/mod.ts";
import { mapWeights } from "../model/weights.ts";
import { randomArray } from "../tests/numbers.ts";
import { lightningMixer } from "../train/backward.ts";
import { configByName } from "../train/configs.ts";
import { train } from "../train/train.ts";
import { PUBLISHED, type PublishedName } from "./measure/checkpoints.ts";
import { slowness } from "./measure/clock.ts";
import { median } from "./measure/timing.ts";
import { TrainingSteps } from "./measure/training.ts";

const file = Deno.args.find((argument) => argument.endsWith(".node"));
const wanted = Deno.args.filter((argument) => argument !== file);
const { create, globals } = file === undefined
  ? await dawnPackage()
  : createRequire(import.meta.url)(resolve(file)) as Awaited<ReturnType<typeof dawnPackage>>;
Object.assign(globalThis, globals);

const gpuOf = (more: string): GpuObject =>
  create(["backend=vulkan", FEATURES + more, "disable-dawn-features=timestamp_quantization"]);
const gpu = gpuOf("");
const adapter = await gpu.requestAdapter() as GPUAdapter;
assert(adapter !== null, "no adapter");
const matrices = matricesOf(adapter);
assert(typeof matrices !== "string", matrices as string);
const software = adapter.info.isFallbackAdapter;

const machineOf = (gpu: GpuObject, precision: "f32" | "f16" = "f16") =>
  createMachine({ gpu, precision }, "bench", { gradients, units });
const machine = await machineOf(gpu);
console.log(machine.info, machine.device.adapterLimits.maxComputeWorkgroupStorageSize);

/** Milliseconds of a run, median; and how slow the clock was, before and after. */
async function timed(device: Device, run: () => void, runs = software ? 1 : 9): Promise<[number, string]> {
  for (let i = 0; i < (software ? 0 : 4); i++) run();
  await device.time(() => {});
  const before = await slowness(device);
  const times: number[] = [];
  for (let i = 0; i < runs; i++) {
    if (!software) run();
    times.push(await device.time(run));
  }
  return [median(times), `${before.toFixed(2)} ${(await slowness(device)).toFixed(2)}`];
}

const EDGE = software ? 256 : 4096;

// ------------------------------------------------------------------------------------------------------- tune

/** A way to multiply. */
interface Variant {
  readonly name: string;
  readonly machine: WebgpuMachine;
  readonly matrices: Matrices;
  readonly shape: TileShape;
  readonly kind: "x wT" | "dy w" | "dyT x";
  /** Changes the kernel; its results are wrong. */
  readonly probe?: (code: string) => string;
}

/** The kernel without one of its parts: what the rest takes. */
const PROBES = {
  "no products": (code: string) => code.replace(/\{ sum\d\d = subgroupMatrixMultiplyAccumulate.*?\}/g, "{ }"),
  "no matrix loads": (code: string) => code.replace(/^ *(a\d\d|b) = subgroupMatrixLoad.*$/gm, ""),
  "no global loads": (code: string) => code.replace(/\{ (left|right)\d = \1\[\w+ \+ next.*?\}/g, "{ }"),
  "no stores": (code: string) => code.replace(/\{ strips\[.*?\}/g, "{ }"),
};

async function tuneAll(): Promise<void> {
  const m = matrices as Matrices, began = performance.now();
  const shape = (
    DOWN: number,
    ACROSS: number,
    ROWS: number,
    COLUMNS: number,
    BUFFERS: number,
  ): TileShape => ({
    DOWN,
    ACROSS,
    ROWS,
    COLUMNS,
    BUFFERS,
  });
  const fast = await machineOf(gpuOf(",disable_robustness"));
  const base = m.M === 8 ? shape(2, 2, 1, 1, 2) : shape(2, 4, 2, 1, 2);
  const of = (
    shape: TileShape,
    { machine: on = machine, matrices = m, kind = "x wT" as Variant["kind"], probe }: {
      machine?: WebgpuMachine;
      matrices?: Matrices;
      kind?: Variant["kind"];
      probe?: keyof typeof PROBES;
    } = {},
  ): Variant => {
    const { DOWN, ACROSS, ROWS, COLUMNS, BUFFERS } = shape, { M, N, K } = matrices;
    const tile = `${DOWN * ROWS * 32}×${ACROSS * COLUMNS * 32} of ${32 * ROWS}×${32 * COLUMNS}`;
    const name = `${on === fast ? "fast " : ""}${kind} ${M}×${N}×${K} ${tile} ×${BUFFERS} ${probe ?? ""}`;
    return { name, machine: on, matrices, shape, kind, probe: probe && PROBES[probe] };
  };
  const variants = software ? [of(base), of(base, { probe: "no stores" })] : [
    of(base),
    of(shape(2, 2, 2, 2, 2)),
    of(shape(4, 2, 1, 2, 2)),
    of(shape(4, 4, 1, 1, 2)),
    of(shape(2, 4, 2, 1, 1)),
    of(shape(4, 2, 2, 2, 1)),
    of(shape(2, 4, 2, 2, 1)),
    of(shape(2, 2, 2, 1, 2)),
    of(shape(2, 2, 1, 1, 2)),
    of(base, { matrices: { ...m, N: 8 } }),
    of(base, { kind: "dy w" }),
    of(base, { kind: "dyT x" }),
    ...(Object.keys(PROBES) as (keyof typeof PROBES)[]).map((probe) => of(base, { probe })),
    of(base, { machine: fast }),
    of(shape(2, 2, 2, 2, 2), { machine: fast }),
  ];
  const A = randomArray([EDGE, EDGE], 1), B = randomArray([EDGE, EDGE], 2);
  const operands = new Map<WebgpuMachine, [Operand, Operand, Store]>();
  for (const one of [machine, fast]) {
    const scope = one.device.scope(); // until the process ends
    operands.set(one, [
      operandOf(scope, scope.upload(A), EDGE, EDGE),
      operandOf(scope, scope.upload(B), EDGE, EDGE),
      scope.allocate([EDGE, EDGE]),
    ]);
  }
  // All are compiled and checked first: while the host compiles, the card lowers its clock.
  const ready: { variant: Variant; run: () => void; times: number[]; note: string }[] = [];
  for (const variant of variants) {
    const { machine: { device }, matrices, shape, kind, probe } = variant;
    const [left, right, result] = operands.get(variant.machine)!;
    const { multiply: whole } = shaders.product;
    const shader = probe ? { ...whole, code: probe(whole.code) as typeof whole.code } : whole;
    const leftByTerms = kind === "dyT x", rightByTerms = kind !== "x wT";
    const sizes = { rows: EDGE, columns: EDGE, terms: EDGE };
    const product = { left, right, leftByTerms, rightByTerms, ...sizes, result, shape };
    const run = () => multiply(device, matrices, product, shader);
    try {
      device.clear(result);
      const start = performance.now();
      run();
      const actual = new Float32Array(result.length);
      await device.read(result, actual);
      const compiled = performance.now() - start;
      let error = 0, norm = 0;
      for (let i = 0; i < 200; i++) {
        const row = i * 7919 % EDGE, column = i * 104729 % EDGE;
        let sum = 0;
        for (let k = 0; k < EDGE; k++) {
          sum += A[leftByTerms ? k * EDGE + row : row * EDGE + k] *
            B[rightByTerms ? k * EDGE + column : column * EDGE + k];
        }
        error += (actual[row * EDGE + column] - sum) ** 2;
        norm += sum ** 2;
      }
      const note = `error ${Math.sqrt(error / norm).toExponential(1)}, first ${compiled.toFixed(0)} ms`;
      ready.push({ variant, run, times: [], note });
    } catch (error) {
      console.log(`${variant.name}: ${(error as Error).message.slice(0, 300)}`);
    }
  }
  console.log(`compiled after ${((performance.now() - began) / 1000).toFixed(1)} s`);
  await warm(machine.device, ready[0].run);
  for (let round = 0; round < (software ? 1 : 8) && performance.now() - began < 30_000; round++) {
    for (const { variant: { machine: { device } }, run, times } of ready) {
      run();
      times.push(
        await device.time(() => {
          run();
          run();
        }) / 2,
      );
    }
  }
  for (const { variant: { name }, times, note } of ready) {
    const ms = Math.min(...times), rate = (2 * EDGE ** 3 / ms / 1e9).toFixed(0);
    console.log(
      `${name.padEnd(56)} ${ms.toFixed(3)} ms (median ${median(times).toFixed(3)}) ${
        rate.padStart(4)
      } TFLOP/s  ${note}`,
    );
  }
  console.log(
    `clock ${(await slowness(machine.device)).toFixed(2)}, after ${
      ((performance.now() - began) / 1000).toFixed(1)
    } s`,
  );
  // The models that follow take the best of what is right.
  const right = ready.filter(({ variant }) =>
    variant.probe === undefined && variant.machine === machine && variant.kind === "x wT" &&
    variant.matrices === m
  );
  const best = right.reduce((a, b) => Math.min(...a.times) <= Math.min(...b.times) ? a : b).variant;
  if (!software) SHAPES[16].unshift(best.shape);
  console.log(`from here on: ${best.name}`);
  fast.dispose();
}

/** Work until a chain of fmas takes no less time than before, for 4 s at most. */
async function warm(device: Device, run: () => void): Promise<void> {
  if (software) return;
  let steady = 0, before = Infinity;
  for (const start = performance.now(); steady < 4 && performance.now() - start < 4000;) {
    for (let i = 0; i < 20; i++) run();
    const now = await slowness(device);
    steady = now > 0.98 * before && now < 1.03 ? steady + 1 : 0;
    before = now;
  }
}

// --------------------------------------------------------------------------------------------------- products

async function products(): Promise<void> {
  const backend = new Backend(machine), { device, operations } = machine;
  const sizes = software ? [[128, 128, 128, "f32"]] as const : [
    [4096, 4096, 4096, "f32"],
    [2048, 4096, 4096, "bf16"],
    [2048, 4096, 11008, "bf16"],
    [2048, 11008, 4096, "bf16"],
    [512, 4096, 4096, "bf16"],
    [128, 4096, 4096, "bf16"],
    [8192, 1024, 4096, "f32"],
    [8192, 1024, 1024, "f32"],
    [8192, 2816, 1024, "f32"],
    [8192, 1024, 50272, "f32"],
  ] as const;
  for (const [rows, inDim, outDim, dtype] of sizes) {
    const tensor = (shape: number[], dtype: "f32" | "bf16" = "f32") => filled(backend, shape, dtype);
    using x = tensor([rows, inDim]), weight = tensor([outDim, inDim], dtype), output = tensor([rows, outDim]);
    using dx = backend.empty([rows, inDim]), dWeight = backend.zeros([outDim, inDim]);
    const call = { x, weight, rows, inDim, outDim, bias: undefined, residual: undefined };
    const flops = 2 * rows * inDim * outDim, cells: string[] = [];
    const row = async (what: string, flops: number, run: () => void) => {
      const [ms, clock] = await timed(device, run, 5);
      const parts = await device.profile(run), byKind = new Map<string, number>();
      for (const { shader, milliseconds } of parts) {
        byKind.set(shader.entryPoint, (byKind.get(shader.entryPoint) ?? 0) + milliseconds);
      }
      cells.push(
        `  ${what} ${ms.toFixed(3)} ms ${(flops / ms / 1e9).toFixed(0)} TFLOP/s clock ${clock} (${
          [...byKind].map(([name, ms]) => `${name} ${ms.toFixed(3)}`).join(", ")
        })`,
      );
    };
    await row("linear", flops, () => operations.linear({ ...call, output }));
    if (dtype === "f32") {
      await row(
        "dx and dW",
        2 * flops,
        () => operations.linearBackward({ ...call, dy: output, dx, dWeight }),
      );
    }
    console.log(`${rows} × ${inDim} → ${outDim} ${dtype}\n${cells.join("\n")}`);
  }
}

/** Errors of a product and of its gradients, for a gradient that is noise too, at random places. */
async function errorsOf(
  backend: Backend,
  call: Pick<LinearCall, "x" | "weight" | "rows" | "inDim" | "outDim" | "residual">,
): Promise<string> {
  const { x, weight, rows, inDim, outDim } = call, { operations } = machine;
  using y = backend.zeros([rows, outDim]),
    dx = backend.zeros([rows, inDim]),
    dWeight = backend.zeros([outDim, inDim]);
  using dy = filled(backend, [rows, outDim], "f32", 12345);
  operations.linear({ ...call, bias: undefined, output: y });
  operations.linearBackward({ ...call, residual: undefined, dy, dx, dWeight });
  const [X, W, DY, Y, DX, DW] = await Promise.all(
    [x, weight, dy, y, dx, dWeight].map((tensor) => tensor.data()),
  );
  const relative = (
    count: number,
    width: number,
    actual: Float32Array,
    sum: (row: number, column: number) => number,
  ) => {
    let error = 0, norm = 0;
    for (let i = 0; i < 300; i++) {
      const row = i * 7919 % count, column = i * 104729 % width, expected = sum(row, column);
      error += (actual[row * width + column] - expected) ** 2;
      norm += expected ** 2;
    }
    return Math.sqrt(error / norm).toExponential(1);
  };
  const sum = (count: number, term: (i: number) => number) => {
    let total = 0;
    for (let i = 0; i < count; i++) total += term(i);
    return total;
  };
  return [
    `y ${relative(rows, outDim, Y, (r, o) => sum(inDim, (i) => X[r * inDim + i] * W[o * inDim + i]))}`,
    `dx ${relative(rows, inDim, DX, (r, i) => sum(outDim, (o) => DY[r * outDim + o] * W[o * inDim + i]))}`,
    `dW ${relative(outDim, inDim, DW, (o, i) => sum(rows, (r) => DY[r * outDim + o] * X[r * inDim + i]))}`,
  ].join(", ");
}

/** Errors of the products of a large layer, of all shapes of operands. */
async function check(): Promise<void> {
  const backend = new Backend(machine),
    [rows, inDim, outDim] = software ? [130, 72, 136] : [8192, 1024, 4096];
  using x = filled(backend, [rows, inDim], "f32"), weight = filled(backend, [outDim, inDim], "f32", 4321);
  const errors = await errorsOf(backend, { x, weight, rows, inDim, outDim, residual: undefined });
  console.log(`errors at ${rows} × ${inDim} → ${outDim}: ${errors}`);
}

const NOISE = randomArray([2 ** 22], 1).map((x) => x / 32), BITS = toBfloat16s(NOISE);

function filled(backend: Backend, shape: readonly number[], dtype: "f32" | "bf16", offset = 0): Tensor {
  const tensor = backend.empty(shape, dtype), source = dtype === "f32" ? NOISE : BITS;
  for (let start = 0; start < tensor.size;) {
    const from = start === 0 ? 2 * offset % source.length : 0;
    const part = source.subarray(from, Math.min(source.length, from + tensor.size - start));
    backend.write(tensor, part, start);
    start += part.length;
  }
  return tensor;
}

// ------------------------------------------------------------------------------------------- prefill and training

/** The host's calls that may take long. */
const calls = {
  found: new Map<string, [number, number]>(),
  reset() {
    this.found.clear();
  },
  toString() {
    return [...this.found].map(([name, [count, ms]]) => `${name} ${count}: ${ms.toFixed(1)} ms`).join(", ");
  },
};
for (
  const [type, name] of [
    ["GPUDevice", "createBuffer"],
    ["GPUDevice", "createComputePipeline"],
    ["GPUDevice", "createBindGroup"],
    ["GPUBuffer", "destroy"],
    ["GPUQueue", "submit"],
    ["GPUQueue", "writeBuffer"],
    ["GPUCommandEncoder", "finish"],
  ]
) {
  // deno-lint-ignore no-explicit-any
  const { prototype } = (globalThis as any)[type], original = prototype[name];
  prototype[name] = function (...args: unknown[]) {
    const start = performance.now();
    try {
      return original.apply(this, args);
    } finally {
      const [count, ms] = calls.found.get(name) ?? [0, 0];
      calls.found.set(name, [count + 1, ms + performance.now() - start]);
    }
  };
}

async function prefill(name: PublishedName): Promise<void> {
  const backend = new Backend(machine),
    config = parseConfig({ model_type: "transnormer", ...PUBLISHED[name] });
  const parameters: Tensor[] = [];
  const weights = mapWeights(config, true, (_, shape) => {
    const flat = shape.length === 3 ? [shape[0], shape[2]] : shape;
    const tensor = filled(backend, flat, shape.length === 2 ? "bf16" : "f32", 1000 * parameters.length);
    parameters.push(tensor);
    return tensor;
  });
  using model = new TransNormerLLM(backend, {
    config,
    weights,
    parameters,
    tokenizer: undefined,
    fingerprint: name,
  });
  const count = software ? 100 : 2048;
  const ids = Uint32Array.from({ length: count }, (_, i) => i * 7919 % config.vocabSize),
    times: number[] = [];
  for (
    let i = 0, began = performance.now();
    i < (software ? 1 : 6) && performance.now() - began < 8000;
    i++
  ) {
    using session = model.session();
    calls.reset();
    const start = performance.now();
    using logits = session.prefill(ids);
    const recorded = performance.now() - start;
    const read = await logits.data();
    assert(Number.isFinite(read[7]), "logits are no numbers");
    times.push(performance.now() - start);
    const clock = await slowness(machine.device);
    console.log(
      `  ${times[i].toFixed(1)} ms, recorded in ${recorded.toFixed(1)}; clock ${clock.toFixed(2)}; ${calls}`,
    );
  }
  console.log(
    `${name} prefill of ${count}: ${times.map((ms) => ms.toFixed(1)).join(" ")} ms, ${
      (count / median(times) * 1000).toFixed(0)
    } tokens/s`,
  );
  const timed = await machine.device.profile(() => {
    using session = model.session();
    session.prefill(ids).dispose();
  });
  tell(timed, 8);
}

/** Prints where the time of dispatches went. */
function tell(timed: readonly TimedDispatch[], most: number): void {
  const kinds = new Map<string, [number, number]>();
  for (const { shader, values, milliseconds } of timed) {
    const { rows, columns, allSteps } = values as Record<string, number>;
    const isProduct = shader.entryPoint === "multiply" && allSteps !== undefined;
    const kind = isProduct
      ? `product ${rows}×${32 * allSteps}×${4 * columns}`
      : `${shader.entryPoint}(${Object.keys(shader.bindings).join(" ")})`;
    const [ms, n] = kinds.get(kind) ?? [0, 0];
    kinds.set(kind, [ms + milliseconds, n + 1]);
  }
  const sum = timed.reduce((sum, { milliseconds }) => sum + milliseconds, 0);
  console.log(`  ${timed.length} dispatches, one by one ${sum.toFixed(1)} ms`);
  for (const [kind, [ms, n]] of [...kinds].sort((a, b) => b[1][0] - a[1][0]).slice(0, most)) {
    console.log(`  ${ms.toFixed(2)} ms in ${n}: ${kind}`);
  }
}

async function trainSteps(name: string): Promise<void> {
  const backend = new Backend(machine);
  const config = Object.hasOwn(PUBLISHED, name)
    ? { ...PUBLISHED[name as PublishedName] }
    : configByName(name);
  const tokens = software ? 256 : 8192,
    lengths = software ? [128] : [1024, 8192],
    options = { mixer: lightningMixer, recompute: false };
  using steps = new TrainingSteps(backend, config, tokens, options);
  for (const length of lengths) {
    const times: number[] = [];
    for (
      let i = 0, began = performance.now();
      i < (software ? 1 : 7) && performance.now() - began < 6000;
      i++
    ) {
      calls.reset();
      const start = performance.now();
      using squares = await steps.enqueue(length);
      const recorded = performance.now() - start;
      await squares.data();
      times.push(performance.now() - start);
      const clock = await slowness(machine.device);
      console.log(
        `  ${times[i].toFixed(1)} ms, recorded in ${recorded.toFixed(1)}; clock ${
          clock.toFixed(2)
        }; ${calls}`,
      );
    }
    const speed = (ms: number) => (tokens / ms * 1000).toFixed(0);
    console.log(
      `${name} training, sequences of ${length}: ${speed(median(times))} tokens/s, best ${
        speed(Math.min(...times))
      }`,
    );
  }
  const timed = await machine.device.profile(async () => (await steps.enqueue(lengths[0])).dispose());
  tell(timed, 14);
}

/**
 * Loss curves of three seeds in f32 and in f16, in Dawn both; as JSON, a line per run. A run begins while there is time for
 * it: `seconds=<n>`, 72 by default.
 */
async function curves(config: string): Promise<void> {
  const data = setting("data") ?? "sotu",
    seconds = Number(setting("seconds") ?? 72),
    began = performance.now();
  const steps = Number(setting("steps") ?? 700),
    size = software ? { seqLen: 64, batch: 2 } : { seqLen: 1024, batch: 8 };
  const backends = { f32: new Backend(await machineOf(gpu, "f32")), f16: new Backend(machine) };
  const lasted = { f32: 0, f16: 0 };
  const run = async (precision: "f32" | "f16", seed: number, steps: number) => {
    const out = await Deno.makeTempDir(), losses: number[] = [], backend = backends[precision];
    const { evaluation } = await train({
      ...{ data: [data], out, config, steps, seed, ...size, learningRate: 0.002, backend },
      ...{ logEvery: 50, saveEvery: steps, evaluateEvery: steps, keep: 1 },
      onStep: ({ loss }) => losses.push(loss),
    });
    await Deno.remove(out, { recursive: true });
    return { losses, heldOutLoss: evaluation?.heldOutLoss };
  };
  for (const precision of ["f32", "f16"] as const) await run(precision, 1, 2); // compiles
  console.log(`compiled after ${((performance.now() - began) / 1000).toFixed(1)} s`);
  for (
    const [precision, seed] of [["f32", 1], ["f16", 1], ["f32", 2], ["f32", 3], ["f16", 2], [
      "f16",
      3,
    ]] as const
  ) {
    const start = performance.now();
    if ((start - began + lasted[precision]) / 1000 > seconds) continue;
    const { losses, heldOutLoss } = await run(precision, seed, steps), last = losses.slice(-50);
    lasted[precision] = performance.now() - start;
    console.log(JSON.stringify({
      ...{ config, ...size, precision, seed, steps, heldOutLoss },
      lossOfLast50: last.reduce((sum, loss) => sum + loss, 0) / last.length,
      seconds: Number((lasted[precision] / 1000).toFixed(1)),
      every10: losses.filter((_, i) => i % 10 === 0).map((loss) => Number(loss.toFixed(4))),
    }));
  }
}

/** `name=value` of the command line. */
function setting(name: string): string | undefined {
  return Deno.args.find((argument) => argument.startsWith(`${name}=`))?.slice(name.length + 1);
}

for (const what of wanted.filter((argument) => !argument.includes("="))) {
  const [task, name] = what.split(":");
  if (task === "tune") await tuneAll();
  else if (task === "check") await check();
  else if (task === "products") await products();
  else if (task === "prefill") await prefill(name as PublishedName);
  else if (task === "train") await trainSteps(name);
  else if (task === "curves") await curves(name);
  else throw new Error(`no such task: ${what}`);
}
Deno.exit(); // Dawn keeps the process
