/**
 * The oracle of the gradients: each in float64, as its equation says, and held to differences of the forward oracle in
 * `gradients_test.ts`. Shapes are those of `core/gradients.ts`.
 *
 * @module
 */
import type { Activation } from "../core/machine.ts";
import { erf } from "./reference.ts";

/** `dx = dy weight`, `dWeight = dyᵀ x`, `dBias = Σ_rows dy`. */
export function linear(
  x: ArrayLike<number>,
  weight: ArrayLike<number>,
  dy: ArrayLike<number>,
  [rows, inDim, outDim]: readonly [number, number, number],
): Record<"dx" | "dWeight" | "dBias", Float64Array> {
  const dx = new Float64Array(rows * inDim), dWeight = new Float64Array(outDim * inDim);
  const dBias = new Float64Array(outDim);
  for (let r = 0; r < rows; r++) {
    for (let o = 0; o < outDim; o++) {
      const d = dy[r * outDim + o];
      dBias[o] += d;
      for (let i = 0; i < inDim; i++) {
        dx[r * inDim + i] += d * weight[o * inDim + i];
        dWeight[o * inDim + i] += d * x[r * inDim + i];
      }
    }
  }
  return { dx, dWeight, dBias };
}

/** SRMSNorm, or LayerNorm if there is a weight, with and without gate: through the chain rule, step by step. */
export function norm(
  x: ArrayLike<number>,
  dy: ArrayLike<number>,
  width: number,
  eps: number,
  affine?: { weight: ArrayLike<number>; bias?: ArrayLike<number> },
  gate?: ArrayLike<number>,
): Record<"dx" | "dGate" | "dWeight" | "dBias", Float64Array> {
  const dx = new Float64Array(x.length), dGate = new Float64Array(x.length);
  const dWeight = new Float64Array(width), dBias = new Float64Array(width);
  for (let row = 0; row < x.length; row += width) {
    let mean = 0, square = 0;
    if (affine?.bias !== undefined) {
      for (let i = 0; i < width; i++) mean += x[row + i] / width;
    }
    for (let i = 0; i < width; i++) square += (x[row + i] - mean) ** 2 / width;
    const factor = 1 / Math.sqrt(square + eps);
    // y = n·weight + bias times gate; n = (x − mean)·factor; factor = (mean((x − mean)²) + eps)^(−1/2).
    const dCentred = new Float64Array(width);
    let dFactor = 0;
    for (let i = 0; i < width; i++) {
      const n = (x[row + i] - mean) * factor;
      dGate[row + i] = dy[row + i] *
        (affine === undefined ? n : n * affine.weight[i] + (affine.bias?.[i] ?? 0));
      const d = dy[row + i] * (gate?.[row + i] ?? 1);
      dWeight[i] += d * n;
      dBias[i] += d;
      const dn = d * (affine?.weight[i] ?? 1);
      dCentred[i] = dn * factor;
      dFactor += dn * (x[row + i] - mean);
    }
    const dSquare = -dFactor * factor ** 3 / 2;
    let dMean = 0;
    for (let i = 0; i < width; i++) {
      dCentred[i] += dSquare * 2 * (x[row + i] - mean) / width;
      dMean -= dCentred[i];
    }
    for (let i = 0; i < width; i++) {
      dx[row + i] = dCentred[i] + (affine?.bias === undefined ? 0 : dMean / width);
    }
  }
  return { dx, dGate, dWeight, dBias };
}

const sigmoid = (x: number) => 1 / (1 + Math.exp(-x));
const elu = (x: number) => x > 0 ? 1 : Math.exp(x);

/** Derivatives of the activations, except of `"exp"`, which needs a row. */
const DERIVATIVE: Record<Exclude<Activation, "exp">, (x: number) => number> = {
  "identity": () => 1,
  "silu": (x) => sigmoid(x) * (1 + x * sigmoid(-x)),
  "1+elu": elu,
  "2+elu": elu,
  "elu": elu,
  "relu": (x) => x > 0 ? 1 : 0,
  "gelu": (x) => (1 + erf(x / Math.SQRT2)) / 2 + x * Math.exp(-x * x / 2) / Math.sqrt(2 * Math.PI),
  "leak": (x) => x > 0 ? 1 : 0.01,
  "sigmoid": (x) => sigmoid(x) * sigmoid(-x),
  "sine": Math.cos,
};

/** Derivatives over rows of `headDim`; the maximum of `"exp"` is a constant, so it is its own derivative. */
export function derivative(x: ArrayLike<number>, headDim: number, activation: Activation): Float64Array {
  const values = Float64Array.from(x);
  if (activation !== "exp") return values.map(DERIVATIVE[activation]);
  return values.map((value, i) => {
    const row = i - i % headDim;
    return Math.exp(value - Math.max(...values.subarray(row, row + headDim)));
  });
}

/** Rows `[4 · hidden]` of dx from dq, dk, dv, du. */
export function splitHeads(
  x: ArrayLike<number>,
  gradients: readonly ArrayLike<number>[],
  hidden: number,
  heads: number,
  activation: Activation,
): Float64Array {
  const slopes = derivative(x, hidden / heads, activation);
  return slopes.map((slope, i) => {
    const row = Math.floor(i / (4 * hidden)), part = Math.floor(i / hidden) % 4;
    return gradients[part][row * hidden + i % hidden] * (part < 2 ? slope : 1);
  });
}

/** With `[a, b] = dy`: `dx = a·cos + b·sin`, `dTheta = Σ p·x·(b·cos − a·sin)`. */
export function lrpe(
  x: ArrayLike<number>,
  theta: ArrayLike<number>,
  dy: ArrayLike<number>,
  [batch, seqLen, heads, headDim]: readonly number[],
  positions: ArrayLike<number>,
): Record<"dx" | "dTheta", Float64Array> {
  const dx = new Float64Array(x.length), dTheta = new Float64Array(theta.length);
  for (let b = 0; b < batch; b++) {
    for (let t = 0; t < seqLen; t++) {
      for (let h = 0; h < heads; h++) {
        const row = (b * seqLen + t) * heads + h, position = positions[b] + t;
        for (let i = 0; i < headDim; i++) {
          const angle = theta[h * headDim + i] * position;
          const cos = Math.cos(angle), sin = Math.sin(angle);
          const a = dy[row * 2 * headDim + i], c = dy[row * 2 * headDim + headDim + i];
          dx[row * headDim + i] = a * cos + c * sin;
          dTheta[h * headDim + i] += position * x[row * headDim + i] * (c * cos - a * sin);
        }
      }
    }
  }
  return { dx, dTheta };
}

/** `dTable[ids[i]] += scale · dy[i]`. */
export function embedding(
  ids: ArrayLike<number>,
  dy: ArrayLike<number>,
  [vocab, dim]: readonly number[],
  scale: number,
): Float64Array {
  const dTable = new Float64Array(vocab * dim);
  for (let i = 0; i < dy.length; i++) dTable[ids[Math.floor(i / dim)] * dim + i % dim] += scale * dy[i];
  return dTable;
}

/** Cross entropy of each row, and its gradient times `scale`; a negative label is ignored. */
export function crossEntropy(
  logits: ArrayLike<number>,
  vocab: number,
  labels: ArrayLike<number>,
  scale: number,
): { loss: Float64Array; dLogits: Float64Array } {
  const loss = new Float64Array(labels.length), dLogits = new Float64Array(logits.length);
  for (let row = 0; row < labels.length; row++) {
    if (labels[row] < 0) continue;
    const values = Float64Array.from({ length: vocab }, (_, i) => logits[row * vocab + i]);
    const max = Math.max(...values);
    const sum = values.reduce((sum, value) => sum + Math.exp(value - max), 0);
    loss[row] = max + Math.log(sum) - values[labels[row]];
    values.forEach((value, i) => {
      dLogits[row * vocab + i] = scale * (Math.exp(value - max) / sum - (i === labels[row] ? 1 : 0));
    });
  }
  return { loss, dLogits };
}

/** One step of AdamW on `[parameter, first, second]`, each changed in place. */
export function adamw(
  [parameter, first, second]: readonly Float64Array[],
  gradient: ArrayLike<number>,
  step: {
    count: number;
    learningRate: number;
    beta1: number;
    beta2: number;
    eps: number;
    weightDecay: number;
    maxNorm: number;
  },
  squares: number,
): void {
  const { count, learningRate, beta1, beta2, eps, weightDecay, maxNorm } = step;
  const clip = Math.min(1, maxNorm / Math.sqrt(squares));
  for (let i = 0; i < parameter.length; i++) {
    const g = clip * gradient[i];
    first[i] = beta1 * first[i] + (1 - beta1) * g;
    second[i] = beta2 * second[i] + (1 - beta2) * g * g;
    const m = first[i] / (1 - beta1 ** count), v = second[i] / (1 - beta2 ** count);
    parameter[i] -= learningRate * weightDecay * parameter[i] + learningRate * m / (Math.sqrt(v) + eps);
  }
}

/** Differences of a function of float64 numbers: the gradient of `Σ weights · f(x)` at x, to about 1e−8. */
export function differences(
  f: (x: Float64Array) => ArrayLike<number>,
  x: ArrayLike<number>,
  weights: ArrayLike<number>,
): Float64Array {
  const at = Float64Array.from(x);
  const value = () => {
    const y = f(at);
    let sum = 0;
    for (let i = 0; i < y.length; i++) sum += y[i] * weights[i];
    return sum;
  };
  return at.slice().map((original, i) => {
    const h = 1e-5;
    at[i] = original + h;
    const above = value();
    at[i] = original - h;
    const below = value();
    at[i] = original;
    return (above - below) / (2 * h);
  });
}
