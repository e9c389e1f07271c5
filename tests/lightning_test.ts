import fc from "fast-check";
import assert from "node:assert/strict";
import {
  alibiSlopes,
  type Backend,
  BackendError,
  createBackend,
  layerSlopes,
  lightningAttention,
  lightningAttentionStep,
  type Tensor,
} from "../mod.ts";
import {
  anyCase,
  type Case,
  inLayout,
  LENGTHS,
  limitOf,
  operand,
  operandsOf,
  optionsOf,
  shapesOf,
  UNIT_LENGTHS,
  unitCase,
} from "./attention.ts";
import {
  assertClose,
  assertSameBits,
  eachBackend,
  manyCalls,
  poison,
  randomArray,
  Scope,
} from "./harness.ts";
import { CHUNK } from "../gpu/units/lightning.ts";
import * as reference from "./reference.ts";

/** One rounding per multiply-add, token by token: few rows are never left to matrix units. */
const STEP_LIMIT = 2e-6;

/** Runs a case on the backend and holds output and final state to the oracle. */
async function check(backend: Backend, c: Case, limit = limitOf(backend)): Promise<void> {
  using scope = new Scope();
  const shapes = shapesOf(c);
  const { q, k, v, initialState } = operandsOf(c);
  const expected = reference.lightningAttention(q, k, v, c, { ...c, initialState });
  const tensors = [
    operand(scope, backend, c, q, shapes.q),
    operand(scope, backend, c, k, shapes.k),
    operand(scope, backend, c, v, shapes.v),
  ] as const;
  const options = optionsOf(scope, backend, c, initialState);
  poison(backend, shapes.v, shapes.state);
  const { output, state } = scope.keep(lightningAttention(...tensors, options));
  const what = JSON.stringify(c);
  assertClose(await output.data(), inLayout(c, expected.output, shapes.v), limit, `output of ${what}`);
  assertClose(await state.data(), expected.state, limit, `state of ${what}`);
  if (initialState !== undefined) {
    assertSameBits(await options.initialState!.data(), initialState, "initialState must not change");
  }
}

eachBackend("lightningAttention: every length from 0 over the edges of blocks", async (backend) => {
  for (const seqLen of LENGTHS) {
    await check(backend, {
      batch: 1,
      heads: 2,
      seqLen,
      headDim: 16,
      valueDim: 24,
      slopes: [0.3, 0.01],
      withState: true,
    });
  }
});

eachBackend("lightningAttention: any shape and any option", async (backend) => {
  await fc.assert(fc.asyncProperty(anyCase, (c) => check(backend, c)), { numRuns: 30 });
});

eachBackend("lightningAttention: whole matrices, over the edges of chunks and segments", async (backend) => {
  for (const seqLen of UNIT_LENGTHS) {
    const shape = { batch: 1, heads: 2, seqLen, headDim: 16, valueDim: 32 };
    await check(backend, { ...shape, slopes: [0.3, 0.01], withState: true }, limitOf(backend, true));
  }
});

eachBackend("lightningAttention: whole matrices, any option", async (backend) => {
  await fc.assert(fc.asyncProperty(unitCase, (c) => check(backend, c)), { numRuns: 20 });
});

eachBackend("lightningAttention: operands of any magnitude, beyond the range of f16 too", async (backend) => {
  const c = { batch: 1, heads: 2, seqLen: 300, headDim: 16, valueDim: 32, slopes: [0.2, 0.001] };
  const { q, k, v } = operandsOf(c), shapes = shapesOf(c);
  for (const [x, y, z] of [[1e6, 1e6, 1e6], [1e-9, 1e-9, 1e-9], [1e20, 1e-25, 1e15], [1e-30, 1e20, 1e5]]) {
    using scope = new Scope();
    const scaled = [q.map((one) => x * one), k.map((one) => y * one), v.map((one) => z * one)] as const;
    const expected = reference.lightningAttention(...scaled, c, c);
    const [tq, tk, tv] = [
      operand(scope, backend, c, scaled[0], shapes.q),
      operand(scope, backend, c, scaled[1], shapes.k),
      operand(scope, backend, c, scaled[2], shapes.v),
    ];
    poison(backend, shapes.v, shapes.state);
    const { output, state } = scope.keep(lightningAttention(tq, tk, tv, c)), what = `${[x, y, z]}`;
    assertClose(await output.data(), expected.output, limitOf(backend, true), `output of ${what}`);
    assertClose(await state.data(), expected.state, limitOf(backend, true), `state of ${what}`);
  }
});

eachBackend("lightningAttention: small tokens next to large ones keep their digits", async (backend) => {
  // Keys and values rise and fall by 2^18 over 60 tokens, and old ones are forgotten: every row has its own norm.
  const c = { batch: 1, heads: 1, seqLen: 400, headDim: 32, valueDim: 16, slopes: [2] };
  const { q, k, v } = operandsOf(c), shapes = shapesOf(c);
  const rise = (x: Float32Array, dim: number) =>
    x.map((one, i) => one * 2 ** (9 * Math.sin(Math.floor(i / dim) / 10)));
  const [rk, rv] = [rise(k, 32), rise(v, 16)];
  const expected = reference.lightningAttention(q, rk, rv, c, c);
  // A row may be the difference of large terms: what counts is the sum of their magnitudes.
  const [aq, ak, av] = [q, rk, rv].map((x) => x.map(Math.abs));
  const magnitudes = reference.lightningAttention(aq, ak, av, c, c);
  using scope = new Scope();
  const { output } = scope.keep(lightningAttention(
    operand(scope, backend, c, q, shapes.q),
    operand(scope, backend, c, rk, shapes.k),
    operand(scope, backend, c, rv, shapes.v),
    c,
  ));
  const actual = await output.data();
  for (let t = 0; t < c.seqLen; t++) {
    let error = 0, norm = 0;
    for (let i = 16 * t; i < 16 * t + 16; i++) {
      error += (actual[i] - expected.output[i]) ** 2;
      norm += magnitudes.output[i] ** 2;
    }
    const relative = Math.sqrt(error / norm);
    assert(relative <= limitOf(backend, true), `token ${t} is off by ${relative}`);
  }
});

eachBackend(
  "lightningAttention: what is no number stays in its sequence and behind its block",
  async (backend) => {
    const c = {
      batch: 1,
      heads: 1,
      seqLen: 520,
      headDim: 16,
      valueDim: 32,
      slopes: [0.1],
      cuSeqlens: [0, 200, 520],
    };
    const { q, k, v } = operandsOf(c), shapes = shapesOf(c);
    const expected = reference.lightningAttention(q, k, v, c, c);
    for (const bad of [NaN, Infinity]) {
      using scope = new Scope();
      const spoilt = k.slice();
      spoilt[16 * 400] = bad; // token 200 of the second sequence
      const { output, state } = scope.keep(lightningAttention(
        operand(scope, backend, c, q, shapes.q),
        operand(scope, backend, c, spoilt, shapes.k),
        operand(scope, backend, c, v, shapes.v),
        c,
      ));
      const actual = await output.data(), before = 32 * (200 + CHUNK);
      assertClose(
        actual.subarray(0, before),
        expected.output.subarray(0, before),
        limitOf(backend),
        "tokens before",
      );
      for (let t = 400; t < 520; t++) {
        assert(!actual.subarray(32 * t, 32 * t + 32).every((x) => Number.isFinite(x)), `token ${t}`);
      }
      const states = await state.data();
      assertClose(states.subarray(0, 512), expected.state.subarray(0, 512), limitOf(backend), "state before");
      assert(!states.subarray(512).every((x) => Number.isFinite(x)));
    }
  },
);

eachBackend("lightningAttention: large heads, with and without decay", async (backend) => {
  await check(backend, { batch: 1, heads: 1, seqLen: 150, headDim: 128, valueDim: 128, slopes: [0.02] });
  await check(backend, { batch: 1, heads: 1, seqLen: 70, headDim: 200, valueDim: 67 });
  // As many states as a large GPU has processors: each sequence is walked whole.
  await check(backend, { batch: 4, heads: 27, seqLen: 59, headDim: 72, valueDim: 100, withState: true });
});

eachBackend("lightningAttention: the smallest slopes of TNL still decay", async (backend) => {
  // 1 − λ is 2/3 of the last bit of an f32 below 1: a rounded λ would decay 1.5 times as fast, or not at all.
  const seqLen = 4096, slope = 2 ** -8 * 1e-5, shape = [1, 1, 32, 32];
  using scope = new Scope();
  const zeros = scope.keep(backend.zeros([1, 1, seqLen, 32]));
  const token = scope.keep(backend.zeros([1, 1, 32]));
  const before = randomArray(shape, 1);
  /** The share of the state that is gone: over all elements, so that their roundings cancel. */
  const lost = (after: Float32Array) =>
    1 - before.reduce((sum, x, i) => sum + x * after[i], 0) / before.reduce((sum, x) => sum + x * x, 0);

  const initialState = scope.keep(backend.tensor(before, shape));
  const { state } = scope.keep(lightningAttention(zeros, zeros, zeros, { slopes: [slope], initialState }));
  const whole = lost(await state.data()) / -Math.expm1(-slope * seqLen);
  assert(Math.abs(whole - 1) < 0.01, `over ${seqLen} tokens the state lost ${whole} of what it should`);

  // With a token's update on top, as in a real decode, roundings are as often up as down.
  const k = scope.keep(backend.tensor(randomArray([1, 1, 32], 2).map((x) => x * 1e-3), [1, 1, 32]));
  const v = scope.keep(backend.tensor(randomArray([1, 1, 32], 3), [1, 1, 32]));
  const minusK = scope.keep(backend.tensor((await k.data()).map((x) => -x), [1, 1, 32]));
  for (let t = 0; t < 2048; t++) {
    lightningAttentionStep(token, t % 2 === 0 ? k : minusK, v, initialState, { slopes: [slope] }).dispose();
  }
  const steps = lost(await initialState.data()) / -Math.expm1(-slope * 2048);
  assert(Math.abs(steps - 1) < 0.15, `over 2048 steps the state lost ${steps} of what it should`);
});

eachBackend(
  "lightningAttention: splitting a sequence anywhere changes nothing but rounding",
  async (backend) => {
    const shape = [2, 2, 131, 20], slopes = alibiSlopes(2);
    const data = [1, 2, 3].map((seed) => randomArray(shape, seed));
    const expected = reference.lightningAttention(data[0], data[1], data[2], {
      batch: 2,
      heads: 2,
      seqLen: 131,
      headDim: 20,
      valueDim: 20,
    }, { slopes });
    for (const cuts of [[64], [1, 130], [5, 48, 96, 97], [131]]) {
      using scope = new Scope();
      let initialState: Tensor | undefined;
      let start = 0;
      const output = new Float32Array(expected.output.length);
      for (const end of [...cuts, 131]) {
        const part = data.map((x) => {
          const rows = Array.from(
            { length: 4 },
            (_, bh) => x.subarray((bh * 131 + start) * 20, (bh * 131 + end) * 20),
          );
          return scope.keep(
            backend.tensor(Float32Array.from(rows.flatMap((row) => [...row])), [2, 2, end - start, 20]),
          );
        });
        const segment = scope.keep(lightningAttention(part[0], part[1], part[2], { slopes, initialState }));
        const values = await segment.output.data();
        for (let bh = 0; bh < 4; bh++) {
          output.set(
            values.subarray(bh * (end - start) * 20, (bh + 1) * (end - start) * 20),
            (bh * 131 + start) * 20,
          );
        }
        initialState = segment.state;
        start = end;
      }
      assertClose(output, expected.output, limitOf(backend), `output cut at ${cuts}`);
      assertClose(await initialState!.data(), expected.state, limitOf(backend), `state cut at ${cuts}`);
    }
  },
);

eachBackend("lightningAttention: the same bits every time", async (backend) => {
  using scope = new Scope();
  const tensors = [1, 2, 3].map((seed) =>
    scope.keep(backend.tensor(randomArray([2, 4, 111, 32], seed), [2, 4, 111, 32]))
  );
  const run = () =>
    scope.keep(lightningAttention(tensors[0], tensors[1], tensors[2], { slopes: alibiSlopes(4) }));
  const first = run(), second = run();
  assertSameBits(await second.output.data(), await first.output.data());
  assertSameBits(await second.state.data(), await first.state.data());
});

eachBackend("lightningAttentionStep: token by token is the whole sequence", async (backend) => {
  const [batch, heads, queryHeads, keyHeads, seqLen, headDim, valueDim] = [2, 4, 2, 1, 9, 19, 35];
  const slopes = [0, 0.1, 2, 40], scale = 0.25;
  const q = randomArray([batch, queryHeads, seqLen, headDim], 1);
  const k = randomArray([batch, keyHeads, seqLen, headDim], 2);
  const v = randomArray([batch, heads, seqLen, valueDim], 3);
  const expected = reference.lightningAttention(
    q,
    k,
    v,
    { batch, heads, queryHeads, keyHeads, seqLen, headDim, valueDim },
    { slopes, scale },
  );
  using state = backend.zeros([batch, heads, headDim, valueDim]);
  for (let t = 0; t < seqLen; t++) {
    using scope = new Scope();
    const token = (x: ArrayLike<number>, count: number, dim: number) =>
      Float32Array.from(
        { length: batch * count * dim },
        (_, i) => x[(Math.floor(i / dim) * seqLen + t) * dim + i % dim],
      );
    const at = (x: Float32Array, count: number, dim: number) =>
      scope.keep(backend.tensor(token(x, count, dim), [batch, count, dim]));
    poison(backend, [batch, heads, valueDim]);
    const output = scope.keep(lightningAttentionStep(
      at(q, queryHeads, headDim),
      at(k, keyHeads, headDim),
      at(v, heads, valueDim),
      state,
      { slopes, scale },
    ));
    assertClose(
      await output.data(),
      token(Float32Array.from(expected.output), heads, valueDim),
      STEP_LIMIT,
      `token ${t}`,
    );
  }
  assertClose(await state.data(), expected.state, STEP_LIMIT, "state");
});

eachBackend("lightningAttention: bad input is refused, and the backend stays usable", async (backend) => {
  using scope = new Scope();
  const x = scope.keep(backend.zeros([1, 2, 5, 4]));
  const y = scope.keep(backend.zeros([1, 2, 6, 4]));
  const before = backend.bytesInUse;
  const refused: [() => unknown, new (...args: never[]) => Error, RegExp][] = [
    [() => lightningAttention(x, y, x), RangeError, /k must have shape .*current value is \[1, 2, 6, 4\]/],
    [
      () => lightningAttention(x, x, x, { slopes: [0.1] }),
      RangeError,
      /slopes must have one value per head of v, 2/,
    ],
    [
      () => lightningAttention(x, x, x, { slopes: [0.1, -0.1] }),
      RangeError,
      /slopes must be >= 0: current value is -0.1 \(head 1\)/,
    ],
    [() => lightningAttention(x, x, x, { slopes: [NaN, 0] }), RangeError, /current value is NaN \(head 0\)/],
    [() => lightningAttention(x, x, x, { slopes: ["1", 0] as never }), TypeError, /slopes must be numbers/],
    [() => lightningAttention(x, x, x, { scale: NaN }), RangeError, /scale must be finite/],
    [() => lightningAttention(x, x, x, { layout: "nbhd" as never }), RangeError, /layout must be/],
    [
      () => lightningAttention(x, x, x, { cuSeqlens: [0, 4, 3, 5] }),
      RangeError,
      /cuSeqlens must be [\w -]*integers/,
    ],
    [
      () => lightningAttention(x, x, x, { cuSeqlens: [0, 4] }),
      RangeError,
      /cuSeqlens must end with seqLen, 5/,
    ],
    [() => lightningAttention(x, x, x, { cuSeqlens: [1, 5] }), RangeError, /cuSeqlens must begin with 0/],
    [() => lightningAttention(x, x, x, { cuSeqlens: [] }), RangeError, /cuSeqlens must begin with 0/],
    [
      () => lightningAttention(x, x, x, { cuSeqlens: [0, 2.5, 5] }),
      RangeError,
      /cuSeqlens must be [\w -]*integers/,
    ],
    [() => lightningAttention(x, x, x, { initialState: x }), RangeError, /initialState must have shape/],
    [() => lightningAttention(new Float32Array(40) as never, x, x), TypeError, /q must be a Tensor/],
    [() => lightningAttentionStep(x, x, x, x), RangeError, /q must have shape \[batch, heads, headDim\]/],
    [() => backend.tensor([1, 2] as never, [2]), TypeError, /data must be a Float32Array/],
    [() => backend.tensor(new Float32Array(3), [2]), RangeError, /data must hold 2 elements/],
    [
      () => backend.tensor(new Float32Array(0), [-1]),
      RangeError,
      /dimension of shape must be an integer >= 0/,
    ],
    [() => backend.zeros([2 ** 30, 2 ** 30]), RangeError, /at most 2\^53 elements/],
  ];
  for (const [run, type, message] of refused) {
    assert.throws(run, (error: Error) => {
      assert(error instanceof type, `${error.name}: ${error.message}`);
      assert.match(error.message, message);
      return true;
    });
  }
  assert.equal(backend.bytesInUse, before, "a refused call must not keep memory");
  {
    using packed = backend.zeros([2, 2, 5, 4]);
    assert.throws(() => lightningAttention(packed, packed, packed, { cuSeqlens: [0, 5] }), /batch must be 1/);
    using grouped = backend.zeros([1, 3, 5, 4]);
    assert.throws(() => lightningAttention(x, x, grouped), /heads of v must be a multiple of heads of q/);
    using flat = backend.zeros([1, 2, 5, 0]);
    assert.throws(() => lightningAttention(flat, flat, x), /headDim must be >= 1/);
  }
  {
    const gone = backend.zeros([1, 2, 5, 4]);
    gone.dispose();
    gone.dispose();
    assert.throws(() => lightningAttention(gone, x, x), { name: "BackendError", reason: "disposed" });
    await assert.rejects(gone.data(), { name: "BackendError", reason: "disposed" });
  }
  {
    using other = await createBackend({ prefer: "wasm" });
    using foreign = other.zeros([1, 2, 5, 4]);
    assert.throws(() => lightningAttention(x, foreign, x), /k must belong to the same backend/);
  }
  await check(backend, { batch: 1, heads: 1, seqLen: 10, headDim: 4, valueDim: 4 });
});

eachBackend("lightningAttention: many calls hold no memory", async (backend) => {
  const shape = [1, 1, 3, 4];
  using x = backend.tensor(randomArray(shape, 1), shape);
  const before = backend.bytesInUse;
  for (let i = 0; i < manyCalls(backend.name); i++) {
    const { output, state } = lightningAttention(x, x, x, { slopes: [0.1] });
    output.dispose();
    state.dispose();
    assert.equal(backend.bytesInUse, before);
    if (i % 1000 === 0) await x.data(); // lets a device catch up
  }
});

Deno.test("alibiSlopes and layerSlopes are the authors'", () => {
  assert.deepEqual(alibiSlopes(1), [2 ** -8]);
  assert.deepEqual(alibiSlopes(8), [1, 2, 3, 4, 5, 6, 7, 8].map((h) => 2 ** -h));
  // H = 6: the 4 slopes of 4 heads, then the first and third of 8 heads.
  assert.deepEqual(alibiSlopes(6), [2 ** -2, 2 ** -4, 2 ** -6, 2 ** -8, 2 ** -1, 2 ** -3]);
  assert.deepEqual(layerSlopes(2, 0, 3), alibiSlopes(2).map((slope) => slope * (1 + 1e-5)));
  assert.deepEqual(layerSlopes(2, 1, 3), alibiSlopes(2).map((slope) => slope * (0.5 + 1e-5)));
  assert.deepEqual(layerSlopes(2, 2, 3), alibiSlopes(2).map((slope) => slope * 1e-5));
  assert.deepEqual(layerSlopes(2, 0, 1), alibiSlopes(2).map((slope) => slope * (1 + 1e-5)));
  assert.throws(() => alibiSlopes(0), RangeError);
  assert.throws(() => alibiSlopes(1.5), RangeError);
  assert.throws(() => layerSlopes(2, 3, 3), /layer must be an integer from 0 to 2: current value is 3/);
});

Deno.test("a disposed backend says so", async () => {
  const backend = await createBackend({ prefer: "wasm" });
  const x = backend.zeros([1, 1, 1, 1]);
  backend.dispose();
  backend.dispose();
  assert.throws(
    () => lightningAttention(x, x, x),
    (error) => error instanceof BackendError && error.reason === "disposed",
  );
  await assert.rejects(x.data(), BackendError);
  x.dispose();
  await assert.rejects(
    createBackend({ prefer: "cuda" as never }),
    /prefer must be "auto", "webgpu" or "wasm"/,
  );
  await assert.rejects(createBackend({ signal: AbortSignal.abort() }), { name: "AbortError" });
});
