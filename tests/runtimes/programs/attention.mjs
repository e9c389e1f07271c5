// Attention of a fixed input, and what it must be: the recurrence in float64, token by token.
const HEADS = 4, TOKENS = 500, DIM = 32, SLOPES = [0.5, 0.1, 0.01, 0];

const input = (seed) =>
  Float32Array.from({ length: HEADS * TOKENS * DIM }, (_, i) => Math.sin(seed + 0.37 * i + (i % 7)));

/** The output on a backend. */
export async function attention(backend, lightningAttention) {
  const [q, k, v] = [1, 2, 3].map((seed) => backend.tensor(input(seed), [1, HEADS, TOKENS, DIM]));
  const { output, state } = lightningAttention(q, k, v, { slopes: SLOPES });
  const data = await output.data();
  for (const tensor of [q, k, v, output, state]) tensor.dispose();
  return data;
}

/** Throws unless the output is right. */
export function checkAttention(output) {
  const [q, k, v] = [1, 2, 3].map(input);
  for (let head = 0; head < HEADS; head++) {
    const decay = Math.exp(-SLOPES[head]), state = new Float64Array(DIM * DIM);
    let error = 0, size = 0;
    for (let token = 0; token < TOKENS; token++) {
      const row = (head * TOKENS + token) * DIM;
      for (let i = 0; i < DIM; i++) {
        for (let j = 0; j < DIM; j++) state[i * DIM + j] = decay * state[i * DIM + j] + k[row + i] * v[row + j];
      }
      for (let j = 0; j < DIM; j++) {
        let sum = 0;
        for (let i = 0; i < DIM; i++) sum += q[row + i] * state[i * DIM + j];
        error += (output[row + j] - sum) ** 2;
        size += sum ** 2;
      }
    }
    const relative = Math.sqrt(error / size);
    if (!(relative < 1e-5)) throw new Error(`attention is wrong by ${relative} in head ${head}`);
  }
}
