// The optimiser.
import { loadLanes, madd, storeLanes } from "./parts/simd";

/**
 * AdamW ("Decoupled Weight Decay Regularization", algorithm 2). The gradient is clipped by the norm sqrt(squares):
 * `g ← g · min(1, maxNorm / sqrt(squares))`, `m ← β1 m + (1−β1) g`, `v ← β2 v + (1−β2) g²`,
 * `p ← keep · p − rate · m / (sqrt(v) · correction + eps)`, with keep = 1 − learningRate · weightDecay,
 * rate = learningRate / (1 − β1^t) and correction = 1 / sqrt(1 − β2^t).
 */
export function adamw(
  parameter: usize, gradient: usize, first: usize, second: usize, squares: usize, count: i32,
  keep: f32, rate: f32, beta1: f32, rest1: f32, beta2: f32, rest2: f32, correction: f32, eps: f32, maxNorm: f32,
): void {
  const clip = f32x4.splat(Mathf.min(1, maxNorm / Mathf.sqrt(load<f32>(squares))));
  for (let i = 0; i < count; i += 4) {
    const at = <usize> i << 2, left = count - i;
    const g = f32x4.mul(clip, loadLanes(gradient + at, left));
    const m = madd(f32x4.splat(beta1), loadLanes(first + at, left), f32x4.mul(f32x4.splat(rest1), g));
    const v = madd(f32x4.splat(beta2), loadLanes(second + at, left), f32x4.mul(f32x4.splat(rest2), f32x4.mul(g, g)));
    const root = madd(f32x4.sqrt(v), f32x4.splat(correction), f32x4.splat(eps));
    const p = f32x4.mul(f32x4.splat(keep), loadLanes(parameter + at, left));
    storeLanes(first + at, m, left);
    storeLanes(second + at, v, left);
    storeLanes(parameter + at, f32x4.sub(p, f32x4.mul(f32x4.splat(rate), f32x4.div(m, root))), left);
  }
}
