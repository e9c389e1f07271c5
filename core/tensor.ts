/**
 * Tensors: opaque handles of numbers that live on a backend.
 *
 * @module
 */
import type { Backend } from "./backend.ts";
import { BackendError, rangeError, typeError } from "./errors.ts";
import type { Quantization } from "./quantize.ts";

/** How elements are stored. Arithmetic accumulates in f32 whatever the storage. */
export type DType = "f32" | "f16";

/** Number of elements of a shape. */
export function elementCount(shape: readonly number[]): number {
  let size = 1;
  for (let axis = 0; axis < shape.length; axis++) size *= shape[axis];
  return size;
}

/**
 * A dense row-major array of numbers on a backend: the last dimension is contiguous.
 *
 * Operations take and return tensors without waiting; only {@linkcode Tensor.data} waits. A tensor holds device
 * memory until `dispose()`, or until the end of the scope of a `using` declaration.
 *
 * @example A tensor and its data
 * ```ts
 * import { createBackend } from "@levin/attention";
 * import assert from "node:assert/strict";
 *
 * using backend = await createBackend({ prefer: "wasm" });
 * using x = backend.tensor(new Float32Array([1, 2, 3, 4]), [2, 2]);
 * assert.deepEqual(x.shape, [2, 2]);
 * assert.deepEqual([...await x.data()], [1, 2, 3, 4]);
 * ```
 */
export class Tensor implements Disposable {
  /** The backend that holds the elements. */
  readonly backend: Backend;
  /** Dimensions, outermost first. */
  readonly shape: readonly number[];
  /** Number of elements: the product of {@linkcode Tensor.shape}. */
  readonly size: number;
  /** How elements are stored; `"f32"` for a quantised weight, which reads as such. */
  readonly dtype: DType;
  /** How a weight made by {@linkcode Backend.quantized} is quantised; undefined for all other tensors. */
  readonly quantization: Quantization | undefined;
  #storage: unknown;

  /**
   * Tensors are made by {@linkcode Backend.tensor} and by operations; only backends call this.
   *
   * @param backend the owner @param shape dimensions @param dtype storage of an element @param storage the backend's own
   * @param quantization of a quantised weight
   */
  constructor(
    backend: Backend,
    shape: readonly number[],
    dtype: DType,
    storage: unknown,
    quantization?: Quantization,
  ) {
    this.backend = backend;
    this.shape = Object.isFrozen(shape) ? shape : Object.freeze([...shape]); // most are another tensor's
    this.size = elementCount(shape);
    this.dtype = dtype;
    this.quantization = quantization;
    this.#storage = storage;
  }

  /** Whether the elements are gone: after `dispose()` and after `reshape()`. */
  get disposed(): boolean {
    return this.#storage === undefined;
  }

  /** What the backend keeps for this tensor. For backends. Throws a {@linkcode BackendError} after `dispose()`. */
  get storage(): unknown {
    if (this.#storage === undefined) {
      throw new BackendError(
        "disposed",
        `Cannot use a tensor of shape [${this.shape.join(", ")}] as it was disposed or reshaped`,
      );
    }
    return this.#storage;
  }

  /**
   * The elements, as f32, in a new array. Waits until all operations that lead to this tensor are done.
   *
   * @throws {BackendError} when the tensor was disposed, or the device failed on the way to it
   */
  data(): Promise<Float32Array> {
    return this.backend.read(this);
  }

  /**
   * The same elements under another shape. Nothing is copied: the returned tensor takes the elements over, and this
   * handle is spent.
   *
   * @throws {RangeError} when the number of elements differs
   * @throws {TypeError} when this is a quantised weight
   */
  reshape(shape: readonly number[]): Tensor {
    if (this.quantization !== undefined) {
      typeError("reshape", "a quantised weight keeps its shape", shape, `[${this.shape}]`);
    }
    const size = elementCount(shape);
    if (size !== this.size) {
      rangeError("reshape", `shape must hold ${this.size} elements`, shape, `${size} elements`);
    }
    const tensor = new Tensor(this.backend, shape, this.dtype, this.storage);
    this.#storage = undefined;
    return tensor;
  }

  /** Gives the memory back to the backend. Disposing twice does nothing. */
  dispose(): void {
    if (this.#storage === undefined) return;
    const storage = this.#storage;
    this.#storage = undefined;
    this.backend.release(storage);
  }

  /** {@linkcode Tensor.dispose}, for `using`. */
  [Symbol.dispose](): void {
    this.dispose();
  }
}
