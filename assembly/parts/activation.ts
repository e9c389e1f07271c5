// Activations of a row and their derivatives, by the numbers of core/activations.ts.
import {
  ELU, EXP, GELU, LEAK, ONE_PLUS_ELU, RELU, SIGMOID, SILU, SINE, TWO_PLUS_ELU,
} from "../../core/activations";
import { erf, exp4, expm1NonPositive4, sigmoid4 } from "./exp";
import { loadLanes, madd, storeLanes } from "./simd";

/** Four lanes of an elementwise activation. */
function activate4(x: v128, activation: i32): v128 {
  const zero = f32x4.splat(0);
  switch (activation) {
    case SILU: return f32x4.mul(x, sigmoid4(x));
    case SIGMOID: return sigmoid4(x);
    case RELU: return f32x4.max(x, zero);
    case LEAK: return v128.bitselect(x, f32x4.mul(x, f32x4.splat(0.01)), f32x4.gt(x, zero));
    case ELU:
    case ONE_PLUS_ELU:
    case TWO_PLUS_ELU: {
      const offset = f32x4.splat(activation == ELU ? 0 : activation == ONE_PLUS_ELU ? 1 : 2);
      // 1 + elu is e^x below zero: added to e^x − 1 it would lose its last digits.
      const below = activation == ONE_PLUS_ELU ? exp4(x) : f32x4.add(offset, expm1NonPositive4(f32x4.min(x, zero)));
      return v128.bitselect(f32x4.add(offset, x), below, f32x4.gt(x, zero));
    }
    case GELU:
    case SINE: {
      let y = x;
      y = f32x4.replace_lane(y, 0, scalarActivation(f32x4.extract_lane(x, 0), activation));
      y = f32x4.replace_lane(y, 1, scalarActivation(f32x4.extract_lane(x, 1), activation));
      y = f32x4.replace_lane(y, 2, scalarActivation(f32x4.extract_lane(x, 2), activation));
      return f32x4.replace_lane(y, 3, scalarActivation(f32x4.extract_lane(x, 3), activation));
    }
    default: return x;
  }
}

/** gelu (exact, by erf) and sine, which no polynomial in four lanes serves well. */
function scalarActivation(x: f32, activation: i32): f32 {
  const wide = <f64> x;
  if (activation == SINE) return <f32> Math.sin(wide);
  return <f32> (0.5 * wide * (1 + erf(wide * 0.7071067811865476)));
}

/** `exp(x − max)` over one head's row, the maximum over that row. */
function expRow(x: usize, output: usize, headDim: i32): void {
  let max = load<f32>(x);
  for (let i = 1; i < headDim; i++) max = Mathf.max(max, load<f32>(x + (<usize> i << 2)));
  const shift = f32x4.splat(max);
  for (let i = 0; i < headDim; i += 4) {
    const at = <usize> i << 2, count = headDim - i;
    storeLanes(output + at, exp4(f32x4.sub(loadLanes(x + at, count), shift)), count);
  }
}

/** One row of `hidden`, heads of `headDim` in it. */
export function activateRow(x: usize, output: usize, hidden: i32, headDim: i32, activation: i32): void {
  if (activation == EXP) {
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

/** Four lanes of an elementwise activation's derivative. */
function derivative4(x: v128, activation: i32): v128 {
  const zero = f32x4.splat(0), one = f32x4.splat(1);
  const positive = f32x4.gt(x, zero);
  switch (activation) {
    // s = sigmoid(x), and 1 − s = sigmoid(−x) without cancellation.
    case SILU: return f32x4.mul(sigmoid4(x), madd(x, sigmoid4(f32x4.neg(x)), one));
    case SIGMOID: return f32x4.mul(sigmoid4(x), sigmoid4(f32x4.neg(x)));
    case RELU: return v128.and(one, positive);
    case LEAK: return v128.bitselect(one, f32x4.splat(0.01), positive);
    case ELU:
    case ONE_PLUS_ELU:
    case TWO_PLUS_ELU: return v128.bitselect(one, exp4(x), positive);
    case GELU:
    case SINE: {
      let y = x;
      y = f32x4.replace_lane(y, 0, scalarDerivative(f32x4.extract_lane(x, 0), activation));
      y = f32x4.replace_lane(y, 1, scalarDerivative(f32x4.extract_lane(x, 1), activation));
      y = f32x4.replace_lane(y, 2, scalarDerivative(f32x4.extract_lane(x, 2), activation));
      return f32x4.replace_lane(y, 3, scalarDerivative(f32x4.extract_lane(x, 3), activation));
    }
    default: return one;
  }
}

/** gelu = x Φ(x): Φ(x) + x φ(x); sine: cosine. */
function scalarDerivative(x: f32, activation: i32): f32 {
  const wide = <f64> x;
  if (activation == SINE) return <f32> Math.cos(wide);
  const density = 0.3989422804014327 * Math.exp(-0.5 * wide * wide);
  return <f32> (0.5 * (1 + erf(wide * 0.7071067811865476)) + wide * density);
}

/** `dx = dy ⊙ activation'(x)` over one row of `hidden`; `"exp"`, `e^(x − max)`, is its own derivative. */
export function activateRowBackward(x: usize, dy: usize, dx: usize, hidden: i32, headDim: i32, activation: i32): void {
  let shift = f32x4.splat(0);
  for (let h = 0; h < hidden; h += headDim) {
    const head = <usize> h << 2;
    if (activation == EXP) {
      let max = load<f32>(x + head);
      for (let i = 1; i < headDim; i++) max = Mathf.max(max, load<f32>(x + head + (<usize> i << 2)));
      shift = f32x4.splat(max);
    }
    for (let i = 0; i < headDim; i += 4) {
      const at = head + (<usize> i << 2), count = headDim - i;
      const lanes = loadLanes(x + at, count);
      const slope = activation == EXP ? exp4(f32x4.sub(lanes, shift)) : derivative4(lanes, activation);
      storeLanes(dx + at, f32x4.mul(loadLanes(dy + at, count), slope), count);
    }
  }
}
