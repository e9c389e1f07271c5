import fc from "fast-check";
import assert from "node:assert/strict";
import { createCaches, SoftmaxSession } from "../bench/baselines/generation.ts";
import { softmaxConfig } from "../bench/baselines/mixers.ts";
import { rotate, softmaxAttention } from "../bench/baselines/reference.ts";
import { FIVE_MILLION, randomModel } from "../bench/measure/models.ts";
import { type Backend, createBackend } from "../mod.ts";
import { assertClose, eachBackend, randomArray, WITHOUT_WEBGPU } from "./harness.ts";
import { toBnhd } from "./reference.ts";

eachBackend("a cache attends as conventional attention with rotary positions does", async (backend) => {
  // Panels of 16 keys, chunks of 256.
  await check(
    backend,
    { heads: 2, seqLen: 600, headDim: 64, valueDim: 64 },
    [0, 1, 15, 16, 255, 256, 599],
    1,
  );
  await check(backend, { heads: 1, seqLen: 20, headDim: 128, valueDim: 128 }, [19], 2);
  const dim = fc.integer({ min: 1, max: 32 }).map((n) => 4 * n);
  await fc.assert(
    fc.asyncProperty(
      fc.integer({ min: 1, max: 300 }),
      dim,
      dim,
      fc.nat(100),
      (seqLen, headDim, valueDim, seed) =>
        check(backend, { heads: 3, seqLen, headDim, valueDim }, [seqLen - 1], seed),
    ),
    { numRuns: 5 },
  );
});

eachBackend("a cache holds where scores are large", async (backend) => {
  await check(backend, { heads: 1, seqLen: 300, headDim: 16, valueDim: 8 }, [299], 3, 20);
});

Deno.test({
  name:
    "a model that generates with a cache gives the same logits on both backends, and as often as it is asked",
  ignore: WITHOUT_WEBGPU,
  fn: async () => {
    const config = { ...softmaxConfig(FIVE_MILLION), decoder_layers: 2 };
    const found: Float32Array[] = [];
    for (const prefer of ["wasm", "webgpu"] as const) {
      using backend = await createBackend({ prefer });
      using model = await randomModel(backend, config);
      using session = new SoftmaxSession(model, 8);
      for (const start of [0, 0, 2]) {
        session.position = start; // what was read there before is read again
        for (const id of [5, 17, 400, 3].slice(start)) {
          using logits = await session.step(id);
          found.push(await logits.data());
        }
      }
      assert.equal(session.position, 4);
    }
    const [wasm, webgpu] = [found.slice(0, 10), found.slice(10)];
    for (let i = 0; i < 10; i++) assertClose(webgpu[i], wasm[i], 1e-5, `step ${i}`);
    for (const again of [7, 9]) assert.deepEqual(wasm[again], wasm[3]);
    assert.notDeepEqual(wasm[3], wasm[2]);
  },
});

eachBackend("a batch that generates with caches gives the logits of its sequences alone", async (backend) => {
  const config = { ...softmaxConfig(FIVE_MILLION), decoder_layers: 2 };
  using model = await randomModel(backend, config);
  const sequences = [[5, 17, 400], [3, 3, 9], [511, 0, 1]];
  using batch = new SoftmaxSession(model, 8, 3);
  const together: Float32Array[] = [];
  for (let i = 0; i < 3; i++) {
    using logits = await batch.step(...sequences.map((ids) => ids[i]));
    assert.deepEqual(logits.shape, [3, config.vocab_size]);
    together.push(await logits.data());
  }
  for (const [row, ids] of sequences.entries()) {
    using session = new SoftmaxSession(model, 8);
    for (const [i, id] of ids.entries()) {
      using logits = await session.step(id);
      const own = together[i].subarray(row * config.vocab_size, (row + 1) * config.vocab_size);
      assertClose(own, await logits.data(), 1e-5, `sequence ${row}, step ${i}`);
    }
  }
  await assert.rejects(batch.step(1, 2), /3 sequences read 3 tokens: 2/);
});

/** Puts token after token into the second of two caches, and holds what some of them find to the oracle. */
async function check(
  backend: Backend,
  sizes: { heads: number; seqLen: number; headDim: number; valueDim: number },
  queries: number[],
  seed: number,
  size = 1,
): Promise<void> {
  const { heads, seqLen, headDim, valueDim } = sizes;
  const q = randomArray([heads, seqLen, headDim], seed).map((x) => x * size);
  const k = randomArray([heads, seqLen, headDim], seed + 1).map((x) => x * size);
  const v = randomArray([heads, seqLen, valueDim], seed + 2);
  const expected = softmaxAttention(
    rotate(q, sizes),
    rotate(k, sizes),
    v,
    sizes,
    1 / Math.sqrt(headDim),
    queries,
  );
  using caches = createCaches(backend, 2, sizes);
  caches.fill(new Float32Array([NaN, 1e30, -1e30]));
  const tokens = [q, k, v].map((x, i) => toBnhd(x, [1, heads, seqLen, i === 2 ? valueDim : headDim]));
  const rows = (position: number) =>
    tokens.map((x, i) => {
      const dim = i === 2 ? valueDim : headDim;
      return backend.tensor(x.slice(position * heads * dim, (position + 1) * heads * dim), [
        1,
        1,
        heads,
        dim,
      ]);
    });
  for (let position = 0; position < seqLen; position++) {
    const [query, key, value] = rows(position);
    using result = await caches.attend(1, position, query, key, value);
    for (const tensor of [query, key, value]) tensor.dispose();
    if (!queries.includes(position)) continue;
    const wanted = Float64Array.from(
      { length: heads * valueDim },
      (_, i) => expected[(Math.floor(i / valueDim) * seqLen + position) * valueDim + i % valueDim],
    );
    assertClose(
      await result.data(),
      wanted,
      4e-6 * size * size,
      `position ${position} of ${seqLen}, ${headDim}`,
    );
  }
}
