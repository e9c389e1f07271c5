/**
 * Numbers: seeded inputs, error measures that fail on NaN, lengths around block sizes, tensors that go together. Needs no
 * permission, so that what measures can use it as what tests does.
 *
 * @module
 */
import assert from "node:assert/strict";
import { Tensor } from "../mod.ts";

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
  // Not by deepEqual, which takes gigabytes to tell how long arrays differ.
  assert.equal(actual.length, expected.length, `${what}: lengths differ`);
  const [found, wanted] = [actual, expected].map(({ buffer, byteOffset, length }) =>
    new Uint32Array(buffer, byteOffset, length)
  );
  const at = found.findIndex((bits, i) => bits !== wanted[i]);
  assert(at < 0, `${what}: bits differ from element ${at} on, ${actual[at]} instead of ${expected[at]}`);
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

/** Seeded numbers in [−1, 1), one for each element of the shape. */
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
