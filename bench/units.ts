/**
 * Times products, prefill and training on the matrix units of Dawn, by the device's own clock:
 *
 *     deno run -A bench/units.ts <dawn.node> [tune] [products] [prefill:<size>] [train:<size>]
 *
 * `<dawn.node>` is the file for this system in npm's `webgpu`. `tune` goes through shapes of tiles at 4096³, operands rounded
 * before; `fast` in a row means that Dawn's bounds checks are off, `unrolled` that loops are written out. Results are held to
 * float64 at random places first. A chain of fmas at both ends of a row tells the card's clock: the figure after the times
 * is how much longer it took than the fastest seen.
 *
 * @module
 */
import assert from "node:assert/strict";
import { createRequire } from "node:module";
import { resolve } from "node:path";
import { toBfloat16s } from "../core/bfloat16.ts";
import { Backend } from "../core/tensor.ts";
import type { Device } from "../gpu/device.ts";
import { gradients } from "../gpu/gradients.ts";
import { createMachine, type WebgpuMachine } from "../gpu/machine.ts";
import { units } from "../gpu/units/mod.ts";
import { type Matrices, matricesOf } from "../gpu/units/matrices.ts";
import * as shaders from "../gpu/units/shaders.ts";
import { multiply, operandOf, shapeOf, type TileShape } from "../gpu/units/product.ts";
import type { GpuObject } from "../backend.ts";
import type { Tensor } from "../mod.ts";
import { parseConfig } from "../model/config.ts";
import { TransNormerLLM } from "../model/mod.ts";
import { mapWeights } from "../model/weights.ts";
import { randomArray } from "../tests/numbers.ts";
import { lightningMixer } from "../train/backward.ts";
import { configByName } from "../train/configs.ts";
import { PUBLISHED, type PublishedName } from "./measure/checkpoints.ts";
import { profileStep } from "./measure/profile.ts";
import { median } from "./measure/timing.ts";
import { trainingSpeed, TrainingSteps } from "./measure/training.ts";

const [file, ...wanted] = Deno.args;
assert(file !== undefined, "name dawn.node");
const { create, globals } = createRequire(import.meta.url)(resolve(file)) as {
  create(options: string[]): GpuObject;
  globals: object;
};
Object.assign(globalThis, globals);

const UNSAFE = "enable-dawn-features=allow_unsafe_apis,vulkan_enable_f16_on_nvidia";
const gpuOf = (more: string) =>
  create(["backend=vulkan", UNSAFE + more, "disable-dawn-features=timestamp_quantization"]);
const gpu = gpuOf("");
const adapter = await gpu.requestAdapter() as GPUAdapter;
assert(adapter !== null, "no adapter");
const matrices = matricesOf(adapter);
for (
  const { componentType, resultComponentType, M, N, K }
    of (adapter.info as unknown as { subgroupMatrixConfigs: Matrices[] & any }).subgroupMatrixConfigs
) {
  console.log(`grants ${componentType} → ${resultComponentType} ${M}×${N}×${K}`);
}
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

type Kind = "x wT" | "dy w" | "dyT x";

/** The text with its short loops written out. */
function unroll(code: string, names: Record<string, number>): string {
  const value = (text: string) =>
    Math.floor(
      Number(new Function(`return ${
        text.replace(/\b[A-Za-z]\w*\b/g, (name) => String(names[name] ?? NaN)).replace(/(\d)u\b/g, "$1")
      }`)()),
    );
  const loop = /for \(var (\w+) = 0u; \1 < ([^;]+); (\1\+\+|\1 \+= (\w+))\) \{/g;
  let out = "", last = 0;
  for (let match; (match = loop.exec(code)) !== null;) {
    const count = value(match[2]);
    if (!(count > 0 && count <= 128)) continue;
    let at = loop.lastIndex, open = 1;
    for (; open > 0; at++) open += code[at] === "{" ? 1 : code[at] === "}" ? -1 : 0;
    const body = code.slice(loop.lastIndex, at - 1), step = match[4] === undefined ? 1 : names[match[4]];
    out += code.slice(last, match.index);
    for (let i = 0; i < count; i += step) {
      out += `{ ${unroll(body.replace(new RegExp(`\\b${match[1]}\\b`, "g"), `${i}u`), names)} }\n`;
    }
    loop.lastIndex = last = at;
  }
  return out + code.slice(last);
}

const A = randomArray([EDGE, EDGE], 1), B = randomArray([EDGE, EDGE], 2);

async function tune(
  machine: WebgpuMachine,
  what: string,
  shape: TileShape,
  kind: Kind,
  { M, N, K, lanes }: Matrices,
  unrolled: boolean,
): Promise<void> {
  const { device } = machine;
  using scope = device.scope();
  const left = operandOf(scope, scope.upload(A), EDGE, EDGE),
    right = operandOf(scope, scope.upload(B), EDGE, EDGE);
  const result = scope.allocate([EDGE, EDGE]);
  device.clear(result);
  const leftByTerms = kind === "dyT x", rightByTerms = kind !== "x wT";
  const { DOWN, ACROSS, ROWS, COLUMNS, DEPTH, BUFFERS } = shape, THREADS = DOWN * ACROSS * lanes;
  const names = {
    M,
    N,
    K,
    ...shape,
    THREADS,
    EDGE: 32,
    LEFT_LOADS: DEPTH * DOWN * ROWS * 128 / THREADS,
    RIGHT_LOADS: DEPTH * ACROSS * COLUMNS * 128 / THREADS,
  };
  const { multiply: whole } = shaders.product;
  const shader = unrolled ? { ...whole, code: unroll(whole.code, names) as typeof whole.code } : whole;
  const run = () =>
    multiply(device, { M, N, K, lanes }, {
      left,
      right,
      leftByTerms,
      rightByTerms,
      rows: EDGE,
      columns: EDGE,
      terms: EDGE,
      result,
      shape,
    }, shader);
  const name = `${what} ${kind} ${M}×${N}×${K} ${DOWN * ROWS * 32}×${ACROSS * COLUMNS * 32}×${
    32 * DEPTH
  } parts ${32 * ROWS}×${32 * COLUMNS} buffers ${BUFFERS}${unrolled ? " unrolled" : ""}`;
  try {
    const start = performance.now();
    run();
    const actual = new Float32Array(await device.read(result)), compiled = performance.now() - start;
    let error = 0, norm = 0;
    for (let i = 0; i < 300; i++) {
      const row = i * 7919 % EDGE, column = i * 104729 % EDGE;
      let sum = 0;
      for (let k = 0; k < EDGE; k++) {
        sum += A[leftByTerms ? k * EDGE + row : row * EDGE + k] *
          B[rightByTerms ? k * EDGE + column : column * EDGE + k];
      }
      error += (actual[row * EDGE + column] - sum) ** 2;
      norm += sum ** 2;
    }
    const [ms, clock] = await timed(device, run);
    console.log(
      `${name.padEnd(66)} ${ms.toFixed(3)} ms ${
        (2 * EDGE ** 3 / ms / 1e9).toFixed(0).padStart(4)
      } TFLOP/s  error ${Math.sqrt(error / norm).toExponential(1)}  clock ${clock}  first ${
        compiled.toFixed(0)
      } ms`,
    );
  } catch (error) {
    console.log(`${name}: ${(error as Error).message.slice(0, 300)}`);
  }
}

async function tuneAll(): Promise<void> {
  const m = matrices as Matrices;
  const base = shapeOf(m, true);
  const configs = [
    ...(adapter.info as unknown as {
      subgroupMatrixConfigs: (Matrices & { componentType: string; resultComponentType: string })[];
    }).subgroupMatrixConfigs,
  ]
    .filter((c) => c.componentType === "f16" && c.resultComponentType === "f32").map(({ M, N, K }) => ({
      M,
      N,
      K,
      lanes: m.lanes,
    }));
  const shape = (
    DOWN: number,
    ACROSS: number,
    ROWS: number,
    COLUMNS: number,
    BUFFERS: number,
    DEPTH = 1,
  ): TileShape => ({ DOWN, ACROSS, ROWS, COLUMNS, BUFFERS, DEPTH });
  {
    const { device } = machine;
    using scope = device.scope();
    const x = scope.upload(A);
    const [ms, clock] = await timed(device, () => {
      using part = device.scope();
      operandOf(part, x, EDGE, EDGE);
    });
    console.log(
      `rounding ${EDGE}² ${ms.toFixed(3)} ms, ${(10 * EDGE ** 2 / ms / 1e9).toFixed(2)} TB/s  clock ${clock}`,
    );
  }
  await tune(machine, "", base, "x wT", m, false);
  await tune(machine, "", base, "x wT", m, true);
  await tune(machine, "", shape(2, 2, 2, 2, 2), "x wT", m, false);
  await tune(machine, "", shape(2, 2, 2, 2, 2), "x wT", m, true);
  await tune(machine, "", base, "dy w", m, false);
  await tune(machine, "", base, "dyT x", m, false);
  await tune(machine, "", shape(4, 2, 1, 2, 2), "x wT", m, false);
  await tune(machine, "", shape(4, 4, 1, 1, 2), "x wT", m, false);
  await tune(machine, "", shape(4, 4, 2, 1, 1), "x wT", m, false);
  await tune(machine, "", shape(2, 4, 4, 1, 1), "x wT", m, false);
  await tune(machine, "", shape(2, 4, 2, 2, 1), "x wT", m, false);
  await tune(machine, "", shape(2, 4, 2, 1, 1, 2), "x wT", m, false);
  await tune(machine, "", shape(2, 4, 2, 1, 1), "x wT", m, false);
  await tune(machine, "", shape(2, 2, 2, 1, 2), "x wT", m, false);
  await tune(machine, "", shape(2, 2, 1, 1, 2), "x wT", m, false);
  for (const config of configs) if (config.N !== m.N) await tune(machine, "", base, "x wT", config, false);
  const fast = await machineOf(gpuOf(",disable_robustness"));
  await tune(fast, "fast", base, "x wT", m, false);
  await tune(fast, "fast", base, "x wT", m, true);
  await tune(fast, "fast", shape(2, 2, 2, 2, 2), "x wT", m, false);
  fast.dispose();
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
  for (let i = 0; i < (software ? 1 : 6); i++) {
    using session = model.session();
    const start = performance.now();
    using logits = session.prefill(ids);
    const read = await logits.data();
    assert(Number.isFinite(read[7]), "logits are no numbers");
    times.push(performance.now() - start);
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
  const kinds = new Map<string, [number, number]>();
  for (const { shader: { entryPoint, bindings }, milliseconds } of timed) {
    const kind = `${entryPoint}(${Object.keys(bindings).join(" ")})`, [ms, n] = kinds.get(kind) ?? [0, 0];
    kinds.set(kind, [ms + milliseconds, n + 1]);
  }
  for (const [kind, [ms, n]] of [...kinds].sort((a, b) => b[1][0] - a[1][0]).slice(0, 8)) {
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
  const speeds = await trainingSpeed(backend, config, {
    tokens,
    lengths,
    repeats: software ? 1 : 3,
    ...options,
  });
  for (const { length, tokensPerSecond } of speeds) {
    console.log(`${name} training, sequences of ${length}: ${tokensPerSecond.toFixed(0)} tokens/s`);
  }
  using steps = new TrainingSteps(backend, config, tokens, options);
  await profileStep(machine.device, steps, lengths[0]);
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
