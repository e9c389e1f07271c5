/**
 * jax-js, compiled by its `jit`, on its own WASM or WebGPU device. On WASM it takes a thread per core, come what may.
 *
 * @module
 */
import { defaultDevice, init, jit, nn, numpy as np } from "@jax-js/jax";
import { assertClose } from "../../tests/numbers.ts";
import * as reference from "../../tests/reference.ts";
import type { AttentionSizes } from "../baselines/mod.ts";
import { type Case, describe } from "../measure/cases.ts";
import { checkSoftmax, noise, operands } from "../measure/operands.ts";

type Array = ReturnType<typeof np.zeros>;

/** Runs a compiled function of arrays that stay its caller's. */
function runs(f: (...x: Array[]) => Array, x: Array[]): Pick<Case, "run" | typeof Symbol.dispose> {
  return {
    async run() {
      // A reference is used up by each call.
      const result = f(...x.map(({ ref }) => ref));
      await result.blockUntilReady();
      result.dispose();
    },
    [Symbol.dispose]() {
      for (const array of x) array.dispose();
    },
  };
}

function threads(backend: "wasm" | "webgpu"): string {
  return backend === "wasm" ? ` (${navigator.hardwareConcurrency} threads)` : "";
}

/** A copy: jax-js takes no view of shared memory, which a Float32Array may be. */
function array(data: Float32Array, shape: number[]): Array {
  return np.array(new Float32Array(data)).reshape(shape);
}

async function device(name: "wasm" | "webgpu"): Promise<void> {
  if (!(await init(name)).includes(name)) throw new Error(`jax-js has no device ${name} here`);
  defaultDevice(name);
}

/** `numpy.matmul`. */
export async function jaxLinearCase(
  backend: "wasm" | "webgpu",
  rows: number,
  inDim: number,
  outDim: number,
): Promise<Case> {
  await device(backend);
  const xData = noise([rows, inDim], 1), weightData = noise([outDim, inDim], 2);
  const x = array(xData, [rows, inDim]), weight = array(weightData, [outDim, inDim]);
  const f = jit((x: Array, weight: Array) => np.matmul(x, weight.transpose()));
  const actual = await f(x.ref, weight.ref).data() as Float32Array;
  for (const row of new Set([0, rows >> 1, rows - 1])) {
    const expected = reference.linear(xData.subarray(row * inDim, (row + 1) * inDim), weightData, [
      1,
      inDim,
      outDim,
    ]);
    assertClose(actual.subarray(row * outDim, (row + 1) * outDim), expected, 1e-5, `row ${row} of ${rows}`);
  }
  return {
    name: `jax-js matmul${threads(backend)}`,
    operations: 2 * rows * inDim * outDim,
    bytes: 0,
    tokens: rows,
    ...runs(f, [x, weight]),
  };
}

/** `nn.dotProductAttention`, causal. */
export async function jaxAttentionCase(backend: "wasm" | "webgpu", sizes: AttentionSizes): Promise<Case> {
  await device(backend);
  const { heads, seqLen, headDim, valueDim } = sizes;
  const { q, k, v } = operands(sizes);
  const place = (x: Float32Array, dim: number) =>
    array(reference.toBnhd(x, [1, heads, seqLen, dim]), [seqLen, heads, dim]);
  const arrays = [place(q, headDim), place(k, headDim), place(v, valueDim)];
  const f = jit((q: Array, k: Array, v: Array) => nn.dotProductAttention(q, k, v, { isCausal: true }));
  const result = f(...arrays.map(({ ref }) => ref) as [Array, Array, Array]);
  const actual = reference.toBnhd(await result.data() as Float32Array, [1, seqLen, heads, valueDim]);
  checkSoftmax(actual, { q, k, v }, sizes, 1 / Math.sqrt(headDim));
  return {
    name: `jax-js causal attention${threads(backend)}, ${describe(sizes)}`,
    operations: 0,
    bytes: 0,
    tokens: seqLen,
    ...runs(f as (...x: Array[]) => Array, arrays),
  };
}
