/**
 * Loss and gradients of a TransNormerLLM: the forward pass of `model/transnormer.ts` with its activations kept, then
 * the same backwards. Each function here undoes the lines of its namesake there from the last to the first.
 *
 * @module
 */
import {
  crossEntropy,
  embeddingBackward,
  linearBackward,
  lrpeBackward,
  multiplyBackward,
  normBackward,
  splitHeadsBackward,
  sum,
} from "../core/gradients.ts";
import {
  lightningAttention,
  lightningAttentionBackward,
  type LightningOptions,
} from "../core/ops/lightning.ts";
import { linear, norm } from "../core/ops.ts";
import type { Tensor } from "../core/tensor.ts";
import {
  allLogits,
  type Attend,
  embed,
  type Held,
  type Layer,
  layer as layerForward,
  type Network,
  residualStream,
  type Tokens,
} from "../model/transnormer.ts";
import type { NormWeights, Weights } from "../model/weights.ts";

/** What mixes tokens, with the signatures of the attention that it is, or that a baseline puts in its place. */
export interface Mixer {
  /** Tells checkpoints of one from those of another. */
  readonly name: string;
  /** As {@linkcode lightningAttention}, layout `"bnhd"`. */
  forward(q: Tensor, k: Tensor, v: Tensor, options: LightningOptions): { output: Tensor; state: Tensor };
  /** As {@linkcode lightningAttentionBackward}; `forward` is what the forward call returned, which it need not read. */
  backward(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    dOutput: Tensor,
    options: LightningOptions,
    forward: { output: Tensor; state: Tensor },
  ): { dq: Tensor; dk: Tensor; dv: Tensor; dInitialState: Tensor };
}

/** TransNormerLLM's own mixer. */
export const lightningMixer: Mixer = {
  name: "lightning",
  forward: lightningAttention,
  backward: lightningAttentionBackward,
};

/** Tokens to learn from. */
export interface Segment extends Tokens {
  /** The token that follows each, `[batch, seqLen]`; negative where none is to be predicted. */
  readonly labels: Int32Array;
  /** Batch 1: where packed sequences begin and end; see {@linkcode LightningOptions.cuSeqlens}. */
  readonly cuSeqlens?: readonly number[];
  /** State of each layer before the first token; a constant, no gradient flows into it. Absent: zero. */
  readonly states?: readonly Tensor[];
}

/** How to compute a loss. */
export interface PassOptions {
  /** What mixes tokens. Default: {@linkcode lightningMixer}. */
  mixer?: Mixer;
  /** Keep only the input of each layer, and compute the rest of its activations again on the way back. Default false. */
  recompute?: boolean;
}

/**
 * Enqueues the forward pass, and adds the losses of all labels to `total[0]`.
 *
 * @returns the state of each layer after the last token of each sequence; the caller disposes them
 */
export function lossOf(network: Network, segment: Segment, total: Tensor, options: PassOptions): Tensor[] {
  using states = new DisposableStack();
  const kept: Tensor[] = [];
  const attend = attendAnd(network, segment, options.mixer, (state) => kept.push(states.use(state)));
  using last = residualStream(network, segment, attend);
  using logits = allLogits(network, last);
  const entropy = crossEntropy(logits, segment.labels);
  entropy.dLogits.dispose();
  using loss = entropy.loss;
  sum(loss, total);
  states.move();
  return kept;
}

/**
 * Enqueues forward and backward pass: adds the losses of all labels to `total[0]`, and the gradient of `scale` times
 * their sum to `gradients`.
 *
 * @returns the state of each layer after the last token of each sequence; the caller disposes them
 */
export function lossAndGradients(
  network: Network,
  gradients: Weights<Tensor>,
  segment: Segment,
  scale: number,
  total: Tensor,
  options: PassOptions = {},
): Tensor[] {
  const { config } = network;
  const { mixer = lightningMixer, recompute = false } = options;
  const pass: Pass = { network, gradients, segment, mixer };
  using states = new DisposableStack();
  using held = new DisposableStack();

  // Forward: x[l] goes into layer l, the last one into the final norm.
  const x = [held.use(embed(network, segment))];
  const layers: (Kept | undefined)[] = [];
  const kept: Tensor[] = [];
  const attend = attendAnd(network, segment, mixer, (state) => kept.push(states.use(state)));
  for (let l = 0; l < config.layers; l++) {
    const layer = held.use(new Kept());
    x.push(held.use(layer.run(pass, l, x[l], attend).output));
    if (recompute) layer[Symbol.dispose]();
    layers.push(recompute ? undefined : layer);
  }
  let dx = headBackward(pass, x[config.layers], scale, total);
  for (let l = config.layers - 1; l >= 0; l--) {
    using dOutput = dx;
    using layer = layers[l] ?? again(pass, l, x[l]);
    dx = layerBackward(pass, l, layer.activations!, kept[l], dOutput);
    x[l + 1].dispose();
  }
  // x = embed_tokens[ids] · scale
  using dEmbedded = dx;
  embeddingBackward(segment.ids, dEmbedded, gradients.embedTokens, { scale: config.embeddingScale });
  states.move();
  return kept;
}

/** The loss of all labels, and the gradient of the residual stream after the last layer: logits last no longer. */
function headBackward(
  { network: { weights }, gradients, segment }: Pass,
  x: Tensor,
  scale: number,
  total: Tensor,
): Tensor {
  // logits = lm_head(norm(x))
  using h = norm(x, weights.finalNorm);
  using dLogits = lossBackward(h, weights.lmHead, segment.labels, scale, total);
  using dH = linearBackward(h, weights.lmHead, dLogits, { dWeight: gradients.lmHead });
  return normBackward(x, dH, normGradients(weights.finalNorm, gradients.finalNorm)).dx;
}

/** Adds the loss of all labels to `total`; the gradient of the logits is the caller's. */
function lossBackward(h: Tensor, lmHead: Tensor, labels: Int32Array, scale: number, total: Tensor): Tensor {
  using logits = linear(h, lmHead);
  const { loss, dLogits } = crossEntropy(logits, labels, { scale });
  using _ = loss;
  sum(loss, total);
  return dLogits;
}

/** What all layers of a pass share. */
interface Pass {
  readonly network: Network;
  readonly gradients: Weights<Tensor>;
  readonly segment: Segment;
  readonly mixer: Mixer;
}

/** Holds a layer's activations until its backward pass has read them; input and output are not among them. */
class Kept implements Held, Disposable {
  readonly #stack = new DisposableStack();
  /** Set by {@linkcode Kept.run}. */
  activations: Layer | undefined;

  use(tensor: Tensor): Tensor {
    return this.#stack.use(tensor);
  }

  done(): void {}

  /** The forward pass of the layer. */
  run({ network, segment }: Pass, l: number, x: Tensor, attend: Attend): Layer {
    return this.activations = layerForward(network, l, x, segment, attend, this);
  }

  [Symbol.dispose](): void {
    this.#stack.dispose();
  }
}

/** The mixer as the forward pass calls it; `keep` gets the state of each layer. */
function attendAnd(
  network: Network,
  segment: Segment,
  mixer: Mixer = lightningMixer,
  keep: (state: Tensor) => void,
): Attend {
  return (l, q, k, v) => {
    const { output, state } = mixer.forward(q, k, v, attentionOptions(network, l, segment));
    keep(state);
    return output;
  };
}

/** The layer's activations once more; its state is there still. */
function again(pass: Pass, l: number, x: Tensor): Kept {
  using held = new DisposableStack();
  const layer = held.use(new Kept());
  const attend = attendAnd(pass.network, pass.segment, pass.mixer, (state) => state.dispose());
  layer.run(pass, l, x, attend).output.dispose();
  held.move();
  return layer;
}

function layerBackward(pass: Pass, l: number, layer: Layer, state: Tensor, dOutput: Tensor): Tensor {
  using dMiddle = channelMixerBackward(pass, l, layer, dOutput);
  return tokenMixerBackward(pass, l, layer, state, dMiddle);
}

function tokenMixerBackward(
  { network, gradients, segment, mixer }: Pass,
  l: number,
  { x, tokenMixer: { h, qkvu, activeQ, activeK, q, k, v, u, o, gated } }: Layer,
  state: Tensor,
  dOutput: Tensor,
): Tensor {
  const { config, weights } = network;
  const layer = weights.layers[l], d = gradients.layers[l];
  // x + out_proj(u ⊙ norm(o)), the norm over all heads together
  using dGated = linearBackward(gated, layer.outProj.weight, dOutput, into(d.outProj));
  const normed = normBackward(o, dGated, { ...normGradients(layer.mixerNorm, d.mixerNorm), gate: u });
  using dO = normed.dx, du = normed.dGate!;
  // o = attend(q, k, v)
  using dAttended = dO.reshape(v.shape);
  const forward = { output: o, state };
  const attended = mixer.backward(q, k, v, dAttended, attentionOptions(network, l, segment), forward);
  attended.dInitialState.dispose();
  using dq = attended.dq, dk = attended.dk, dv = attended.dv;
  // q, k = [x·cos(θ·pos), x·sin(θ·pos)]
  const encodeBackward = (active: Tensor, dEncoded: Tensor) =>
    layer.theta === undefined
      ? dEncoded.reshape(dEncoded.shape)
      : lrpeBackward(active, layer.theta, segment.positions, dEncoded, d.theta!);
  using dActiveQ = encodeBackward(activeQ, dq), dActiveK = encodeBackward(activeK, dk);
  // q, k, v, u = split4(qkvu_proj(h)); q, k = act(q), act(k)
  const split = { dq: dActiveQ, dk: dActiveK, dv, du };
  using dQkvu = splitHeadsBackward(qkvu, config.heads, config.activation, split);
  using dH = linearBackward(h, layer.qkvuProj.weight, dQkvu, into(d.qkvuProj));
  // h = norm(x); x itself flows past
  return normBackward(x, dH, { ...normGradients(layer.tokenNorm, d.tokenNorm), residual: dOutput }).dx;
}

function channelMixerBackward(
  { network: { weights }, gradients }: Pass,
  l: number,
  { middle: x, channelMixer: { h, a, b, product } }: Layer,
  dOutput: Tensor,
): Tensor {
  const layer = weights.layers[l], d = gradients.layers[l];
  using dProduct = linearBackward(product, layer.l3.weight, dOutput, into(d.l3));
  const factors = multiplyBackward(a, b, dProduct);
  using dA = factors.dx, dB = factors.dy;
  using dH2 = linearBackward(h, layer.l2.weight, dB, into(d.l2));
  using dH = linearBackward(h, layer.l1.weight, dA, { ...into(d.l1), residual: dH2 });
  return normBackward(x, dH, { ...normGradients(layer.channelNorm, d.channelNorm), residual: dOutput }).dx;
}

function attentionOptions({ weights }: Network, l: number, segment: Segment): LightningOptions {
  return {
    slopes: weights.layers[l].slopes,
    initialState: segment.states?.[l],
    cuSeqlens: segment.cuSeqlens,
    layout: "bnhd",
  };
}

/** Where a linear layer's gradients go. */
function into(gradients: { weight: Tensor; bias: Tensor | undefined }): { dWeight: Tensor; dBias?: Tensor } {
  return { dWeight: gradients.weight, dBias: gradients.bias };
}

/** A norm's parameters, and where their gradients go. */
function normGradients(
  weights: NormWeights<Tensor>,
  gradients: NormWeights<Tensor>,
): { weight?: Tensor; bias?: Tensor; dWeight?: Tensor; dBias?: Tensor } {
  return weights === undefined ? {} : { ...weights, dWeight: gradients!.weight, dBias: gradients!.bias };
}
