/**
 * Where the time of a training step goes on a GPU: its dispatches by the device's own clock, and the host's part.
 *
 * @module
 */
import type { Device, TimedDispatch } from "../../gpu/device.ts";
import { gradients } from "../../gpu/gradients.ts";
import { createMachine, type WebgpuMachine } from "../../gpu/machine.ts";
import type { Shader } from "../../gpu/shader.ts";
import * as shaders from "../../gpu/shaders.ts";
import * as unitShaders from "../../gpu/units/shaders.ts";
import { Backend } from "../../core/tensor.ts";
import { median } from "./timing.ts";
import type { TrainingSteps } from "./training.ts";

/** Steps whose medians are told. */
const STEPS = 5;

/** `file.entryPoint` of every kernel of the library. */
const NAMES = new Map(
  Object.entries({ ...shaders, ...unitShaders }).flatMap(([file, module]) =>
    Object.entries(module as Record<string, unknown>).map((
      [entry, shader],
    ) => [shader as Shader, `${file}.${entry}`])
  ),
);

/** A backend on the GPU, and the machine that it is of. */
export async function gpuBackend(): Promise<{ backend: Backend; machine: WebgpuMachine }> {
  const machine = await createMachine({}, "asked for by name", { gradients });
  return { backend: new Backend(machine), machine };
}

/** Dispatches of one kind. */
interface Kind {
  readonly name: string;
  count: number;
  milliseconds: number;
  operations: number;
  bytes: number;
}

/** Prints where a step's time goes: its host's part, its dispatches by kernel, and products by their shapes. */
export async function profileStep(device: Device, steps: TrainingSteps, seqLen: number): Promise<void> {
  await steps.warmUp(seqLen);
  const calls = watched();
  const host: number[] = [], whole: number[] = [], found: ReturnType<typeof calls.take>[] = [];
  for (let i = 0; i < STEPS; i++) {
    calls.take();
    const start = performance.now();
    using squares = await steps.enqueue(seqLen);
    host.push(performance.now() - start);
    await squares.data();
    whole.push(performance.now() - start);
    found.push(calls.take());
  }
  calls.end();
  const milliseconds = median(whole), last = found.at(-1)!;
  console.log(
    `\n${steps.tokens / seqLen} × ${seqLen}: a step takes ${milliseconds.toFixed(1)} ms, ` +
      `${Math.round(1000 * steps.tokens / milliseconds)} tokens/s; recorded by the host in ${
        median(host).toFixed(1)
      } ms`,
  );
  for (const [name, { count, milliseconds }] of Object.entries(last)) {
    console.log(`  ${name}: ${count} calls, ${milliseconds.toFixed(1)} ms`);
  }
  const step = async () => (await steps.enqueue(seqLen)).dispose();
  const total = await device.time(step), timed = await device.profile(step);
  const sum = timed.reduce((sum, { milliseconds }) => sum + milliseconds, 0);
  const gib = (bytes: number) => (bytes / 2 ** 30).toFixed(2);
  const most = Math.max(...timed.map(({ bytesInUse }) => bytesInUse));
  const told = steps.memory(seqLen);
  console.log(
    `  memory: ${gib(most)} GiB in use at most, scratch included (told: ${gib(told.parameters)} + ` +
      `${gib(told.activations)}), ${gib(device.bytesInUse)} between steps; buffers: ${
        gib(device.bytesReserved)
      }`,
  );
  console.log(
    `  on the device ${total.toFixed(1)} ms; its ${timed.length} dispatches one by one ${
      sum.toFixed(1)
    } ms\n`,
  );
  table(kinds(timed, nameOf), sum);
  table(
    kinds(timed.filter((one) => productOf(one) !== undefined), ({ shader, ...one }) => {
      const [rows, inDim, outDim] = productOf({ shader, ...one })!;
      return `${NAMES.get(shader)} ${rows} × ${inDim} → ${outDim}`;
    }),
    sum,
  );
}

/** A kernel's name; sums over all elements apart from those of columns. */
function nameOf({ shader, values }: TimedDispatch): string {
  const name = NAMES.get(shader) ?? shader.entryPoint;
  return shader === shaders.sums.main && values.width === 1 ? `${name}, one column` : name;
}

/** rows, inDim and outDim of a matrix product; undefined of other kernels. */
function productOf({ shader, values }: TimedDispatch): [number, number, number] | undefined {
  const { rows, inVectors, outCount, inDim, terms } = values as Record<string, number>;
  if (shader === unitShaders.product.multiply) {
    const { columns, allSteps } = values as Record<string, number>;
    return [rows, unitShaders.product.constants.EDGE * allSteps, 4 * columns];
  }
  if (
    shader === shaders.linear.tiled || shader === shaders.fewRows.tiles || shader === shaders.fewRows.teams
  ) {
    return [rows, 4 * inVectors, outCount];
  }
  if (shader === shaders.linearBackward.input) return [rows, terms, 4 * inVectors];
  if (shader === shaders.linearBackward.weights) return [rows, inDim, outCount];
}

function kinds(timed: readonly TimedDispatch[], nameOf: (one: TimedDispatch) => string): Kind[] {
  const found = new Map<string, Kind>();
  for (const one of timed) {
    const name = nameOf(one), [rows, inDim, outDim] = productOf(one) ?? [0, 0, 0];
    let kind = found.get(name);
    if (kind === undefined) {
      found.set(name, kind = { name, count: 0, milliseconds: 0, operations: 0, bytes: 0 });
    }
    kind.count++;
    kind.milliseconds += one.milliseconds;
    kind.operations += 2 * rows * inDim * outDim;
    kind.bytes += one.bytes;
  }
  return [...found.values()].sort((a, b) => b.milliseconds - a.milliseconds);
}

function table(kinds: readonly Kind[], sum: number): void {
  console.log("| kernel | dispatches | ms | share | TFLOP/s | GB/s bound |\n|---|---:|---:|---:|---:|---:|");
  for (const { name, count, milliseconds, operations, bytes } of kinds) {
    const rate = operations === 0 ? "" : (operations / milliseconds / 1e9).toFixed(1);
    const cells = [name, count, milliseconds.toFixed(2), `${(100 * milliseconds / sum).toFixed(1)} %`, rate];
    console.log(`| ${[...cells, (bytes / milliseconds / 1e6).toFixed(0)].join(" | ")} |`);
  }
  console.log();
}

/** Counts and times the host's longer calls, from here to `end`. */
function watched() {
  const found: Record<string, { count: number; milliseconds: number }> = {};
  // deno-lint-ignore no-explicit-any
  const watch = (prototype: any, name: string) => {
    const original = prototype[name];
    prototype[name] = function (...args: unknown[]) {
      const start = performance.now();
      try {
        return original.apply(this, args);
      } finally {
        const entry = found[name] ??= { count: 0, milliseconds: 0 };
        entry.count++;
        entry.milliseconds += performance.now() - start;
      }
    };
    return () => prototype[name] = original;
  };
  const ends = [
    watch(GPUDevice.prototype, "createBuffer"),
    watch(GPUDevice.prototype, "createBindGroup"),
    watch(GPUBuffer.prototype, "destroy"),
    watch(GPUQueue.prototype, "submit"),
    watch(GPUQueue.prototype, "writeBuffer"),
  ];
  return {
    /** What was called since the last time. */
    take(): Record<string, { count: number; milliseconds: number }> {
      const taken = { ...found };
      for (const name of Object.keys(found)) delete found[name];
      return taken;
    },
    end: () => ends.forEach((end) => end()),
  };
}
