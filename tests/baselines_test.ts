import assert from "node:assert/strict";
import fc from "fast-check";
import { type AttentionSizes, Baselines } from "../bench/baselines/mod.ts";
import { KEYS, QUERIES } from "../bench/baselines/sizes.ts";
import { softmaxAttention } from "../bench/baselines/reference.ts";
import { TILE_COLUMNS, TILE_ROWS } from "../core/sizes.ts";
import { ascending, assertClose, edges, randomArray } from "./harness.ts";
import * as reference from "./reference.ts";

const VARIANTS = [{ baseline: false }, { baseline: true }];

/** Lengths around the edges of tiles, of blocks of keys and of blocks of queries. */
const LENGTHS = ascending(
  ...[0, 1],
  ...[TILE_ROWS, TILE_COLUMNS, KEYS, QUERIES].flatMap((size) => edges(size, 1)),
  QUERIES + KEYS + 1,
  2 * QUERIES + 1,
);

/** Multiplications and additions of one pass of the tile over its operands, 256 terms of each sum. */
const TILE_OPERATIONS = 2 * TILE_ROWS * TILE_COLUMNS * 256;

for (const options of VARIANTS) {
  const baselines = new Baselines(options);

  Deno.test(`softmax attention equals its float64 reference (${baselines.variant})`, () => {
    for (const seqLen of LENGTHS) {
      const sizes = { heads: 2, seqLen, headDim: 64, valueDim: 64 };
      checkSoftmax(baselines, sizes, 0.125, 1, seqLen);
    }
    const size = fc.integer({ min: 1, max: 20 });
    fc.assert(
      fc.property(
        fc.integer({ min: 0, max: 250 }),
        size,
        size,
        fc.nat(),
        (seqLen, headDim, valueDim, seed) => {
          checkSoftmax(baselines, { heads: 1, seqLen, headDim, valueDim }, 0.3, 1, seed);
        },
      ),
      { numRuns: 20 },
    );
  });

  Deno.test(`softmax attention holds where scores are large and rise to the end (${baselines.variant})`, () => {
    // Scores up to ±6000: exp overflows without the running maximum, and most weights underflow with it.
    checkSoftmax(baselines, { heads: 1, seqLen: 400, headDim: 16, valueDim: 8 }, 1, 20, 7);
    const sizes = { heads: 1, seqLen: 400, headDim: 1, valueDim: 3 };
    const q = new Float32Array(400).fill(1), v = randomArray([400, 3], 5);
    for (const direction of [1, -1]) {
      const k = Float32Array.from({ length: 400 }, (_, j) => direction * j / 4);
      using call = baselines.softmaxAttention(q, k, v, sizes, 1);
      call.run();
      assertClose(call.output(), softmaxAttention(q, k, v, sizes, 1), 2e-6);
    }
  });

  Deno.test(`the left product equals the float64 recurrence (${baselines.variant})`, () => {
    for (const seqLen of LENGTHS) {
      checkLeftProduct(baselines, { heads: 2, seqLen, headDim: 64, valueDim: 64 }, [0.5, 0.001], 1, seqLen);
    }
    const size = fc.integer({ min: 1, max: 20 });
    fc.assert(
      fc.property(
        fc.integer({ min: 0, max: 250 }),
        size,
        size,
        fc.nat(),
        (seqLen, headDim, valueDim, seed) => {
          checkLeftProduct(baselines, { heads: 1, seqLen, headDim, valueDim }, [seed % 2 * 0.1], 0.7, seed);
        },
      ),
      { numRuns: 20 },
    );
  });

  Deno.test(`the ceilings compute what they claim to count (${baselines.variant})`, () => {
    using ceiling = baselines.ceiling();
    assert.equal(ceiling.run(1), TILE_OPERATIONS);
    assert.equal(ceiling.run(1e6) % TILE_OPERATIONS, 0);
    assert.deepEqual(ceiling.result(), new Float32Array(TILE_ROWS * TILE_COLUMNS).fill(0.5 * 0.25 * 256));
    // Words 1, 2, 3, ... xor to a value that misses any word that was not read.
    for (const bytes of [128, 256, 128 * 77]) {
      using reader = baselines.readBandwidth(bytes);
      let expected = 0;
      for (let word = 0; word < bytes / 4; word += 4) expected ^= word + 1;
      assert.equal(reader.run(), expected);
    }
  });

  Deno.test(`baselines give their memory back (${baselines.variant})`, () => {
    assert.equal(baselines.bytesInUse, 0);
  });
}

/** Operands of a case; what lies in memory beyond them, earlier results, holds NaN. */
function operands(baselines: Baselines, { heads, seqLen, headDim, valueDim }: AttentionSizes, seed: number) {
  baselines.poison();
  return [
    randomArray([heads, seqLen, headDim], seed),
    randomArray([heads, seqLen, headDim], seed + 1),
    randomArray([heads, seqLen, valueDim], seed + 2),
  ] as const;
}

function checkSoftmax(
  baselines: Baselines,
  sizes: AttentionSizes,
  scale: number,
  size: number,
  seed: number,
): void {
  const [q, k, v] = operands(baselines, sizes, seed);
  const [large, keys] = [q.map((x) => x * size), k.map((x) => x * size)];
  using call = baselines.softmaxAttention(large, keys, v, sizes, scale);
  call.run();
  // Of scores of some thousands, f32 knows no more than some 1e-4.
  const limit = 2e-6 * size * size;
  assertClose(
    call.output(),
    softmaxAttention(large, keys, v, sizes, scale),
    limit,
    `length ${sizes.seqLen}, ${sizes.headDim} × ${sizes.valueDim}, seed ${seed}`,
  );
}

function checkLeftProduct(
  baselines: Baselines,
  sizes: AttentionSizes,
  slopes: number[],
  scale: number,
  seed: number,
): void {
  const [q, k, v] = operands(baselines, sizes, seed);
  using call = baselines.leftProduct(q, k, v, sizes, slopes, scale);
  call.run();
  const { output } = reference.lightningAttention(q, k, v, { batch: 1, ...sizes }, { slopes, scale });
  assertClose(
    call.output(),
    output,
    2e-6,
    `length ${sizes.seqLen}, ${sizes.headDim} × ${sizes.valueDim}, seed ${seed}`,
  );
}
