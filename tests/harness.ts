/**
 * What all tests share: one body per operation, run on every backend; error measures that fail on NaN; seeded inputs.
 *
 * @module
 */
import assert from "node:assert/strict";
import { type Backend, type BackendOptions, createBackend, Tensor } from "../mod.ts";
import { MAY_LEAVE_OUT } from "./setup.ts";

/**
 * The backends under test. `LEVIN_BACKENDS` limits them, for example `LEVIN_BACKENDS=webgpu`. WebGPU is asked for by
 * name: whatever keeps it from working fails the tests.
 */
const BACKENDS: Record<string, BackendOptions> = {
  "wasm": { prefer: "wasm" },
  "wasm-baseline": { prefer: "wasm", baseline: true },
  "webgpu": { prefer: "webgpu" },
  "wasm-threads": { prefer: "wasm", threads: 3 },
};

const adapter = await navigator.gpu?.requestAdapter();

/** Whether tests on WebGPU are left out, as there is no adapter; `setup.ts` says so aloud, and fails with `CI=true`. */
export const WITHOUT_WEBGPU: boolean = MAY_LEAVE_OUT && !adapter;

/**
 * Calls in a test that memory does not grow. Mesa's software driver keeps half a megabyte of the process for every
 * dispatch until its device ends, so it gets fewer.
 */
export function manyCalls(name: "webgpu" | "wasm"): number {
  return name === "webgpu" && adapter?.info.isFallbackAdapter ? 1000 : 10_000;
}

/** Registers the body as one test per backend. Every tensor that a test leaves behind fails it. */
export function eachBackend(
  name: string,
  body: (backend: Backend) => void | Promise<void>,
): void {
  const wanted = Deno.env.get("LEVIN_BACKENDS")?.split(",") ?? Object.keys(BACKENDS);
  for (const id of wanted) {
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

/** Makes a memory of `size` elements that later results will land in hold NaN, so that unwritten elements show. */
export function poison(backend: Backend, ...shapes: (readonly number[])[]): void {
  const tensors = shapes.map((shape) => {
    const size = shape.reduce((product, n) => product * n, 1);
    return backend.tensor(new Float32Array(size).fill(NaN), shape);
  });
  for (const tensor of tensors) tensor.dispose();
}

/** Expected values below this are as good as zero: errors are not held to be smaller than a share of it. */
const TINY = 1e-30;

/** Root-mean-square error over the root-mean-square of the expected values. */
export function relativeError(actual: ArrayLike<number>, expected: ArrayLike<number>): number {
  assert.equal(actual.length, expected.length, "numbers of elements differ");
  let error = 0, norm = 0;
  for (let i = 0; i < expected.length; i++) {
    error += (actual[i] - expected[i]) ** 2;
    norm += expected[i] ** 2;
  }
  return Math.sqrt(error) / Math.max(Math.sqrt(norm), TINY);
}

/**
 * Holds actual values to the expected ones: the RMS-relative error to `limit`, and the largest single error to ten
 * times that, in units of the largest expected value. NaN fails.
 */
export function assertClose(
  actual: ArrayLike<number>,
  expected: ArrayLike<number>,
  limit: number,
  what = "result",
): void {
  const relative = relativeError(actual, expected);
  if (!(relative <= limit)) assert.fail(`${what}: RMS-relative error ${relative} is not <= ${limit}`);
  let scale = 0, worst = 0, where = -1;
  for (let i = 0; i < expected.length; i++) {
    scale = Math.max(scale, Math.abs(expected[i]));
    const error = Math.abs(actual[i] - expected[i]);
    if (!(error <= worst)) [worst, where] = [error, i];
  }
  if (!(worst <= 10 * limit * Math.max(scale, TINY))) {
    assert.fail(
      `${what}: element ${where} is ${actual[where]}, expected ${expected[where]}: off by more than ${
        10 * limit
      } of ${scale}`,
    );
  }
}

/** Holds two results to the same bits. */
export function assertSameBits(actual: Float32Array, expected: Float32Array, what = "result"): void {
  assert.deepEqual(
    new Uint32Array(actual.buffer, actual.byteOffset, actual.length),
    new Uint32Array(expected.buffer, expected.byteOffset, expected.length),
    `${what}: bits differ`,
  );
}

/** Seeded uniform numbers in [0, 1): the same everywhere (mulberry32). */
export function seeded(seed: number): () => number {
  let a = seed >>> 0;
  return () => {
    a = (a + 0x6d2b79f5) >>> 0;
    let t = a;
    t = Math.imul(t ^ (t >>> 15), t | 1);
    t ^= t + Math.imul(t ^ (t >>> 7), t | 61);
    return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32;
  };
}

/** Seeded numbers in [−1, 1), as many as the shape holds. */
export function randomArray(shape: readonly number[], seed: number): Float32Array {
  const random = seeded(seed);
  return Float32Array.from({ length: shape.reduce((product, n) => product * n, 1) }, () => 2 * random() - 1);
}

/** Lengths around multiples of a block size: one below, the multiple itself, one above. */
export function edges(block: number, ...multiples: number[]): number[] {
  return multiples.flatMap((multiple) => [block * multiple - 1, block * multiple, block * multiple + 1]);
}

/** Lengths in ascending order, each once. */
export function ascending(...lengths: number[]): number[] {
  return [...new Set(lengths)].sort((a, b) => a - b);
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

/** Tensors that are disposed together, at the end of a `using` scope. */
export class Scope implements Disposable {
  #held: Tensor[] = [];
  /** Keeps one tensor, or every tensor of a record such as `{ output, state }`, and hands it on. */
  keep<T extends Tensor | { [K in keyof T]: Tensor }>(value: T): T {
    this.#held.push(...value instanceof Tensor ? [value] : Object.values(value) as Tensor[]);
    return value;
  }
  /** Disposes all that was kept. */
  [Symbol.dispose](): void {
    for (const tensor of this.#held.splice(0)) tensor.dispose();
  }
}
