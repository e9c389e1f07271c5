/**
 * Sequences that ranks share: each rank holds consecutive tokens, and the states that attention carries travel along a
 * chain of ranks, forward from the first to the last, and their gradients back.
 *
 * All that one part owes the next is the state after it, `[batch, heads, headDim, valueDim]`, whatever the lengths. With
 * the state that comes from the rank before as `initialState`, a rank's output is final: nothing is corrected, and
 * attention runs once. Ranks do not wait for one another in turn: while rank 1 attends in a layer, rank 0 is in the rest
 * of that layer. So the chain costs the attention of one layer per rank and pass, and not per layer.
 *
 * The other exact way, that all ranks attend from a zero state, gather the states, fold them with their decays and
 * correct their outputs, attends twice in every layer. It would pay with more ranks than layers.
 *
 * @module
 */
import {
  lightningAttention,
  lightningAttentionBackward,
  type LightningBackwardOptions,
  type LightningGradients,
  type LightningOptions,
  type LightningResult,
} from "../core/ops/lightning.ts";
import { elementCount } from "../core/shape.ts";
import type { Backend, Tensor } from "../core/tensor.ts";
import type { Ranks } from "./ranks.ts";

/** States go forward and gradients back: messages of different tags cannot be taken for one another. */
const STATE = 1, GRADIENT = 2;

/** The ranks that hold the parts before and after one, if there are such parts. */
export interface Neighbours {
  /** Whence the state before the part comes. */
  readonly before: number | undefined;
  /** Where the state after the part goes. */
  readonly after: number | undefined;
}

/**
 * A rank's place in the chain of those that share a sequence.
 *
 * What it sends is on its way while the rank continues. So two ranks never wait for one another, also where the last
 * part's rank is followed by the first, which reads on.
 */
export class StateChain {
  readonly #ranks: Ranks;
  readonly #backend: Backend;
  #neighbours: Neighbours;
  /** Under way, and those of the part before. */
  #sending: Promise<void>[] = [];
  #sentBefore: Promise<void>[] = [];

  /** @param neighbours default: those of ranks that hold one part each, in their order */
  constructor(ranks: Ranks, backend: Backend, neighbours: Neighbours = inOrder(ranks)) {
    this.#ranks = ranks;
    this.#backend = backend;
    this.#neighbours = neighbours;
  }

  /** Continues with another part. What was sent from the part before the last one has arrived then. */
  async next(neighbours: Neighbours): Promise<void> {
    await Promise.all(this.#sentBefore);
    this.#sentBefore = this.#sending;
    this.#sending = [];
    this.#neighbours = neighbours;
  }

  /** Waits until all that was sent has arrived. */
  async settled(): Promise<void> {
    await Promise.all([...this.#sentBefore.splice(0), ...this.#sending.splice(0)]);
  }

  /** The state before this part, which the caller disposes; nothing where there is no part before. */
  async receiveState(shape: readonly number[]): Promise<Tensor | undefined> {
    return await this.#receive(shape, this.#neighbours.before, STATE);
  }

  /**
   * Hands the state after this part to the next one. Resolves when it is on its way. What is enqueued before the caller
   * waits is recorded while the device is still at the state, and does not delay it.
   */
  async sendState(state: Tensor): Promise<void> {
    await this.#send(state, this.#neighbours.after, STATE);
  }

  /** The gradient of the state after this part, which the caller disposes; nothing where there is no part after. */
  async receiveGradient(shape: readonly number[]): Promise<Tensor | undefined> {
    return await this.#receive(shape, this.#neighbours.after, GRADIENT);
  }

  /** Hands the gradient of the state before this part back, as {@linkcode sendState}. */
  async sendGradient(dState: Tensor): Promise<void> {
    await this.#send(dState, this.#neighbours.before, GRADIENT);
  }

  async #receive(
    shape: readonly number[],
    from: number | undefined,
    tag: number,
  ): Promise<Tensor | undefined> {
    if (from === undefined) return undefined;
    this.#backend.machine.begin?.(); // what does not depend on it
    const data = new Float32Array(elementCount(shape));
    await this.#ranks.receive(data, from, tag);
    return this.#backend.tensor(data, shape);
  }

  async #send(tensor: Tensor, to: number | undefined, tag: number): Promise<void> {
    if (to === undefined) return;
    const sent = this.#ranks.send(await tensor.data() as Float32Array<ArrayBuffer>, to, tag);
    sent.catch(() => {}); // told when it is waited for
    this.#sending.push(sent);
  }
}

function inOrder({ rank, size }: Ranks): Neighbours {
  return { before: rank > 0 ? rank - 1 : undefined, after: rank < size - 1 ? rank + 1 : undefined };
}

/** Options of attention over ranks: sequences are not packed, since each of them has a part on every rank. */
export type SharedOptions = Omit<LightningOptions, "cuSeqlens">;

/**
 * {@linkcode lightningAttention} of sequences that ranks share. Every rank calls it with its part; parts may differ in
 * length and have none.
 *
 * @param q query of this rank's tokens, `[batch, heads, seqLen, headDim]` (or per `layout`)
 * @param k key, like q
 * @param v value, `[batch, heads, seqLen, valueDim]`
 * @param options as there; `initialState` is that of the first rank
 * @returns output of this rank's tokens, and the state after them: on the last rank, that of the whole sequence. And what
 * the gradient needs, the state before them
 * @throws {RankError} `"different"` on every rank, when shapes or slopes differ
 */
export async function sharedAttention(
  ranks: Ranks,
  q: Tensor,
  k: Tensor,
  v: Tensor,
  options: SharedOptions = {},
): Promise<LightningResult & { initialState: Tensor | undefined }> {
  const chain = new StateChain(ranks, q.backend);
  const shape = await agreedShape("sharedAttention", ranks, q, v, options);
  using held = new DisposableStack();
  const received = await chain.receiveState(shape);
  if (received !== undefined) held.use(received);
  const initialState = received ?? options.initialState;
  const result = lightningAttention(q, k, v, { ...options, initialState });
  held.use(result.output);
  held.use(result.state);
  await chain.sendState(result.state);
  await chain.settled();
  held.move();
  return { ...result, initialState };
}

/**
 * {@linkcode lightningAttentionBackward} of sequences that ranks share.
 *
 * @param q as in the forward call, like k and v
 * @param k see q
 * @param v see q
 * @param dOutput gradient of this rank's output
 * @param options as there; `initialState` as {@linkcode sharedAttention} returned it, `dState` that of the last rank
 * @returns gradients of this rank's tokens, and of the state before them: on the first rank, that of the initial state
 */
export async function sharedAttentionBackward(
  ranks: Ranks,
  q: Tensor,
  k: Tensor,
  v: Tensor,
  dOutput: Tensor,
  options: SharedOptions & Pick<LightningBackwardOptions, "dState"> = {},
): Promise<LightningGradients> {
  const chain = new StateChain(ranks, q.backend);
  const shape = await agreedShape("sharedAttentionBackward", ranks, q, v, options);
  using received = await chain.receiveGradient(shape);
  const dState = received ?? options.dState;
  const gradients = lightningAttentionBackward(q, k, v, dOutput, { ...options, dState });
  using held = new DisposableStack();
  for (const gradient of Object.values(gradients)) held.use(gradient);
  await chain.sendGradient(gradients.dInitialState);
  await chain.settled();
  held.move();
  return gradients;
}

/** Shape of the states, once all ranks have the same. */
async function agreedShape(
  operation: string,
  ranks: Ranks,
  q: Tensor,
  v: Tensor,
  { layout = "bhnd", slopes, scale = 1 }: SharedOptions,
): Promise<number[]> {
  const heads = v.shape[layout === "bnhd" ? 2 : 1];
  const shape = [q.shape[0], heads, q.shape[3], v.shape[3]];
  await ranks.agree(operation, {
    "shape of the state": shape.join(" × "),
    slopes: Array.from(slopes ?? []).join(" "),
    scale,
  });
  return shape;
}
