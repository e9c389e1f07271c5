/**
 * The WASM machine: tensors are blocks of linear memory, operations run immediately on the calling thread and its crew.
 *
 * @module
 */
import { checkThreads } from "../core/check.ts";
import type { FloatType } from "../core/dtype.ts";
import { BackendError, typeError } from "../core/errors.ts";
import type { BackendInfo, Machine, Operations } from "../core/machine.ts";
import type { Quantization, QuantizedWeight } from "../core/quantize.ts";
import { elementCount } from "../core/shape.ts";
import type { Tensor } from "../core/tensor.ts";
import { Crew, type CrewOptions, type Kernels, type Scratch, ThreadsError } from "./crew.ts";
import { LinearMemory } from "./memory.ts";
import { compileKernels } from "./module.ts";
import { at, roundUp } from "./operands.ts";
import { operations } from "./operations.ts";
import { pack, packedBytes, unpackRow } from "./quantized.ts";

/** Options of a backend on WebAssembly. */
export interface WasmOptions {
  /**
   * A module compiled beforehand from `wasmKernels("relaxed")` or `wasmKernels("baseline")`, for hosts that forbid
   * compiling from bytes. The module itself says which of the two it is.
   */
  module?: WebAssembly.Module;
  /**
   * Threads that compute, the calling one among them; default 1. `"auto"` starts one per core, or one thread alone where
   * the host has no workers or no shared memory, or does not let them start; `info.reason` then says why. A number is
   * what you get, or an error. Results have the same bits for any number. Workers live until the backend is disposed,
   * and keep the process alive until then.
   */
  threads?: number | "auto";
  /**
   * Where the worker script of this library is served, `wasm/worker.ts` as a bundle, for pages whose content security
   * policy forbids `blob:` workers. Default: workers start from a `blob:` URL.
   */
  workerUrl?: string | URL;
  /** Uses baseline SIMD even if the host has relaxed SIMD. For comparison; default false. */
  baseline?: boolean;
  /** Stops the creation: its reason is thrown. */
  signal?: AbortSignal;
}

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
    // Where threads are lacking there may be no navigator to ask for cores: two stand for many.
    return await start(options, lacking() === undefined ? navigator.hardwareConcurrency : 2, reason);
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
  return typeof Worker === "undefined" ? "workers" : undefined;
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
  return new WasmMachine(memory, crew, { reason, device, threads });
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
  readonly dtypes: readonly FloatType[] = ["f32"];
  readonly operations: Operations;
  /** Who computes. */
  readonly crew: Crew;
  #memory: LinearMemory | undefined;
  /** Work space of the operation that runs, kept for the next one; offset 0: none yet. */
  #scratch = { offset: 0, bytes: 0 };

  /** @param memory taken over, as is `crew` @param crew who computes @param info what it runs on */
  constructor(memory: LinearMemory, crew: Crew, info: BackendInfo) {
    this.#memory = memory;
    this.crew = crew;
    this.info = info;
    this.operations = operations(this);
  }

  get bytesInUse(): number {
    const memory = this.#memory;
    return memory === undefined
      ? 0
      : memory.bytesInUse - memory.sizeOf(this.#scratch.offset) - this.crew.bytes;
  }

  get bytesReserved(): number {
    return this.#memory?.memory.buffer.byteLength ?? 0;
  }

  allocate(shape: readonly number[]): number {
    return this.#live().allocate(4 * elementCount(shape));
  }

  allocateQuantized(weight: QuantizedWeight): number {
    const memory = this.#live(), bytes = packedBytes(weight.shape, weight), offset = memory.allocate(bytes);
    pack(weight, memory.bytes(offset, bytes));
    return offset;
  }

  free(storage: unknown): void {
    this.#memory?.free(storage as number);
  }

  write(tensor: Tensor, data: Float32Array): void {
    this.floats(at(tensor), tensor.size).set(data);
  }

  clear(tensor: Tensor): void {
    this.floats(at(tensor), tensor.size).fill(0);
  }

  // deno-lint-ignore require-await -- errors arrive as rejections, as on every machine
  async read(tensor: Tensor): Promise<Float32Array> {
    if (tensor.quantization === undefined) return this.floats(at(tensor), tensor.size).slice();
    const data = new Float32Array(tensor.size);
    this.unpackRows(tensor, tensor.quantization, Array(tensor.shape[0]).keys(), 1, data);
    return data;
  }

  dispose(): void {
    this.crew.dispose();
    this.#memory = undefined;
  }

  /** Elements in linear memory; the view ends with the next allocation. */
  floats(offset: number, count: number): Float32Array {
    return this.#live().floats(offset, count);
  }

  /** Work space of at least `bytes`, valid until the next call. */
  reserve(bytes: number): number {
    const memory = this.#live();
    if (bytes > this.#scratch.bytes) {
      const { offset } = this.#scratch;
      this.#scratch = { offset: 0, bytes: 0 };
      if (offset !== 0) memory.free(offset);
      this.#scratch = { offset: memory.allocate(bytes), bytes };
    }
    return this.#scratch.offset;
  }

  /** Work space of `bytes` for each thread, valid until the next call. */
  scratch(bytes: number): Scratch {
    const own = roundUp(bytes, 64);
    return { offset: this.reserve(this.crew.threads * own), bytes: own };
  }

  /** Writes rows of a quantised weight, times `factor`, to `target`, as f32. */
  unpackRows(
    table: Tensor,
    quantization: Quantization,
    rows: Iterable<number>,
    factor: number,
    target: Float32Array,
  ): void {
    const inDim = table.shape[1];
    const packed = this.#live().bytes(at(table), packedBytes(table.shape, quantization));
    let i = 0;
    for (const row of rows) {
      unpackRow(packed, inDim, quantization, row, factor, target.subarray(i * inDim, (i + 1) * inDim));
      i++;
    }
  }

  #live(): LinearMemory {
    if (this.#memory === undefined) {
      throw new BackendError("disposed", "Cannot use a backend that was disposed");
    }
    return this.#memory;
  }
}
