/**
 * Loss of a model in training on text that it has not seen.
 *
 * @module
 */
import { yieldToEventLoop } from "../core/eventLoop.ts";
import { lossOf, type Mixer, type Segment } from "./backward.ts";
import type { Corpus } from "./data.ts";
import type { Parameters } from "./optimizer.ts";
import { columnsOf, type TrainingRanks } from "./ranks.ts";

/** One evaluation. */
export interface EvaluationReport {
  /** Steps that were taken. */
  readonly step: number;
  /** Mean cross entropy per held-out token. */
  readonly heldOutLoss: number;
  /** `exp(heldOutLoss)`. */
  readonly perplexity: number;
  /** All of the held-out loss, in bits, over the bytes of the held-out text. */
  readonly bitsPerByte: number;
}

/**
 * Loss on the held-out text, in windows of `seqLen` tokens that begin with a state of zero, as in training.
 *
 * @returns nothing where `signal` ended it early
 */
export async function evaluate(
  parameters: Parameters,
  corpus: Corpus,
  { batch, seqLen }: { batch: number; seqLen: number },
  { step = 0, mixer, signal, ranks }: {
    step?: number;
    mixer?: Mixer;
    signal?: AbortSignal;
    ranks?: TrainingRanks;
  } = {},
): Promise<EvaluationReport | undefined> {
  const { rank = 0, size = 1, chain } = ranks ?? {};
  let loss = 0, labels = 0, bytes = 0, index = 0;
  for (const whole of corpus.heldOutWindows(batch, seqLen)) {
    // Processes take batches in turn, or a part of each.
    if (chain === undefined && index++ % size !== rank) continue;
    const segment = chain === undefined || size === 1 ? whole : columnsOf(whole, rank, size);
    // One total per batch: a sum in f32 over all of the text would lose digits.
    using total = parameters.weights.embedTokens.backend.zeros([1]);
    for (const state of await lossOf(parameters, segment, total, { mixer, chain })) state.dispose();
    loss += (await total.data())[0];
    labels += countLabels(segment);
    bytes += segment.labels.reduce((sum, label) => label >= 0 && label < 256 ? sum + 1 : sum, 0);
    await yieldToEventLoop();
    if (signal?.aborted && size === 1) return undefined; // others would wait for this one
  }
  if (ranks !== undefined) {
    const sums = Float64Array.of(loss, labels, bytes);
    await ranks.allReduce(sums);
    [loss, labels, bytes] = sums;
  }
  const heldOutLoss = loss / labels;
  return { step, heldOutLoss, perplexity: Math.exp(heldOutLoss), bitsPerByte: loss / Math.LN2 / bytes };
}

/** Number of tokens to predict. */
export function countLabels(segment: Segment): number {
  return segment.labels.reduce((sum, label) => label >= 0 ? sum + 1 : sum, 0);
}
