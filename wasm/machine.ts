/**
 * The WASM machine: tensors are blocks of linear memory, operations run immediately on the calling thread and its crew.
 *
 * @module
 */
import { checkThreads } from "../core/check.ts";
import { fromBfloat16s, toBfloat16s } from "../core/bfloat16.ts";
import { elementBytes, type FloatType } from "../core/dtype.ts";
import { BackendError, typeError } from "../core/errors.ts";
import type { BackendInfo, Machine, Operations } from "../core/machine.ts";
import type { QuantizedWeight } from "../core/quantize.ts";
import { elementCount } from "../core/shape.ts";
import type { Tensor } from "../core/tensor.ts";
import { Crew, type CrewOptions, type Kernels, ThreadsError } from "./crew.ts";
import { LinearMemory } from "./memory.ts";
import { compileKernels } from "./module.ts";
import { at } from "./operands.ts";
import { cores, hasWorkers } from "./threads.ts";
import { operations } from "./operations.ts";
import type { WasmOptions } from "./options.ts";
import { pack, packedBytes, unpackRows } from "./quantized.ts";

/**
 * Makes a machine; `reason` says why it was chosen.
 *
 * @throws {TypeError} when `module` was not compiled from `wasmKernels()`
 * @throws {RangeError} when `threads` is neither an integer ≥ 1 nor `"auto"`
 * @throws {BackendError} `"unavailable"` when this host cannot run it, or not with so many threads
 */
export async function createMachine(options: WasmOptions, reason: string): Promise<WasmMachine> {
  const { threads = 1, module } = options;
  checkThreads("createBackend", threads);
  if (module !== undefined && !(module instanceof WebAssembly.Module)) {
    typeError("createBackend", "module must be a WebAssembly.Module", module);
  }
  if (threads !== "auto") return await start(options, threads, reason);
  try {
    // Where threads are lacking the host may not tell its cores: two stand for many.
    return await start(options, lacking() === undefined ? cores() : 2, reason);
  } catch (error) {
    if (!(error instanceof ThreadsError)) throw error;
    return await start(options, 1, `${reason}; on one thread, as ${error.why}`);
  }
}

/** What this host lacks for more than one thread. */
function lacking(): string | undefined {
  if (typeof SharedArrayBuffer === "undefined") {
    return "SharedArrayBuffer (a web page must be cross-origin isolated)";
  }
  return hasWorkers() ? undefined : "workers";
}

async function start(
  options: WasmOptions & CrewOptions,
  threads: number,
  reason: string,
): Promise<WasmMachine> {
  const { module = await compileKernels(options.baseline ?? false, threads > 1), signal } = options;
  const missing = threads > 1 ? lacking() : undefined;
  if (missing !== undefined) throw new ThreadsError(threads, `this host has no ${missing}`);
  const [memory, exports] = await instantiate(module, threads);
  if (!("RELAXED" in exports)) {
    typeError("createBackend", "module must be compiled from wasmKernels()", Object.keys(exports));
  }
  const relaxed = (exports.RELAXED as WebAssembly.Global).value === 1;
  const crew = await Crew.start(exports as unknown as Kernels, memory, module, threads, options);
  if (signal?.aborted) crew.dispose();
  signal?.throwIfAborted();
  const device = relaxed ? "relaxed SIMD" : "baseline SIMD";
  return new WasmMachine(crew, { reason, device, threads, units: "f32" });
}

/** An instance and its memory, shared for several threads. One thread takes a module for either. */
async function instantiate(
  module: WebAssembly.Module,
  threads: number,
): Promise<[LinearMemory, WebAssembly.Exports]> {
  const kinds = threads > 1 ? [true] : typeof SharedArrayBuffer === "undefined" ? [false] : [false, true];
  let cause: unknown;
  for (const shared of kinds) {
    const memory = new LinearMemory(shared);
    try {
      const { exports } = await WebAssembly.instantiate(module, { env: { memory: memory.memory } });
      return [memory, exports];
    } catch (error) {
      cause ??= error;
    }
  }
  if (threads > 1) {
    const why =
      "its module could not be instantiated over shared memory: make it from wasmKernels(variant, true), or";
    throw new ThreadsError(threads, why, { cause });
  }
  throw new BackendError(
    "unavailable",
    "Cannot create the WASM backend as its module could not be instantiated: make it from wasmKernels()",
    { cause },
  );
}

/** See {@linkcode Machine}. A tensor's storage is the byte offset of its elements. */
export class WasmMachine implements Machine {
  readonly name = "wasm";
  readonly info: BackendInfo;
  readonly dtypes: readonly FloatType[] = ["f32", "bf16"];
  readonly operations: Operations;
  readonly #crew: Crew;

  /** @param crew who computes, taken over with its memory @param info what it runs on */
  constructor(crew: Crew, info: BackendInfo) {
    this.#crew = crew;
    this.info = info;
    this.operations = operations(crew);
  }

  get bytesInUse(): number {
    return this.#crew.bytesInUse;
  }

  get bytesReserved(): number {
    return this.#crew.disposed ? 0 : this.#crew.memory.memory.buffer.byteLength;
  }

  allocate(shape: readonly number[], dtype: FloatType): number {
    return this.#crew.memory.allocate(elementBytes(dtype) * elementCount(shape));
  }

  allocateQuantized(weight: QuantizedWeight): number {
    const { memory } = this.#crew, bytes = packedBytes(weight.shape, weight), offset = memory.allocate(bytes);
    pack(weight, memory.bytes(offset, bytes));
    return offset;
  }

  free(storage: unknown): void {
    if (!this.#crew.disposed) this.#crew.memory.free(storage as number);
  }

  write(tensor: Tensor, data: Float32Array | Uint16Array, start: number): void {
    const elements = this.#elements(tensor), bits = elements instanceof Uint16Array;
    elements.set(bits && data instanceof Float32Array ? toBfloat16s(data) : data, start);
  }

  clear(tensor: Tensor): void {
    this.#elements(tensor).fill(0);
  }

  // deno-lint-ignore require-await -- errors arrive as rejections, as on every machine
  async read(tensor: Tensor, data = new Float32Array(tensor.size)): Promise<Float32Array> {
    if (tensor.quantization === undefined) {
      const elements = this.#elements(tensor);
      data.set(elements instanceof Uint16Array ? fromBfloat16s(elements) : elements);
      return data;
    }
    const rows = Array(tensor.shape[0]).keys();
    unpackRows(this.#crew.memory, tensor, tensor.quantization, rows, 1, data);
    return data;
  }

  dispose(): void {
    this.#crew.dispose();
  }

  /** The elements of a plain tensor: numbers, or the bits of bf16. */
  #elements(tensor: Tensor): Float32Array | Uint16Array {
    const { memory } = this.#crew;
    return tensor.dtype === "bf16"
      ? memory.words(at(tensor), tensor.size)
      : memory.floats(at(tensor), tensor.size);
  }
}
