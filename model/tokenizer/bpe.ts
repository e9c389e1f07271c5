/**
 * Byte-pair encoding: of all neighbours that may be merged, those of the lowest rank are, the leftmost first.
 *
 * The package computes the same, but on strings that it writes as JSON for every look-up: a megabyte in one piece, as
 * SentencePiece has it, takes 12 seconds. On ids it takes half a second. Unknown characters are also given before
 * anything is merged, as in the official library; the package gives them after.
 *
 * @module
 */
import { refuse } from "./json.ts";

/** A merge of two symbols; lower ranks come first. */
export interface Merge {
  readonly left: number;
  readonly right: number;
  readonly merged: number;
  readonly rank: number;
}

/** Ranks above would not leave room for a place in the same number. */
const MAX_RANK = 2 ** 21, PLACES = 2 ** 32;

/** Merges symbols, which are ids. */
export class Bpe {
  /** Open addressing: four numbers per merge, left, right, merged, rank; left is −1 where there is none. */
  readonly #table: Int32Array;
  readonly #mask: number;
  /** Symbols of the piece, −1 for those that were merged into the one before; the places of their neighbours. */
  #symbols = new Int32Array(64);
  #previous = new Int32Array(64);
  #next = new Int32Array(64);
  readonly #queue = new Queue();

  /** Of two merges of the same neighbours the later one counts. */
  constructor(merges: readonly Merge[]) {
    let slots = 16;
    while (slots < 2 * merges.length) slots *= 2;
    this.#mask = slots - 1;
    this.#table = new Int32Array(4 * slots).fill(-1);
    for (const { left, right, merged, rank } of merges) {
      if (rank >= MAX_RANK) refuse(`at most ${MAX_RANK} merges`, rank);
      this.#table.set([left, right, merged, rank], this.#slot(left, right));
    }
  }

  /** The slot of two symbols, or the free one where they belong. */
  #slot(left: number, right: number): number {
    const hash = Math.imul(left, 0x9e3779b1) ^ Math.imul(right, 0x85ebca6b);
    for (let slot = (hash ^ hash >>> 15) & this.#mask;; slot = slot + 1 & this.#mask) {
      const found = this.#table[4 * slot];
      if (found === -1 || found === left && this.#table[4 * slot + 1] === right) return 4 * slot;
    }
  }

  /**
   * Merges the symbols of a piece.
   *
   * @param onPair told of every pair that may be merged: what it would become, and its two symbols
   */
  merge(
    symbols: readonly number[],
    onPair?: (merged: number, left: number, right: number) => void,
  ): number[] {
    const count = symbols.length;
    if (count < 2) return [...symbols];
    if (count > this.#symbols.length) {
      const room = 2 * count;
      [this.#symbols, this.#previous, this.#next] = Array.from({ length: 3 }, () => new Int32Array(room));
    }
    const ids = this.#symbols, previous = this.#previous, next = this.#next, table = this.#table;
    const queue = this.#queue;
    for (let i = 0; i < count; i++) {
      ids[i] = symbols[i];
      previous[i] = i - 1;
      next[i] = i + 1 < count ? i + 1 : -1;
    }
    const propose = (place: number) => {
      const left = ids[place], right = ids[next[place]], slot = this.#slot(left, right);
      if (table[slot] === -1) return;
      onPair?.(table[slot + 2], left, right);
      queue.push(table[slot + 3] * PLACES + place);
    };
    for (let i = 0; i < count - 1; i++) propose(i);
    for (let first = queue.pop(); first !== undefined; first = queue.pop()) {
      const place = first % PLACES, after = next[place];
      if (ids[place] === -1 || after === -1) continue;
      const slot = this.#slot(ids[place], ids[after]);
      // What was proposed may have been merged into something else since.
      if (table[slot] === -1 || table[slot + 3] !== (first - place) / PLACES) continue;
      ids[place] = table[slot + 2];
      ids[after] = -1;
      next[place] = next[after];
      if (next[place] !== -1) {
        previous[next[place]] = place;
        propose(place);
      }
      if (previous[place] !== -1) propose(previous[place]);
    }
    const merged: number[] = [];
    for (let place = 0; place !== -1; place = next[place]) merged.push(ids[place]);
    return merged;
  }
}

/** Numbers, the smallest first: a binary heap. */
class Queue {
  #heap = new Float64Array(64);
  #size = 0;

  push(value: number): void {
    if (this.#size === this.#heap.length) {
      const larger = new Float64Array(2 * this.#size);
      larger.set(this.#heap);
      this.#heap = larger;
    }
    const heap = this.#heap;
    let at = this.#size++;
    for (let parent = at - 1 >> 1; at > 0 && heap[parent] > value; parent = at - 1 >> 1) {
      heap[at] = heap[parent];
      at = parent;
    }
    heap[at] = value;
  }

  pop(): number | undefined {
    if (this.#size === 0) return undefined;
    const heap = this.#heap, first = heap[0], last = heap[--this.#size], size = this.#size;
    let at = 0;
    for (let child = 1; child < size; child = 2 * at + 1) {
      if (child + 1 < size && heap[child + 1] < heap[child]) child++;
      if (heap[child] >= last) break;
      heap[at] = heap[child];
      at = child;
    }
    heap[at] = last;
    return first;
  }
}
