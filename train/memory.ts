/**
 * What a training step holds, told before it is taken.
 *
 * @module
 */
import type { TransNormerConfig } from "../model/config.ts";
import { stateShapes } from "../model/transnormer.ts";
import { elementCount } from "../core/shape.ts";

/** Bytes of tensors, at the fullest moment of a step. */
export interface StepMemory {
  /** Parameters, their gradients and both moments. */
  readonly parameters: number;
  /** What forward and backward pass hold of one batch. */
  readonly activations: number;
}

/**
 * The most that the tensors of a step hold together, with Lightning Attention and states of zero. Scratch of single
 * operations is not counted: on a GPU up to 64 MiB of partial sums.
 *
 * @param count number of parameters
 */
export function stepMemory(
  config: TransNormerConfig,
  count: number,
  { batch, seqLen }: { readonly batch: number; readonly seqLen: number },
  recompute: boolean,
): StepMemory {
  const { embedDim: embed, hiddenDim: hidden, gluDim: glu, vocabSize: vocab, layers, useLrpe } = config;
  const { outputGate, gluActivation } = config;
  // Elements per token; the names are those of model/transnormer.ts and train/backward.ts.
  const keptOf = (lrpe: boolean) =>
    3 * embed + // h of both mixers, middle
    (8 + (outputGate ? 2 : 0)) * hidden + // qkvu, activeQ, activeK, v, u, o, gated
    (lrpe ? 4 * hidden : 0) + // q, k
    (gluActivation === "identity" ? 3 : 4) * glu; // a, activeA, b, product
  const onTheWayBack = (lrpe: boolean) =>
    Math.max(
      4 * embed + (gluActivation === "identity" ? 3 : 4) * glu, // dOutput, dH2, dH, dMiddle; dProduct, dActiveA, dA, dB
      4 * embed + (lrpe ? 14 : 10) * hidden, // dOutput, dMiddle, dH, dx; dGated, dO, du, dq, dk, dv, dQkvu
    );
  const inputs = (l: number) => (l + 1) * embed; // x[0] to x[l]
  const kept = recompute ? useLrpe.map(() => 0) : useLrpe.map(keptOf);
  const keptTo = (l: number) => kept.slice(0, l + 1).reduce((sum, one) => sum + one, 0);
  // The head: h, logits, dLogits and losses, or h, dLogits, dH and the next dOutput, while all layers' activations are held.
  let most = inputs(layers) + keptTo(layers - 1) + embed + vocab + Math.max(vocab + 1, 2 * embed);
  for (let l = 0; l < layers; l++) {
    const again = recompute ? keptOf(useLrpe[l]) + embed : 0; // its output is computed, too
    const held = inputs(l + 1) + keptTo(l);
    most = Math.max(
      most,
      held + again + embed,
      held + again - (recompute ? embed : 0) + onTheWayBack(useLrpe[l]),
    );
  }
  const states = stateShapes(config, batch).reduce((sum, shape) => sum + elementCount(shape), 0);
  const elements = batch * seqLen * most + states;
  return { parameters: 16 * count, activations: 4 * elements };
}
