/**
 * Loss of a model in training on text that it has not seen.
 *
 * @module
 */
import { yieldToEventLoop } from "../core/eventLoop.ts";
import { lossOf, type Mixer, type Segment } from "./backward.ts";
import type { Corpus } from "./data.ts";
import type { Parameters } from "./optimizer.ts";

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
  { step = 0, mixer, signal }: { step?: number; mixer?: Mixer; signal?: AbortSignal } = {},
): Promise<EvaluationReport | undefined> {
  let loss = 0, labels = 0, bytes = 0;
  for (const segment of corpus.heldOutWindows(batch, seqLen)) {
    // One total per batch: a sum in f32 over all of the text would lose digits.
    using total = parameters.weights.embedTokens.backend.zeros([1]);
    for (const state of lossOf(parameters, segment, total, { mixer })) state.dispose();
    loss += (await total.data())[0];
    labels += countLabels(segment);
    bytes += segment.labels.reduce((sum, label) => label >= 0 && label < 256 ? sum + 1 : sum, 0);
    await yieldToEventLoop();
    if (signal?.aborted) return undefined;
  }
  const heldOutLoss = loss / labels;
  return { step, heldOutLoss, perplexity: Math.exp(heldOutLoss), bitsPerByte: loss / Math.LN2 / bytes };
}

/** Number of tokens to predict. */
export function countLabels(segment: Segment): number {
  return segment.labels.reduce((sum, label) => label >= 0 ? sum + 1 : sum, 0);
}
