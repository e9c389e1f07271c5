import fc from "fast-check";
import assert from "node:assert/strict";
import type { Backend } from "../mod.ts";
import {
  adamw,
  crossEntropy,
  embeddingBackward,
  linearBackward,
  lrpeBackward,
  multiplyBackward,
  normBackward,
  splitHeadsBackward,
  sum,
  sumSquares,
} from "../core/gradients.ts";
import { ACTIVATIONS } from "../core/ops.ts";
import {
  assertClose,
  assertSameBits,
  eachBackend,
  limitOn,
  poison,
  randomArray,
  Scope,
  upload,
} from "./harness.ts";
import * as forward from "./reference.ts";
import * as reference from "./reference_gradients.ts";

const LIMIT = 3e-6;
/** What differences of float64 leave. */
const DIFFERENCE = 1e-7;

/** What was in a gradient before, plus what was expected: parameters' gradients are added to. */
function plus(before: Float32Array, expected: ArrayLike<number>): Float64Array {
  return Float64Array.from(before, (value, i) => value + expected[i]);
}

Deno.test("the reference gradients are differences of the reference operations", () => {
  const dy = randomArray([3, 10], 9);
  for (const gate of [undefined, randomArray([3, 10], 2)]) {
    for (
      const affine of [
        undefined,
        { weight: randomArray([10], 3) },
        { weight: randomArray([10], 3), bias: randomArray([10], 4) },
      ] as ({ weight: Float32Array; bias?: Float32Array } | undefined)[]
    ) {
      const x = randomArray([3, 10], 1);
      const expected = reference.norm(x, dy, 10, 1e-3, affine, gate);
      const run = (x: ArrayLike<number>, affine_ = affine, gate_ = gate as ArrayLike<number> | undefined) =>
        forward.norm(x, 10, 1e-3, affine_, gate_);
      assertClose(reference.differences((x) => run(x), x, dy), expected.dx, DIFFERENCE, "norm dx");
      if (gate !== undefined) {
        const found = reference.differences((gate) => run(x, affine, gate), gate, dy);
        assertClose(found, expected.dGate, DIFFERENCE, "norm dGate");
      }
      if (affine !== undefined) {
        const { weight, bias } = affine;
        const dWeight = reference.differences(
          (w) => run(x, { weight: w as never, bias }, gate),
          weight,
          dy,
        );
        assertClose(dWeight, expected.dWeight, DIFFERENCE, "norm dWeight");
        if (bias === undefined) continue;
        const dBias = reference.differences((b) => run(x, { weight, bias: b as never }, gate), bias, dy);
        assertClose(dBias, expected.dBias, DIFFERENCE, "norm dBias");
      }
    }
  }
  for (const activation of ACTIVATIONS) {
    const x = randomArray([30], 5).map((value) => 4 * value);
    // The maximum of "exp" is a constant: one more element keeps it, in a row of its size.
    const run = activation === "exp"
      ? (y: Float64Array) =>
        y.map((value, i) => Math.exp(value - Math.max(...x.slice(i - i % 5, i - i % 5 + 5))))
      : (y: Float64Array) => forward.activate(y, 5, activation);
    const expected = reference.derivative(x, 5, activation).map((slope, i) => slope * dy[i]);
    assertClose(reference.differences(run, x, dy), expected, DIFFERENCE, activation);
  }
  const sizes = [2, 3, 2, 4];
  const x = randomArray(sizes, 6), theta = randomArray([2, 4], 7), dEncoded = randomArray([96], 8);
  const expected = reference.lrpe(x, theta, dEncoded, sizes, [0, 5]);
  assertClose(
    reference.differences((x) => forward.lrpe(x, theta, sizes, [0, 5]), x, dEncoded),
    expected.dx,
    DIFFERENCE,
    "lrpe dx",
  );
  assertClose(
    reference.differences((theta) => forward.lrpe(x, theta, sizes, [0, 5]), theta, dEncoded),
    expected.dTheta,
    DIFFERENCE,
    "lrpe dTheta",
  );
  const logits = randomArray([4, 7], 10), labels = [3, -1, 0, 6];
  assertClose(
    reference.differences((x) => reference.crossEntropy(x, 7, labels, 1).loss, logits, [0.5, 0.5, 0.5, 0.5]),
    reference.crossEntropy(logits, 7, labels, 0.5).dLogits,
    DIFFERENCE,
    "crossEntropy",
  );
});

async function checkLinear(backend: Backend, rows: number, inDim: number, outDim: number): Promise<void> {
  using scope = new Scope();
  const [x, tx] = upload(scope, backend, [rows, inDim], 1);
  const [weight, tw] = upload(scope, backend, [outDim, inDim], 2);
  const [dy, tdy] = upload(scope, backend, [rows, outDim], 3);
  const [before, dWeight] = upload(scope, backend, [outDim, inDim], 4);
  const [biasBefore, dBias] = upload(scope, backend, [outDim], 5);
  const [residual, tr] = upload(scope, backend, [rows, inDim], 6);
  poison(backend, [rows, inDim]);
  const dx = scope.keep(linearBackward(tx, tw, tdy, { dWeight, dBias, residual: tr }));
  const expected = reference.linear(x, weight, dy, [rows, inDim, outDim]);
  const what = `linear ${rows} × ${inDim} → ${outDim}`;
  assert.deepEqual(dx.shape, [rows, inDim]);
  const limit = limitOn(backend, LIMIT);
  assertClose(await dx.data(), plus(residual, expected.dx), limit, `${what} dx`);
  assertClose(await dWeight.data(), plus(before, expected.dWeight), limit, `${what} dWeight`);
  assertClose(await dBias.data(), plus(biasBefore, expected.dBias), LIMIT, `${what} dBias`);
  poison(backend, [rows, inDim]);
  const plain = scope.keep(linearBackward(tx, tw, tdy));
  assertClose(await plain.data(), expected.dx, limit, `${what} dx without residual`);
}

eachBackend("linearBackward: any shape", async (backend) => {
  for (
    const [rows, inDim, outDim] of [
      [0, 5, 3],
      [1, 1, 1],
      [1, 37, 21],
      [5, 37, 21],
      [6, 8, 8],
      [49, 37, 21],
      [70, 513, 530],
      [600, 9, 13],
      [3, 0, 4],
      [4, 8, 0],
    ]
  ) {
    await checkLinear(backend, rows, inDim, outDim);
  }
  const size = fc.integer({ min: 1, max: 70 });
  await fc.assert(
    fc.asyncProperty(size, size, size, (rows, inDim, outDim) => checkLinear(backend, rows, inDim, outDim)),
    { numRuns: 20 },
  );
  using x = backend.zeros([2, 3]);
  using weight = backend.zeros([4, 3]);
  using dy = backend.zeros([2, 4]);
  assert.throws(() => linearBackward(x, x, dy), /dy must have shape \[\.\.\., out\] = \[2, 2\]/);
  assert.throws(() => linearBackward(x, weight, dy, { dWeight: x }), /dWeight must have shape of weight/);
  assert.throws(() => linearBackward(x, weight, dy, { dBias: x }), /dBias must have shape \[out\] = \[4\]/);
  assert.throws(() => linearBackward(x, weight, dy, { residual: dy }), /residual must have shape of x/);
});

eachBackend(
  "normBackward: SRMSNorm, RMSNorm and LayerNorm, with and without gate and residual",
  async (backend) => {
    for (const [rows, width] of [[1, 1], [3, 5], [4, 64], [2, 300], [0, 8], [7, 1023], [1200, 6]]) {
      using scope = new Scope();
      const [x, tx] = upload(scope, backend, [rows, width], 1);
      const [dy, tdy] = upload(scope, backend, [rows, width], 2);
      const [gate, tg] = upload(scope, backend, [rows, width], 3);
      const [weight, tw] = upload(scope, backend, [width], 4);
      const [bias, tb] = upload(scope, backend, [width], 5);
      const [residual, tr] = upload(scope, backend, [rows, width], 6);
      for (const kind of ["srmsnorm", "rmsnorm", "layernorm"] as const) {
        const isAffine = kind !== "srmsnorm", isCentred = kind === "layernorm";
        for (const gated of [false, true]) {
          // Width 1 without mean: dx is 1e−6 times smaller than its parts; the residual gives the scale, and a device's
          // division and root (2.5 ulp in WGSL, each of which counts in full here) the limit.
          for (const withResidual of width === 1 ? [true] : [false, true]) {
            const what = `norm ${rows} × ${width} ${JSON.stringify({ kind, gated, withResidual })}`;
            const [weightBefore, dWeight] = upload(scope, backend, [width], 7);
            const [biasBefore, dBias] = upload(scope, backend, [width], 8);
            poison(backend, [rows, width], [rows, width]);
            const { dx, dGate } = normBackward(tx, tdy, {
              ...isAffine && { weight: tw, dWeight },
              ...isCentred && { bias: tb, dBias },
              gate: gated ? tg : undefined,
              residual: withResidual ? tr : undefined,
            });
            scope.keep(dx);
            const expected = reference.norm(
              x,
              dy,
              width,
              isCentred ? 1e-5 : 1e-6,
              isAffine ? { weight, ...isCentred && { bias } } : undefined,
              gated ? gate : undefined,
            );
            const expectedDx = withResidual ? plus(residual, expected.dx) : expected.dx;
            assertClose(await dx.data(), expectedDx, width === 1 ? 4 * LIMIT : LIMIT, `${what} dx`);
            assert.equal(dGate !== undefined, gated);
            if (dGate !== undefined) {
              assertClose(await scope.keep(dGate).data(), expected.dGate, LIMIT, `${what} dGate`);
            }
            if (isAffine) {
              assertClose(
                await dWeight.data(),
                plus(weightBefore, expected.dWeight),
                LIMIT,
                `${what} dWeight`,
              );
              if (isCentred) {
                assertClose(
                  await dBias.data(),
                  plus(biasBefore, expected.dBias),
                  LIMIT,
                  `${what} dBias`,
                );
              } else assertSameBits(await dBias.data(), biasBefore, what);
            } else {
              assertSameBits(await dWeight.data(), weightBefore, what);
            }
          }
        }
      }
    }
    using heads = backend.zeros([2, 3, 4, 5]);
    using dy = backend.zeros([2, 3, 20]);
    using dx = normBackward(heads, dy, { width: 20 }).dx;
    assert.deepEqual(dx.shape, [2, 3, 4, 5]);
    using weight = backend.zeros([5]);
    assert.throws(() => normBackward(heads, dy), /dy must have shape of the norm's result/);
    assert.throws(
      () => normBackward(heads, heads, { weight, bias: weight }),
      /a parameter and where its gradient goes must come together/,
    );
  },
);

eachBackend("splitHeadsBackward: every activation, over its whole range", async (backend) => {
  for (const activation of ACTIVATIONS) {
    for (const [batch, seqLen, heads, headDim] of [[1, 3, 2, 8], [2, 2, 3, 5], [2, 300, 3, 5]]) {
      using scope = new Scope();
      const hidden = heads * headDim;
      const x = randomArray([batch, seqLen, 4 * hidden], 7).map((value, i) =>
        value * [1e-4, 0.3, 3, 20, 90][i % 5]
      );
      const tx = scope.keep(backend.tensor(x, [batch, seqLen, 4 * hidden]));
      const [dq, tdq] = upload(scope, backend, [batch, seqLen, heads, headDim], 1);
      const [dk, tdk] = upload(scope, backend, [batch, seqLen, heads, headDim], 2);
      const [dv, tdv] = upload(scope, backend, [batch, seqLen, heads, headDim], 3);
      const [du, tdu] = upload(scope, backend, [batch, seqLen, hidden], 4);
      poison(backend, x.length === 0 ? [1] : [...tx.shape]);
      const dx = scope.keep(
        splitHeadsBackward(tx, heads, activation, { dq: tdq, dk: tdk, dv: tdv, du: tdu }),
      );
      const expected = reference.splitHeads(x, [dq, dk, dv, du], hidden, heads, activation);
      const actual = await dx.data();
      assertClose(actual, expected, LIMIT, activation);
      expected.forEach((value, i) => {
        const error = Math.abs(actual[i] - value);
        assert(
          error <= 2e-5 * Math.abs(value) + 3e-7,
          `${activation}' of element ${i}: ${actual[i]}, expected ${value}`,
        );
      });
    }
  }
  using x = backend.zeros([1, 2, 12]);
  using d = backend.zeros([1, 2, 1, 3]);
  using du = backend.zeros([1, 2, 3]);
  const gradients = { dq: d, dk: d, dv: d, du };
  assert.throws(() => splitHeadsBackward(x, 2, "silu", gradients), /heads must be an integer >= 1/);
  assert.throws(() => splitHeadsBackward(x, 1, "tanh" as never, gradients), /activation must be one of/);
  assert.throws(() => splitHeadsBackward(x, 1, "silu", { ...gradients, du: d }), /du must have shape/);
});

eachBackend("lrpeBackward: exact angles at any position", async (backend) => {
  for (
    const [batch, seqLen, heads, headDim, positions] of [
      [1, 5, 2, 6, [0]],
      [2, 3, 1, 4, [7, 100]],
      [3, 2, 3, 5, [1_000_000, 12_345_678, 0]],
      [1, 300, 2, 4, [0]],
      [2, 1500, 1, 70, [0, 31]],
      [1, 0, 2, 4, [0]],
    ] as const
  ) {
    using scope = new Scope();
    const [x, tx] = upload(scope, backend, [batch, seqLen, heads, headDim], 1);
    const theta = Float32Array.from(
      { length: heads * headDim },
      (_, i) => i % 4 === 3 ? -2.5 * (i + 1) : 10000 ** (-2 * i / (heads * headDim)),
    );
    const tt = scope.keep(backend.tensor(theta, [heads, headDim]));
    const [dy, tdy] = upload(scope, backend, [batch, seqLen, heads, 2 * headDim], 2);
    const [before, dTheta] = upload(scope, backend, [heads, headDim], 3);
    poison(backend, [batch, seqLen, heads, headDim]);
    const dx = scope.keep(lrpeBackward(tx, tt, positions, tdy, dTheta));
    const expected = reference.lrpe(x, theta, dy, [batch, seqLen, heads, headDim], positions);
    assertClose(await dx.data(), expected.dx, LIMIT, `lrpe dx at ${positions}`);
    assertClose(await dTheta.data(), plus(before, expected.dTheta), LIMIT, `lrpe dTheta at ${positions}`);
  }
  using x = backend.zeros([1, 2, 1, 2]);
  using theta = backend.zeros([1, 2]);
  using dy = backend.zeros([1, 2, 1, 4]);
  assert.throws(() => lrpeBackward(x, theta, [0, 1], dy, theta), /positions must have one value per batch/);
  assert.throws(() => lrpeBackward(x, theta, [0], x, theta), /dy must have shape/);
});

eachBackend("multiplyBackward, embeddingBackward", async (backend) => {
  using scope = new Scope();
  const [x, tx] = upload(scope, backend, [3, 7], 1);
  const [y, ty] = upload(scope, backend, [3, 7], 2);
  const [d, td] = upload(scope, backend, [3, 7], 3);
  poison(backend, [3, 7], [3, 7]);
  const { dx, dy } = scope.keep(multiplyBackward(tx, ty, td));
  assertClose(await dx.data(), d.map((value, i) => value * y[i]), 1e-7);
  assertClose(await dy.data(), d.map((value, i) => value * x[i]), 1e-7);

  const ids = [4, 0, 4, 4, 1, 0];
  const [dRows, tRows] = upload(scope, backend, [2, 3, 7], 4);
  const [before, dTable] = upload(scope, backend, [5, 7], 5);
  embeddingBackward(ids, tRows, dTable, { scale: 2.5 });
  assertClose(await dTable.data(), plus(before, reference.embedding(ids, dRows, [5, 7], 2.5)), LIMIT);

  const many = Array.from({ length: 1000 }, (_, i) => i % 3 === 0 ? 2 : i * 7 % 300);
  const [dMany, tMany] = upload(scope, backend, [1000, 70], 6);
  const [manyBefore, dManyTable] = upload(scope, backend, [300, 70], 7);
  embeddingBackward(many, tMany, dManyTable);
  const expected = plus(manyBefore, reference.embedding(many, dMany, [300, 70], 1));
  assertClose(await dManyTable.data(), expected, LIMIT, "many ids");
  assert.throws(
    () => embeddingBackward([5, 0, 0, 0, 0, 0], tRows, dTable),
    /ids must be integers from 0 to 4/,
  );
  assert.throws(() => embeddingBackward([1], tRows, dTable), /dy must have one row per id/);
  assert.throws(() => embeddingBackward(ids, tRows, tRows), /dTable must have shape/);
});

eachBackend("gradients: the same bits every time", async (backend) => {
  const runs: Float32Array[][] = [];
  for (let run = 0; run < 2; run++) {
    using scope = new Scope();
    const [rows, width] = [2100, 24];
    const [, x] = upload(scope, backend, [rows, width], 1);
    const [, dy] = upload(scope, backend, [rows, width], 2);
    const [, weight] = upload(scope, backend, [width, width], 3);
    const [, scale] = upload(scope, backend, [width], 4);
    const [, heads] = upload(scope, backend, [1, rows, 1, width], 5);
    const [, theta] = upload(scope, backend, [1, width], 6);
    const [, dEncoded] = upload(scope, backend, [1, rows, 1, 2 * width], 7);
    const zeros = (...shape: number[]) => scope.keep(backend.zeros(shape));
    const dWeight = zeros(width, width), dBias = zeros(width), dScale = zeros(width), dShift = zeros(width);
    const dTheta = zeros(1, width), dTable = zeros(20, width), total = zeros(1);
    const dx = scope.keep(linearBackward(x, weight, dy, { dWeight, dBias }));
    const options = { weight: scale, bias: scale, dWeight: dScale, dBias: dShift };
    scope.keep(normBackward(x, dy, options).dx);
    scope.keep(lrpeBackward(heads, theta, [3], dEncoded, dTheta));
    embeddingBackward(Array.from({ length: rows }, (_, i) => i * i % 20), dy, dTable);
    sumSquares(x, total);
    const results = [dx, dWeight, dBias, dScale, dShift, dTheta, dTable, total];
    runs.push(await Promise.all(results.map((tensor) => tensor.data())));
  }
  runs[0].forEach((result, i) => assertSameBits(result, runs[1][i], `result ${i}`));
});

eachBackend("crossEntropy: stable, ignores negative labels, gives NaN for NaN", async (backend) => {
  for (
    const [rows, vocab, magnitude] of [[4, 7, 3], [1, 1, 1], [9, 259, 1], [3, 1000, 80], [5, 33, 1e4], [
      0,
      5,
      1,
    ]]
  ) {
    using scope = new Scope();
    const logits = randomArray([rows, vocab], 1).map((value) => value * magnitude);
    const tl = scope.keep(backend.tensor(logits, [rows, vocab]));
    const labels = Array.from({ length: rows }, (_, r) => r === 2 ? -100 : (r * 31) % vocab);
    poison(backend, [rows], [rows, vocab]);
    const { loss, dLogits } = scope.keep(crossEntropy(tl, labels, { scale: 0.25 }));
    const expected = reference.crossEntropy(logits, vocab, labels, 0.25);
    assertClose(await loss.data(), expected.loss, LIMIT, `loss ${rows} × ${vocab}`);
    assertClose(await dLogits.data(), expected.dLogits, LIMIT, `dLogits ${rows} × ${vocab}`);
  }
  using logits = backend.tensor(new Float32Array([0, NaN, 1, 2]), [2, 2]);
  const { loss, dLogits } = crossEntropy(logits, [0, 1]);
  const values = await loss.data();
  assert(Number.isNaN(values[0]) && Number.isFinite(values[1]), `losses ${values}`);
  loss.dispose();
  dLogits.dispose();
  assert.throws(() => crossEntropy(logits, [0]), /labels must have one value per row/);
  assert.throws(() => crossEntropy(logits, [0, 2]), /labels must be integers below 2: current value is 2/);
});

eachBackend("sum, sumSquares: accurate over many elements, added to what is there", async (backend) => {
  for (const size of [0, 1, 3, 5, 1000, 300_001]) {
    using scope = new Scope();
    const x = randomArray([size], 1).map((value) => value + 1);
    const tx = scope.keep(backend.tensor(x, [size]));
    const total = scope.keep(backend.tensor(new Float32Array([0.5]), [1]));
    const squares = scope.keep(backend.tensor(new Float32Array([0.25]), [1]));
    sum(tx, total);
    sumSquares(tx, squares);
    assertClose(await total.data(), [x.reduce((s, v) => s + v, 0.5)], 1e-6, `sum of ${size}`);
    assertClose(await squares.data(), [x.reduce((s, v) => s + v * v, 0.25)], 1e-6, `squares of ${size}`);
  }
});

eachBackend("sumRows: few rows of many columns, as of a large weight's gradient", async (backend) => {
  const width = 2 ** 16 + 3;
  for (const rows of [1, 2, 3, 4, 5, 11]) {
    using scope = new Scope();
    const [x, tx] = upload(scope, backend, [rows, width], rows);
    const [before, total] = upload(scope, backend, [width], 20);
    backend.machine.operations.sumRows({ x: tx, rows, width, total });
    const expected = Float64Array.from(before, (value, i) => {
      for (let row = 0; row < rows; row++) value += x[row * width + i];
      return value;
    });
    assertClose(await total.data(), expected, LIMIT, `${rows} rows`);
  }
});

eachBackend("adamw: many steps, decay, clipping; bitwise repeatable", async (backend) => {
  for (const [size, weightDecay, maxNorm] of [[1, 0, Infinity], [37, 0.1, 0.5], [1000, 0.01, 1e6]]) {
    const runs: Float32Array[] = [];
    for (let run = 0; run < 2; run++) {
      using scope = new Scope();
      const start = randomArray([size], 1);
      const expected = [Float64Array.from(start), new Float64Array(size), new Float64Array(size)];
      const parameter = scope.keep(backend.tensor(start, [size]));
      const first = scope.keep(backend.zeros([size])), second = scope.keep(backend.zeros([size]));
      for (let count = 1; count <= 20; count++) {
        const gradient = randomArray([size], 100 + count);
        const tg = scope.keep(backend.tensor(gradient, [size]));
        const squares = scope.keep(backend.zeros([1]));
        sumSquares(tg, squares);
        const options = {
          count,
          learningRate: 0.01 / count,
          beta1: 0.9,
          beta2: 0.99,
          eps: 1e-8,
          weightDecay,
        };
        const limit = maxNorm === Infinity ? {} : { maxNorm };
        adamw(parameter, tg, { first, second }, squares, { ...options, ...limit });
        const exact = gradient.reduce((s, v) => s + v * v, 0);
        reference.adamw(expected, gradient, { ...options, maxNorm }, exact);
      }
      assertClose(await parameter.data(), expected[0], LIMIT, `adamw of ${size}`);
      assertClose(await first.data(), expected[1], LIMIT, "first moment");
      assertClose(await second.data(), expected[2], LIMIT, "second moment");
      runs.push(await parameter.data());
    }
    assertSameBits(runs[0], runs[1]);
  }
  using p = backend.tensor(new Float32Array([1, 2]), [2]);
  using m = backend.zeros([2]), v = backend.zeros([2]), squares = backend.zeros([1]), g = backend.zeros([2]);
  adamw(p, g, { first: m, second: v }, squares, { count: 1, learningRate: 0.1, maxNorm: 1 });
  assert.deepEqual([...await p.data()], [1, 2], "a gradient of zero moves nothing, whatever the norm");
  const step = { count: 1, learningRate: 0.1 };
  const bad = (options: object) => () =>
    adamw(p, g, { first: m, second: v }, squares, { ...step, ...options });
  assert.throws(bad({ count: 0 }), /count must be an integer >= 1/);
  assert.throws(bad({ learningRate: NaN }), /learningRate must be finite/);
  assert.throws(bad({ beta2: 1 }), /beta2 must be >= 0 and < 1/);
  assert.throws(() => adamw(p, squares, { first: m, second: v }, squares, step), /gradient must have shape/);
});
