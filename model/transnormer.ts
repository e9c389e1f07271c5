/**
 * TransNormerLLM's forward pass ("Scaling TransNormer to 175 Billion Parameters", section 3), equation by equation. It
 * exists once: inference and training differ in what holds the activations ({@linkcode Held}) and in what attends
 * ({@linkcode Attend}); `train/backward.ts` undoes it.
 *
 * All of it is batch-shaped: `x` is `[batch, seqLen, embed]`, every batch element has its own position and its own
 * slice of the states, so that one pass may serve several sequences.
 *
 * @module
 */
import { mixerStep, normLinear, step as repeated, stepEmbedding } from "../core/ops/fused.ts";
import { lightningAttention, lightningAttentionStep } from "../core/ops/lightning.ts";
import {
  activate,
  type Activation,
  embedding,
  gatherRows,
  linear,
  lrpe,
  multiply,
  norm,
  splitHeads,
} from "../core/ops.ts";
import type { HeldTokens } from "../core/machine.ts";
import type { Tensor } from "../core/tensor.ts";
import type { TransNormerConfig } from "./config.ts";
import type { LayerWeights, Weights } from "./weights.ts";

/** A model as the forward pass sees it. */
export interface Network {
  /** Checked configuration. */
  readonly config: TransNormerConfig;
  /** Parameters. */
  readonly weights: Weights<Tensor>;
}

/** Tokens that a pass reads. */
export interface Tokens {
  /** Token ids, `[batch, seqLen]` row by row. */
  readonly ids: Uint32Array;
  /** Batch elements. */
  readonly batch: number;
  /** Tokens per batch element. */
  readonly seqLen: number;
  /** Position of the first token of each batch element, `[batch]`. */
  readonly positions: readonly number[];
}

/** What a pass of inference reads. */
export interface Input extends Tokens {
  /**
   * State of each layer before the first token, `[batch, heads, headDim, valueDim]`; absent: zero. With one token
   * per batch element the states are updated in place, else they are not changed.
   */
  readonly states?: readonly Tensor[];
  /** Row of the states of each batch element, for states that more sequences share; with one token per element. */
  readonly rows?: readonly number[];
}

/** What a pass leaves: the caller disposes all of it. */
export interface Output {
  /** The residual stream after the last layer, `[batch, seqLen, embed]`. */
  hidden: Tensor;
  /** State of each layer after the last token: those of the input where they were updated in place. */
  states: Tensor[];
}

/** What holds the activations of a pass. */
export interface Held {
  /** Takes a tensor over and hands it on. */
  use(tensor: Tensor): Tensor;
  /** The forward pass reads these no more. */
  done(...tensors: Tensor[]): void;
}

/** Holds activations as long as the forward pass reads them, those of inference. */
export class Transient implements Held, Disposable {
  readonly #tensors: Tensor[] = [];

  use(tensor: Tensor): Tensor {
    this.#tensors.push(tensor);
    return tensor;
  }

  done(...tensors: Tensor[]): void {
    for (const tensor of tensors) tensor.dispose();
  }

  /** Gives back what a failure left. */
  [Symbol.dispose](): void {
    for (const tensor of this.#tensors) tensor.dispose();
  }
}

/**
 * What mixes tokens in a layer: q, k `[batch, seqLen, heads, headDim]` and v `[batch, seqLen, heads, valueDim]` to an
 * output shaped like v. States are the caller's affair.
 */
export type Attend = (layer: number, q: Tensor, k: Tensor, v: Tensor) => Tensor;

/** A layer's activations, each of them held, and its output, which is the caller's. */
export interface Layer {
  /** The input, `[batch, seqLen, embed]`. */
  readonly x: Tensor;
  /** Of {@linkcode project} and {@linkcode finishLayer}. */
  readonly tokenMixer: Projected & {
    /** `attend(q, k, v)`. */
    readonly o: Tensor;
    /** `u ⊙ norm(o)`; `o` itself in models without either. */
    readonly gated: Tensor;
  };
  /** Between the two mixers. */
  readonly middle: Tensor;
  /** Of {@linkcode channelMixer}. */
  readonly channelMixer: Record<"h" | "a" | "activeA" | "b" | "product", Tensor>;
  /** Shaped like `x`. */
  readonly output: Tensor;
}

/** Shape of each layer's state: LRPE doubles the size of query and key, not that of value. */
export function stateShapes(config: TransNormerConfig, batch: number): number[][] {
  const valueDim = config.hiddenDim / config.heads;
  return Array.from(
    { length: config.layers },
    (_, l) => [batch, config.heads, config.useLrpe[l] ? 2 * valueDim : valueDim, valueDim],
  );
}

/** A pass of inference: from token ids and states to the residual stream after the last layer, and states. */
export function forward(network: Network, input: Input): Output {
  if (input.states !== undefined && isFused(network, input)) {
    return { hidden: step(network, input, input.states), states: [...input.states] };
  }
  const states: Tensor[] = [];
  const attend: Attend = (l, q, k, v) => {
    const { slopes } = network.weights.layers[l];
    const { output, state } = attendFrom(q, k, v, slopes, input.states?.[l], input.rows);
    states.push(state);
    return output;
  };
  try {
    return { hidden: residualStream(network, input, attend), states };
  } catch (error) {
    for (const state of states) if (!input.states?.includes(state)) state.dispose();
    throw error;
  }
}

/** Whether the machine fuses the operations of such a pass. */
function isFused({ config, weights }: Network, { batch, seqLen }: Tokens): boolean {
  const { fused } = weights.embedTokens.backend.machine;
  if (fused === undefined || seqLen !== 1) return false;
  if (config.norm !== "srmsnorm" || !config.outputGate || config.gluActivation !== "identity") return false;
  const isGated = ({ l1: { weight: left }, l2: { weight: right } }: LayerWeights<Tensor>) =>
    left.dtype === right.dtype && left.quantization?.group === right.quantization?.group;
  return fused.fits({ ...config, rows: batch }) && weights.layers.every(isGated);
}

/**
 * One token per sequence in fused operations: the equations of {@linkcode layer}, where a norm is a factor of the rows of
 * the product that reads it. The states and the number of sequences say what is enqueued, so that it is done once.
 */
function step({ config, weights }: Network, input: Input, states: readonly Tensor[]): Tensor {
  const { ids, batch, positions, rows } = input;
  const { backend } = weights.embedTokens, tokens = { ids, positions, rows };
  const shape = [batch, 1, config.embedDim];
  return repeated(backend, shape, states, tokens, (held) => stepOf({ config, weights }, held, states));
}

function stepOf({ config, weights }: Network, tokens: HeldTokens, states: readonly Tensor[]): Tensor {
  const { heads, activation, embeddingScale } = config;
  let hidden = stepEmbedding(weights.embedTokens, tokens, embeddingScale);
  try {
    weights.layers.forEach(({ qkvuProj, theta, slopes, outProj, l1, l2, l3 }, l) => {
      using x = hidden;
      // x + out_proj(u ⊙ norm(o)), o = attend(q, k, v), q, k, v, u = split4(qkvu_proj(norm(x)))
      using qkvu = normLinear(x, qkvuProj);
      const mixed = mixerStep(qkvu, states[l], tokens, { heads, activation, slopes, theta });
      using attended = mixed.attended, gated = mixed.gated;
      using middle = normLinear(gated, outProj, { normed: attended, residual: x });
      // x + l3(l1(h) ⊙ l2(h)), h = norm(x)
      using product = normLinear(middle, l1, { gate: l2 });
      hidden = linear(product, l3.weight, { bias: l3.bias, residual: middle });
    });
    return hidden;
  } catch (error) {
    hidden.dispose();
    throw error;
  }
}

/** From token ids to the residual stream after the last layer, `[batch, seqLen, embed]`; no activation is kept. */
export function residualStream(network: Network, tokens: Tokens, attend: Attend): Tensor {
  let x = embed(network, tokens);
  try {
    for (let l = 0; l < network.config.layers; l++) {
      using held = new Transient();
      x = layer(network, l, x, tokens, attend, held).output;
    }
    return x;
  } catch (error) {
    x.dispose();
    throw error;
  }
}

/** `x = embed_tokens[ids] · scale` */
export function embed({ config, weights }: Network, { ids, batch, seqLen }: Tokens): Tensor {
  return embedding(weights.embedTokens, ids, { scale: config.embeddingScale, shape: [batch, seqLen] });
}

/** One layer; `x` is the caller's, and done once the token mixer has read it. */
export function layer(
  network: Network,
  l: number,
  x: Tensor,
  tokens: Tokens,
  attend: Attend,
  held: Held,
): Layer {
  const projected = project(network, l, x, tokens, held);
  return finishLayer(network, l, x, projected, attend(l, projected.q, projected.k, projected.v), held);
}

/** What a layer computes before its tokens mix: q, k, v, u from norm(x). */
export type Projected = Record<"h" | "qkvu" | "activeQ" | "activeK" | "q" | "k" | "v", Tensor> & {
  /** The output gate, if the model has one. */
  readonly u: Tensor | undefined;
};

/** The first half of a layer, in which no token sees another. */
export function project(
  { config, weights }: Network,
  l: number,
  x: Tensor,
  { positions }: Tokens,
  held: Held,
): Projected {
  const { tokenNorm, qkvuProj, theta } = weights.layers[l];
  // h = norm(x)
  const h = held.use(norm(x, tokenNorm));
  // q, k, v, u = split4(qkvu_proj(h)); q, k = act(q), act(k)
  const qkvu = held.use(linear(h, qkvuProj.weight, { bias: qkvuProj.bias }));
  held.done(h);
  const split = splitHeads(qkvu, config.heads, config.activation, { gate: config.outputGate });
  const activeQ = held.use(split.q),
    activeK = held.use(split.k),
    v = held.use(split.v),
    u = split.u && held.use(split.u);
  held.done(qkvu);
  // q, k = [x·cos(θ·pos), x·sin(θ·pos)]
  const q = theta === undefined ? activeQ : held.use(lrpe(activeQ, theta, positions));
  const k = theta === undefined ? activeK : held.use(lrpe(activeK, theta, positions));
  return { h, qkvu, activeQ, activeK, q, k, v, u };
}

/**
 * The second half: `x + out_proj(u ⊙ norm(o))`, then the channel mixer.
 *
 * @param attended `o = attend(q, k, v)`, taken over
 */
export function finishLayer(
  { config, weights }: Network,
  l: number,
  x: Tensor,
  projected: Projected,
  attended: Tensor,
  held: Held,
): Layer {
  const { mixerNorm, outProj } = weights.layers[l];
  const { activeQ, activeK, q, k, v, u } = projected;
  const [batch, seqLen] = v.shape;
  const o = held.use(held.use(attended).reshape([batch, seqLen, config.hiddenDim]));
  held.done(activeQ, activeK, q, k, v);
  // x += out_proj(u ⊙ norm(o)), the norm over all heads together
  const gated = config.outputNorm ? held.use(norm(o, { ...mixerNorm, gate: u })) : o;
  if (gated !== o) held.done(o);
  if (u !== undefined) held.done(u);
  const middle = held.use(linear(gated, outProj.weight, { bias: outProj.bias, residual: x }));
  held.done(gated, x);
  // x += channelMixer(x)
  const channels = channelMixer(weights.layers[l], config.gluActivation, middle, held);
  held.done(middle);
  return {
    x,
    tokenMixer: { ...projected, o, gated },
    middle,
    channelMixer: channels.activations,
    output: channels.output,
  };
}

/**
 * The block algorithm over many tokens, in layout `"bnhd"`; the step, in place on the state, over one, which has no
 * dimension of time: its q, k and v are spent.
 */
function attendFrom(
  q: Tensor,
  k: Tensor,
  v: Tensor,
  slopes: readonly number[],
  state: Tensor | undefined,
  rows: readonly number[] | undefined,
): { output: Tensor; state: Tensor } {
  if (state === undefined || q.shape[1] !== 1) {
    return lightningAttention(q, k, v, { slopes, initialState: state, layout: "bnhd" });
  }
  const withoutTime = ({ shape: [batch, , heads, dim] }: Tensor) => [batch, heads, dim];
  using q1 = q.reshape(withoutTime(q)), k1 = k.reshape(withoutTime(k)), v1 = v.reshape(withoutTime(v));
  return { output: lightningAttentionStep(q1, k1, v1, state, { slopes, rows }), state };
}

/** `x + l3(act(l1(h)) ⊙ l2(h))`, h = norm(x): without an activation SGLU. */
export function channelMixer(
  { channelNorm, l1, l2, l3 }: LayerWeights<Tensor>,
  activation: Activation,
  x: Tensor,
  held: Held,
): { output: Tensor; activations: Layer["channelMixer"] } {
  const h = held.use(norm(x, channelNorm));
  const a = held.use(linear(h, l1.weight, { bias: l1.bias }));
  const b = held.use(linear(h, l2.weight, { bias: l2.bias }));
  held.done(h);
  const activeA = activation === "identity" ? a : held.use(activate(a, activation));
  if (activeA !== a) held.done(a);
  const product = held.use(multiply(activeA, b));
  held.done(activeA, b);
  const output = linear(product, l3.weight, { bias: l3.bias, residual: x });
  held.done(product);
  return { output, activations: { h, a, activeA, b, product } };
}

/** `lm_head(norm(x))` of every token: `[batch, seqLen, vocab]`. */
export function allLogits({ weights }: Network, hidden: Tensor): Tensor {
  using h = norm(hidden, weights.finalNorm);
  return linear(h, weights.lmHead);
}

/** `lm_head(norm(x))` of the last token of each batch element: `[batch, vocab]`. */
export function lastLogits(network: Network, hidden: Tensor): Tensor {
  const [batch, seqLen] = hidden.shape;
  if (seqLen === 1) { // all of them are last
    const logits = allLogits(network, hidden);
    return logits.reshape([batch, logits.size / batch]);
  }
  using last = gatherRows(hidden, Array.from({ length: batch }, (_, b) => (b + 1) * seqLen - 1));
  return allLogits(network, last);
}
