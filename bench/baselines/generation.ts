/**
 * What TransNormerLLM's generation is measured against: the same model with conventional softmax attention, which at
 * every token reads the keys and values of all tokens before it.
 *
 * @module
 */
import type { Backend, Tensor } from "../../mod.ts";
import { embedding, linear, norm, splitHeads } from "../../core/ops.ts";
import { type Store, storeOf } from "../../gpu/device.ts";
import type { WebgpuMachine } from "../../gpu/machine.ts";
import type { TransNormerLLM } from "../../model/mod.ts";
import { channelMixer, lastLogits, Transient } from "../../model/transnormer.ts";
import { rotaryTable, rotateBy } from "./mixers.ts";
import { type AttentionSizes, Baselines } from "./mod.ts";
import * as shaders from "./shaders.ts";

/** Keys of a chunk, one workgroup's. */
const { CHUNK } = shaders.softmaxStep.constants;

/** Keys and values of all layers. */
export interface Caches extends Disposable {
  /**
   * Puts a token into the cache of a layer and lets it attend: q, k, v and the result are `[1, 1, heads, dim]`, or
   * `[batch, 1, heads, dim]` with caches of `batch · heads` heads, all sequences at one position.
   */
  attend(layer: number, position: number, q: Tensor, k: Tensor, v: Tensor): Tensor | Promise<Tensor>;
  /** Fills the caches with these elements again and again. */
  fill(noise: Float32Array): void;
}

/**
 * Sequences on their way through a model with conventional attention, all at one position: rotary positions on query and key ("RoFormer",
 * section 3.2.2), scores over the root of the head dimension, all else as in the TransNormerLLM whose weights it takes.
 */
export class SoftmaxSession implements Disposable {
  /** Tokens read so far. May be set: the tokens before are then those that were read there before, or noise. */
  position = 0;
  readonly #model: TransNormerLLM;
  readonly #caches: Caches;
  readonly #batch: number;

  /**
   * @param capacity tokens of a sequence that fit into the cache
   * @param batch sequences
   */
  constructor(model: TransNormerLLM, capacity: number, batch = 1) {
    const { backend, config } = model;
    const dim = config.hiddenDim / config.heads;
    const sizes = { heads: batch * config.heads, seqLen: capacity, headDim: dim, valueDim: dim };
    this.#model = model;
    this.#batch = batch;
    this.#caches = createCaches(backend, config.layers, sizes);
  }

  /** Fills the caches with noise: what a step costs does not depend on what it reads. */
  fill(noise: Float32Array): void {
    this.#caches.fill(noise);
  }

  /** Reads one token of each sequence: logits of the next, `[batch, vocab]`. */
  async step(...tokens: number[]): Promise<Tensor> {
    const { config, weights } = this.#model, batch = this.#batch;
    if (tokens.length !== batch) {
      throw new RangeError(`${batch} sequences read ${batch} tokens: ${tokens.length}`);
    }
    const position = this.position++;
    const ids = Uint32Array.from(tokens);
    let x = embedding(weights.embedTokens, ids, { scale: config.embeddingScale, shape: [batch, 1] });
    for (const [l, layer] of weights.layers.entries()) {
      using before = x;
      using h = norm(before, layer.tokenNorm);
      using qkvu = linear(h, layer.qkvuProj.weight, { bias: layer.qkvuProj.bias });
      const split = splitHeads(qkvu, config.heads, "identity", { gate: config.outputGate });
      using q = split.q, k = split.k, v = split.v, u = split.u;
      using attended = await this.#caches.attend(l, position, q, k, v);
      using o = attended.reshape([batch, 1, config.hiddenDim]);
      using gated = config.outputNorm ? norm(o, { ...layer.mixerNorm, gate: u }) : o.reshape(o.shape);
      using mixed = linear(gated, layer.outProj.weight, { bias: layer.outProj.bias, residual: before });
      using held = new Transient();
      x = channelMixer(layer, config.gluActivation, mixed, held).output;
    }
    using hidden = x;
    return lastLogits(this.#model, hidden);
  }

  [Symbol.dispose](): void {
    this.#caches[Symbol.dispose]();
  }
}

/** Caches of so many layers; dimensions are multiples of 4 up to 128. */
export function createCaches(backend: Backend, layers: number, sizes: AttentionSizes): Caches {
  return backend.name === "wasm" ? wasmCaches(backend, layers, sizes) : webgpuCaches(backend, layers, sizes);
}

function wasmCaches(backend: Backend, layers: number, sizes: AttentionSizes): Caches {
  const baselines = new Baselines();
  const caches = Array.from({ length: layers }, () => baselines.keyValueCache(sizes));
  return {
    async attend(layer, position, q, k, v) {
      const [query, key, value] = await Promise.all([q.data(), k.data(), v.data()]);
      const table = rotaryTable(sizes.headDim, position, 1);
      caches[layer].put(position, rotated(key, table), value);
      return backend.tensor(caches[layer].attend(rotated(query, table), position + 1), v.shape);
    },
    fill: (noise) => caches.forEach((cache) => cache.fill(noise)),
    [Symbol.dispose]: () => caches.forEach((cache) => cache[Symbol.dispose]()),
  };
}

/** Rows `[heads, headDim]` rotated by one position's row of a rotary table. */
function rotated(x: Float32Array, table: Float32Array): Float32Array {
  return x.map((_, i) => {
    const c = i % table.length, even = c % 2 === 0;
    const [cos, sin] = even ? [table[c], -table[c + 1]] : [table[c - 1], table[c]];
    return x[i] * cos + x[even ? i + 1 : i - 1] * sin;
  });
}

function webgpuCaches(backend: Backend, layers: number, sizes: AttentionSizes): Caches {
  const { device } = backend.machine as WebgpuMachine;
  const { heads, seqLen: capacity, headDim, valueDim } = sizes;
  const scale = Math.LOG2E / Math.sqrt(headDim);
  const caches = Array.from({ length: layers }, () => ({
    keys: backend.empty([heads, headDim / 4, capacity, 4]),
    values: backend.empty([heads, capacity, valueDim]),
  }));
  const tensors = caches.flatMap(({ keys, values }) => [keys, values]);
  const { append, partial, combine } = shaders.softmaxStep;
  const kernels = {
    append: device.kernel(append, { access: { keyCache: "update", valueCache: "update" } }),
    partial: device.kernel(partial, { access: { partials: "write" } }),
    combine: device.kernel(combine, { access: { output: "write" } }),
  };
  let table: { position: number; store: Store } | undefined;
  return {
    attend(layer, position, q, k, v) {
      if (table?.position !== position) {
        if (table !== undefined) device.release(table.store);
        table = { position, store: device.upload(rotaryTable(headDim, position, 1)) };
      }
      const call = { backend, device, seqLen: 1, heads, headDim, valueDim };
      using query = rotateBy(call, q, table.store, 1), key = rotateBy(call, k, table.store, 1);
      const [keys, values] = [storeOf(caches[layer].keys), storeOf(caches[layer].values)];
      const length = position + 1, chunks = Math.ceil(length / CHUNK);
      const dims = { headDim: headDim / 4, valueDim: valueDim / 4 };
      const numbers = { length, capacity, heads, ...dims, chunks, scoreScale: scale };
      device.dispatch(
        kernels.append,
        { key: storeOf(key), value: storeOf(v), keyCache: keys, valueCache: values },
        numbers,
        Math.ceil(heads * (headDim + valueDim) / 4 / append.threads),
      );
      using partials = backend.empty([heads, chunks, valueDim + 4]);
      device.dispatch(
        kernels.partial,
        { q: storeOf(query), keys, values, partials: storeOf(partials) },
        numbers,
        [chunks, heads, 1],
      );
      const output = backend.empty(v.shape);
      device.dispatch(kernels.combine, { found: storeOf(partials), output: storeOf(output) }, numbers, heads);
      return output;
    },
    fill(noise) {
      // Piece by piece: caches may be larger than what the host can hold.
      for (const tensor of tensors) {
        for (let start = 0; start < tensor.size; start += noise.length) {
          backend.write(tensor, noise.subarray(0, tensor.size - start), start);
        }
      }
    },
    [Symbol.dispose]() {
      for (const tensor of tensors) tensor.dispose();
      if (table !== undefined) device.release(table.store);
    },
  };
}
