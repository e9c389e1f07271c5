/**
 * What users hold: tensors, and the backend that they live on. All checks of a backend's methods stand here, for every
 * machine.
 *
 * @module
 */
import { type DType, type FloatType, PLAIN, WEIGHTS } from "./dtype.ts";
import { BackendError, rangeError, typeError } from "./errors.ts";
import type { BackendInfo, BackendName, Machine } from "./machine.ts";
import { checkQuantized, type Quantization, type QuantizedWeight } from "./quantize.ts";
import { checkDimensions, elementCount } from "./shape.ts";

/** Marks tensors of every copy of this library, so that those of another copy can be told from what is no tensor. */
const TENSOR: symbol = Symbol.for("@levin/attention.Tensor");

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
  /** How elements are stored. They are read as f32, whatever the storage. */
  readonly dtype: DType;
  /** How a weight made by {@linkcode Backend.quantized} is quantised; undefined for all other tensors. */
  readonly quantization: Quantization | undefined;
  #storage: unknown;

  static {
    Object.defineProperty(this.prototype, TENSOR, { value: true });
  }

  /**
   * Tensors are made by {@linkcode Backend.tensor} and by operations; only the library calls this.
   *
   * @param backend the owner @param shape dimensions @param dtype storage of an element @param storage the machine's
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

  /** What the machine keeps for this tensor. For machines. Throws a {@linkcode BackendError} after `dispose()`. */
  get storage(): unknown {
    this.requireLive();
    return this.#storage;
  }

  /**
   * Throws when the elements are gone.
   *
   * @throws {BackendError} `"disposed"`
   */
  requireLive(): void {
    if (this.#storage === undefined) {
      throw new BackendError(
        "disposed",
        `Cannot use a tensor of shape [${this.shape.join(", ")}] as it was disposed or reshaped`,
      );
    }
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
   * @throws {RangeError} when a dimension is no integer ≥ 0 or the number of elements differs
   * @throws {TypeError} when this is a quantised weight
   */
  reshape(shape: readonly number[]): Tensor {
    if (this.quantization !== undefined) {
      typeError("reshape", "a quantised weight keeps its shape", shape, `[${this.shape}]`);
    }
    checkDimensions("reshape", shape);
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
    this.backend.machine.free(storage);
  }

  /** {@linkcode Tensor.dispose}, for `using`. */
  [Symbol.dispose](): void {
    this.dispose();
  }
}

/**
 * Checks that a value is a live tensor: of this backend, and stored as one of `dtypes`.
 *
 * @returns its shape
 */
export function checkTensor(
  operation: string,
  name: string,
  value: unknown,
  dtypes: readonly DType[],
  backend?: Backend,
): readonly number[] {
  if (!(value instanceof Tensor)) {
    if (typeof value === "object" && value !== null && TENSOR in value) {
      typeError(
        operation,
        `${name} must be a Tensor of this copy of the library`,
        "one from another copy of it",
      );
    }
    typeError(operation, `${name} must be a Tensor`, value);
  }
  if (!dtypes.includes(value.dtype)) refuseDtype(operation, name, value, dtypes);
  value.requireLive();
  if (backend !== undefined && value.backend !== backend) {
    typeError(
      operation,
      `${name} must belong to the same backend as the other tensors, ${backend.name}`,
      value.backend.name,
      "copy it with backend.tensor(await x.data(), x.shape)",
    );
  }
  return value.shape;
}

function refuseDtype(operation: string, name: string, tensor: Tensor, dtypes: readonly DType[]): never {
  if (tensor.quantization !== undefined) {
    typeError(
      operation,
      `${name} must not be quantised`,
      `${tensor.quantization.bits} bits`,
      "only linear's weight and embedding's table may be; backend.tensor(await x.data(), x.shape) is not",
    );
  }
  typeError(operation, `${name} must be stored as ${dtypes.join(" or ")}`, tensor.dtype);
}

/**
 * A device with memory and kernels. Tensors belong to the backend that made them.
 *
 * Operations enqueue work and return immediately; work runs in the order in which it was enqueued, and
 * `await tensor.data()` waits for it. Disposing the backend frees everything it holds.
 *
 * Backends are made by `createBackend`.
 */
export class Backend implements Disposable {
  /** What implements the operations. For the library. */
  readonly machine: Machine;

  /** A backend over a machine, which it takes over; `createBackend` makes both. */
  constructor(machine: Machine) {
    this.machine = machine;
  }

  /** Which backend this is. */
  get name(): BackendName {
    return this.machine.name;
  }

  /** What it runs on and why it was chosen. */
  get info(): BackendInfo {
    return this.machine.info;
  }

  /** Bytes that the backend's tensors hold now. */
  get bytesInUse(): number {
    return this.machine.bytesInUse;
  }

  /** Bytes that the backend holds of the device: live tensors, scratch, and what it keeps for reuse. */
  get bytesReserved(): number {
    return this.machine.bytesReserved;
  }

  /**
   * A tensor with the given elements.
   *
   * @param data as many elements as `shape` says, row-major; a `Uint16Array` holds the bits of f16 or bf16
   * @param shape dimensions, outermost first, each an integer ≥ 0
   * @param options `dtype`: how to store them, default `"f32"`; `"bf16"` is for weights; `"f16"` needs a WebGPU device with
   * `shader-f16`
   * @throws {TypeError} when `data` is no `Float32Array`, nor a `Uint16Array` for a `dtype` of 16 bits
   * @throws {RangeError} when a dimension is no integer ≥ 0, the number of elements differs, or the dtype is unknown here
   */
  tensor(
    data: Float32Array | Uint16Array,
    shape: readonly number[],
    options: { dtype?: FloatType } = {},
  ): Tensor {
    checkElements("tensor", data, options.dtype ?? "f32");
    checkDimensions("tensor", shape, data.length);
    return filled(this.empty(shape, options.dtype), (tensor) => this.machine.write(tensor, data, 0));
  }

  /**
   * A quantised weight, as `quantize()` makes it: the weight of `linear`, or the table of `embedding`.
   *
   * Its products are sums of integers where that is faster: on WASM rows of x are quantised too, group by group, to 16
   * bits for a weight of 8 bits and to 8 bits for one of 4.
   *
   * @throws {TypeError} when the weight is of the wrong kind
   * @throws {RangeError} when bits, group, shape and sizes do not match
   */
  quantized(weight: QuantizedWeight): Tensor {
    const shape = checkQuantized("quantized", weight);
    const { bits, group } = weight;
    const storage = this.machine.allocateQuantized(weight);
    return new Tensor(this, shape, bits === 8 ? "int8" : "int4", storage, { bits, group });
  }

  /** A tensor whose elements are not yet written. */
  empty(shape: readonly number[], dtype: FloatType = "f32"): Tensor {
    checkDimensions("tensor", shape);
    const { dtypes } = this.machine;
    if (!dtypes.includes(dtype)) {
      const known = dtypes.map((name) => `"${name}"`).join(" or ");
      rangeError("tensor", `dtype must be ${known} on this ${this.name} backend`, dtype, this.info.device);
    }
    return new Tensor(this, shape, dtype, this.machine.allocate(shape, dtype));
  }

  /** A tensor of zeros. */
  zeros(shape: readonly number[], dtype?: FloatType): Tensor {
    return filled(this.empty(shape, dtype), (tensor) => this.machine.clear(tensor));
  }

  /**
   * The elements of a tensor; see {@linkcode Tensor.data}.
   *
   * @param into where they go: as many elements as the tensor has. Default: a new array
   * @throws {TypeError} when the tensor belongs to another backend, or `into` is no `Float32Array`
   * @throws {RangeError} when `into` has another number of elements
   */
  // deno-lint-ignore require-await -- bad arguments arrive as rejections too
  async read(tensor: Tensor, into?: Float32Array): Promise<Float32Array> {
    checkTensor("read", "tensor", tensor, WEIGHTS, this);
    if (into !== undefined) {
      if (!(into instanceof Float32Array)) typeError("read", "into must be a Float32Array", into);
      if (into.length !== tensor.size) {
        rangeError("read", `into must have ${tensor.size} elements, as the tensor`, into.length);
      }
    }
    return this.machine.read(tensor, into);
  }

  /**
   * Overwrites a tensor's elements in place.
   *
   * @param data all elements, or those from `start` on; a `Uint16Array` holds the bits of f16 or bf16, as the tensor does
   * @param start the first element that is overwritten; without it `data` must hold them all. Devices are written in
   * words: of a tensor of 16 bits, `start` must be even, and so must be the end of `data` unless the tensor ends there
   * @throws {TypeError} when `data` is no `Float32Array`, nor a `Uint16Array` for a tensor of 16 bits; when the tensor is
   * quantised or belongs to another backend
   * @throws {RangeError} when the number of elements differs, or reaches beyond the tensor
   */
  write(tensor: Tensor, data: Float32Array | Uint16Array, start?: number): void {
    checkTensor("write", "tensor", tensor, PLAIN, this);
    checkElements("write", data, tensor.dtype);
    if (start === undefined && data.length !== tensor.size) {
      rangeError("write", `data must hold ${tensor.size} elements, those of the tensor`, data.length);
    }
    if (start !== undefined) checkPart(tensor, start, data.length);
    this.machine.write(tensor, data, start ?? 0);
  }

  /** Ends the backend and frees its memory; its tensors are then disposed. Twice does nothing. */
  dispose(): void {
    this.machine.dispose();
  }

  /** {@linkcode Backend.dispose}, for `using`. */
  [Symbol.dispose](): void {
    this.dispose();
  }
}

function checkElements(operation: string, data: unknown, dtype: DType): void {
  if (data instanceof Float32Array || data instanceof Uint16Array && dtype !== "f32") return;
  const kinds = dtype === "f32"
    ? "a Float32Array"
    : `a Float32Array, or a Uint16Array of the bits of ${dtype}`;
  typeError(operation, `data must be ${kinds}`, data);
}

/** Checks that `length` elements can be written from `start` on. */
function checkPart({ size, dtype }: Tensor, start: number, length: number): void {
  if (!(Number.isSafeInteger(start) && start >= 0 && start <= size)) {
    rangeError("write", `start must be an integer from 0 to ${size}`, start);
  }
  const end = start + length;
  if (end > size) {
    rangeError("write", `data must hold at most ${size - start} elements`, length, `from ${start}`);
  }
  if (dtype === "f32") return;
  if (start % 2 !== 0) rangeError("write", `start must be even in a tensor of ${dtype}`, start);
  if (end % 2 !== 0 && end < size) {
    rangeError("write", `data must end at an even element of a tensor of ${dtype}, or at its end`, end);
  }
}

/** Has a new tensor written, and gives it back if that fails. */
function filled(tensor: Tensor, write: (tensor: Tensor) => void): Tensor {
  try {
    write(tensor);
    return tensor;
  } catch (error) {
    tensor.dispose();
    throw error;
  }
}
