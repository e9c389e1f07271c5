// Sine and cosine of products of any size. The angle is kept as a fraction of a revolution in fixed point, where reducing it
// is dropping the integer part; WGSL's own sin and cos promise no accuracy beyond π.

// 1/(2π) in binary, 224 bits after the point, behind 96 zeros.
const INVERSE_2PI = array<u32, 10>(
  0, 0, 0, 0x28be60db, 0x9391054a, 0x7f09d5f4, 0x7d4d3770, 0x36d8a566, 0x4f10e410, 0x7f9458ea,
);

// 32 bits of INVERSE_2PI from bit `at`.
fn inverse2Pi(at: u32) -> u32 {
  let word = INVERSE_2PI[at / 32];
  let shift = at % 32;
  return select((word << shift) | (INVERSE_2PI[min(at / 32 + 1, 9u)] >> (32 - shift)), word, shift == 0);
}

// The upper 32 bits of a product.
fn multiplyHigh(a: u32, b: u32) -> u32 {
  let low = (a & 0xffff) * (b & 0xffff);
  let middle = (a >> 16) * (b & 0xffff) + (low >> 16);
  let cross = (a & 0xffff) * (b >> 16) + (middle & 0xffff);
  return (a >> 16) * (b >> 16) + (middle >> 16) + (cross >> 16);
}

// frac(|angle| · times / 2π) · 2³². With |angle| = m · 2^s, m of 24 bits, |angle| / 2π is m times a range of the bits
// of 1/(2π), of which 64 bits after the point are kept: exact to 2⁻³² of a revolution for every `times`.
fn revolutions(angle: f32, times: u32) -> u32 {
  let bits = bitcast<u32>(angle);
  let exponent = (bits >> 23) & 0xff;
  if (exponent < 55) { return 0; } // below 2⁻⁷²
  let m = (bits & 0x7fffff) | 0x800000;
  let at = exponent - 54; // of 96 bits; the product's lowest 32 only carry
  let low = inverse2Pi(at + 64);
  let middle = inverse2Pi(at + 32);
  let high = inverse2Pi(at);
  let carried = m * middle + multiplyHigh(m, low);
  let carry = multiplyHigh(m, middle) + select(0u, 1u, carried < m * middle);
  return (m * high + carry) * times + multiplyHigh(carried, times);
}

// (cos, sin)(angle · times), to 2⁻²².
fn cosSin(angle: f32, times: u32) -> vec2f {
  let bits = bitcast<u32>(angle);
  if ((bits & 0x7f800000) == 0x7f800000) { return vec2f(bitcast<f32>(bits | 0x7fc00000)); } // infinite or NaN angles give NaN
  let fraction = revolutions(angle, times);
  let quadrant = (fraction + 0x20000000) >> 30;
  let x = f32(bitcast<i32>(fraction - (quadrant << 30))) * 1.4629180792671596e-9; // 2π · 2⁻³²: |x| <= π/4
  let x2 = x * x;
  // Taylor's series: the omitted terms are below 3e−8.
  let sine = x * (1 + x2 * (-1.0 / 6 + x2 * (1.0 / 120 + x2 * (-1.0 / 5040 + x2 / 362880))));
  let cosine = 1 + x2 * (-1.0 / 2 + x2 * (1.0 / 24 + x2 * (-1.0 / 720 + x2 / 40320)));
  var result = select(vec2f(cosine, sine), vec2f(-sine, cosine), (quadrant & 1) == 1);
  result = select(result, -result, (quadrant & 2) == 2);
  return select(result, vec2f(result.x, -result.y), angle < 0);
}
