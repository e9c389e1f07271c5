/**
 * Operands of the measurements, and the checks that every one of them passes before it is timed. A long sequence costs
 * its float64 reference little where only some columns or rows of the result are looked at: they do not mix.
 *
 * @module
 */
import { elementCount } from "../../core/shape.ts";
import { assertClose, seeded } from "../../tests/numbers.ts";
import * as reference from "../../tests/reference.ts";
import type { AttentionSizes } from "../baselines/mod.ts";
import { softmaxAttention } from "../baselines/reference.ts";

/** f32 sums of thousands of terms, relative to float64. */
const LIMIT = 1e-5;
/** Columns of each head that are held to the reference. */
const COLUMNS = 2;
/** Queries of each head that softmax attention is held to the reference for. */
const QUERIES = 16;

/** Seeded numbers in [−1, 1). */
export function noise(shape: readonly number[], seed: number): Float32Array {
  const random = seeded(seed);
  const data = new Float32Array(elementCount(shape));
  for (let i = 0; i < data.length; i++) data[i] = 2 * random() - 1;
  return data;
}

/** Query, key and value, `[heads, seqLen, dim]`. */
export interface Operands {
  readonly q: Float32Array;
  readonly k: Float32Array;
  readonly v: Float32Array;
}

/** Seeded query, key and value. */
export function operands({ heads, seqLen, headDim, valueDim }: AttentionSizes): Operands {
  return {
    q: noise([heads, seqLen, headDim], 1),
    k: noise([heads, seqLen, headDim], 2),
    v: noise([heads, seqLen, valueDim], 3),
  };
}

/** Holds the first columns of the first and the last head of a result of lightning attention to the recurrence. */
export function checkLightning(
  actual: Float32Array,
  { q, k, v }: Operands,
  { heads, seqLen, headDim, valueDim }: AttentionSizes,
  slopes: readonly number[],
  what = "output",
): void {
  const columns = Math.min(COLUMNS, valueDim);
  for (const head of new Set([0, heads - 1])) {
    const { output } = reference.lightningAttention(
      part(q, head, heads),
      part(k, head, heads),
      firstColumns(part(v, head, heads), valueDim, columns),
      { batch: 1, heads: 1, seqLen, headDim, valueDim: columns },
      { slopes: [slopes[head]] },
    );
    assertClose(
      firstColumns(part(actual, head, heads), valueDim, columns),
      output,
      LIMIT,
      `${what}, head ${head}`,
    );
  }
}

/**
 * The same for gradients. Each is lightning attention itself on other operands, which is what the reference computes:
 * dq of (dO, v, k), and, with time reversed, dk of (v, dO, q) and dv of (k, q, dO).
 */
export function checkLightningBackward(
  { dq, dk, dv }: Record<"dq" | "dk" | "dv", Float32Array>,
  { q, k, v }: Operands,
  dOutput: Float32Array,
  sizes: AttentionSizes,
  slopes: readonly number[],
): void {
  const { heads, headDim: d, valueDim: e } = sizes;
  const back = (x: Float32Array, dim: number) => reversed(x, heads, dim);
  const swapped = { ...sizes, headDim: e, valueDim: d };
  checkLightning(dq, { q: dOutput, k: v, v: k }, swapped, slopes, "dq");
  checkLightning(back(dk, d), { q: back(v, e), k: back(dOutput, e), v: back(q, d) }, swapped, slopes, "dk");
  checkLightning(back(dv, e), { q: back(k, d), k: back(q, d), v: back(dOutput, e) }, sizes, slopes, "dv");
}

/** Holds some queries of the first and the last head of causal softmax attention to the reference. */
export function checkSoftmax(
  actual: Float32Array,
  { q, k, v }: Operands,
  sizes: AttentionSizes,
  scale: number,
): void {
  const { heads, seqLen, valueDim } = sizes;
  const rows = Array.from({ length: QUERIES }, (_, i) => Math.floor((i + 1) * seqLen / QUERIES) - 1);
  for (const head of new Set([0, heads - 1])) {
    const [qh, kh, vh, found] = [q, k, v, actual].map((x) => part(x, head, heads));
    const expected = softmaxAttention(qh, kh, vh, { ...sizes, heads: 1 }, scale, rows);
    for (const row of rows) {
      const at = row * valueDim;
      assertClose(
        found.subarray(at, at + valueDim),
        expected.subarray(at, at + valueDim),
        LIMIT,
        `query ${row}`,
      );
    }
  }
}

/** Every head's tokens from last to first. */
export function reversed(x: Float32Array, heads: number, dim: number): Float32Array {
  const result = new Float32Array(x.length), seqLen = x.length / heads / dim;
  for (let h = 0; h < heads; h++) {
    for (let t = 0; t < seqLen; t++) {
      const from = (h * seqLen + t) * dim;
      result.set(x.subarray(from, from + dim), ((h + 1) * seqLen - 1 - t) * dim);
    }
  }
  return result;
}

/** One head of many. */
function part(x: Float32Array, head: number, heads: number): Float32Array {
  const size = x.length / heads;
  return x.subarray(head * size, (head + 1) * size);
}

function firstColumns(x: Float32Array, width: number, columns: number): Float32Array {
  const result = new Float32Array(x.length / width * columns);
  for (let i = 0; i < result.length; i++) {
    result[i] = x[Math.floor(i / columns) * width + i % columns];
  }
  return result;
}
