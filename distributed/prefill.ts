/**
 * Prompts that ranks read together.
 *
 * @module
 */
import { rangeError } from "../core/errors.ts";
import { lightningAttention } from "../core/ops/lightning.ts";
import { BLOCK } from "../core/sizes.ts";
import { elementCount } from "../core/shape.ts";
import type { BackendName } from "../core/machine.ts";
import type { Backend, Tensor } from "../core/tensor.ts";
import { checkIds } from "../model/ids.ts";
import type { TransNormerConfig } from "../model/config.ts";
import { PREFILL_TOKENS, type Session, type SessionModel } from "../model/session.ts";
import { embed, finishLayer, lastLogits, project, stateShapes, Transient } from "../model/transnormer.ts";
import { fingerprint, VERSION } from "./facts.ts";
import type { Ranks } from "./ranks.ts";
import { StateChain } from "./sequence.ts";

/** Bytes of activations that a part of a prompt may need on a GPU by default. */
const PART_BYTES = 2 ** 30;

/**
 * Tokens of a rank's part by default. On WebGPU a part must keep the device busy for much longer than a state takes through
 * the host: a power of two tokens, whose activations need at most 1 GiB. Larger models need fewer tokens for that.
 */
export function partTokens(
  { embedDim, hiddenDim, gluDim, gluActivation }: TransNormerConfig,
  backend: BackendName,
): number {
  if (backend === "wasm") return PREFILL_TOKENS.wasm;
  // Elements per token at the fullest moment: the residual stream with activeQ, activeK, q, k, v, u and o where LRPE
  // doubles q and k, or with a, activeA, b and product.
  const elements = embedDim + Math.max(9 * hiddenDim, (gluActivation === "identity" ? 3 : 4) * gluDim);
  return Math.max(2 ** Math.floor(Math.log2(PART_BYTES / 4 / elements)), BLOCK);
}

/** Options of {@linkcode prefill}. */
export interface PrefillOptions {
  /**
   * Most tokens that a rank reads in one pass. Memory grows with it: all of a pass is in memory, one layer after another.
   * Each rank sends the states once per pass. Default: 800 on WASM; on WebGPU a power of two, with at most 1 GiB of
   * activations: 32,768 for 27 M parameters, 4,096 for 7 B. With Infinity there is one pass, and what ranks exchange does not
   * depend on the length. On WebGPU a part has no less than a quarter of the default, so that ranks may have none.
   */
  passTokens?: number;
}

/**
 * Reads a prompt over ranks: each rank reads consecutive tokens of it. Every rank calls this with the same ids and with
 * the same session of the same model; afterwards all of their sessions stand behind the prompt.
 *
 * The result is that of `session.prefill` within rounding, with the same bits in every run with as many ranks. On WASM the
 * bits are those of `session.prefill` itself where every part has more than 64 tokens.
 *
 * @param ranks those that read
 * @param session this rank's; the caller disposes it
 * @param ids token ids, all of them on every rank, at least one
 * @returns logits of the next token, `[vocab]`, on every rank; the caller disposes them
 * @throws {RangeError} when there is no id, or one is outside the vocabulary; the session is then unchanged
 * @throws {RankError} `"different"` on every rank, when versions, models, positions, ids or options differ; the session is
 * then unchanged
 * @throws {BackendError} when memory is short on this rank; the others wait, which {@linkcode inRanks} ends
 */
export async function prefill(
  ranks: Ranks,
  session: Session,
  ids: ArrayLike<number>,
  options: PrefillOptions = {},
): Promise<Tensor> {
  const operation = "prefill";
  const { model } = session, { backend } = model.weights.embedTokens;
  const { passTokens = partTokens(model.config, backend.name) } = options;
  const checked = await ranks.together(operation, () => {
    if (!(passTokens === Infinity || Number.isInteger(passTokens) && passTokens >= BLOCK)) {
      rangeError(operation, `passTokens must be an integer >= ${BLOCK}`, passTokens);
    }
    return checkIds(operation, ids, model.config.vocabSize);
  });
  await ranks.agree(operation, {
    version: VERSION,
    model: model.fingerprint,
    weights: model.weights.lmHead.dtype,
    position: session.position,
    "number of ids": checked.length,
    ids: await fingerprint(checked),
    passTokens: String(passTokens),
  });

  const size = partOf(Math.ceil(checked.length / ranks.size), passTokens, model.config, backend.name);
  const count = Math.ceil(checked.length / size), last = (count - 1) % ranks.size;
  using reading = new Reading(ranks, model, session.states);
  let own: Tensor[] = [];
  using held = new DisposableStack();
  for (let n = ranks.rank; n < count; n += ranks.size) {
    const ids = checked.subarray(n * size, (n + 1) * size);
    own = await reading.part(n, count, ids, session.position + n * size);
    for (const tensor of own) held.use(tensor);
  }
  await reading.settled();
  const shapes = [...stateShapes(model.config, 1), [model.config.vocabSize]];
  const all = await shared(ranks, backend, own, shapes, last);
  return session.advance(checked, all.slice(0, -1), all.at(-1)!);
}

/**
 * Tokens of each part of a rank's share: as few parts as may be, equally long so that no rank waits for another. A GPU reads
 * a quarter of the default faster than another rank could take it over, so parts are no shorter, and ranks may have none.
 */
function partOf(
  share: number,
  passTokens: number,
  config: TransNormerConfig,
  backend: BackendName,
): number {
  const unit = backend === "wasm" ? BLOCK : 1; // whole blocks of its kernels, so that they fall as in a single pass
  const most = Math.floor(passTokens / unit) * unit;
  const least = backend === "wasm" ? unit : Math.min(most, partTokens(config, backend) / 4);
  const count = Math.max(1, Math.ceil(share / most));
  return Math.max(least, Math.ceil(share / count / unit) * unit);
}

/** What rank `root` has, on every rank. */
async function shared(
  ranks: Ranks,
  backend: Backend,
  own: readonly Tensor[],
  shapes: readonly (readonly number[])[],
  root: number,
): Promise<Tensor[]> {
  const sizes = shapes.map(elementCount);
  const all = new Float32Array(sizes.reduce((sum, size) => sum + size, 0));
  let at = 0;
  for (const data of await Promise.all(own.map((tensor) => tensor.data()))) {
    all.set(data, at);
    at += data.length;
  }
  await ranks.broadcast(all, root);
  at = 0;
  using received = new DisposableStack();
  const result = shapes.map((shape, i) =>
    received.use(backend.tensor(all.subarray(at, at += sizes[i]), shape))
  );
  received.move();
  return result;
}

/**
 * A prompt of consecutive parts, of which each rank reads every so many. The state after a part goes to the rank of the
 * next one layer by layer, and from the last rank to the first: so ranks follow one another through all parts, each a bit
 * behind the one before, and nobody waits for the end of a pass.
 */
class Reading implements Disposable {
  readonly #ranks: Ranks;
  readonly #model: SessionModel;
  /** States before the first part. */
  readonly #states: readonly Tensor[];
  /** One rank alone: those after the part before. */
  #carried: readonly Tensor[] = [];
  readonly #chain: StateChain;

  constructor(ranks: Ranks, model: SessionModel, states: readonly Tensor[]) {
    this.#ranks = ranks;
    this.#model = model;
    this.#states = states;
    this.#chain = new StateChain(ranks, model.weights.embedTokens.backend);
  }

  /**
   * Reads part `n` of `count`.
   *
   * @returns after the last part the states and the logits of the next token, which the caller disposes; else nothing
   */
  async part(n: number, count: number, ids: Uint32Array, position: number): Promise<Tensor[]> {
    const network = this.#model, chain = this.#chain, { rank, size } = this.#ranks;
    const isLast = n === count - 1, isAlone = size === 1;
    await chain.next({
      before: n === 0 || isAlone ? undefined : (rank + size - 1) % size,
      after: isLast || isAlone ? undefined : (rank + 1) % size,
    });
    const tokens = { ids, batch: 1, seqLen: ids.length, positions: [position] };
    using held = new DisposableStack();
    const left: Tensor[] = [];
    let x = embed(network, tokens);
    try {
      for (let l = 0; l < network.config.layers; l++) {
        using activations = new Transient();
        const projected = project(network, l, x, tokens, activations);
        const { q, k, v } = projected;
        using received = await chain.receiveState(this.#states[l].shape);
        const { output, state } = lightningAttention(q, k, v, {
          slopes: network.weights.layers[l].slopes,
          initialState: received ?? this.#carried[l] ?? this.#states[l],
          layout: "bnhd",
        });
        activations.use(output);
        left.push(held.use(state));
        const sent = chain.sendState(state);
        x = finishLayer(network, l, x, projected, output, activations).output;
        await sent; // the rest of the layer is under way by then
      }
      if (isLast) left.push(held.use(lastLogits(network, x).reshape([network.config.vocabSize])));
    } finally {
      x.dispose();
    }
    if (isLast) {
      held.move();
      return left;
    }
    if (isAlone) {
      this[Symbol.dispose]();
      this.#carried = left;
      held.move();
    }
    return [];
  }

  /** Waits until what was sent has arrived. */
  async settled(): Promise<void> {
    await this.#chain.settled();
  }

  [Symbol.dispose](): void {
    for (const state of this.#carried) state.dispose();
  }
}
