// Vector helpers that all kernels share. Pointers are byte offsets into linear memory, lanes are f32.

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

/** Lanes 2 and 3, for promotion to float64. */
// @ts-ignore: decorator
@inline
export function highHalf(a: v128): v128 {
  return i8x16.shuffle(a, a, 8, 9, 10, 11, 12, 13, 14, 15, 8, 9, 10, 11, 12, 13, 14, 15);
}

/** Lanes 0 .. count−1 of the vector at `source`, the others zero. Reads no byte beyond them. At most 4 lanes count. */
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

/** Elements 0 to 3 of eight bfloat16 as f32: a bfloat16 is the upper half of an f32. */
// @ts-ignore: decorator
@inline
export function widenLow(a: v128): v128 {
  return v128.shuffle<i16>(i16x8.splat(0), a, 0, 8, 1, 9, 2, 10, 3, 11);
}

/** Elements 4 to 7 of eight bfloat16 as f32. */
// @ts-ignore: decorator
@inline
export function widenHigh(a: v128): v128 {
  return v128.shuffle<i16>(i16x8.splat(0), a, 4, 12, 5, 13, 6, 14, 7, 15);
}

/** Four elements as f32. T is how they are stored: f32, or u16 for bfloat16. */
// @ts-ignore: decorator
@inline
export function loadFour<T>(source: usize): v128 {
  return sizeof<T>() == 2 ? i32x4.shl(v128.load16x4_u(source), 16) : v128.load(source);
}

/** One element as f32. T as for `loadFour`. */
// @ts-ignore: decorator
@inline
export function loadOne<T>(source: usize): f32 {
  return sizeof<T>() == 2 ? reinterpret<f32>(<u32> load<u16>(source) << 16) : load<f32>(source);
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

/** What `prefetch` reads is stored here, or the compiler removes the reads. No tensor lies at offset 0. */
// @ts-ignore: decorator
@inline
const SINK: usize = 0;

/**
 * Brings rows into cache: reads each of their cache lines once, in memory order, as a stream. A loop that walks them by
 * columns would wait for memory line by line.
 */
export function prefetch(rows: usize, stride: usize, count: i32, columns: i32): void {
  let sum = 0;
  for (const end = rows + <usize> count * stride; rows < end; rows += stride) {
    for (let c = 0; c < columns; c += 16) sum += load<i32>(rows + (<usize> c << 2));
  }
  store<i32>(SINK, sum);
}
