/// <reference types="@webgpu/types" />
/**
 * The elements of tensors in device memory.
 *
 * A {@linkcode Store} is one buffer or, if the adapter's binding or buffer limit is smaller than the tensor, several
 * *pieces*: buffers of equal length (the last one shorter), cut between rows of the outermost dimension that allows it.
 * Kernels see *windows*: ranges of a store that fit into one binding. An operation walks over ranges of rows with
 * {@linkcode chunks} (one range in the normal case), binds windows, and need not know of pieces.
 *
 * @module
 */
import { elementBytes, type FloatType } from "../core/dtype.ts";
import { BackendError } from "../core/errors.ts";
import type { Tensor } from "../core/tensor.ts";
import type { Device } from "./device.ts";
import type { Block } from "./pool.ts";

/** A range of elements of a store, to be bound. */
export interface Window {
  readonly store: Store;
  /** First element. */
  readonly start: number;
  /** Number of elements. */
  readonly length: number;
}

/** The elements of a tensor in device memory. A store is also the window of all its elements. */
export class Store implements Window {
  readonly store: Store = this;
  readonly start = 0;
  /** Storage of an element; integers are words, as f32. */
  readonly dtype: FloatType;
  /** Bytes of one element. */
  readonly elementBytes: number;
  readonly length: number;
  /** Elements of every piece but the last. */
  readonly pieceLength: number;
  /** The buffers; empty after release. */
  readonly pieces: Block[] = [];
  /** Clock of the last write; see `faults.ts`. */
  writtenAt = 0;

  /** @param dtype storage of an element @param length number of elements @param pieceLength of every piece but the last */
  constructor(dtype: FloatType, length: number, pieceLength: number) {
    this.dtype = dtype;
    this.elementBytes = elementBytes(dtype);
    this.length = length;
    this.pieceLength = pieceLength;
  }

  /** Bytes that the elements take. */
  get bytes(): number {
    return this.length * this.elementBytes;
  }

  /** The window of `length` elements from element `start`. */
  window(start: number, length: number): Window {
    return { store: this, start, length };
  }
}

/** The store of a tensor of this machine. */
export function storeOf(tensor: Tensor): Store {
  return tensor.storage as Store;
}

/** Scratch and uploads of one operation, given back at the end of a `using` scope, also where a dispatch throws. */
export class Scope implements Disposable {
  /** The device that the stores are of. */
  readonly device: Device;
  readonly #stores: Store[] = [];

  /** @param device the device */
  constructor(device: Device) {
    this.device = device;
  }

  /** See {@linkcode Device.allocate}. */
  allocate(shape: readonly number[], dtype?: FloatType): Store {
    return this.#keep(this.device.allocate(shape, dtype));
  }

  /** See {@linkcode Device.upload}. */
  upload(data: Float32Array | Uint32Array): Store {
    return this.#keep(this.device.upload(data));
  }

  #keep(store: Store): Store {
    this.#stores.push(store);
    return store;
  }

  /** Gives all stores back. */
  [Symbol.dispose](): void {
    for (const store of this.#stores) this.device.release(store);
  }
}

/** The next multiple. */
export const roundUp = (value: number, multiple: number): number => Math.ceil(value / multiple) * multiple;

/**
 * Elements of a piece: whole rows of the outermost dimension whose rows fit into `windowBytes`, an even number of them
 * where possible. Pieces are halves, quarters, ..., so operations which halve their work cut it where tensors are cut.
 */
export function pieceLength(
  windowBytes: number,
  shape: readonly number[],
  length: number,
  dtype: FloatType,
): number {
  const most = windowBytes / elementBytes(dtype);
  if (length <= most) return Math.max(length, 1);
  let row = length;
  for (const n of shape) {
    row /= n;
    if (row > most) continue;
    const fit = Math.floor(most / row), rows = length / row;
    const step = fit >= 128 ? 128 : fit > 1 ? 2 : 1;
    const part = rows / 2 ** Math.ceil(Math.log2(rows / fit));
    return Math.min(roundUp(part, step), fit - fit % step) * row;
  }
  return most;
}

/** Rows of a store: row r is the `rowLength` elements from `r · rowLength`. */
export type Rows = readonly [store: Store, rowLength: number];

/**
 * Cuts `rows` rows into the ranges that can be dispatched together: the range of each store fits into one window, and
 * crosses no cut if that can be helped. One range where nothing is split, none where there are no rows.
 */
export function* chunks(
  windowBytes: number,
  rows: number,
  stores: readonly Rows[],
): Generator<{ start: number; count: number }> {
  for (let start = 0, count; start < rows; start += count) {
    count = rows - start;
    for (const [store, rowLength] of stores) {
      if (store.pieces.length === 1 || rowLength === 0) continue;
      const fit = Math.floor(windowBytes / (rowLength * store.elementBytes));
      if (fit < 1) {
        throw new BackendError(
          "out-of-memory",
          `Cannot bind a row of ${rowLength} elements as the device binds ${windowBytes} bytes at most`,
        );
      }
      // A multiple of 128 rows starts at a multiple of 256 bytes, so that the next window can be bound as it is.
      if (fit < count) count = fit >= 128 ? fit - fit % 128 : fit > 1 ? fit - fit % 2 : 1;
      const piece = Math.floor(start * rowLength / store.pieceLength);
      const cut = (piece + 1) * store.pieceLength / rowLength;
      // A range that stops short of the cut stops at an even row: copies of f16 begin and end between words.
      const before = (Number.isInteger(cut) ? cut : 2 * Math.floor(cut / 2)) - start;
      count = Math.min(count, Math.max(before, Math.min(fit, 128)));
    }
    yield { start, count };
  }
}
