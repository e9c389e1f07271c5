import fc from "fast-check";
import assert from "node:assert/strict";
import type { Backend } from "../mod.ts";
import { ACTIVATIONS, embedding, gatherRows, linear, lrpe, multiply, norm, splitHeads } from "../core/ops.ts";
import {
  ascending,
  assertClose,
  assertSameBits,
  eachBackend,
  edges,
  limitOn,
  poison,
  randomArray,
  Scope,
  upload,
} from "./harness.ts";
import { FEW_ROWS, TILE_ROWS } from "../core/sizes.ts";
import * as reference from "./reference.ts";

const LIMIT = 2e-6;

async function checkLinear(
  backend: Backend,
  rows: number,
  inDim: number,
  outDim: number,
  extras: { bias?: boolean; residual?: boolean } = {},
): Promise<void> {
  using scope = new Scope();
  const [x, tx] = upload(scope, backend, [rows, inDim], 1);
  const [weight, tw] = upload(scope, backend, [outDim, inDim], 2);
  const [bias, tb] = upload(scope, backend, [outDim], 3);
  const [residual, tr] = upload(scope, backend, [rows, outDim], 4);
  poison(backend, [rows, outDim]);
  const y = scope.keep(
    linear(tx, tw, { bias: extras.bias ? tb : undefined, residual: extras.residual ? tr : undefined }),
  );
  assert.deepEqual(y.shape, [rows, outDim]);
  const expected = reference.linear(
    x,
    weight,
    [rows, inDim, outDim],
    extras.bias ? bias : undefined,
    extras.residual ? residual : undefined,
  );
  assertClose(
    await y.data(),
    expected,
    limitOn(backend, LIMIT),
    `linear ${rows} × ${inDim} → ${outDim} ${JSON.stringify(extras)}`,
  );
}

eachBackend("linear: any shape, bias and residual", async (backend) => {
  for (const rows of ascending(0, 1, 2, ...edges(TILE_ROWS, 1, 10), ...edges(FEW_ROWS, 1))) {
    await checkLinear(backend, rows, 37, 21, { bias: true, residual: true });
  }
  for (
    const [rows, inDim, outDim] of [[1, 300, 5], [3, 1, 1], [20, 0, 4], [4, 8, 0], [13, 260, 9], [
      70,
      513,
      530,
    ]]
  ) {
    await checkLinear(backend, rows, inDim, outDim);
  }
  const size = fc.integer({ min: 1, max: 70 });
  await fc.assert(
    fc.asyncProperty(
      size,
      size,
      size,
      fc.boolean(),
      fc.boolean(),
      (rows, inDim, outDim, bias, residual) => checkLinear(backend, rows, inDim, outDim, { bias, residual }),
    ),
    { numRuns: 25 },
  );
});

eachBackend("linear: leading dimensions are rows; wrong shapes are refused", (backend) => {
  using scope = new Scope();
  const [, x] = upload(scope, backend, [2, 3, 4], 1);
  const [, weight] = upload(scope, backend, [5, 4], 2);
  assert.deepEqual(scope.keep(linear(x, weight)).shape, [2, 3, 5]);
  assert.throws(() => linear(x, x), /weight must have shape \[out, in\]/);
  assert.throws(() => linear(x, weight, { bias: x }), /bias must have shape \[out\] = \[5\]/);
  assert.throws(
    () => linear(x, weight, { residual: x }),
    /residual must have shape of the result = \[2, 3, 5\]/,
  );
});

eachBackend("norm: SRMSNorm, RMSNorm and LayerNorm, with and without gate", async (backend) => {
  for (const [rows, width] of [[1, 1], [3, 5], [4, 64], [2, 300], [0, 8], [7, 1023]]) {
    using scope = new Scope();
    const [x, tx] = upload(scope, backend, [rows, width], 1);
    const [gate, tg] = upload(scope, backend, [rows, width], 2);
    const [weight, tw] = upload(scope, backend, [width], 3);
    const [bias, tb] = upload(scope, backend, [width], 4);
    poison(backend, [rows, width], [rows, width], [rows, width]);
    const plain = scope.keep(norm(tx));
    const gated = scope.keep(norm(tx, { gate: tg }));
    const affine = scope.keep(norm(tx, { weight: tw, bias: tb, gate: tg }));
    const weighted = scope.keep(norm(tx, { weight: tw }));
    const both = scope.keep(norm(tx, { weight: tw, gate: tg }));
    assertClose(
      await weighted.data(),
      reference.norm(x, width, 1e-6, { weight }),
      LIMIT,
      `norm ${rows} × ${width} RMSNorm`,
    );
    assertClose(
      await both.data(),
      reference.norm(x, width, 1e-6, { weight }, gate),
      LIMIT,
      `norm ${rows} × ${width} RMSNorm gated`,
    );
    const what = `norm ${rows} × ${width}`;
    assertClose(await plain.data(), reference.norm(x, width, 1e-6), LIMIT, what);
    assertClose(await gated.data(), reference.norm(x, width, 1e-6, undefined, gate), LIMIT, `${what} gated`);
    assertClose(
      await affine.data(),
      reference.norm(x, width, 1e-5, { weight, bias }, gate),
      LIMIT,
      `${what} affine`,
    );
  }
});

eachBackend(
  "norm: a row far from zero keeps its digits; dimensions join; wrong widths are refused",
  async (backend) => {
    using scope = new Scope();
    const x = randomArray([4, 48], 1).map((value) => value + 50);
    const tx = scope.keep(backend.tensor(x, [4, 48]));
    const ones = scope.keep(backend.tensor(new Float32Array(48).fill(1), [48]));
    const zeros = scope.keep(backend.zeros([48]));
    const affine = { weight: new Float32Array(48).fill(1), bias: new Float32Array(48) };
    const y = scope.keep(norm(tx, { weight: ones, bias: zeros }));
    assertClose(await y.data(), reference.norm(x, 48, 1e-5, affine), 1e-5, "LayerNorm of 50 ± 1");
    const [heads, th] = upload(scope, backend, [2, 3, 4, 5], 2);
    const joined = scope.keep(norm(th, { width: 20 }));
    assert.deepEqual(joined.shape, [2, 3, 20]);
    assertClose(await joined.data(), reference.norm(heads, 20, 1e-6), LIMIT, "joined");
    assert.throws(() => norm(th, { width: 10 }), /the last dimensions of x must multiply to width/);
    assert.throws(() => norm(tx, { bias: ones }), /bias must come with weight/);
    assert.throws(() => norm(tx, { eps: -1 }), /eps must be >= 0/);
  },
);

eachBackend("splitHeads: every activation, over its whole range", async (backend) => {
  for (const activation of ACTIVATIONS) {
    for (const [batch, seqLen, heads, headDim] of [[1, 3, 2, 8], [2, 2, 3, 5], [2, 300, 3, 5]]) {
      using scope = new Scope();
      const hidden = heads * headDim;
      // From deep in the tails to the smallest values, where elu and gelu lose digits if done carelessly.
      const x = randomArray([batch, seqLen, 4 * hidden], 7).map((value, i) =>
        value * [1e-4, 0.3, 3, 20, 90][i % 5]
      );
      const tx = scope.keep(backend.tensor(x, [batch, seqLen, 4 * hidden]));
      poison(backend, [batch, seqLen, hidden], [batch, seqLen, hidden]);
      const parts = scope.keep(splitHeads(tx, heads, activation));
      const expected = reference.splitHeads(x, hidden, heads, activation);
      assert.deepEqual(parts.q.shape, [batch, seqLen, heads, headDim]);
      assert.deepEqual(parts.u.shape, [batch, seqLen, hidden]);
      for (const name of ["q", "k"] as const) {
        const actual = await parts[name].data();
        assertClose(actual, expected[name], LIMIT, `${activation} ${name}`);
        expected[name].forEach((value, i) => {
          const error = Math.abs(actual[i] - value);
          assert(
            error <= 2e-5 * Math.abs(value) + 1e-7,
            `${activation} of element ${i}: ${actual[i]}, expected ${value}`,
          );
        });
      }
      assertSameBits(await parts.v.data(), Float32Array.from(expected.v), "v");
      assertSameBits(await parts.u.data(), Float32Array.from(expected.u), "u");
    }
  }
  using x = backend.zeros([1, 2, 12]);
  assert.throws(() => splitHeads(x, 2, "identity"), /heads must be an integer >= 1 that divides hidden/);
  assert.throws(() => splitHeads(x, 3, "tanh" as never), /activation must be one of/);
});

eachBackend("lrpe: exact angles at any position", async (backend) => {
  for (
    const [batch, seqLen, heads, headDim, positions] of [
      [1, 5, 2, 6, [0]],
      [2, 3, 1, 4, [7, 100]],
      [3, 2, 3, 5, [1_000_000, 12_345_678, 0]],
    ] as const
  ) {
    using scope = new Scope();
    const [x, tx] = upload(scope, backend, [batch, seqLen, heads, headDim], 1);
    // TNL's own angles, 10000^(−2i/d), and signs and sizes that training may give them.
    const theta = Float32Array.from(
      { length: heads * headDim },
      (_, i) => i % 4 === 3 ? -2.5 * (i + 1) : 10000 ** (-2 * i / (heads * headDim)),
    );
    const tt = scope.keep(backend.tensor(theta, [heads, headDim]));
    poison(backend, [batch, seqLen, heads, 2 * headDim]);
    const y = scope.keep(lrpe(tx, tt, positions));
    assert.deepEqual(y.shape, [batch, seqLen, heads, 2 * headDim]);
    const expected = reference.lrpe(x, theta, [batch, seqLen, heads, headDim], positions);
    assertClose(await y.data(), expected, LIMIT, `lrpe at ${positions}`);
  }
  using x = backend.zeros([1, 2, 1, 2]);
  using theta = backend.zeros([1, 2]);
  assert.throws(() => lrpe(x, theta, [0, 1]), /positions must have one value per batch element/);
  assert.throws(() => lrpe(x, theta, [-1]), /positions must be integers/);
  assert.throws(() => lrpe(x, theta, [2 ** 31]), /positions must be integers/);
});

eachBackend("embedding, gatherRows, multiply", async (backend) => {
  using scope = new Scope();
  const [table, tt] = upload(scope, backend, [11, 7], 1);
  const ids = [10, 0, 3, 3, 7, 1];
  poison(backend, [6, 7], [6, 7], [6, 7]);
  const looked = scope.keep(embedding(tt, ids, { scale: 2.5, shape: [2, 3] }));
  assert.deepEqual(looked.shape, [2, 3, 7]);
  assertClose(await looked.data(), reference.embedding(table, 7, ids, 2.5), 1e-7);
  const picked = scope.keep(gatherRows(looked, [5, 0]));
  assert.deepEqual(picked.shape, [2, 7]);
  assertClose(await picked.data(), reference.embedding(table, 7, [1, 10], 2.5), 1e-7);
  const product = scope.keep(multiply(looked, looked));
  assertClose(await product.data(), (await looked.data()).map((value) => value * value), 1e-7);

  assert.throws(
    () => embedding(tt, [11]),
    /ids must be integers from 0 to 10: current value is 11 \(index 0\)/,
  );
  assert.throws(() => embedding(tt, [1.5]), /ids must be integers/);
  assert.throws(() => embedding(tt, [1, 2], { shape: [3] }), /shape must hold as many elements as ids/);
  assert.throws(() => gatherRows(tt, [-1]), /rows must be integers from 0 to 10/);
  assert.throws(() => multiply(tt, looked), /y must have shape of x/);
});

eachBackend("reshape hands the elements over", async (backend) => {
  const x = backend.tensor(new Float32Array([1, 2, 3, 4, 5, 6]), [2, 3]);
  assert.throws(() => x.reshape([4]), /shape must hold 6 elements/);
  using y = x.reshape([3, 2]);
  assert(x.disposed);
  x.dispose();
  assert.deepEqual([...await y.data()], [1, 2, 3, 4, 5, 6]);
});
