// The operations around attention: embedding, norm, splitHeads with its activations, LRPE, multiply.
// They are bound by memory; each reads its input once (norm twice, from cache).
import { erf, exp4, expm1NonPositive4, sigmoid4 } from "./exp";
import { horizontalSum, loadLanes, madd, storeLanes } from "./simd";

/** `output = table[id] · scale` for one id: a row of `dim`. */
export function scaledCopy(source: usize, target: usize, count: i32, scale: f32): void {
  const factor = f32x4.splat(scale);
  for (let i = 0; i < count; i += 4) {
    const at = <usize> i << 2;
    storeLanes(target + at, f32x4.mul(factor, loadLanes(source + at, count - i)), count - i);
  }
}

/** `output = x ⊙ y`. */
export function multiply(x: usize, y: usize, output: usize, count: i32): void {
  for (let i = 0; i < count; i += 4) {
    const at = <usize> i << 2, left = count - i;
    storeLanes(output + at, f32x4.mul(loadLanes(x + at, left), loadLanes(y + at, left)), left);
  }
}

/** `Σ x` over a row, on four sums so that additions need not wait for one another. */
function rowSum(x: usize, width: i32): f32 {
  let s0 = f32x4.splat(0), s1 = s0, s2 = s0, s3 = s0;
  let i = 0;
  for (; i + 16 <= width; i += 16) {
    const at = x + (<usize> i << 2);
    s0 = f32x4.add(s0, v128.load(at));
    s1 = f32x4.add(s1, v128.load(at, 16));
    s2 = f32x4.add(s2, v128.load(at, 32));
    s3 = f32x4.add(s3, v128.load(at, 48));
  }
  for (; i < width; i += 4) s0 = f32x4.add(s0, loadLanes(x + (<usize> i << 2), width - i));
  return horizontalSum(f32x4.add(f32x4.add(s0, s1), f32x4.add(s2, s3)));
}

/** `Σ (x − mean)²` over a row, likewise. */
function squareSum(x: usize, width: i32, mean: f32): f32 {
  const shift = f32x4.splat(mean);
  let s0 = f32x4.splat(0), s1 = s0, s2 = s0, s3 = s0;
  let i = 0;
  for (; i + 16 <= width; i += 16) {
    const at = x + (<usize> i << 2);
    const c0 = f32x4.sub(v128.load(at), shift), c1 = f32x4.sub(v128.load(at, 16), shift);
    const c2 = f32x4.sub(v128.load(at, 32), shift), c3 = f32x4.sub(v128.load(at, 48), shift);
    s0 = madd(c0, c0, s0);
    s1 = madd(c1, c1, s1);
    s2 = madd(c2, c2, s2);
    s3 = madd(c3, c3, s3);
  }
  for (; i + 4 <= width; i += 4) {
    const centred = f32x4.sub(v128.load(x + (<usize> i << 2)), shift);
    s0 = madd(centred, centred, s0);
  }
  let squares = horizontalSum(f32x4.add(f32x4.add(s0, s1), f32x4.add(s2, s3)));
  for (; i < width; i++) {
    const centred = load<f32>(x + (<usize> i << 2)) - mean;
    squares += centred * centred;
  }
  return squares;
}

/** `(x − mean) · factor · weight + bias`, times gate, on `count` elements. */
// @ts-ignore: decorator
@inline
function normLanes(
  x: usize, weight: usize, bias: usize, gate: usize, output: usize, shift: v128, factor: v128, count: i32,
  affine: bool, gated: bool,
): void {
  let y = f32x4.mul(f32x4.sub(loadLanes(x, count), shift), factor);
  if (affine) y = madd(y, loadLanes(weight, count), loadLanes(bias, count));
  if (gated) y = f32x4.mul(y, loadLanes(gate, count));
  storeLanes(output, y, count);
}

/** A row of it; `affine` and `gated` are known where it is called, so that the loop has no branch. */
// @ts-ignore: decorator
@inline
function normRow(
  x: usize, weight: usize, bias: usize, gate: usize, output: usize, width: i32, shift: v128, factor: v128,
  affine: bool, gated: bool,
): void {
  const whole = width & ~3;
  for (let i = 0; i < whole; i += 4) {
    const at = <usize> i << 2;
    normLanes(x + at, weight + at, bias + at, gate + at, output + at, shift, factor, 4, affine, gated);
  }
  if (whole < width) {
    const at = <usize> whole << 2;
    normLanes(x + at, weight + at, bias + at, gate + at, output + at, shift, factor, width - whole, affine, gated);
  }
}

/**
 * Rows of `width`: SRMSNorm `x / sqrt(mean(x²) + eps)` where weight is 0, else LayerNorm
 * `(x − mean) / sqrt(var + eps) · weight + bias`; then times gate, where that is not 0.
 */
export function norm(
  x: usize, weight: usize, bias: usize, gate: usize, output: usize, rows: i32, width: i32, eps: f32,
): void {
  const row = <usize> width << 2;
  for (let r = 0; r < rows; r++) {
    const mean: f32 = weight != 0 ? rowSum(x, width) / <f32> width : 0;
    const shift = f32x4.splat(mean);
    const factor = f32x4.splat(1 / sqrt<f32>(squareSum(x, width, mean) / <f32> width + eps));
    if (weight != 0) {
      if (gate != 0) normRow(x, weight, bias, gate, output, width, shift, factor, true, true);
      else normRow(x, weight, bias, gate, output, width, shift, factor, true, false);
    } else {
      if (gate != 0) normRow(x, weight, bias, gate, output, width, shift, factor, false, true);
      else normRow(x, weight, bias, gate, output, width, shift, factor, false, false);
    }
    x += row;
    output += row;
    if (gate != 0) gate += row;
  }
}

// Activations by the index that wasm/backend.ts gives them: their place in core/ops.ts's ACTIVATIONS.
export const enum Activation { identity, silu, onePlusElu, twoPlusElu, elu, relu, gelu, leak, sigmoid, sine, exp }

/** Four lanes of an elementwise activation. */
function activate4(x: v128, activation: i32): v128 {
  const zero = f32x4.splat(0);
  switch (activation) {
    case Activation.silu: return f32x4.mul(x, sigmoid4(x));
    case Activation.sigmoid: return sigmoid4(x);
    case Activation.relu: return f32x4.max(x, zero);
    case Activation.leak: return v128.bitselect(x, f32x4.mul(x, f32x4.splat(0.01)), f32x4.gt(x, zero));
    case Activation.elu:
    case Activation.onePlusElu:
    case Activation.twoPlusElu: {
      const offset = f32x4.splat(activation == Activation.elu ? 0 : activation == Activation.onePlusElu ? 1 : 2);
      // 1 + elu is e^x below zero: added to e^x − 1 it would lose its last digits.
      const below = activation == Activation.onePlusElu ? exp4(x) : f32x4.add(offset, expm1NonPositive4(f32x4.min(x, zero)));
      return v128.bitselect(f32x4.add(offset, x), below, f32x4.gt(x, zero));
    }
    case Activation.gelu:
    case Activation.sine: {
      let y = x;
      y = f32x4.replace_lane(y, 0, scalarActivation(f32x4.extract_lane(x, 0), activation));
      y = f32x4.replace_lane(y, 1, scalarActivation(f32x4.extract_lane(x, 1), activation));
      y = f32x4.replace_lane(y, 2, scalarActivation(f32x4.extract_lane(x, 2), activation));
      return f32x4.replace_lane(y, 3, scalarActivation(f32x4.extract_lane(x, 3), activation));
    }
    default: return x;
  }
}

/** The two that no polynomial of four lanes serves well: gelu (exact, by erf) and sine. */
function scalarActivation(x: f32, activation: i32): f32 {
  const wide = <f64> x;
  if (activation == Activation.sine) return <f32> Math.sin(wide);
  return <f32> (0.5 * wide * (1 + erf(wide * 0.7071067811865476)));
}

/** One head's row of `"exp"`: `exp(x − max)`, the maximum over the row. */
function expRow(x: usize, output: usize, headDim: i32): void {
  let max = load<f32>(x);
  for (let i = 1; i < headDim; i++) max = Mathf.max(max, load<f32>(x + (<usize> i << 2)));
  const shift = f32x4.splat(max);
  for (let i = 0; i < headDim; i += 4) {
    const at = <usize> i << 2, count = headDim - i;
    storeLanes(output + at, exp4(f32x4.sub(loadLanes(x + at, count), shift)), count);
  }
}

function activateRow(x: usize, output: usize, hidden: i32, headDim: i32, activation: i32): void {
  if (activation == Activation.exp) {
    for (let h = 0; h < hidden; h += headDim) {
      expRow(x + (<usize> h << 2), output + (<usize> h << 2), headDim);
    }
    return;
  }
  for (let i = 0; i < hidden; i += 4) {
    const at = <usize> i << 2, count = hidden - i;
    storeLanes(output + at, activate4(loadLanes(x + at, count), activation), count);
  }
}

/** Rows `[4 · hidden]` to q, k (activated), v, u, rows of `hidden` each. */
export function splitHeads(
  x: usize, q: usize, k: usize, v: usize, u: usize, rows: i32, hidden: i32, headDim: i32, activation: i32,
): void {
  const row = <usize> hidden << 2;
  for (let r = 0; r < rows; r++) {
    activateRow(x, q, hidden, headDim, activation);
    activateRow(x + row, k, hidden, headDim, activation);
    memory.copy(v, x + 2 * row, row);
    memory.copy(u, x + 3 * row, row);
    x += 4 * row;
    q += row;
    k += row;
    v += row;
    u += row;
  }
}

/**
 * `[x·cos(θp), x·sin(θp)]` over the tokens of one batch element, p from `position` on. x `[seqLen, heads, headDim]`,
 * theta `[heads · headDim]`. The angle advances by a rotation in float64, whose error after a million tokens is 1e−10.
 */
export function lrpe(
  x: usize, theta: usize, output: usize, seqLen: i32, heads: i32, headDim: i32, position: f64,
): void {
  const row = <usize> (heads * headDim) << 2;
  for (let h = 0; h < heads; h++) {
    for (let i = 0; i < headDim; i++) {
      const angle = <f64> load<f32>(theta + (<usize> (h * headDim + i) << 2));
      const stepCos = Math.cos(angle), stepSin = Math.sin(angle);
      let c = Math.cos(angle * position), s = Math.sin(angle * position);
      let from = x + (<usize> (h * headDim + i) << 2);
      let to = output + (<usize> (2 * h * headDim + i) << 2);
      for (let t = 0; t < seqLen; t++) {
        const value = <f64> load<f32>(from);
        store<f32>(to, <f32> (value * c));
        store<f32>(to + (<usize> headDim << 2), <f32> (value * s));
        const next = c * stepCos - s * stepSin;
        s = s * stepCos + c * stepSin;
        c = next;
        from += row;
        to += 2 * row;
      }
    }
  }
}
