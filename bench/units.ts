/**
 * Times products, prefill and training on the matrix units of Dawn, by the device's own clock:
 *
 *     deno run -A bench/units.ts [<dawn.node>] [tune] [products] [prefill:<size>] [train:<size>]
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
import type { Tensor } from "../mod.ts";
import { dawnPackage, FEATURES } from "../cli/dawn.ts";
import { parseConfig } from "../model/config.ts";
import { TransNormerLLM } from "../model/mod.ts";
import { mapWeights } from "../model/weights.ts";
import { randomArray } from "../tests/numbers.ts";
import { lightningMixer } from "../train/backward.ts";
import { configByName } from "../train/configs.ts";
import { PUBLISHED, type PublishedName } from "./measure/checkpoints.ts";
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

/** A chain of dependent fmas: its time is the clock's, whatever the memory does. */
const CHAIN = {
  code: `
    @group(0) @binding(0) var<storage, read_write> z: array<f32>;
    @compute @workgroup_size(1) fn main() {
      var a = z[0];
      for (var i = 0u; i < 4096u; i++) { ${"a = fma(a, 0.999, 0.001);".repeat(16)} }
      z[0] = a;
    }`,
  entryPoint: "main",
  threads: 1,
  overrides: [],
  aliases: [],
  bindings: { z: [0, "read_write"] },
  parameters: {},
} as const;

let fastest = Infinity;
async function clockOf(device: Device): Promise<number> {
  const z = device.upload(new Float32Array(4));
  const ms = await device.time(() =>
    device.dispatch(device.kernel(CHAIN, { access: { z: "update" } }), { z }, {}, 1)
  );
  device.release(z);
  fastest = Math.min(fastest, ms);
  return ms / fastest;
}

/** Milliseconds of a run, median; and how slow the clock was, before and after. */
async function timed(device: Device, run: () => void, runs = software ? 1 : 9): Promise<[number, string]> {
  for (let i = 0; i < (software ? 0 : 4); i++) run();
  await device.time(() => {});
  const before = await clockOf(device);
  const times: number[] = [];
  for (let i = 0; i < runs; i++) {
    if (!software) run();
    times.push(await device.time(run));
  }
  return [median(times), `${before.toFixed(2)} ${(await clockOf(device)).toFixed(2)}`];
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
    `clock ${(await clockOf(machine.device)).toFixed(2)}, after ${
      ((performance.now() - began) / 1000).toFixed(1)
    } s`,
  );
  // The models that follow take the best of what is right.
  const right = ready.filter(({ variant }) =>
    variant.probe === undefined && variant.machine === machine && variant.kind === "x wT" &&
    variant.matrices === m
  );
  const best = right.reduce((a, b) => Math.min(...a.times) <= Math.min(...b.times) ? a : b).variant;
  if (!software) Object.assign(SHAPES[16].wide, best.shape);
  console.log(`from here on: ${best.name}`);
  fast.dispose();
}

/** Work until a chain of fmas takes no less time than before, for 4 s at most. */
async function warm(device: Device, run: () => void): Promise<void> {
  if (software) return;
  let steady = 0, before = Infinity;
  for (const start = performance.now(); steady < 4 && performance.now() - start < 4000;) {
    for (let i = 0; i < 20; i++) run();
    const now = await clockOf(device);
    steady = now > 0.98 * before && now < 1.03 ? steady + 1 : 0;
    before = now;
  }
}

// --------------------------------------------------------------------------------------------------- products

async function products(): Promise<void> {
  const backend = new Backend(machine), { device, operations } = machine;
  const sizes = software ? [[128, 128, 128, "bf16"]] as const : [
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
    const clock = await clockOf(machine.device);
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

async function train(name: string): Promise<void> {
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
      const clock = await clockOf(machine.device);
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

for (const what of wanted) {
  const [task, name] = what.split(":");
  if (task === "tune") await tuneAll();
  else if (task === "products") await products();
  else if (task === "prefill") await prefill(name as PublishedName);
  else if (task === "train") await train(name);
  else throw new Error(`no such task: ${what}`);
}
Deno.exit(); // Dawn keeps the process
