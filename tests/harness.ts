/**
 * What all tests share: one body per operation, run on every backend; and all of `numbers.ts`.
 *
 * @module
 */
import assert from "node:assert/strict";
import { type Backend, type BackendOptions, createBackend, type Tensor } from "../mod.ts";
import { randomArray, type Scope } from "./numbers.ts";
import { MAY_LEAVE_OUT } from "./setup.ts";

export * from "./numbers.ts";

const wanted = Deno.env.get("LEVIN_BACKENDS")?.split(",");

/**
 * The backends under test. `LEVIN_BACKENDS` limits them, for example `LEVIN_BACKENDS=webgpu`. WebGPU is asked for by
 * name: whatever keeps it from working fails the tests. `webgpu-f16`, Dawn's matrix units, must be named: `units_test.ts`
 * does so where there are some.
 */
const BACKENDS: Record<string, BackendOptions> = {
  "wasm": { prefer: "wasm" },
  "wasm-baseline": { prefer: "wasm", baseline: true },
  "webgpu": { prefer: "webgpu" },
  "wasm-threads": { prefer: "wasm", threads: 3 },
};
if (wanted?.includes("webgpu-f16")) {
  const { dawn } = await import("../cli/dawn.ts");
  BACKENDS["webgpu-f16"] = { prefer: "webgpu", precision: "f16", gpu: await dawn() };
}

const adapter = await navigator.gpu?.requestAdapter();

/** Whether tests on WebGPU are skipped, as there is no adapter; `setup.ts` says so aloud, and fails with `CI=true`. */
export const WITHOUT_WEBGPU: boolean = MAY_LEAVE_OUT && !adapter;

/** Whether WebGPU computes on the CPU here. */
export const SOFTWARE: boolean = adapter?.info.isFallbackAdapter ?? false;

/**
 * Calls in a test that memory does not grow. Mesa's software driver keeps half a megabyte of the process for every
 * dispatch until its device ends, so it gets fewer.
 */
export function manyCalls(name: "webgpu" | "wasm"): number {
  return name === "webgpu" && SOFTWARE ? 1000 : 10_000;
}

/** Registers the body as one test per backend. Every tensor that a test leaves behind fails it. */
export function eachBackend(
  name: string,
  body: (backend: Backend) => void | Promise<void>,
): void {
  for (const id of wanted ?? Object.keys(BACKENDS)) {
    assert(
      id in BACKENDS,
      `LEVIN_BACKENDS must name some of ${Object.keys(BACKENDS)}: current value is ${id}`,
    );
    Deno.test({
      name: `${name} (${id})`,
      ignore: id === "webgpu" && WITHOUT_WEBGPU,
      fn: async () => {
        using backend = await createBackend(BACKENDS[id]);
        await body(backend);
        assert.equal(backend.bytesInUse, 0, "the test or the operation left tensors undisposed");
      },
    });
  }
}

/**
 * What the error of a product may be: `limit` in f32. Matrix units round both operands to f16, each to 2^-11 √(1/6) RMS of
 * its elements: 2.8e-4 together, where there are many. Of a few, each may be off by 2^-11.
 */
export function limitOn({ info }: Backend, limit: number, many = false): number {
  return info.units === "f32" ? limit : Math.max(limit, many ? 4e-4 : 1e-3);
}

/** Makes a memory of `size` elements that later results will land in hold NaN, so that unwritten elements show. */
export function poison(backend: Backend, ...shapes: (readonly number[])[]): void {
  const tensors = shapes.map((shape) => {
    const size = shape.reduce((product, n) => product * n, 1);
    return backend.tensor(new Float32Array(size).fill(NaN), shape);
  });
  for (const tensor of tensors) tensor.dispose();
}

/** A tensor of seeded numbers in [−factor, factor), and the numbers themselves. */
export function upload(
  scope: Scope,
  backend: Backend,
  shape: readonly number[],
  seed: number,
  factor = 1,
): [Float32Array, Tensor] {
  const data = randomArray(shape, seed).map((value) => factor * value);
  return [data, scope.keep(backend.tensor(data, shape))];
}
