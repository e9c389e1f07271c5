/**
 * The check that stands between an unknown GPU and its use: drivers exist that compute wrong numbers.
 *
 * @module
 */
import { alibiSlopes } from "../core/decay.ts";
import { BackendError } from "../core/errors.ts";
import { lightningAttention } from "../core/ops/lightning.ts";
import { linear, linearBackward } from "../core/ops/linear.ts";
import { elementCount } from "../core/shape.ts";
import type { Backend } from "../core/tensor.ts";

/** The GPU accumulates in f32; sums of some hundred terms differ from float64 by far less. */
const LIMIT = 1e-4;
/** Operands that are rounded to f16 are off by 3e−4; what is wrong is off by much more. */
const F16_LIMIT = 2e-3;

/** Attention over several blocks of tokens, the last one ragged, and a linear layer on its output. */
const HEADS = 2, TOKENS = 300, HEAD_DIM = 32, VALUE_DIM = 64, OUT_DIM = 40;
const SLOPES = alibiSlopes(HEADS);

const SHAPES = {
  q: [1, HEADS, TOKENS, HEAD_DIM],
  k: [1, HEADS, TOKENS, HEAD_DIM],
  v: [1, HEADS, TOKENS, VALUE_DIM],
  initialState: [1, HEADS, HEAD_DIM, VALUE_DIM],
  weight: [OUT_DIM, VALUE_DIM],
  bias: [OUT_DIM],
} as const;

type Operands = Record<keyof typeof SHAPES, Float32Array>;
type Results = Record<"output" | "state" | "linear" | "dx" | "dWeight", ArrayLike<number>>;

/**
 * Computes attention, a linear layer and, on matrix units, its gradients, and compares them with the recurrence in float64.
 *
 * @throws {BackendError} `"unavailable"` when the results differ, or are no numbers
 */
export async function selfTest(backend: Backend): Promise<void> {
  const wave = (name: keyof typeof SHAPES, pitch: number) =>
    Float32Array.from({ length: elementCount(SHAPES[name]) }, (_, i) => Math.sin(pitch * i * i));
  const operands = {
    q: wave("q", 0.7),
    k: wave("k", 1.1),
    v: wave("v", 1.3),
    initialState: wave("initialState", 1.7),
    weight: wave("weight", 1.9),
    bias: wave("bias", 2.3),
  };
  const actual = await compute(backend, operands), expected = recurrence(operands);
  const limit = backend.info.units === "f32" ? LIMIT : F16_LIMIT;
  for (const name of Object.keys(actual) as (keyof typeof actual)[]) {
    let error = 0, norm = 0;
    for (let i = 0; i < expected[name].length; i++) {
      error += (actual[name]![i] - expected[name][i]) ** 2;
      norm += expected[name][i] ** 2;
    }
    const relative = Math.sqrt(error / norm);
    if (!(relative <= limit)) {
      throw new BackendError(
        "unavailable",
        `Cannot use WebGPU on ${backend.info.device} as its self-test disagrees with the recurrence in float64: ` +
          `${name} is off by ${relative}, relative (units: ${backend.info.units})`,
      );
    }
  }
}

async function compute(backend: Backend, operands: Operands): Promise<Partial<Results>> {
  const upload = (name: keyof typeof SHAPES) => backend.tensor(operands[name], SHAPES[name]);
  using q = upload("q"), k = upload("k"), v = upload("v"), initialState = upload("initialState");
  using weight = upload("weight"), bias = upload("bias");
  const attended = lightningAttention(q, k, v, { slopes: SLOPES, initialState });
  using output = attended.output, state = attended.state;
  using projected = linear(output, weight, { bias });
  const [a, b, c] = await Promise.all([output.data(), state.data(), projected.data()]);
  const results = { output: a, state: b, linear: c };
  if (backend.info.units === "f32") return results;
  // Each has operands that lie in another way. The result stands for its own gradient.
  using dWeight = backend.zeros(SHAPES.weight), dx = linearBackward(output, weight, projected, { dWeight });
  return { ...results, dx: await dx.data(), dWeight: await dWeight.data() };
}

/** Token by token: `S ← λ S + k vᵀ`, `o = qᵀ S`; then `y = o weightᵀ + bias`, and its gradients for dy = y. */
function recurrence({ q, k, v, initialState, weight, bias }: Operands): Results {
  const output = new Float64Array(v.length), state = Float64Array.from(initialState);
  for (let head = 0; head < HEADS; head++) {
    const decay = Math.exp(-SLOPES[head]);
    for (let token = 0; token < TOKENS; token++) {
      const row = head * TOKENS + token;
      for (let i = 0; i < HEAD_DIM; i++) {
        const qi = q[row * HEAD_DIM + i], ki = k[row * HEAD_DIM + i];
        for (let j = 0; j < VALUE_DIM; j++) {
          const at = (head * HEAD_DIM + i) * VALUE_DIM + j, out = row * VALUE_DIM + j;
          state[at] = decay * state[at] + ki * v[out];
          output[out] += qi * state[at];
        }
      }
    }
  }
  const projected = new Float64Array(HEADS * TOKENS * OUT_DIM);
  const dx = new Float64Array(output.length), dWeight = new Float64Array(weight.length);
  for (let i = 0; i < projected.length; i++) {
    const row = Math.floor(i / OUT_DIM), column = i % OUT_DIM;
    projected[i] = bias[column];
    for (let j = 0; j < VALUE_DIM; j++) {
      projected[i] += output[row * VALUE_DIM + j] * weight[column * VALUE_DIM + j];
    }
    for (let j = 0; j < VALUE_DIM; j++) {
      dx[row * VALUE_DIM + j] += projected[i] * weight[column * VALUE_DIM + j];
      dWeight[column * VALUE_DIM + j] += projected[i] * output[row * VALUE_DIM + j];
    }
  }
  return { output, state, linear: projected, dx, dWeight };
}
