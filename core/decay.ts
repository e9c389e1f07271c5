/**
 * Slopes and decay tables. Everything here is float64 until the last rounding: TNL's smallest slopes make λ round
 * to 1 in f32, so a power of a rounded λ would forget the decay.
 *
 * @module
 */
import { rangeError } from "./errors.ts";

function geometric(heads: number): number[] {
  return Array.from({ length: heads }, (_, head) => 2 ** (-8 * (head + 1) / heads));
}

function checkHeads(operation: string, heads: number): void {
  if (!Number.isInteger(heads) || heads < 1) {
    rangeError(operation, "heads must be an integer >= 1", heads);
  }
}

/**
 * The authors' slopes, those of ALiBi: `2^(−8(h+1)/H)` for head h of H. For H not a power of two, the slopes of the
 * next lower power P, then every second slope of 2P.
 *
 * @example
 * ```ts
 * import { alibiSlopes } from "@levin/attention";
 * import assert from "node:assert/strict";
 *
 * assert.deepEqual(alibiSlopes(4), [1 / 4, 1 / 16, 1 / 64, 1 / 256]);
 * assert.equal(alibiSlopes(6).length, 6);
 * ```
 *
 * @param heads number of heads, an integer ≥ 1
 * @returns slopes, `[heads]`; the decay of head h is `λ = exp(−slope)` per token
 * @throws {RangeError} when `heads` is no integer ≥ 1
 */
export function alibiSlopes(heads: number): number[] {
  checkHeads("alibiSlopes", heads);
  const power = 2 ** Math.floor(Math.log2(heads));
  const interleaved = geometric(2 * power).filter((_, head) => head % 2 === 0);
  return [...geometric(power), ...interleaved.slice(0, heads - power)];
}

/**
 * The slopes of one layer of TransNormerLLM: `alibiSlopes(heads) × (1 − layer/(layers−1) + 1e−5)`, so that lower
 * layers forget and upper layers remember ("Scaling TransNormer to 175 Billion Parameters", section 3.1.1).
 * A model of one layer has the factor `1 + 1e−5`.
 *
 * @example
 * ```ts
 * import { alibiSlopes, layerSlopes } from "@levin/attention";
 * import assert from "node:assert/strict";
 *
 * assert.equal(layerSlopes(8, 23, 24)[0], alibiSlopes(8)[0] * 1e-5);
 * ```
 *
 * @param heads number of heads, an integer ≥ 1
 * @param layer index of the layer, from 0
 * @param layers number of layers
 * @throws {RangeError} when `heads` or `layers` is no integer ≥ 1, or `layer` is outside 0 to layers − 1
 */
export function layerSlopes(heads: number, layer: number, layers: number): number[] {
  checkHeads("layerSlopes", heads);
  if (!Number.isInteger(layers) || layers < 1) {
    rangeError("layerSlopes", "layers must be an integer >= 1", layers);
  }
  if (!Number.isInteger(layer) || layer < 0 || layer >= layers) {
    rangeError("layerSlopes", `layer must be an integer from 0 to ${layers - 1}`, layer);
  }
  // 1 − layer/(layers−1) first, as the authors compute it: exactly 0 at the last layer.
  const factor = 1 - (layers === 1 ? 0 : layer / (layers - 1)) + 1e-5;
  return alibiSlopes(heads).map((slope) => slope * factor);
}

/** The smallest normal f32. Subnormal factors are slow on many machines and add nothing: they become 0. */
const SMALLEST_NORMAL = 2 ** -126;

/** λ^0, λ^1, ..., λ^(count−1) as `exp(−slope·n)`, computed in float64 and rounded once. */
export function decayPowers(slope: number, count: number): Float32Array {
  return Float32Array.from({ length: count }, (_, n) => {
    // Not exp(−∞·0): an infinite slope forgets all but the token itself.
    const power = n === 0 ? 1 : Math.exp(-slope * n);
    return power < SMALLEST_NORMAL ? 0 : power;
  });
}

/**
 * How a state changes over `tokens` tokens, as one f32 that keeps the decay's digits: `λ^n − 1` (≤ 0) where λ^n > 1/2,
 * to be added as `S + change·S`; else λ^n itself (> 0), to be multiplied. Zero is no change; a decay below the normal
 * numbers is the smallest of them.
 *
 * Rounding λ^n itself to f32 would not do: of TNL's slope 4e−8, λ^48 = 1 − 1.9e−6 keeps five bits of decay, and the
 * error adds up over the blocks of a long sequence.
 */
export function decayChange(slope: number, tokens: number): number {
  const power = tokens === 0 ? 1 : Math.exp(-slope * tokens);
  return power > 0.5 ? Math.expm1(-slope * tokens) || 0 : Math.max(power, SMALLEST_NORMAL);
}
