/**
 * TransNormerLLM's forward pass ("Scaling TransNormer to 175 Billion Parameters", section 3), equation by equation.
 *
 * All of it is batch-shaped: `x` is `[batch, seqLen, embed]`, every batch element has its own position and its own
 * slice of the states, so that one pass may serve several sequences.
 *
 * @module
 */
import { layerSlopes } from "../core/decay.ts";
import { lightningAttention, lightningAttentionStep } from "../core/lightning.ts";
import { embedding, gatherRows, linear, lrpe, multiply, norm, splitHeads } from "../core/ops.ts";
import type { Tensor } from "../core/tensor.ts";
import type { TransNormerConfig } from "./config.ts";
import type { LayerWeights, NormWeights, Weights } from "./weights.ts";

/** A model as the forward pass sees it. */
export interface Network {
  /** Checked configuration. */
  readonly config: TransNormerConfig;
  /** Parameters. */
  readonly weights: Weights<Tensor>;
}

/** What a pass reads. */
export interface Input {
  /** Token ids, `[batch, seqLen]` row by row. */
  readonly ids: Uint32Array;
  /** Batch elements. */
  readonly batch: number;
  /** Tokens per batch element. */
  readonly seqLen: number;
  /** Position of the first token of each batch element, `[batch]`. */
  readonly positions: readonly number[];
  /**
   * State of each layer before the first token, `[batch, heads, headDim, valueDim]`; left out: zero. With one token
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

/** Shape of each layer's state: LRPE doubles the size of query and key, not that of value. */
export function stateShapes(config: TransNormerConfig, batch: number): number[][] {
  const valueDim = config.hiddenDim / config.heads;
  return Array.from(
    { length: config.layers },
    (_, l) => [batch, config.heads, config.useLrpe[l] ? 2 * valueDim : valueDim, valueDim],
  );
}

/** From token ids to the residual stream after the last layer. */
export function decode({ config, weights }: Network, input: Input): Output {
  const { ids, batch, seqLen } = input;
  // x = embed_tokens[ids] · scale
  let x = embedding(weights.embedTokens, ids, { scale: config.embeddingScale, shape: [batch, seqLen] });
  const states: Tensor[] = [];
  try {
    weights.layers.forEach((layer, l) => {
      // x += tokenMixer(x)
      const mixed = tokenMixer(config, layer, l, x, input);
      x.dispose();
      x = mixed.output;
      states.push(mixed.state);
      // x += channelMixer(x)
      const output = channelMixer(layer, x);
      x.dispose();
      x = output;
    });
    return { hidden: x, states };
  } catch (error) {
    x.dispose();
    for (const state of states) if (!input.states?.includes(state)) state.dispose();
    throw error;
  }
}

/** `x + out_proj(u ⊙ norm(lightningAttention(q, k, v)))`, q, k, v, u from norm(x). */
function tokenMixer(
  config: TransNormerConfig,
  layer: LayerWeights<Tensor>,
  l: number,
  x: Tensor,
  input: Input,
): { output: Tensor; state: Tensor } {
  // h = norm(x)
  using h = norm(x, affine(layer.tokenNorm));
  // q, k, v, u = split4(qkvu_proj(h)); q, k = act(q), act(k)
  using qkvu = linear(h, layer.qkvuProj.weight, { bias: layer.qkvuProj.bias });
  const split = splitHeads(qkvu, config.heads, config.activation);
  using activeQ = split.q, activeK = split.k, v = split.v, u = split.u;
  // q, k = [x·cos(θ·pos), x·sin(θ·pos)]
  using q = encode(activeQ, layer.theta, input.positions);
  using k = encode(activeK, layer.theta, input.positions);
  // o = lightningAttention(q, k, v)
  const slopes = slopesOf(config)[l];
  const attended = attend(q, k, v, slopes, input.states?.[l], input.rows);
  try {
    // x + out_proj(u ⊙ norm(o)), the norm over all heads together
    using o = attended.output.reshape(u.shape);
    using gated = norm(o, { ...affine(layer.mixerNorm), gate: u });
    const output = linear(gated, layer.outProj.weight, { bias: layer.outProj.bias, residual: x });
    return { output, state: attended.state };
  } catch (error) {
    if (attended.state !== input.states?.[l]) attended.state.dispose();
    throw error;
  }
}

/** Slopes of the layers of a model, made once: a token would spend more time on them than on some of its operations. */
const SLOPES = new WeakMap<TransNormerConfig, number[][]>();

function slopesOf(config: TransNormerConfig): number[][] {
  const { heads, layers } = config;
  let slopes = SLOPES.get(config);
  if (slopes === undefined) {
    slopes = Array.from({ length: layers }, (_, l) => layerSlopes(heads, l, layers));
    SLOPES.set(config, slopes);
  }
  return slopes;
}

/** LRPE where the layer has a θ; takes x over. */
function encode(x: Tensor, theta: Tensor | undefined, positions: readonly number[]): Tensor {
  return theta === undefined ? x.reshape(x.shape) : lrpe(x, theta, positions);
}

/**
 * The block algorithm over many tokens, in layout `"bnhd"`; the step, in place on the state, over one, which has no
 * dimension of time.
 */
function attend(
  q: Tensor,
  k: Tensor,
  v: Tensor,
  slopes: number[],
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

/** `x + l3(l1(h) ⊙ l2(h))`, h = norm(x): SGLU. */
export function channelMixer(layer: LayerWeights<Tensor>, x: Tensor): Tensor {
  using h = norm(x, affine(layer.channelNorm));
  using a = linear(h, layer.l1.weight, { bias: layer.l1.bias });
  using b = linear(h, layer.l2.weight, { bias: layer.l2.bias });
  using product = multiply(a, b);
  return linear(product, layer.l3.weight, { bias: layer.l3.bias, residual: x });
}

/** `lm_head(norm(x))` of every token: `[batch, seqLen, vocab]`. */
export function allLogits({ weights }: Network, hidden: Tensor): Tensor {
  using h = norm(hidden, affine(weights.finalNorm));
  return linear(h, weights.lmHead);
}

/** `lm_head(norm(x))` of the last token of each batch element: `[batch, vocab]`. */
export function lastLogits(network: Network, hidden: Tensor): Tensor {
  const [batch, seqLen] = hidden.shape;
  using last = gatherRows(hidden, Array.from({ length: batch }, (_, b) => (b + 1) * seqLen - 1));
  return allLogits(network, last);
}

export function affine(weights: NormWeights<Tensor>): { weight?: Tensor; bias?: Tensor } {
  return weights ?? {};
}
