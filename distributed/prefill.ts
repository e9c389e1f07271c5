/**
 * Prompts that ranks read together.
 *
 * @module
 */
import { rangeError } from "../core/errors.ts";
import { lightningAttention } from "../core/ops/lightning.ts";
import { BLOCK } from "../core/sizes.ts";
import type { Tensor } from "../core/tensor.ts";
import { checkIds } from "../model/ids.ts";
import type { Session, SessionModel } from "../model/session.ts";
import { embed, finishLayer, lastLogits, project, stateShapes, Transient } from "../model/transnormer.ts";
import { fingerprint, VERSION } from "./facts.ts";
import type { Ranks } from "./ranks.ts";
import { StateChain } from "./sequence.ts";

/** Options of {@linkcode prefill}. */
export interface PrefillOptions {
  /**
   * Most tokens that a rank reads in one pass. Memory grows with it: all of a pass is in memory, one layer after another.
   * Ranks exchange states once per pass. Default: no limit, one pass, what ranks exchange does not depend on the length.
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
  { passTokens = Infinity }: PrefillOptions = {},
): Promise<Tensor> {
  const operation = "prefill";
  const { model } = session;
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

  const part = partOf(Math.ceil(checked.length / ranks.size), passTokens);
  let states: readonly Tensor[] = session.states;
  try {
    for (let start = 0;; start += part * ranks.size) {
      const ids = checked.subarray(start, start + part * ranks.size);
      const pass = new Pass(ranks, model, ids, session.position + start, part);
      const isLast = start + ids.length === checked.length;
      const { states: left, logits } = await pass.run(states, isLast);
      dispose(states, session.states);
      states = left;
      if (isLast) return session.advance(checked, states, logits!);
    }
  } catch (error) {
    if (!session.disposed) dispose(states, session.states);
    throw error;
  }
}

/** Tokens of each rank's part: whole blocks of the WASM kernels, so that they fall as in a single pass. */
function partOf(share: number, passTokens: number): number {
  return Math.min(Math.ceil(share / BLOCK), Math.floor(passTokens / BLOCK)) * BLOCK;
}

/** Tokens that ranks read together, layer by layer. */
class Pass {
  readonly #ranks: Ranks;
  readonly #model: SessionModel;
  readonly #ids: Uint32Array;
  readonly #position: number;
  readonly #part: number;

  /** @param ids of all ranks @param position of the first of them @param part tokens of each rank, fewer of the last */
  constructor(ranks: Ranks, model: SessionModel, ids: Uint32Array, position: number, part: number) {
    this.#ranks = ranks;
    this.#model = model;
    this.#ids = ids;
    this.#position = position;
    this.#part = part;
  }

  /** From the states before the first token to those after the last, and its logits, on every rank. */
  async run(
    before: readonly Tensor[],
    withLogits: boolean,
  ): Promise<{ states: Tensor[]; logits: Tensor | undefined }> {
    const { rank } = this.#ranks, { backend } = this.#model.weights.embedTokens;
    const active = Math.ceil(this.#ids.length / this.#part), last = active - 1;
    using held = new DisposableStack();
    let tensors: Tensor[] = [];
    if (rank < active) {
      const chain = new StateChain(this.#ranks, backend, active);
      for (const tensor of tensors = await this.#read(chain, before, withLogits)) held.use(tensor);
    }
    // All that the others need: states and logits of the last part.
    const shapes: readonly (readonly number[])[] = [
      ...stateShapes(this.#model.config, 1),
      ...withLogits ? [[this.#model.config.vocabSize]] : [],
    ];
    const sizes = shapes.map((shape) => shape.reduce((product, size) => product * size, 1));
    const all = new Float32Array(sizes.reduce((sum, size) => sum + size, 0));
    let at = 0;
    if (rank === last) {
      for (const data of await Promise.all(tensors.map((tensor) => tensor.data()))) {
        all.set(data, at);
        at += data.length;
      }
    }
    await this.#ranks.broadcast(all, last);
    at = 0;
    using received = new DisposableStack();
    const result = shapes.map((shape, i) => {
      const data = all.subarray(at, at + sizes[i]);
      at += sizes[i];
      return received.use(backend.tensor(data, shape));
    });
    received.move();
    return { states: result.slice(0, before.length), logits: withLogits ? result.at(-1) : undefined };
  }

  /** This rank's part: the states after it, and behind those of the last part the logits. */
  async #read(chain: StateChain, before: readonly Tensor[], withLogits: boolean): Promise<Tensor[]> {
    const network = this.#model, { layers } = network.config;
    const start = this.#ranks.rank * this.#part;
    const ids = this.#ids.subarray(start, start + this.#part);
    const tokens = { ids, batch: 1, seqLen: ids.length, positions: [this.#position + start] };
    using held = new DisposableStack();
    const left: Tensor[] = [];
    let x = embed(network, tokens);
    try {
      for (let l = 0; l < layers; l++) {
        using activations = new Transient();
        const projected = project(network, l, x, tokens, activations);
        const { q, k, v } = projected;
        using received = await chain.receiveState(before[l].shape);
        const { output, state } = lightningAttention(q, k, v, {
          slopes: network.weights.layers[l].slopes,
          initialState: received ?? before[l],
          layout: "bnhd",
        });
        activations.use(output);
        left.push(held.use(state));
        await chain.sendState(state);
        x = finishLayer(network, l, x, projected, output, activations).output;
      }
      if (chain.last && withLogits) {
        left.push(held.use(lastLogits(network, x).reshape([network.config.vocabSize])));
      }
    } finally {
      x.dispose();
    }
    held.move();
    return left;
  }
}

function dispose(tensors: readonly Tensor[], except: readonly Tensor[]): void {
  for (const tensor of tensors) if (!except.includes(tensor)) tensor.dispose();
}
