/**
 * Many tokens through one state of fixed size.
 *
 * @module
 */
import { type Backend, lightningAttention, type Tensor } from "../../mod.ts";
import { relativeError } from "../../tests/numbers.ts";
import { seconds } from "../measure/timing.ts";
import { DIM, HEADS, noise, type Options, ROW, SLOPES } from "./layer.ts";
import { breathe, count, progress } from "./text.ts";

/** What a stream left behind. */
export interface Streamed {
  tokensPerSecond: number;
  /** Bytes in tensors after the first segment and at most afterwards. */
  held: [first: number, most: number];
  /** Bytes of the whole process after the first segment and at most afterwards. */
  process: [first: number, most: number];
  /** Relative error of the state's first rows and of the last token's output. */
  error: number;
}

/**
 * Streams tokens in segments through `lightningAttention` and carries the state. Beside it, a recurrence in float64
 * takes every token and keeps the first row of each head's state: `S[0] ← λ S[0] + k_t[0] v_t`. The last head never
 * forgets, so that it holds the whole stream.
 */
export async function stream(
  backend: Backend,
  { stream, segment }: Options,
  signal: AbortSignal,
): Promise<Streamed> {
  const slopes = [...SLOPES.slice(0, HEADS - 1), 0];
  const size = segment * ROW, shift = 65537;
  const data = noise(size + 3 * shift);
  const shape = [1, HEADS, segment, DIM];
  const [q, k, v] = [0, 1, 2].map(() => backend.empty(shape));
  const expected = new Float64Array(HEADS * DIM);
  let state: Tensor | undefined, last: Float32Array | undefined;
  let computing = 0;
  const held: number[] = [], process: number[] = [];
  try {
    for (let start = 0; start < stream; start += segment) {
      progress.draw(`${count(start)} of ${count(stream)} tokens streamed ...`);
      await breathe(signal);
      // Every segment is another view of the noise.
      const offset = (start / segment * 7919) % shift;
      const views = [0, 1, 2].map((i) => data.subarray(offset + i * shift, offset + i * shift + size));
      [q, k, v].forEach((tensor, i) => backend.write(tensor, views[i]));
      computing += await seconds(async () => {
        const next = lightningAttention(q, k, v, { slopes, initialState: state });
        state?.dispose();
        state = next.state;
        if (start + segment >= stream) last = await next.output.data();
        next.output.dispose();
        await state.data();
      });
      firstRows(expected, views[1], views[2], segment, slopes);
      held.push(backend.bytesInUse);
      process.push(Deno.memoryUsage().rss);
    }
    return {
      tokensPerSecond: stream / computing,
      held: [held[0], Math.max(...held)],
      process: [process[0], Math.max(...process)],
      error: streamError(await state!.data(), expected, last!, await q.data(), segment),
    };
  } finally {
    for (const tensor of [q, k, v, state]) tensor?.dispose();
    progress.draw("");
  }
}

/** The recurrence of the first row of each head's state, over one segment. */
function firstRows(
  rows: Float64Array,
  k: Float32Array,
  v: Float32Array,
  segment: number,
  slopes: number[],
): void {
  for (let head = 0; head < HEADS; head++) {
    const decay = Math.exp(-slopes[head]);
    const row = rows.subarray(head * DIM, (head + 1) * DIM);
    for (let t = head * segment; t < (head + 1) * segment; t++) {
      const key = k[t * DIM];
      for (let j = 0; j < DIM; j++) row[j] = decay * row[j] + key * v[t * DIM + j];
    }
  }
}

/**
 * The larger of two errors, head by head: of the state's first row against the recurrence, and of the last token's
 * output against `qᵀ S` in float64.
 */
function streamError(
  state: Float32Array,
  expected: Float64Array,
  output: Float32Array,
  q: Float32Array,
  segment: number,
): number {
  const errors: number[] = [];
  for (let head = 0; head < HEADS; head++) {
    const S = state.subarray(head * DIM * DIM, (head + 1) * DIM * DIM);
    errors.push(relativeError(S.subarray(0, DIM), expected.subarray(head * DIM, (head + 1) * DIM)));
    const token = ((head + 1) * segment - 1) * DIM;
    const product = new Float64Array(DIM);
    for (let i = 0; i < DIM; i++) {
      for (let j = 0; j < DIM; j++) product[j] += q[token + i] * S[i * DIM + j];
    }
    errors.push(relativeError(output.subarray(token, token + DIM), product));
  }
  return Math.max(...errors);
}
