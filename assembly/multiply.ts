// The product of two tensors, element by element.
import { loadLanes, storeLanes } from "./parts/simd";

/** `output = x ⊙ y`. */
export function multiply(x: usize, y: usize, output: usize, count: i32): void {
  for (let i = 0; i < count; i += 4) {
    const at = <usize> i << 2, left = count - i;
    storeLanes(output + at, f32x4.mul(loadLanes(x + at, left), loadLanes(y + at, left)), left);
  }
}
