import fc from "fast-check";
import assert from "node:assert/strict";
import { lightningAttentionBackward } from "../mod.ts";
import { anyCase, checkBackward, LENGTHS, shapesOf } from "./attention.ts";
import { assertClose, assertSameBits, eachBackend, randomArray, Scope } from "./harness.ts";
import * as reference from "./reference.ts";

eachBackend(
  "lightningAttentionBackward: every length from 0 over the edges of blocks",
  async (backend) => {
    for (const seqLen of LENGTHS) {
      await checkBackward(backend, {
        batch: 1,
        heads: 2,
        seqLen,
        headDim: 16,
        valueDim: 24,
        slopes: [0.3, 0.01],
        withState: true,
      });
    }
  },
);

eachBackend("lightningAttentionBackward: any shape and any option", async (backend) => {
  await fc.assert(fc.asyncProperty(anyCase, fc.boolean(), (c, dState) => checkBackward(backend, c, dState)), {
    numRuns: 30,
  });
});

eachBackend("lightningAttentionBackward: large heads", async (backend) => {
  await checkBackward(backend, {
    batch: 1,
    heads: 1,
    seqLen: 110,
    headDim: 128,
    valueDim: 128,
    slopes: [0.02],
  });
  await checkBackward(backend, { batch: 1, heads: 1, seqLen: 70, headDim: 200, valueDim: 67 });
});

eachBackend("lightningAttentionBackward: the same bits every time", async (backend) => {
  using scope = new Scope();
  const shape = [2, 4, 111, 32];
  const [q, k, v, dO] = [1, 2, 3, 4].map((seed) =>
    scope.keep(backend.tensor(randomArray(shape, seed), shape))
  );
  const run = () => scope.keep(lightningAttentionBackward(q, k, v, dO, { slopes: [0.5, 0.1, 0.01, 0] }));
  const first = run(), second = run();
  for (const name of ["dq", "dk", "dv", "dInitialState"] as const) {
    assertSameBits(await second[name].data(), await first[name].data(), name);
  }
});

eachBackend("lightningAttentionBackward: bad input is refused", (backend) => {
  using scope = new Scope();
  const x = scope.keep(backend.zeros([1, 2, 5, 4]));
  const state = scope.keep(backend.zeros([1, 2, 4, 3]));
  const before = backend.bytesInUse;
  assert.throws(
    () => lightningAttentionBackward(x, x, x, state),
    /dOutput must have shape of the output = \[1, 2, 5, 4\]/,
  );
  assert.throws(() => lightningAttentionBackward(x, x, x, x, { dState: state }), /dState must have shape/);
  assert.throws(() => lightningAttentionBackward(x, x, x, x, { slopes: [1, -1] }), /slopes must be >= 0/);
  assert.equal(backend.bytesInUse, before);
});

Deno.test("the reference gradients are those of finite differences", () => {
  const sizes = { batch: 1, heads: 2, queryHeads: 1, keyHeads: 2, seqLen: 7, headDim: 3, valueDim: 4 };
  const shapes = shapesOf(sizes), slopes = [0.2, 0.7], scale = 0.5, cuSeqlens = [0, 3, 3, 7];
  const stateShape = [3, 2, 3, 4];
  const operands = {
    q: Float64Array.from(randomArray(shapes.q, 1)),
    k: Float64Array.from(randomArray(shapes.k, 2)),
    v: Float64Array.from(randomArray(shapes.v, 3)),
    initialState: Float64Array.from(randomArray(stateShape, 4)),
  };
  const dOutput = randomArray(shapes.v, 5), dState = randomArray(stateShape, 6);
  const loss = () => {
    const { q, k, v, initialState } = operands;
    const { output, state } = reference.lightningAttention(q, k, v, sizes, {
      slopes,
      scale,
      cuSeqlens,
      initialState,
    });
    return output.reduce((sum, x, i) => sum + x * dOutput[i], 0) +
      state.reduce((sum, x, i) => sum + x * dState[i], 0);
  };
  const { q, k, v, initialState } = operands;
  const options = { slopes, scale, cuSeqlens, initialState, dState };
  const gradients = reference.lightningAttentionBackward(q, k, v, dOutput, sizes, options);
  for (
    const [operand, gradient] of [
      [q, gradients.dq],
      [k, gradients.dk],
      [v, gradients.dv],
      [initialState, gradients.dInitialState],
    ]
  ) {
    const differences = operand.map((value, i) => {
      operand[i] = value + 1e-5;
      const above = loss();
      operand[i] = value - 1e-5;
      const below = loss();
      operand[i] = value;
      return (above - below) / 2e-5;
    });
    assertClose(gradient, differences, 1e-8);
  }
});
