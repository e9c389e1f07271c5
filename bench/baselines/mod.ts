/**
 * What the library is measured against, in separate WASM SIMD: conventional causal softmax attention, linear
 * attention by the left product, and the machine's two ceilings. One thread, f32, one batch element, layout
 * `[heads, seqLen, dim]`.
 *
 * @module
 */
import { decayPowers } from "../../core/decay.ts";
import { TILE_COLUMNS, TILE_ROWS } from "../../core/sizes.ts";
import { LinearMemory } from "../../wasm/memory.ts";
import { KEYS } from "./sizes.ts";
import { BASELINE, RELAXED } from "./kernels.ts";

/** The functions of `bench/baselines/assembly/`. */
interface BaselineExports {
  leftProduct(
    q: number,
    k: number,
    v: number,
    o: number,
    length: number,
    headDim: number,
    valueDim: number,
    powers: number,
    scale: number,
    scratch: number,
  ): void;
  softmaxAttention(
    q: number,
    k: number,
    v: number,
    o: number,
    length: number,
    headDim: number,
    valueDim: number,
    scale: number,
    scratch: number,
  ): void;
  softmaxStep(
    q: number,
    keys: number,
    values: number,
    o: number,
    length: number,
    headDim: number,
    valueDim: number,
    capacity: number,
    scale: number,
    scores: number,
  ): void;
  quadraticScratch(headDim: number, valueDim: number): number;
  microKernel(a: number, b: number, c: number, inner: number, repeats: number): void;
  readAll(source: number, bytes: number): number;
}

/** Sizes of an attention call. */
export interface AttentionSizes {
  readonly heads: number;
  readonly seqLen: number;
  readonly headDim: number;
  readonly valueDim: number;
}

/** A call with its operands in place, so that running it times nothing else. */
export interface Prepared extends Disposable {
  /** Computes once. */
  run(): void;
  /** What the last run computed. */
  output(): Float32Array;
  /** Bytes that the call holds: operands, result, scratch. */
  readonly bytes: number;
}

/** Keys and values of the tokens that one layer of a model with conventional attention has read. */
export interface KeyValueCache extends Disposable {
  /** Puts a token's keys `[heads, headDim]` and values `[heads, valueDim]` at a position. */
  put(position: number, k: Float32Array, v: Float32Array): void;
  /** Attention of one query per head, `[heads, headDim]`, to the first `length` tokens: `[heads, valueDim]`. */
  attend(q: Float32Array, length: number): Float32Array;
  /** Fills the cache with these elements again and again, whatever position they come to. */
  fill(noise: Float32Array): void;
}

/** The ceiling of everything that multiplies and adds. */
export interface MicroKernel extends Disposable {
  /** Computes at least so many operations, and returns how many it was. */
  run(operations: number): number;
  /** The tile of 5 × 8 sums. */
  result(): Float32Array;
}

/** The ceiling of everything that streams through memory. */
export interface MemoryRead extends Disposable {
  /** Reads once; returns the first lane of the exclusive or of all vectors. */
  run(): number;
}

/** Inner size of the micro-kernel: 5 KiB of A and 8 KiB of B. */
const INNER = 256;
/** Keys, and columns of values, of a panel of the cache; as in `assembly/attention.ts`. */
const CACHED_KEYS = 16, CACHED_COLUMNS = 32;

/** Fills an array with some elements again and again; returns it. */
export function repeat(elements: Float32Array, target: Float32Array): Float32Array {
  for (let i = 0; i < target.length; i += elements.length) {
    target.set(elements.subarray(0, Math.min(elements.length, target.length - i)), i);
  }
  return target;
}

/** The baselines on one instance with separate memory. */
export class Baselines {
  readonly #memory = new LinearMemory();
  readonly #exports: BaselineExports;
  /** Which build runs. */
  readonly variant: "relaxed" | "baseline";

  /** @param options `baseline`: baseline SIMD even where relaxed SIMD exists */
  constructor({ baseline = false }: { baseline?: boolean } = {}) {
    const relaxed = Uint8Array.fromHex(RELAXED);
    this.variant = !baseline && WebAssembly.validate(relaxed) ? "relaxed" : "baseline";
    const bytes = this.variant === "relaxed" ? relaxed : Uint8Array.fromHex(BASELINE);
    const instance = new WebAssembly.Instance(new WebAssembly.Module(bytes), {
      env: { memory: this.#memory.memory },
    });
    this.#exports = instance.exports as unknown as BaselineExports;
  }

  /** Conventional causal attention: `softmax(scale · Q Kᵀ, over j ≤ i) V`. */
  softmaxAttention(
    q: Float32Array,
    k: Float32Array,
    v: Float32Array,
    sizes: AttentionSizes,
    scale: number = 1 / Math.sqrt(sizes.headDim),
  ): Prepared {
    return this.#prepare(q, k, v, sizes, [], (_head, q, k, v, o, _powers, scratch) => {
      const { seqLen, headDim, valueDim } = sizes;
      this.#exports.softmaxAttention(q, k, v, o, seqLen, headDim, valueDim, scale, scratch);
    });
  }

  /** The cache of one layer that generates with conventional attention. */
  keyValueCache(
    { heads, seqLen: capacity, headDim, valueDim }: AttentionSizes,
    scale: number = 1 / Math.sqrt(headDim),
  ): KeyValueCache {
    const memory = this.#memory;
    const panels = Math.ceil(capacity / CACHED_KEYS), columns = Math.ceil(valueDim / CACHED_COLUMNS);
    const keysOfHead = panels * CACHED_KEYS * headDim, valuesOfHead = columns * capacity * CACHED_COLUMNS;
    const sizes = {
      keys: heads * keysOfHead,
      values: heads * valuesOfHead,
      scores: panels * CACHED_KEYS,
      q: heads * headDim,
      o: columns * CACHED_COLUMNS,
    };
    const offsets: number[] = [];
    const [keys, values, scores, queries, o] = Object.values(sizes).map((size) => {
      offsets.push(memory.allocate(4 * size));
      return offsets.at(-1)!;
    });
    return {
      put: (position, k, v) => {
        const panel = Math.floor(position / CACHED_KEYS), lane = position % CACHED_KEYS;
        const allKeys = memory.floats(keys, sizes.keys), allValues = memory.floats(values, sizes.values);
        for (let head = 0; head < heads; head++) {
          for (let c = 0; c < headDim; c++) {
            allKeys[head * keysOfHead + (panel * headDim + c) * CACHED_KEYS + lane] = k[head * headDim + c];
          }
          for (let c = 0; c < valueDim; c += CACHED_COLUMNS) {
            const row = v.subarray(
              head * valueDim + c,
              head * valueDim + Math.min(c + CACHED_COLUMNS, valueDim),
            );
            allValues.set(row, head * valuesOfHead + c * capacity + position * CACHED_COLUMNS);
          }
        }
      },
      attend: (q, length) => {
        memory.floats(queries, sizes.q).set(q);
        const output = new Float32Array(heads * valueDim);
        for (let head = 0; head < heads; head++) {
          this.#exports.softmaxStep(
            queries + 4 * head * headDim,
            keys + 4 * head * keysOfHead,
            values + 4 * head * valuesOfHead,
            o,
            length,
            headDim,
            valueDim,
            capacity,
            scale,
            scores,
          );
          output.set(memory.floats(o, valueDim), head * valueDim);
        }
        return output;
      },
      fill: (noise) => {
        repeat(noise, memory.floats(keys, sizes.keys));
        repeat(noise, memory.floats(values, sizes.values));
      },
      [Symbol.dispose]: () => offsets.splice(0).forEach((offset) => memory.free(offset)),
    };
  }

  /** Linear attention as `(Q Kᵀ ⊙ M) V`: what `lightningAttention` computes, in quadratic time. */
  leftProduct(
    q: Float32Array,
    k: Float32Array,
    v: Float32Array,
    sizes: AttentionSizes,
    slopes: readonly number[],
    scale: number = 1,
  ): Prepared {
    const { seqLen, headDim, valueDim } = sizes;
    const tables = slopes.map((slope) => {
      // KEYS leading zeros: the powers of keys that come after their query.
      const table = new Float32Array(KEYS + seqLen + 8);
      table.set(decayPowers(slope, seqLen + 8), KEYS);
      return table;
    });
    return this.#prepare(q, k, v, sizes, tables, (head, q, k, v, o, powers, scratch) => {
      this.#exports.leftProduct(q, k, v, o, seqLen, headDim, valueDim, powers[head], scale, scratch);
    });
  }

  /** The register tile on operands in L1. */
  ceiling(): MicroKernel {
    const memory = this.#memory;
    const a = memory.allocate(4 * TILE_ROWS * INNER),
      b = memory.allocate(4 * TILE_COLUMNS * INNER),
      c = memory.allocate(4 * TILE_ROWS * TILE_COLUMNS);
    memory.floats(a, TILE_ROWS * INNER).fill(0.5);
    memory.floats(b, TILE_COLUMNS * INNER).fill(0.25);
    const each = 2 * TILE_ROWS * TILE_COLUMNS * INNER;
    return {
      run: (operations) => {
        const repeats = Math.ceil(operations / each);
        this.#exports.microKernel(a, b, c, INNER, repeats);
        return repeats * each;
      },
      result: () => memory.floats(c, TILE_ROWS * TILE_COLUMNS).slice(),
      [Symbol.dispose]: () => [a, b, c].forEach((offset) => memory.free(offset)),
    };
  }

  /** A loop that reads `bytes` bytes, a multiple of 128, in order, as fast as it can; they hold words 1, 2, 3, ... */
  readBandwidth(bytes: number): MemoryRead {
    const source = this.#memory.allocate(bytes);
    new Int32Array(this.#memory.memory.buffer, source, bytes / 4).forEach((_, i, words) => words[i] = i + 1);
    return {
      run: () => this.#exports.readAll(source, bytes),
      [Symbol.dispose]: () => this.#memory.free(source),
    };
  }

  /** Bytes that live calls hold. */
  get bytesInUse(): number {
    return this.#memory.bytesInUse;
  }

  /** Bytes of memory that the instance holds of the machine. */
  get bytesReserved(): number {
    return this.#memory.memory.buffer.byteLength;
  }

  /** Fills memory that no call holds with NaN, so that a read of what was not written shows. */
  poison(bytes: number = 2 ** 20): void {
    const offset = this.#memory.allocate(bytes);
    this.#memory.floats(offset, bytes / 4).fill(NaN);
    this.#memory.free(offset);
  }

  /** Places operands, result and scratch, and runs `head` for each head. */
  #prepare(
    q: Float32Array,
    k: Float32Array,
    v: Float32Array,
    { heads, seqLen, headDim, valueDim }: AttentionSizes,
    tables: Float32Array[],
    head: (
      head: number,
      q: number,
      k: number,
      v: number,
      o: number,
      tables: number[],
      scratch: number,
    ) => void,
  ): Prepared {
    const memory = this.#memory, before = memory.bytesInUse;
    const offsets: number[] = [];
    const place = (data: Float32Array) => {
      const offset = memory.allocate(4 * data.length);
      offsets.push(offset);
      memory.floats(offset, data.length).set(data);
      return offset;
    };
    const reserve = (bytes: number) => {
      const offset = memory.allocate(bytes);
      offsets.push(offset);
      return offset;
    };
    const free = () => {
      for (const offset of offsets.splice(0)) memory.free(offset);
    };
    try {
      const [qAt, kAt, vAt] = [place(q), place(k), place(v)];
      const tablesAt = tables.map(place);
      const size = heads * seqLen * valueDim;
      const oAt = reserve(4 * size);
      const scratch = reserve(this.#exports.quadraticScratch(headDim, valueDim));
      return {
        run() {
          for (let h = 0; h < heads; h++) {
            const keyRow = 4 * h * seqLen * headDim, valueRow = 4 * h * seqLen * valueDim;
            head(h, qAt + keyRow, kAt + keyRow, vAt + valueRow, oAt + valueRow, tablesAt, scratch);
          }
        },
        output: () => memory.floats(oAt, size).slice(),
        bytes: memory.bytesInUse - before,
        [Symbol.dispose]: free,
      };
    } catch (error) {
      free();
      throw error;
    }
  }
}
