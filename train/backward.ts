/**
 * Loss and gradients of a TransNormerLLM: the forward pass of `model/transnormer.ts` with its activations kept, then
 * the same backwards. Each function here undoes the lines of its namesake there from the last to the first.
 *
 * @module
 */
import {
  activateBackward,
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
  type LightningBackwardOptions,
  type LightningOptions,
} from "../core/ops/lightning.ts";
import { linear, norm } from "../core/ops.ts";
import type { Tensor } from "../core/tensor.ts";
import {
  allLogits,
  embed,
  finishLayer,
  type Held,
  type Layer,
  layer as layerForward,
  type Network,
  project,
  type Tokens,
  Transient,
} from "../model/transnormer.ts";
import type { LayerWeights, NormWeights, Weights } from "../model/weights.ts";

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
    options: LightningBackwardOptions,
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

/**
 * What lies before and after a part of a sequence whose other parts other processes hold: states come from the part
 * before, and their gradients from the part after. Shapes are `[batch, heads, headDim, valueDim]`.
 */
export interface Chain {
  /** The state before this part, for the caller to dispose; nothing where this part is the first. */
  receiveState(shape: readonly number[]): Promise<Tensor | undefined>;
  /** Hands over the state after this part; resolves when it is on its way. */
  sendState(state: Tensor): Promise<void>;
  /** The gradient of the state after this part, for the caller to dispose; nothing where this part is the last. */
  receiveGradient(shape: readonly number[]): Promise<Tensor | undefined>;
  /** Hands over the gradient of the state before this part, in the same way. */
  sendGradient(dState: Tensor): Promise<void>;
  /** Waits until all that was handed over has arrived. */
  settled(): Promise<void>;
}

/** How to compute a loss. */
export interface PassOptions {
  /** What mixes tokens. Default: {@linkcode lightningMixer}. */
  mixer?: Mixer;
  /** Keep only the input of each layer, and compute the rest of its activations again on the way back. Default false. */
  recompute?: boolean;
  /** The segment is a part of sequences that other processes continue. Not with `cuSeqlens`. Default: it is all. */
  chain?: Chain;
  /**
   * Called with gradients that are final, once the work that leads to them is enqueued: those of the head, then layer by
   * layer; not with those of the embeddings, which are the last. The pass enqueues one layer more before it waits for this.
   */
  onFinal?: (gradients: readonly Tensor[]) => Promise<void>;
}

/**
 * Enqueues the forward pass, and adds the losses of all labels to `total[0]`.
 *
 * @returns the state of each layer after the last token of each sequence; the caller disposes them
 */
export async function lossOf(
  network: Network,
  segment: Segment,
  total: Tensor,
  { mixer = lightningMixer, chain }: PassOptions,
): Promise<Tensor[]> {
  using left = new DisposableStack();
  const states: Tensor[] = [];
  let x = embed(network, segment);
  try {
    for (let l = 0; l < network.config.layers; l++) {
      using held = new Transient();
      const { layer, state, received } = await forward({ network, segment, mixer, chain }, l, x, held);
      x = layer.output;
      states.push(left.use(state));
      received?.dispose();
    }
    using logits = allLogits(network, x);
    const entropy = crossEntropy(logits, segment.labels);
    entropy.dLogits.dispose();
    using loss = entropy.loss;
    sum(loss, total);
    await chain?.settled();
  } finally {
    x.dispose();
  }
  left.move();
  return states;
}

/**
 * Enqueues forward and backward pass: adds the losses of all labels to `total[0]`, and the gradient of `scale` times
 * their sum to `gradients`.
 *
 * @returns the state of each layer after the last token of each sequence; the caller disposes them
 */
export async function lossAndGradients(
  network: Network,
  gradients: Weights<Tensor>,
  segment: Segment,
  scale: number,
  total: Tensor,
  options: PassOptions = {},
): Promise<Tensor[]> {
  const { config } = network;
  const { mixer = lightningMixer, recompute = false, chain, onFinal } = options;
  const pass: Pass = { network, gradients, segment, mixer, chain };
  using left = new DisposableStack();
  using held = new DisposableStack();

  // Forward: x[l] goes into layer l, the last one into the final norm.
  const x = [held.use(embed(network, segment))];
  const layers: Passed[] = [];
  const states: Tensor[] = [];
  for (let l = 0; l < config.layers; l++) {
    const kept = held.use(new Kept());
    const { layer, state, received } = await forward(pass, l, x[l], kept);
    states.push(left.use(state));
    if (received !== undefined) held.use(received);
    x.push(held.use(layer.output));
    if (recompute) kept[Symbol.dispose]();
    layers.push({ kept: recompute ? undefined : kept, layer, state, received });
  }
  let dx = headBackward(pass, x[config.layers], scale, total);
  let handed = onFinal?.(headGradients(gradients));
  handed?.catch(() => {}); // told when it is waited for
  for (let l = config.layers - 1; l >= 0; l--) {
    using dOutput = dx;
    const passed = layers[l];
    using kept = passed.kept ?? new Kept();
    const layer = passed.kept === undefined ? again(pass, l, x[l], passed, kept) : passed.layer;
    dx = await layerBackward(pass, l, { ...passed, layer }, dOutput);
    x[l + 1].dispose();
    if (handed !== undefined) total.backend.machine.begin?.(); // the device computes this layer meanwhile
    await handed;
    handed = onFinal?.(layerGradients(gradients.layers[l]));
    handed?.catch(() => {});
  }
  // x = embed_tokens[ids] · scale
  using dEmbedded = dx;
  embeddingBackward(segment.ids, dEmbedded, gradients.embedTokens, { scale: config.embeddingScale });
  await handed;
  await chain?.settled();
  left.move();
  return states;
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

/** What all layers of a forward pass share. */
interface ForwardPass {
  readonly network: Network;
  readonly segment: Segment;
  readonly mixer: Mixer;
  readonly chain: Chain | undefined;
}

/** What all layers of both passes share. */
interface Pass extends ForwardPass {
  readonly gradients: Weights<Tensor>;
}

/** A layer that the forward pass has gone through. */
interface Passed {
  /** What holds its activations, unless they are to be computed again. */
  readonly kept: Kept | undefined;
  readonly layer: Layer;
  /** The state after the last token. */
  readonly state: Tensor;
  /** The state before the first token, if it came from the part before. */
  readonly received: Tensor | undefined;
}

/** Holds a layer's activations until its backward pass has read them; input and output are not among them. */
class Kept implements Held, Disposable {
  readonly #stack = new DisposableStack();

  use(tensor: Tensor): Tensor {
    return this.#stack.use(tensor);
  }

  done(): void {}

  [Symbol.dispose](): void {
    this.#stack.dispose();
  }
}

/** The forward pass of a layer. Only attention waits for the part before: the projections are under way by then. */
async function forward(
  pass: ForwardPass,
  l: number,
  x: Tensor,
  held: Held,
): Promise<Pick<Passed, "layer" | "state" | "received">> {
  const { network, segment, mixer, chain } = pass;
  const projected = project(network, l, x, segment, held);
  const { q, k, v } = projected;
  using stack = new DisposableStack();
  const received = await chain?.receiveState(stateShape(q, v));
  if (received !== undefined) stack.use(received);
  const { output, state } = mixer.forward(q, k, v, attentionOptions(network, l, segment, received));
  held.use(output);
  stack.use(state);
  const sent = chain?.sendState(state);
  const layer = finishLayer(network, l, x, projected, output, held);
  stack.use(layer.output);
  await sent; // the rest of the layer is under way by then
  stack.move();
  return { layer, state, received };
}

/** The layer's activations once more; the states around it are there still. */
function again(
  { network, segment, mixer }: Pass,
  l: number,
  x: Tensor,
  { received }: Passed,
  held: Held,
): Layer {
  const layer = layerForward(network, l, x, segment, (l, q, k, v) => {
    const { output, state } = mixer.forward(q, k, v, attentionOptions(network, l, segment, received));
    state.dispose();
    return output;
  }, held);
  layer.output.dispose();
  return layer;
}

async function layerBackward(pass: Pass, l: number, passed: Passed, dOutput: Tensor): Promise<Tensor> {
  using dMiddle = channelMixerBackward(pass, l, passed.layer, dOutput);
  return await tokenMixerBackward(pass, l, passed, dMiddle);
}

async function tokenMixerBackward(
  { network, gradients, segment, mixer, chain }: Pass,
  l: number,
  { layer: { x, tokenMixer }, state, received }: Passed,
  dOutput: Tensor,
): Promise<Tensor> {
  const { config, weights } = network;
  const { h, qkvu, activeQ, activeK, q, k, v, u, o, gated } = tokenMixer;
  const layer = weights.layers[l], d = gradients.layers[l];
  // x + out_proj(u ⊙ norm(o)), the norm over all heads together
  using dGated = linearBackward(gated, layer.outProj.weight, dOutput, into(d.outProj));
  const normed = config.outputNorm
    ? normBackward(o, dGated, { ...normGradients(layer.mixerNorm, d.mixerNorm), gate: u })
    : { dx: dGated.reshape(dGated.shape), dGate: undefined };
  using dO = normed.dx, du = normed.dGate;
  // o = attend(q, k, v)
  using dAttended = dO.reshape(v.shape);
  using dState = chain && await chain.receiveGradient(stateShape(q, v));
  const attended = mixer.backward(
    q,
    k,
    v,
    dAttended,
    { ...attentionOptions(network, l, segment, received), dState },
    { output: o, state },
  );
  using dq = attended.dq, dk = attended.dk, dv = attended.dv;
  using dInitialState = attended.dInitialState;
  const sent = chain?.sendGradient(dInitialState);
  if (sent === undefined) dInitialState.dispose(); // nobody reads it
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
  const dx = normBackward(x, dH, { ...normGradients(layer.tokenNorm, d.tokenNorm), residual: dOutput }).dx;
  using stack = new DisposableStack();
  stack.use(dx);
  await sent; // the rest of the layer is under way by then
  stack.move();
  return dx;
}

/** Shape of the states of parts, layout `"bnhd"`. */
function stateShape(q: Tensor, v: Tensor): readonly number[] {
  return [q.shape[0], v.shape[2], q.shape[3], v.shape[3]];
}

function channelMixerBackward(
  { network: { config, weights }, gradients }: Pass,
  l: number,
  { middle: x, channelMixer: { h, a, activeA, b, product } }: Layer,
  dOutput: Tensor,
): Tensor {
  const layer = weights.layers[l], d = gradients.layers[l];
  using dProduct = linearBackward(product, layer.l3.weight, dOutput, into(d.l3));
  const factors = multiplyBackward(activeA, b, dProduct);
  using dActiveA = factors.dx, dB = factors.dy;
  using dA = config.gluActivation === "identity"
    ? dActiveA.reshape(dActiveA.shape)
    : activateBackward(a, config.gluActivation, dActiveA);
  using dH2 = linearBackward(h, layer.l2.weight, dB, into(d.l2));
  using dH = linearBackward(h, layer.l1.weight, dA, { ...into(d.l1), residual: dH2 });
  return normBackward(x, dH, { ...normGradients(layer.channelNorm, d.channelNorm), residual: dOutput }).dx;
}

function attentionOptions(
  { weights }: Network,
  l: number,
  segment: Segment,
  received: Tensor | undefined,
): LightningOptions {
  return {
    slopes: weights.layers[l].slopes,
    initialState: received ?? segment.states?.[l],
    cuSeqlens: segment.cuSeqlens,
    layout: "bnhd",
  };
}

/** The gradients that are final after the head: that of embeddings is not, nor is it the head's where they are tied. */
function headGradients({ lmHead, embedTokens, finalNorm }: Weights<Tensor>): Tensor[] {
  return present([lmHead === embedTokens ? undefined : lmHead, finalNorm?.weight, finalNorm?.bias]);
}

/** All gradients of a layer. */
function layerGradients({ slopes: _, theta, ...parts }: LayerWeights<Tensor>): Tensor[] {
  return present([theta, ...Object.values(parts).flatMap((part) => [part?.weight, part?.bias])]);
}

function present(gradients: readonly (Tensor | undefined)[]): Tensor[] {
  return gradients.filter((gradient) => gradient !== undefined);
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
