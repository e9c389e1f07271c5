// Vector helpers that every kernel shares. Pointers are byte offsets into linear memory, lanes are f32.

/** a·b + c: one instruction with relaxed SIMD, two without. */
// @ts-ignore: decorator
@inline
export function madd(a: v128, b: v128, c: v128): v128 {
  if (ASC_FEATURE_RELAXED_SIMD) return f32x4.relaxed_madd(a, b, c);
  return f32x4.add(f32x4.mul(a, b), c);
}

/** The sum of the four lanes, always in the same order. */
// @ts-ignore: decorator
@inline
export function horizontalSum(a: v128): f32 {
  return (f32x4.extract_lane(a, 0) + f32x4.extract_lane(a, 1)) +
    (f32x4.extract_lane(a, 2) + f32x4.extract_lane(a, 3));
}

/** Lanes 0 .. count−1 of the vector at `source`, the others zero; reads no byte beyond them. 0 ≤ count ≤ 4. */
// @ts-ignore: decorator
@inline
export function loadLanes(source: usize, count: i32): v128 {
  if (count >= 4) return v128.load(source);
  let a = f32x4.splat(0);
  if (count > 0) a = v128.load32_zero(source);
  if (count > 1) a = v128.load32_lane(source, a, 1, 4);
  if (count > 2) a = v128.load32_lane(source, a, 2, 8);
  return a;
}

/** Stores lanes 0 .. count−1. */
// @ts-ignore: decorator
@inline
export function storeLanes(target: usize, a: v128, count: i32): void {
  if (count >= 4) {
    v128.store(target, a);
    return;
  }
  if (count > 0) v128.store32_lane(target, a, 0);
  if (count > 1) v128.store32_lane(target, a, 1, 4);
  if (count > 2) v128.store32_lane(target, a, 2, 8);
}

/**
 * Brings rows into cache: reads each of their cache lines once, in the order in which they lie, as a stream. What meets
 * them by columns would wait for memory line by line. To be stored: a read of which nothing becomes would be left out.
 */
export function touch(rows: usize, stride: usize, count: i32, columns: i32): i32 {
  let sum = 0;
  for (const end = rows + <usize> count * stride; rows < end; rows += stride) {
    for (let c = 0; c < columns; c += 16) sum += load<i32>(rows + (<usize> c << 2));
  }
  return sum;
}
