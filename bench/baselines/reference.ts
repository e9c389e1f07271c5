/**
 * The oracle of conventional attention and its rotary positions, in float64; `tests/reference.ts` holds all others.
 *
 * @module
 */
import type { AttentionSizes } from "./mod.ts";

/**
 * `softmax(scale · Q Kᵀ, over j ≤ i) V`, query by query; arrays are `[heads, seqLen, dim]`.
 *
 * @param queries those to compute, the others stay 0; default all
 */
export function softmaxAttention(
  q: ArrayLike<number>,
  k: ArrayLike<number>,
  v: ArrayLike<number>,
  { heads, seqLen, headDim, valueDim }: AttentionSizes,
  scale: number,
  queries: readonly number[] = Array.from({ length: seqLen }, (_, i) => i),
): Float64Array {
  const output = new Float64Array(heads * seqLen * valueDim);
  for (let h = 0; h < heads; h++) {
    for (const i of queries) {
      const query = (h * seqLen + i) * headDim, result = (h * seqLen + i) * valueDim;
      const scores = Float64Array.from({ length: i + 1 }, (_, j) => {
        let score = 0;
        for (let c = 0; c < headDim; c++) score += q[query + c] * k[(h * seqLen + j) * headDim + c];
        return scale * score;
      });
      const top = scores.reduce((a, b) => Math.max(a, b));
      const weights = scores.map((score) => Math.exp(score - top));
      const sum = weights.reduce((a, b) => a + b);
      for (let j = 0; j <= i; j++) {
        for (let c = 0; c < valueDim; c++) {
          output[result + c] += weights[j] / sum * v[(h * seqLen + j) * valueDim + c];
        }
      }
    }
  }
  return output;
}

/**
 * Rotates pairs of neighbouring elements of arrays `[.., seqLen, headDim]` by `direction · position · 10000^(−2i/headDim)`:
 * rotary positions ("RoFormer", section 3.2.2).
 */
export function rotate(
  x: ArrayLike<number>,
  { seqLen, headDim }: { seqLen: number; headDim: number },
  direction: 1 | -1 = 1,
): Float64Array {
  return Float64Array.from(x, (value, i) => {
    const element = i % headDim, position = Math.floor(i / headDim) % seqLen, isSecond = element % 2 === 1;
    const angle = direction * position * 10000 ** (-2 * Math.floor(element / 2) / headDim);
    return isSecond
      ? x[i - 1] * Math.sin(angle) + value * Math.cos(angle)
      : value * Math.cos(angle) - x[i + 1] * Math.sin(angle);
  });
}
