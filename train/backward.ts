/**
 * Loss and gradients of a TransNormerLLM: `model/transnormer.ts` backwards, equation by equation. Each forward function
 * here is its namesake there, with what its backward reads kept; each backward function undoes its lines from the last
 * to the first.
 *
 * @module
 */
import { layerSlopes } from "../core/decay.ts";
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
import { lightningAttention, lightningAttentionBackward, type LightningOptions } from "../core/lightning.ts";
import { embedding, linear, lrpe, multiply, norm, splitHeads } from "../core/ops.ts";
import type { Tensor } from "../core/tensor.ts";
import type { Network } from "../model/transnormer.ts";
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
export interface Segment {
  /** Token ids, `[batch, seqLen]` row by row. */
  readonly ids: Uint32Array;
  /** The token that follows each, `[batch, seqLen]`; negative where none is to be predicted. */
  readonly labels: Int32Array;
  /** Batch elements. */
  readonly batch: number;
  /** Tokens per batch element. */
  readonly seqLen: number;
  /** Position of the first token of each batch element. */
  readonly positions: readonly number[];
  /** Batch 1: where packed sequences begin and end; see {@linkcode LightningOptions.cuSeqlens}. */
  readonly cuSeqlens?: readonly number[];
  /** State of each layer before the first token; a constant, no gradient flows into it. Left out: zero. */
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
  const pass = { network, segment, mixer: options.mixer ?? lightningMixer };
  using states = new DisposableStack();
  let x = embed(pass);
  const kept = network.weights.layers.map((_, l) => {
    using before = x;
    using layer = layerForward(pass, l, before);
    states.use(layer.state);
    x = layer.output;
    return layer.state;
  });
  using last = x;
  using h = norm(last, network.weights.finalNorm);
  using logits = linear(h, network.weights.lmHead);
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
  const { config, weights } = network;
  const { mixer = lightningMixer, recompute = false } = options;
  const pass = { network, segment, mixer };
  using states = new DisposableStack();
  using held = new DisposableStack();

  // Forward: x[l] goes into layer l, the last one into the final norm.
  const x = [held.use(embed(pass))];
  const layers: (Layer | undefined)[] = [];
  const kept: Tensor[] = [];
  for (let l = 0; l < config.layers; l++) {
    const layer = held.use(layerForward(pass, l, x[l]));
    x.push(held.use(layer.output));
    kept.push(states.use(layer.state));
    if (recompute) layer[Symbol.dispose]();
    layers.push(recompute ? undefined : layer);
  }
  const last = x[config.layers];
  using h = norm(last, weights.finalNorm);
  using logits = linear(h, weights.lmHead);
  const entropy = crossEntropy(logits, segment.labels, { scale });
  logits.dispose();
  using loss = entropy.loss, dLogits = entropy.dLogits;
  sum(loss, total);

  // Backward.
  // logits = lm_head(norm(x))
  using dH = linearBackward(h, weights.lmHead, dLogits, { dWeight: gradients.lmHead });
  let dx = normBackward(last, dH, affine(weights.finalNorm, gradients.finalNorm)).dx;
  for (let l = config.layers - 1; l >= 0; l--) {
    using dOutput = dx;
    using layer = layers[l] ?? again(pass, l, x[l], kept[l]);
    dx = layerBackward(pass, gradients, l, layer, dOutput);
    x[l + 1].dispose();
  }
  // x = embed_tokens[ids] · scale
  using dEmbedded = dx;
  embeddingBackward(segment.ids, dEmbedded, gradients.embedTokens, { scale: config.embeddingScale });
  states.move();
  return kept;
}

/** What all layers of a pass share. */
interface Pass {
  readonly network: Network;
  readonly segment: Segment;
  readonly mixer: Mixer;
}

/** A layer's activations that its backward reads. Disposing it leaves input, output and state alone. */
interface Layer extends Disposable {
  readonly x: Tensor;
  readonly tokenMixer: TokenMixer;
  readonly middle: Tensor;
  readonly channelMixer: ChannelMixer;
  readonly output: Tensor;
  readonly state: Tensor;
}

type TokenMixer = Record<
  "h" | "qkvu" | "activeQ" | "activeK" | "q" | "k" | "v" | "u" | "o" | "gated",
  Tensor
>;
type ChannelMixer = Record<"h" | "a" | "b" | "product", Tensor>;

/** `x = embed_tokens[ids] · scale` */
function embed({ network: { config, weights }, segment: { ids, batch, seqLen } }: Pass): Tensor {
  return embedding(weights.embedTokens, ids, { scale: config.embeddingScale, shape: [batch, seqLen] });
}

function layerForward(pass: Pass, l: number, x: Tensor): Layer {
  using stack = new DisposableStack();
  // x += tokenMixer(x)
  const mixed = tokenMixer(pass, l, x, stack);
  const middle = stack.use(mixed.output);
  // x += channelMixer(x)
  const { output, kept } = channelMixer(pass, l, middle, stack);
  const held = stack.move();
  return {
    x,
    tokenMixer: mixed.kept,
    middle,
    channelMixer: kept,
    output,
    state: mixed.state,
    [Symbol.dispose]: () => held.dispose(),
  };
}

/** The layer's activations once more; its state is there still. */
function again(pass: Pass, l: number, x: Tensor, state: Tensor): Layer {
  const layer = layerForward(pass, l, x);
  layer.output.dispose();
  layer.state.dispose();
  return { ...layer, state };
}

function layerBackward(
  pass: Pass,
  gradients: Weights<Tensor>,
  l: number,
  layer: Layer,
  dOutput: Tensor,
): Tensor {
  using dMiddle = channelMixerBackward(pass, gradients, l, layer, dOutput);
  return tokenMixerBackward(pass, gradients, l, layer, dMiddle);
}

/** `x + out_proj(u ⊙ norm(lightningAttention(q, k, v)))`, q, k, v, u from norm(x). */
function tokenMixer(
  { network: { config, weights }, segment, mixer }: Pass,
  l: number,
  x: Tensor,
  held: DisposableStack,
): { output: Tensor; state: Tensor; kept: TokenMixer } {
  const layer = weights.layers[l];
  // h = norm(x)
  const h = held.use(norm(x, layer.tokenNorm));
  // q, k, v, u = split4(qkvu_proj(h)); q, k = act(q), act(k)
  const qkvu = held.use(linear(h, layer.qkvuProj.weight, { bias: layer.qkvuProj.bias }));
  const { q: activeQ, k: activeK, v, u } = splitHeads(qkvu, config.heads, config.activation);
  for (const tensor of [activeQ, activeK, v, u]) held.use(tensor);
  // q, k = [x·cos(θ·pos), x·sin(θ·pos)]
  const { theta } = layer;
  const q = theta === undefined ? activeQ : held.use(lrpe(activeQ, theta, segment.positions));
  const k = theta === undefined ? activeK : held.use(lrpe(activeK, theta, segment.positions));
  // o = lightningAttention(q, k, v)
  const attended = mixer.forward(q, k, v, attentionOptions(config.heads, l, config.layers, segment));
  // x + out_proj(u ⊙ norm(o)), the norm over all heads together
  const o = held.use(attended.output.reshape(u.shape));
  const gated = held.use(norm(o, { ...layer.mixerNorm, gate: u }));
  const output = linear(gated, layer.outProj.weight, { bias: layer.outProj.bias, residual: x });
  return { output, state: attended.state, kept: { h, qkvu, activeQ, activeK, q, k, v, u, o, gated } };
}

function tokenMixerBackward(
  { network: { config, weights }, segment, mixer }: Pass,
  gradients: Weights<Tensor>,
  l: number,
  { x, tokenMixer: { h, qkvu, activeQ, activeK, q, k, v, u, o, gated }, state }: Layer,
  dOutput: Tensor,
): Tensor {
  const layer = weights.layers[l], d = gradients.layers[l];
  // x + out_proj(u ⊙ norm(o)), the norm over all heads together
  using dGated = linearBackward(gated, layer.outProj.weight, dOutput, into(d.outProj));
  const normed = normBackward(o, dGated, { ...affine(layer.mixerNorm, d.mixerNorm), gate: u });
  using dO = normed.dx, du = normed.dGate!;
  // o = lightningAttention(q, k, v)
  using dAttended = dO.reshape(v.shape);
  const attended = mixer.backward(
    q,
    k,
    v,
    dAttended,
    attentionOptions(config.heads, l, config.layers, segment),
    { output: o, state },
  );
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
  return normBackward(x, dH, { ...affine(layer.tokenNorm, d.tokenNorm), residual: dOutput }).dx;
}

/** `x + l3(l1(h) ⊙ l2(h))`, h = norm(x): SGLU. */
function channelMixer(
  { network: { weights } }: Pass,
  l: number,
  x: Tensor,
  held: DisposableStack,
): { output: Tensor; kept: ChannelMixer } {
  const layer = weights.layers[l];
  const h = held.use(norm(x, layer.channelNorm));
  const a = held.use(linear(h, layer.l1.weight, { bias: layer.l1.bias }));
  const b = held.use(linear(h, layer.l2.weight, { bias: layer.l2.bias }));
  const product = held.use(multiply(a, b));
  const output = linear(product, layer.l3.weight, { bias: layer.l3.bias, residual: x });
  return { output, kept: { h, a, b, product } };
}

function channelMixerBackward(
  { network: { weights } }: Pass,
  gradients: Weights<Tensor>,
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
  return normBackward(x, dH, { ...affine(layer.channelNorm, d.channelNorm), residual: dOutput }).dx;
}

function attentionOptions(heads: number, l: number, layers: number, segment: Segment): LightningOptions {
  return {
    slopes: layerSlopes(heads, l, layers),
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
function affine(
  weights: NormWeights<Tensor>,
  gradients: NormWeights<Tensor>,
): { weight?: Tensor; bias?: Tensor; dWeight?: Tensor; dBias?: Tensor } {
  return weights === undefined ? {} : { ...weights, dWeight: gradients!.weight, dBias: gradients!.bias };
}
