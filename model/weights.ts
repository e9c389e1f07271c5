/**
 * The parameters of a TransNormerLLM under the names of the published checkpoints. {@linkcode mapWeights} is the one
 * place that knows names and shapes: loading, checking and anything that walks all parameters go through it.
 *
 * @module
 */
import { alibiSlopes, layerSlopes } from "../core/decay.ts";
import type { TransNormerConfig } from "./config.ts";

/** A linear layer: weight `[out, in]`, bias `[out]` if the config has biases. */
export interface LinearWeights<T> {
  /** `[out, in]`. */
  readonly weight: T;
  /** `[out]`. */
  readonly bias: T | undefined;
}

/** A norm's parameters: RMSNorm has no bias; SRMSNorm has neither and is `undefined`. */
export type NormWeights<T> = { readonly weight: T; readonly bias: T | undefined } | undefined;

/** One decoder layer. */
export interface LayerWeights<T> {
  /** Before the token mixer. */
  readonly tokenNorm: NormWeights<T>;
  /** Query, key, value and gate in one: `[4 · hidden, embed]`; without a gate `[3 · hidden, embed]`. */
  readonly qkvuProj: LinearWeights<T>;
  /** LRPE's θ, `[heads, headDim]`, if the layer uses it. */
  readonly theta: T | undefined;
  /** Decay of each head, `[heads]`: not learned; it follows from the numbers of heads and layers. */
  readonly slopes: readonly number[];
  /** After attention, over `hidden`; parameters only where the config norms there. */
  readonly mixerNorm: NormWeights<T>;
  /** `[embed, hidden]`. */
  readonly outProj: LinearWeights<T>;
  /** Before the channel mixer. */
  readonly channelNorm: NormWeights<T>;
  /** `[glu, embed]`. */
  readonly l1: LinearWeights<T>;
  /** `[glu, embed]`. */
  readonly l2: LinearWeights<T>;
  /** `[embed, glu]`. */
  readonly l3: LinearWeights<T>;
}

/** A whole model. */
export interface Weights<T> {
  /** `[vocab, embed]`. */
  readonly embedTokens: T;
  /** From the first to the last. */
  readonly layers: readonly LayerWeights<T>[];
  /** Before `lmHead`. */
  readonly finalNorm: NormWeights<T>;
  /** `[vocab, embed]`; the embedding itself if the two are tied. */
  readonly lmHead: T;
}

/**
 * Builds a model's parameters from what `take` gives for each name and shape, in the order of use. The shape of θ is
 * the published one, `[heads, 1, headDim]`.
 *
 * @param tied whether `lm_head` is the embedding
 */
export function mapWeights<T>(
  config: TransNormerConfig,
  tied: boolean,
  take: (name: string, shape: readonly number[]) => T,
): Weights<T> {
  const { vocabSize, embedDim, hiddenDim, gluDim, heads } = config;
  const linear = (name: string, out: number, inDim: number): LinearWeights<T> => ({
    weight: take(`${name}.weight`, [out, inDim]),
    bias: config.bias ? take(`${name}.bias`, [out]) : undefined,
  });
  const norm = (name: string, width: number): NormWeights<T> =>
    config.norm === "srmsnorm" ? undefined : {
      weight: take(`${name}.weight`, [width]),
      bias: config.norm === "layernorm" ? take(`${name}.bias`, [width]) : undefined,
    };

  const embedTokens = take("model.embed_tokens.weight", [vocabSize, embedDim]);
  const layers: LayerWeights<T>[] = [];
  for (let l = 0; l < config.layers; l++) {
    const layer = `model.layers.${l}`;
    layers.push({
      tokenNorm: norm(`${layer}.token_norm`, embedDim),
      qkvuProj: linear(`${layer}.token_mixer.qkvu_proj`, (config.outputGate ? 4 : 3) * hiddenDim, embedDim),
      theta: config.useLrpe[l]
        ? take(`${layer}.token_mixer.lrpe.theta`, [heads, 1, hiddenDim / heads])
        : undefined,
      slopes: config.decayTemperature ? layerSlopes(heads, l, config.layers) : alibiSlopes(heads),
      mixerNorm: config.outputNorm ? norm(`${layer}.token_mixer.norm`, hiddenDim) : undefined,
      outProj: linear(`${layer}.token_mixer.out_proj`, embedDim, hiddenDim),
      channelNorm: norm(`${layer}.channel_norm`, embedDim),
      l1: linear(`${layer}.channel_mixer.l1`, gluDim, embedDim),
      l2: linear(`${layer}.channel_mixer.l2`, gluDim, embedDim),
      l3: linear(`${layer}.channel_mixer.l3`, embedDim, gluDim),
    });
  }
  return {
    embedTokens,
    layers,
    finalNorm: norm("model.final_norm", embedDim),
    lmHead: tied ? embedTokens : take("lm_head.weight", [vocabSize, embedDim]),
  };
}
