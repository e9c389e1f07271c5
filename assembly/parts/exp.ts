// exp for four lanes, and functions built on it.
import { madd } from "./simd";

/**
 * e^x within 2 ulp: x = n·ln2 + r with |r| ≤ ln2/2, e^r by its Taylor polynomial of degree 7, 2^n by the exponent
 * bits. Below −87.3 the result is 0 (no subnormals), above 88.7 infinity; NaN stays NaN.
 */
export function exp4(x: v128): v128 {
  const clamped = f32x4.max(f32x4.min(x, f32x4.splat(88.8)), f32x4.splat(-88));
  const n = f32x4.nearest(f32x4.mul(clamped, f32x4.splat(1.4426950408889634)));
  // ln2 in two parts, so that n·ln2 loses nothing.
  let r = madd(n, f32x4.splat(-0.693359375), clamped);
  r = madd(n, f32x4.splat(2.12194440e-4), r);
  let p = f32x4.splat(1.0 / 5040);
  p = madd(p, r, f32x4.splat(1.0 / 720));
  p = madd(p, r, f32x4.splat(1.0 / 120));
  p = madd(p, r, f32x4.splat(1.0 / 24));
  p = madd(p, r, f32x4.splat(1.0 / 6));
  p = madd(p, r, f32x4.splat(0.5));
  p = madd(p, r, f32x4.splat(1));
  p = madd(p, r, f32x4.splat(1));
  // 2^n in two factors: n = 128 alone would be infinity.
  const exponent = i32x4.trunc_sat_f32x4_s(n);
  const half = i32x4.shr_s(exponent, 1);
  const bias = i32x4.splat(127);
  p = f32x4.mul(p, i32x4.shl(i32x4.add(half, bias), 23));
  p = f32x4.mul(p, i32x4.shl(i32x4.add(i32x4.sub(exponent, half), bias), 23));
  return v128.andnot(p, f32x4.lt(x, f32x4.splat(-87.3)));
}

/** 1 / (1 + e^−x). */
// @ts-ignore: decorator
@inline
export function sigmoid4(x: v128): v128 {
  const one = f32x4.splat(1);
  return f32x4.div(one, f32x4.add(one, exp4(f32x4.neg(x))));
}

/** e^x − 1 for x ≤ 0, without cancellation: the Taylor series near 0, exp elsewhere. */
export function expm1NonPositive4(x: v128): v128 {
  let p = f32x4.splat(1.0 / 40320);
  p = madd(p, x, f32x4.splat(1.0 / 5040));
  p = madd(p, x, f32x4.splat(1.0 / 720));
  p = madd(p, x, f32x4.splat(1.0 / 120));
  p = madd(p, x, f32x4.splat(1.0 / 24));
  p = madd(p, x, f32x4.splat(1.0 / 6));
  p = madd(p, x, f32x4.splat(0.5));
  p = madd(p, x, f32x4.splat(1));
  const near = f32x4.mul(p, x);
  const far = f32x4.sub(exp4(x), f32x4.splat(1));
  return v128.bitselect(near, far, f32x4.gt(x, f32x4.splat(-0.5)));
}

/** erf in float64, |error| < 1.2e−16 relative near 0: its series for |x| < 2, its continued fraction beyond. */
export function erf(x: f64): f64 {
  const a = abs(x);
  if (!(a < 6)) return a >= 6 ? copysign<f64>(1, x) : x;
  if (a < 2) {
    let term = x, sum = x;
    for (let n = 1; n < 40; n++) {
      term *= -x * x / <f64> n;
      const add = term / <f64> (2 * n + 1);
      sum += add;
      if (abs(add) < 1e-17 * abs(sum)) break;
    }
    return 1.1283791670955126 * sum;
  }
  let fraction: f64 = 0;
  for (let n = 40; n > 0; n--) fraction = <f64> n * 0.5 / (a + fraction);
  return copysign<f64>(1 - Math.exp(-a * a) * 0.5641895835477563 / (a + fraction), x);
}
