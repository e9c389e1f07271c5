/**
 * The operations of {@linkcode Fused}, for one token per sequence: what a model's decoding calls where its machine has
 * them. The model's own checks stand before them.
 *
 * @module
 */
import { result, results } from "../check.ts";
import type { Activation, Fused, HeldTokens, StepTokens } from "../machine.ts";
import { type Backend, Tensor } from "../tensor.ts";
import { SRMS_EPS } from "./norm.ts";

/** A linear layer's parameters. */
interface Layer {
  readonly weight: Tensor;
  readonly bias: Tensor | undefined;
}

const fusedOf = ({ machine }: Backend): Fused => machine.fused!;

/**
 * A step that comes again and again with other tokens: see {@linkcode Fused.repeat}.
 *
 * @param backend with fused operations
 * @param shape of the result, which is f32
 * @param key what the step depends on, apart from tokens: such as the states that it changes
 * @param enqueue calls operations of this module on the tokens, and nothing that waits or uploads
 */
export function step(
  backend: Backend,
  shape: readonly number[],
  key: object,
  tokens: StepTokens,
  enqueue: (tokens: HeldTokens) => Tensor,
): Tensor {
  let output: Tensor | undefined;
  const storage = fusedOf(backend).repeat(key, tokens, (held) => (output = enqueue(held)).storage);
  return output ?? new Tensor(backend, shape, "f32", storage);
}

/**
 * `y[b] = table[id of sequence b] · scale`, f32.
 *
 * @param table `[vocab, dim]`
 * @returns `[batch, 1, dim]`
 */
export function stepEmbedding(table: Tensor, tokens: HeldTokens, scale: number): Tensor {
  const { backend, shape: [, width] } = table;
  return result(
    backend,
    [tokens.batch, 1, width],
    "f32",
    (output) => fusedOf(backend).embedding({ table, tokens, scale, width, output }),
  );
}

/**
 * `y = x weightᵀ / sqrt(mean(normed²) + eps) + bias + residual`, f32: a linear layer of SRMSNorm's result.
 *
 * @param x `[..., in]`
 * @param layer weight `[out, in]` and bias `[out]`
 * @param options `normed`, shaped like x: whose mean square divides, default x; `residual`, shaped like the result; `gate`:
 * another layer, whose result this one's is multiplied by, without a residual
 * @returns `[..., out]`
 */
export function normLinear(
  x: Tensor,
  { weight, bias }: Layer,
  { normed = x, residual, gate }: { normed?: Tensor; residual?: Tensor; gate?: Layer } = {},
): Tensor {
  const { backend } = x, [outDim, inDim] = weight.shape;
  return result(backend, [...x.shape.slice(0, -1), outDim], "f32", (output) =>
    fusedOf(backend).normLinear({
      x,
      weight,
      bias,
      normed,
      gate,
      residual,
      eps: SRMS_EPS,
      rows: x.size / inDim,
      inDim,
      outDim,
      output,
    }));
}

/**
 * From a joint projection to what attention gives for one token, the states changed in place.
 *
 * @param x `[batch, 1, 4 · hidden]`: query, key, value and gate
 * @param state `[batch or rows, heads, headDim or twice that with LRPE, headDim]`
 * @returns `attended` and `gated`, that times the gate, `[batch, 1, hidden]`
 */
export function mixerStep(
  x: Tensor,
  state: Tensor,
  tokens: HeldTokens,
  options: {
    heads: number;
    activation: Activation;
    slopes: readonly number[];
    theta: Tensor | undefined;
  },
): Record<"attended" | "gated", Tensor> {
  const { backend, shape: [batch, , joint] } = x;
  const { heads, activation, slopes, theta } = options;
  const hidden = joint / 4, shape = [batch, 1, hidden];
  return results(
    backend,
    { attended: shape, gated: shape },
    {},
    ({ attended, gated }) =>
      fusedOf(backend).mixerStep({
        x,
        tokens,
        heads,
        headDim: hidden / heads,
        activation,
        slopes,
        theta,
        state,
        attended,
        gated,
      }),
  );
}

/** Most logits of a row that {@linkcode topLogits} finds. */
export const MOST_LOGITS = 64;

/**
 * The largest logits of each row and what log Σ exp of all is made of, as {@linkcode TopLogitsCall} describes; undefined
 * where the machine does not find them faster than they are read.
 *
 * @param logits `[rows, vocab]` or `[vocab]`
 * @param count how many, from 1 to {@linkcode MOST_LOGITS}
 * @returns `[rows, 4 + 2 · count]`
 */
export function topLogits(logits: Tensor, count: number): Tensor | undefined {
  const { backend, size, shape } = logits, { fused } = backend.machine, vocab = shape[shape.length - 1];
  if (fused === undefined || vocab >= 2 ** 24) return undefined;
  const rows = vocab === 0 ? 0 : size / vocab;
  return result(
    backend,
    [rows, 4 + 2 * count],
    "f32",
    (output) => fused.topLogits({ logits, rows, count, output }),
  );
}
