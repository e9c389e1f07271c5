/**
 * The library in Dawn, through `createBackend({ gpu })`, compared with itself on WASM. `dawn_test.ts` starts it with the
 * driver in its environment, which must be there before the process starts.
 *
 * @module
 */
import assert from "node:assert/strict";
import { create } from "webgpu";
import { linearBackward, normBackward } from "../core/gradients.ts";
import { linear, norm } from "../core/ops.ts";
import { selfTest } from "../gpu/selfTest.ts";
import { type Backend, createBackend, lightningAttention, lightningAttentionBackward } from "../mod.ts";
import { TransNormerLLM } from "../model/mod.ts";
import { assertClose, Scope, upload } from "./harness.ts";

const MODEL = new URL("../models/sotu", import.meta.url);
/** Between two orders of f32 sums. */
const LIMIT = 1e-5;

type Results = Record<string, Float32Array>;

/** Attention with all its options, products of more rows than a tile, a norm, and their gradients. */
async function operations(backend: Backend): Promise<Results> {
  using scope = new Scope();
  let seed = 1;
  const random = (...shape: number[]) => upload(scope, backend, shape, seed++)[1];
  const q = random(1, 2, 131, 20), k = random(1, 1, 131, 20), v = random(1, 2, 131, 12);
  const initialState = random(1, 2, 20, 12), dState = random(1, 2, 20, 12), slopes = [0.02, 0.6];
  const attended = scope.keep(lightningAttention(q, k, v, { slopes, initialState }));
  const dOutput = random(1, 2, 131, 12);
  const { dq, dk, dv, dInitialState } = scope.keep(
    lightningAttentionBackward(q, k, v, dOutput, { slopes, initialState, dState }),
  );

  const x = random(131, 70), weight = random(67, 70), bias = random(67), residual = random(131, 67);
  const y = scope.keep(linear(x, weight, { bias, residual }));
  const dWeight = scope.keep(backend.zeros([67, 70]));
  const dx = scope.keep(linearBackward(x, weight, y, { dWeight }));
  const few = random(3, 70), fewY = scope.keep(linear(few, weight));
  const normed = scope.keep(norm(x)), dNormed = scope.keep(normBackward(x, random(131, 70)).dx);

  const tensors = {
    ...attended,
    ...{ dq, dk, dv, dInitialState, y, dWeight, dx, fewY, normed, dNormed },
  };
  const results: Results = {};
  for (const [name, tensor] of Object.entries(tensors)) results[name] = await tensor.data();
  return results;
}

async function logits(backend: Backend): Promise<Results> {
  using model = await TransNormerLLM.load(MODEL, { backend });
  using result = model.forward([Array.from({ length: 70 }, (_, i) => 7 * i % 256)]); // more than few rows
  return { logits: await result.data() };
}

using dawn = await createBackend({
  prefer: "webgpu",
  gpu: create(["backend=vulkan"]), // nothing here holds it: the library does
});
using wasm = await createBackend({ prefer: "wasm" });
await selfTest(dawn);
for (const compute of [operations, logits]) {
  const actual = await compute(dawn), expected = await compute(wasm);
  for (const name in expected) assertClose(actual[name], expected[name], LIMIT, name);
  assert(Object.values(expected).every((data) => data.some((x) => x !== 0)));
}
console.log(JSON.stringify(dawn.info));
Deno.exit(); // Dawn keeps the process
