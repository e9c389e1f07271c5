/**
 * IEEE 754 binary16, for storage.
 *
 * @module
 */
const float = new Float32Array(1);
const word = new Uint32Array(float.buffer);

/** The nearest halves of f32 values, ties to even, as bits; beyond ±65504 infinity. */
export function toHalf(values: Float32Array): Uint16Array<ArrayBuffer> {
  const halves = new Uint16Array(values.length);
  for (let i = 0; i < values.length; i++) {
    float[0] = values[i];
    const sign = word[0] >>> 16 & 0x8000;
    const magnitude = word[0] & 0x7fffffff;
    if (magnitude > 0x7f800000) halves[i] = sign | 0x7e00; // NaN
    else if (magnitude >= 0x477ff000) halves[i] = sign | 0x7c00; // from 65520, which rounds up
    else if (magnitude >= 0x38800000) { // from 2^−14: rebias the exponent, round 13 bits away
      halves[i] = sign | (magnitude - 0x38000000 + 0xfff + (magnitude >>> 13 & 1)) >>> 13;
    } else { // subnormal: added to 1/2, an f32 counts in steps of 2^−24, as halves do here
      float[0] = Math.abs(values[i]) + 0.5;
      halves[i] = sign | word[0] - 0x3f000000;
    }
  }
  return halves;
}

/** The f32 value of a half given as bits. */
function valueOf(half: number): number {
  const magnitude = half & 0x7fff;
  if (magnitude >= 0x7c00) word[0] = magnitude << 13 | 0x7f800000;
  else if (magnitude >= 0x0400) word[0] = (magnitude << 13) + 0x38000000;
  else float[0] = magnitude * 2 ** -24;
  word[0] |= (half & 0x8000) << 16;
  return float[0];
}

/** The values of all halves, once they are wanted: looking them up is faster than computing them. */
let valuesOf: Float32Array | undefined;

/** The f32 values of halves given as bits, in a new array or in `values`. */
export function fromHalf(
  halves: Uint16Array,
  values: Float32Array = new Float32Array(halves.length),
): Float32Array {
  valuesOf ??= Float32Array.from({ length: 65536 }, (_, half) => valueOf(half));
  const table = valuesOf;
  for (let i = 0; i < halves.length; i++) values[i] = table[halves[i]];
  return values;
}
