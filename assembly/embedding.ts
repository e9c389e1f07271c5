// Rows of tables: embedding, its gradient, gatherRows and scatterRows. Each is bound by memory.
import { loadLanes, loadOne, madd, storeLanes, widenHigh, widenLow } from "./parts/simd";

/** `target = source · scale`, a row of `width` bfloat16. */
export function copyBfloat16Row(source: usize, target: usize, width: i32, scale: f32): void {
  const factor = f32x4.splat(scale);
  let i = 0;
  for (; i + 8 <= width; i += 8) {
    const a = v128.load(source);
    v128.store(target, f32x4.mul(factor, widenLow(a)));
    v128.store(target, f32x4.mul(factor, widenHigh(a)), 16);
    source += 16;
    target += 32;
  }
  for (; i < width; i++) {
    store<f32>(target, scale * loadOne<u16>(source));
    source += 2;
    target += 4;
  }
}

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
