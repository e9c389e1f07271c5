// Sums over rows, such as the gradient of a bias. They run in float64: over many tokens f32 would lose its digits.
import { highHalf, loadLanes, storeLanes } from "./parts/simd";

/** `total += Σ_rows x` over `width` columns; rows of x are `stride` bytes apart. */
export function sumRows(x: usize, total: usize, rows: i32, width: i32, stride: usize): void {
  for (let i = 0; i < width; i += 4) {
    const at = <usize> i << 2, count = width - i;
    const start = loadLanes(total + at, count);
    let low = f64x2.promote_low_f32x4(start), high = f64x2.promote_low_f32x4(highHalf(start));
    let from = x + at;
    for (let r = 0; r < rows; r++) {
      const lanes = loadLanes(from, count);
      low = f64x2.add(low, f64x2.promote_low_f32x4(lanes));
      high = f64x2.add(high, f64x2.promote_low_f32x4(highHalf(lanes)));
      from += stride;
    }
    const sum = i8x16.shuffle(f32x4.demote_f64x2_zero(low), f32x4.demote_f64x2_zero(high),
      0, 1, 2, 3, 4, 5, 6, 7, 16, 17, 18, 19, 20, 21, 22, 23);
    storeLanes(total + at, sum, count);
  }
}
