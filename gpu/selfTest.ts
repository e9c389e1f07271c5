/**
 * The check that stands between an unknown GPU and its use: drivers exist that compute wrong numbers.
 *
 * @module
 */
import type { Backend } from "../core/backend.ts";
import { alibiSlopes } from "../core/decay.ts";
import { BackendError } from "../core/errors.ts";
import { lightningAttention } from "../core/lightning.ts";
import { linear } from "../core/ops.ts";
import { elementCount } from "../core/tensor.ts";

/** Both backends accumulate in f32; sums of some hundred terms differ by far less. */
const LIMIT = 1e-4;

/**
 * Computes attention over several ragged blocks and a linear layer on both backends.
 *
 * @throws {BackendError} `"unavailable"` when the results differ, or are no numbers
 */
export async function selfTest(backend: Backend, reference: Backend): Promise<void> {
  const [actual, expected] = [await compute(backend), await compute(reference)];
  for (const name of ["output", "state", "linear"] as const) {
    let error = 0, norm = 0;
    expected[name].forEach((value, i) => {
      error += (actual[name][i] - value) ** 2;
      norm += value ** 2;
    });
    const relative = Math.sqrt(error / norm);
    if (!(relative <= LIMIT)) {
      throw new BackendError(
        "unavailable",
        `Cannot use WebGPU on ${backend.info.device} as its self-test disagrees with WASM: ` +
          `${name} is off by ${relative}, relative`,
      );
    }
  }
}

async function compute(backend: Backend): Promise<Record<"output" | "state" | "linear", Float32Array>> {
  const [heads, seqLen, headDim, valueDim, out] = [2, 300, 32, 24, 40];
  const wave = (shape: number[], pitch: number) => {
    const size = elementCount(shape);
    return backend.tensor(Float32Array.from({ length: size }, (_, i) => Math.sin(pitch * i)), shape);
  };
  using q = wave([1, heads, seqLen, headDim], 0.7);
  using k = wave([1, heads, seqLen, headDim], 1.1);
  using v = wave([1, heads, seqLen, valueDim], 1.3);
  using initialState = wave([1, heads, headDim, valueDim], 1.7);
  using weight = wave([out, valueDim], 1.9);
  using bias = wave([out], 2.3);
  const attended = lightningAttention(q, k, v, { slopes: alibiSlopes(heads), initialState });
  using output = attended.output;
  using state = attended.state;
  using projected = linear(output, weight, { bias });
  const [a, b, c] = await Promise.all([output.data(), state.data(), projected.data()]);
  return { output: a, state: b, linear: c };
}
