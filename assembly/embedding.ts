// Rows of tables: embedding, its gradient, gatherRows and scatterRows. Each is bound by memory.
import { loadLanes, madd, storeLanes } from "./parts/simd";

/** `target = source · scale`, a row of `width`. */
export function copyRow(source: usize, target: usize, width: i32, scale: f32): void {
  const factor = f32x4.splat(scale);
  for (let i = 0; i < width; i += 4) {
    const at = <usize> i << 2, left = width - i;
    storeLanes(target + at, f32x4.mul(factor, loadLanes(source + at, left)), left);
  }
}

/** `target += source · scale`, a row of `width`. */
export function addRow(source: usize, target: usize, width: i32, scale: f32): void {
  const factor = f32x4.splat(scale);
  for (let i = 0; i < width; i += 4) {
    const at = <usize> i << 2, left = width - i;
    storeLanes(target + at, madd(factor, loadLanes(source + at, left), loadLanes(target + at, left)), left);
  }
}
