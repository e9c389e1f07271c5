// The squared norm of gradients. The sum runs in float64: over millions of elements f32 would lose its digits.
import { highHalf, loadLanes } from "./parts/simd";

/** `total[0] += Σ x²`. */
export function sumSquares(x: usize, count: i32, total: usize): void {
  let low = f64x2.splat(0), high = f64x2.splat(0);
  for (let i = 0; i < count; i += 4) {
    const lanes = loadLanes(x + (<usize> i << 2), count - i);
    const a = f64x2.promote_low_f32x4(lanes), b = f64x2.promote_low_f32x4(highHalf(lanes));
    low = f64x2.add(low, f64x2.mul(a, a));
    high = f64x2.add(high, f64x2.mul(b, b));
  }
  const pair = f64x2.add(low, high);
  const sum = f64x2.extract_lane(pair, 0) + f64x2.extract_lane(pair, 1);
  store<f32>(total, <f32> (<f64> load<f32>(total) + sum));
}
