/**
 * Whole training steps against the length of sequences.
 *
 * @module
 */
import type { Backend } from "../../mod.ts";
import { parseConfig } from "../../model/config.ts";
import { randomNumbers } from "../../model/sampling.ts";
import { lightningMixer, lossAndGradients, type Mixer } from "../../train/backward.ts";
import { initialWeights } from "../../train/configs.ts";
import { Parameters } from "../../train/optimizer.ts";
import { median, seconds } from "./timing.ts";

/** Speed at one length. */
export interface Speed {
  /** Tokens per sequence. */
  readonly length: number;
  /** Median over the repeats. */
  readonly tokensPerSecond: number;
}

/**
 * Measures whole training steps.
 *
 * @param tokens tokens per step, a multiple of every length
 * @param repeats steps per length, after two seconds of steps and one per length that are not counted
 */
export async function trainingSpeed(
  backend: Backend,
  config: Record<string, unknown>,
  { tokens, lengths, repeats, mixer = lightningMixer }: {
    tokens: number;
    lengths: readonly number[];
    repeats: number;
    mixer?: Mixer;
  },
): Promise<Speed[]> {
  const network = parseConfig(config);
  using parameters = new Parameters(backend, network, initialWeights(network, 1));
  const random = randomNumbers(1);
  const ids = Uint32Array.from({ length: tokens }, () => Math.floor(256 * random()));
  const labels = Int32Array.from(ids, (_, i) => ids[(i + 1) % tokens]);
  let count = 0;
  const step = async (seqLen: number) => {
    using gradients = parameters.gradients();
    using total = backend.zeros([1]);
    const batch = tokens / seqLen;
    const segment = { ids, labels, batch, seqLen, positions: new Array(batch).fill(0) };
    const states = await lossAndGradients(parameters, gradients.tree, segment, 1 / tokens, total, { mixer });
    for (const state of states) state.dispose();
    const options = { learningRate: 1e-4, beta1: 0.9, beta2: 0.95, weightDecay: 0.1, clip: 1 };
    using squares = parameters.step(gradients, { ...options, count: ++count }, () => false);
    await squares.data(); // all of the step but AdamW's last writes, which the next step waits for
  };
  const times = new Map(lengths.map((length) => [length, [] as number[]]));
  // GPUs raise their clock under load.
  for (const end = performance.now() + 2000; performance.now() < end;) await step(lengths[0]);
  for (let i = 0; i <= repeats; i++) {
    for (const [length, found] of times) {
      const time = await seconds(() => step(length));
      if (i > 0) found.push(time);
    }
  }
  return [...times].map(([length, found]) => ({ length, tokensPerSecond: tokens / median(found) }));
}
