// Gradients of layers.ts, cross entropy, and the optimiser. Gradients of parameters are added to what is there.
// Sums that run over many tokens are kept in float64: they would lose digits long before the rest does.
import { erf, exp4, sigmoid4 } from "./exp";
import { Activation } from "./layers";
import { horizontalSum, loadLanes, madd, storeLanes } from "./simd";

/** `target += source · scale`, a row of `count`. */
export function scaledAdd(source: usize, target: usize, count: i32, scale: f32): void {
  const factor = f32x4.splat(scale);
  for (let i = 0; i < count; i += 4) {
    const at = <usize> i << 2, left = count - i;
    storeLanes(target + at, madd(factor, loadLanes(source + at, left), loadLanes(target + at, left)), left);
  }
}

// @ts-ignore: decorator
@inline
function highHalf(a: v128): v128 {
  return i8x16.shuffle(a, a, 8, 9, 10, 11, 12, 13, 14, 15, 8, 9, 10, 11, 12, 13, 14, 15);
}

/** `dBias += Σ_rows dy`, dy `[rows, outs]`. */
export function linearBias(dy: usize, dBias: usize, rows: i32, outs: i32): void {
  const row = <usize> outs << 2;
  for (let o = 0; o < outs; o += 4) {
    const at = <usize> o << 2, count = outs - o;
    const start = loadLanes(dBias + at, count);
    let low = f64x2.promote_low_f32x4(start), high = f64x2.promote_low_f32x4(highHalf(start));
    let from = dy + at;
    for (let r = 0; r < rows; r++) {
      const lanes = loadLanes(from, count);
      low = f64x2.add(low, f64x2.promote_low_f32x4(lanes));
      high = f64x2.add(high, f64x2.promote_low_f32x4(highHalf(lanes)));
      from += row;
    }
    const sum = i8x16.shuffle(f32x4.demote_f64x2_zero(low), f32x4.demote_f64x2_zero(high),
      0, 1, 2, 3, 4, 5, 6, 7, 16, 17, 18, 19, 20, 21, 22, 23);
    storeLanes(dBias + at, sum, count);
  }
}

/**
 * With n = (x − mean) · r, r = 1 / sqrt(mean((x − mean)²) + eps) and y = (n · weight + bias) · gate:
 * `g = dy · gate · weight`, `dx = r (g − mean(g) − n · mean(g · n)) + residual`, `dGate = dy · (n · weight + bias)`,
 * `dWeight += Σ_rows dy · gate · n`, `dBias += Σ_rows dy · gate`. SRMSNorm (weight 0) has no mean, and no mean(g).
 */
export function normBackward(
  x: usize, weight: usize, bias: usize, gate: usize, dy: usize, residual: usize,
  dx: usize, dWeight: usize, dBias: usize, dGate: usize, rows: i32, width: i32, eps: f32,
): void {
  const row = <usize> width << 2;
  const affine = weight != 0;
  for (let r = 0; r < rows; r++) {
    let mean: f32 = 0;
    if (affine) {
      let sum = f32x4.splat(0);
      for (let i = 0; i < width; i += 4) sum = f32x4.add(sum, loadLanes(x + (<usize> i << 2), width - i));
      mean = horizontalSum(sum) / <f32> width;
    }
    const shift = f32x4.splat(mean);
    // Σ (x − mean)², Σ g and Σ g · (x − mean) in one pass; lanes beyond the width hold g = 0.
    let squares = f32x4.splat(0), sumG = squares, sumGx = squares;
    let lastSquares: f32 = 0;
    for (let i = 0; i < width; i += 4) {
      const at = <usize> i << 2, count = width - i;
      const centred = f32x4.sub(loadLanes(x + at, count), shift);
      let g = loadLanes(dy + at, count);
      if (gate != 0) g = f32x4.mul(g, loadLanes(gate + at, count));
      if (affine) g = f32x4.mul(g, loadLanes(weight + at, count));
      sumG = f32x4.add(sumG, g);
      sumGx = madd(g, centred, sumGx);
      if (count >= 4) squares = madd(centred, centred, squares);
      else {
        for (let j = i; j < width; j++) {
          const c = load<f32>(x + (<usize> j << 2)) - mean;
          lastSquares += c * c;
        }
      }
    }
    const factor: f32 = 1 / sqrt<f32>((horizontalSum(squares) + lastSquares) / <f32> width + eps);
    const scale = f32x4.splat(factor);
    const meanG = f32x4.splat(affine ? horizontalSum(sumG) / <f32> width : 0);
    const meanGn = f32x4.splat(horizontalSum(sumGx) * factor / <f32> width);
    for (let i = 0; i < width; i += 4) {
      const at = <usize> i << 2, count = width - i;
      const n = f32x4.mul(f32x4.sub(loadLanes(x + at, count), shift), scale);
      const incoming = loadLanes(dy + at, count);
      let g = incoming;
      if (gate != 0) {
        g = f32x4.mul(g, loadLanes(gate + at, count));
        const y = affine ? madd(n, loadLanes(weight + at, count), loadLanes(bias + at, count)) : n;
        storeLanes(dGate + at, f32x4.mul(incoming, y), count);
      }
      if (affine) {
        storeLanes(dWeight + at, madd(g, n, loadLanes(dWeight + at, count)), count);
        storeLanes(dBias + at, f32x4.add(g, loadLanes(dBias + at, count)), count);
        g = f32x4.mul(g, loadLanes(weight + at, count));
      }
      let d = f32x4.mul(scale, f32x4.sub(f32x4.sub(g, meanG), f32x4.mul(n, meanGn)));
      if (residual != 0) d = f32x4.add(d, loadLanes(residual + at, count));
      storeLanes(dx + at, d, count);
    }
    x += row;
    dy += row;
    dx += row;
    if (residual != 0) residual += row;
    if (gate != 0) {
      gate += row;
      dGate += row;
    }
  }
}

/** Four lanes of an elementwise activation's derivative. */
function derivative4(x: v128, activation: i32): v128 {
  const zero = f32x4.splat(0), one = f32x4.splat(1);
  const positive = f32x4.gt(x, zero);
  switch (activation) {
    // s = sigmoid(x), and 1 − s = sigmoid(−x) without cancellation.
    case Activation.silu: return f32x4.mul(sigmoid4(x), madd(x, sigmoid4(f32x4.neg(x)), one));
    case Activation.sigmoid: return f32x4.mul(sigmoid4(x), sigmoid4(f32x4.neg(x)));
    case Activation.relu: return v128.and(one, positive);
    case Activation.leak: return v128.bitselect(one, f32x4.splat(0.01), positive);
    case Activation.elu:
    case Activation.onePlusElu:
    case Activation.twoPlusElu: return v128.bitselect(one, exp4(x), positive);
    case Activation.gelu:
    case Activation.sine: {
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
  if (activation == Activation.sine) return <f32> Math.cos(wide);
  const density = 0.3989422804014327 * Math.exp(-0.5 * wide * wide);
  return <f32> (0.5 * (1 + erf(wide * 0.7071067811865476)) + wide * density);
}

/** `dx = dy ⊙ activation'(x)` over one row of `hidden`; `"exp"`, `e^(x − max)`, is its own derivative. */
function activateRowBackward(x: usize, dy: usize, dx: usize, hidden: i32, headDim: i32, activation: i32): void {
  let shift = f32x4.splat(0);
  for (let h = 0; h < hidden; h += headDim) {
    const head = <usize> h << 2;
    if (activation == Activation.exp) {
      let max = load<f32>(x + head);
      for (let i = 1; i < headDim; i++) max = Mathf.max(max, load<f32>(x + head + (<usize> i << 2)));
      shift = f32x4.splat(max);
    }
    for (let i = 0; i < headDim; i += 4) {
      const at = head + (<usize> i << 2), count = headDim - i;
      const lanes = loadLanes(x + at, count);
      const slope = activation == Activation.exp ? exp4(f32x4.sub(lanes, shift)) : derivative4(lanes, activation);
      storeLanes(dx + at, f32x4.mul(loadLanes(dy + at, count), slope), count);
    }
  }
}

/** Rows of dq, dk, dv, du to rows `[4 · hidden]` of dx; x is what `splitHeads` split. */
export function splitHeadsBackward(
  x: usize, dq: usize, dk: usize, dv: usize, du: usize, dx: usize,
  rows: i32, hidden: i32, headDim: i32, activation: i32,
): void {
  const row = <usize> hidden << 2;
  for (let r = 0; r < rows; r++) {
    activateRowBackward(x, dq, dx, hidden, headDim, activation);
    activateRowBackward(x + row, dk, dx + row, hidden, headDim, activation);
    memory.copy(dx + 2 * row, dv, row);
    memory.copy(dx + 3 * row, du, row);
    x += 4 * row;
    dx += 4 * row;
    dq += row;
    dk += row;
    dv += row;
    du += row;
  }
}

/**
 * With y = [x·cos(θp), x·sin(θp)] and dy = [a, b]: `dx = a·cos(θp) + b·sin(θp)`,
 * `dTheta += Σ_t p · x · (b·cos(θp) − a·sin(θp))`. Angles as in `lrpe`.
 */
export function lrpeBackward(
  x: usize, theta: usize, dy: usize, dx: usize, dTheta: usize, seqLen: i32, heads: i32, headDim: i32, position: f64,
): void {
  const row = <usize> (heads * headDim) << 2;
  for (let h = 0; h < heads; h++) {
    for (let i = 0; i < headDim; i++) {
      const index = <usize> (h * headDim + i) << 2;
      const angle = <f64> load<f32>(theta + index);
      const stepCos = Math.cos(angle), stepSin = Math.sin(angle);
      let c = Math.cos(angle * position), s = Math.sin(angle * position);
      let at = index, from = dy + (<usize> (2 * h * headDim + i) << 2);
      let sum: f64 = 0;
      for (let t = 0; t < seqLen; t++) {
        const a = <f64> load<f32>(from), b = <f64> load<f32>(from + (<usize> headDim << 2));
        store<f32>(dx + at, <f32> (a * c + b * s));
        sum += (position + <f64> t) * <f64> load<f32>(x + at) * (b * c - a * s);
        const next = c * stepCos - s * stepSin;
        s = s * stepCos + c * stepSin;
        c = next;
        at += row;
        from += 2 * row;
      }
      store<f32>(dTheta + index, <f32> (<f64> load<f32>(dTheta + index) + sum));
    }
  }
}

/** Cross entropy of one row: `loss = logsumexp − logits[label]`, `dLogits = (softmax − onehot(label)) · scale`. */
export function crossEntropy(
  logits: usize, vocab: i32, label: i32, scale: f32, loss: usize, dLogits: usize,
): void {
  if (label < 0) {
    store<f32>(loss, 0);
    memory.fill(dLogits, 0, <usize> vocab << 2);
    return;
  }
  let max = load<f32>(logits);
  for (let i = 1; i < vocab; i++) max = Mathf.max(max, load<f32>(logits + (<usize> i << 2)));
  const shift = f32x4.splat(max);
  let sum: f64 = 0;
  for (let i = 0; i < vocab; i += 4) {
    const at = <usize> i << 2, count = vocab - i;
    storeLanes(dLogits + at, exp4(f32x4.sub(loadLanes(logits + at, count), shift)), count);
    sum += <f64> horizontalSum(loadLanes(dLogits + at, count));
  }
  const own = <usize> label << 2;
  store<f32>(loss, <f32> (Math.log(sum) + (<f64> max - <f64> load<f32>(logits + own))));
  const factor = f32x4.splat(<f32> (<f64> scale / sum));
  for (let i = 0; i < vocab; i += 4) {
    const at = <usize> i << 2, count = vocab - i;
    storeLanes(dLogits + at, f32x4.mul(loadLanes(dLogits + at, count), factor), count);
  }
  store<f32>(dLogits + own, load<f32>(dLogits + own) - scale);
}

/** `output[0] += Σ x²`. */
export function sumSquares(x: usize, count: i32, output: usize): void {
  let low = f64x2.splat(0), high = f64x2.splat(0);
  for (let i = 0; i < count; i += 4) {
    const lanes = loadLanes(x + (<usize> i << 2), count - i);
    const a = f64x2.promote_low_f32x4(lanes), b = f64x2.promote_low_f32x4(highHalf(lanes));
    low = f64x2.add(low, f64x2.mul(a, a));
    high = f64x2.add(high, f64x2.mul(b, b));
  }
  const pair = f64x2.add(low, high);
  const sum = f64x2.extract_lane(pair, 0) + f64x2.extract_lane(pair, 1);
  store<f32>(output, <f32> (<f64> load<f32>(output) + sum));
}

/**
 * AdamW ("Decoupled Weight Decay Regularization", algorithm 2). The gradient is clipped by the norm sqrt(squares):
 * `g ← g · min(1, maxNorm / sqrt(squares))`, `m ← β1 m + (1−β1) g`, `v ← β2 v + (1−β2) g²`,
 * `p ← keep · p − rate · m / (sqrt(v) · correction + eps)`, with keep = 1 − learningRate · weightDecay,
 * rate = learningRate / (1 − β1^t) and correction = 1 / sqrt(1 − β2^t).
 */
export function adamw(
  parameter: usize, gradient: usize, first: usize, second: usize, squares: usize, count: i32,
  keep: f32, rate: f32, beta1: f32, rest1: f32, beta2: f32, rest2: f32, correction: f32, eps: f32, maxNorm: f32,
): void {
  const clip = f32x4.splat(Mathf.min(1, maxNorm / Mathf.sqrt(load<f32>(squares))));
  for (let i = 0; i < count; i += 4) {
    const at = <usize> i << 2, left = count - i;
    const g = f32x4.mul(clip, loadLanes(gradient + at, left));
    const m = madd(f32x4.splat(beta1), loadLanes(first + at, left), f32x4.mul(f32x4.splat(rest1), g));
    const v = madd(f32x4.splat(beta2), loadLanes(second + at, left), f32x4.mul(f32x4.splat(rest2), f32x4.mul(g, g)));
    const root = madd(f32x4.sqrt(v), f32x4.splat(correction), f32x4.splat(eps));
    const p = f32x4.mul(f32x4.splat(keep), loadLanes(parameter + at, left));
    storeLanes(first + at, m, left);
    storeLanes(second + at, v, left);
    storeLanes(parameter + at, f32x4.sub(p, f32x4.mul(f32x4.splat(rate), f32x4.div(m, root))), left);
  }
}
