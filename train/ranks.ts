/**
 * Training by several processes: what the trainer needs of them, and which part of the work each of them takes.
 *
 * @module
 */
import { rangeError } from "../core/errors.ts";
import { BLOCK } from "../core/sizes.ts";
import type { Backend, Tensor } from "../core/tensor.ts";
import type { Chain, Segment } from "./backward.ts";
import type { Corpus } from "./data.ts";
import type { Recipe } from "./recipe.ts";

/** The processes that train together, as one of them sees them; `distributed/` has them over MPI. */
export interface TrainingRanks {
  /** Number of this process, from 0: the first one writes checkpoints and the log. */
  readonly rank: number;
  /** Number of processes. */
  readonly size: number;
  /** Replaces `data` by the sum over all processes, the same bits on each. */
  allReduce(data: Float32Array<ArrayBuffer> | Float64Array<ArrayBuffer>): Promise<void>;
  /** Throws the same error on every process unless all have the same facts. */
  agree(operation: string, facts: Readonly<Record<string, string | number | boolean>>): Promise<void>;
  /** Does work that may fail on some processes: then all of them throw. */
  together<T>(operation: string, work: () => T | Promise<T>): Promise<T>;
  /** Where the states of shared sequences come from and go to: with it, every sequence has a part on each process. */
  readonly chain?: Chain;
}

/** What of the recipe the processes determine. */
export function recipeOf(ranks: TrainingRanks | undefined): Pick<Recipe, "processes" | "split"> {
  const { size = 1, chain } = ranks ?? {};
  return { processes: size, split: size > 1 && chain !== undefined ? "sequence" : "batch" };
}

/** Throws a `RangeError` where the processes cannot share the work of a recipe. */
export function checkShares({ processes, split, packed, seqLen }: Recipe): void {
  if (processes === 1) return;
  if (packed) rangeError("train", "packed must be false with several processes", packed);
  if (split === "sequence" && (processes - 1) * partOf(seqLen, processes) >= seqLen) {
    const least = (processes - 1) * BLOCK + 1;
    rangeError("train", `seqLen must give each of ${processes} processes a part`, seqLen, `${least} does`);
  }
}

/** A batch of a step, and this process's share of it. */
export interface Shared {
  /** The batch of all processes. */
  readonly whole: Segment;
  /** What this one computes. */
  readonly share: Segment;
}

/** Batch number `index`: with several processes, `batch` sequences for each, or a part of each of `batch` sequences. */
export function sharedBatch(
  corpus: Corpus,
  index: number,
  { batch, packed, processes, seed, seqLen, split }: Recipe,
  rank: number,
): Shared {
  if (packed) {
    const whole = corpus.packed(index, batch, seqLen);
    return { whole, share: whole };
  }
  const whole = corpus.windows(index, split === "batch" ? batch * processes : batch, seqLen, seed);
  if (processes === 1) return { whole, share: whole };
  return {
    whole,
    share: split === "batch" ? rowsOf(whole, rank * batch, batch) : columnsOf(whole, rank, processes),
  };
}

/** Some of the sequences. */
function rowsOf({ ids, labels, seqLen, positions }: Segment, first: number, batch: number): Segment {
  const start = first * seqLen, end = start + batch * seqLen;
  return {
    ids: ids.subarray(start, end),
    labels: labels.subarray(start, end),
    batch,
    seqLen,
    positions: positions.slice(first, first + batch),
  };
}

/** A part of each sequence. */
export function columnsOf(
  { ids, labels, batch, seqLen, positions }: Segment,
  rank: number,
  processes: number,
): Segment {
  const part = partOf(seqLen, processes), start = rank * part, end = Math.min(start + part, seqLen);
  const length = end - start;
  const share = {
    ids: new Uint32Array(batch * length),
    labels: new Int32Array(batch * length),
    batch,
    seqLen: length,
    positions: positions.map((position) => position + start),
  };
  for (let row = 0; row < batch; row++) {
    share.ids.set(ids.subarray(row * seqLen + start, row * seqLen + end), row * length);
    share.labels.set(labels.subarray(row * seqLen + start, row * seqLen + end), row * length);
  }
  return share;
}

/** Tokens of a part of a sequence: whole blocks, so that they fall as in one process; the last part is shorter. */
function partOf(seqLen: number, processes: number): number {
  return Math.ceil(seqLen / processes / BLOCK) * BLOCK;
}

/**
 * Replaces gradients by their sums over all processes, those of one layer while the device computes the next: the
 * backward pass hands them over as soon as they are final.
 */
export class GradientSums {
  readonly #ranks: TrainingRanks;
  readonly #backend: Backend;
  /** Kept from step to step: memory that is new takes longer than a copy. */
  #memory = new Float32Array(0);
  /** Tensors of this step that were handed over. */
  readonly #summed = new Set<Tensor>();

  constructor(ranks: TrainingRanks, backend: Backend) {
    this.#ranks = ranks;
    this.#backend = backend;
  }

  /** Sums tensors that are final. The caller continues, and waits for this sum before it hands over more. */
  async add(tensors: readonly Tensor[]): Promise<void> {
    for (const tensor of tensors) this.#summed.add(tensor);
    await this.#sum(tensors, 0);
  }

  /**
   * Sums those of these tensors that were not handed over, together with one more number of each process.
   *
   * @returns the sum of the numbers
   */
  async finish(tensors: readonly Tensor[], number: number): Promise<number> {
    const rest = tensors.filter((tensor) => !this.#summed.has(tensor));
    this.#summed.clear();
    return await this.#sum(rest, number);
  }

  async #sum(tensors: readonly Tensor[], number: number): Promise<number> {
    const count = tensors.reduce((sum, { size }) => sum + size, 0);
    if (this.#memory.length <= count) this.#memory = new Float32Array(count + 1);
    const all = this.#memory.subarray(0, count + 1);
    let at = 0;
    const parts = tensors.map((tensor) => [tensor, all.subarray(at, at += tensor.size)] as const);
    await Promise.all(parts.map(([tensor, part]) => this.#backend.read(tensor, part)));
    all[count] = number;
    await this.#ranks.allReduce(all);
    for (const [tensor, part] of parts) this.#backend.write(tensor, part);
    return all[count];
  }
}
