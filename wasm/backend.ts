/**
 * The WASM backend: tensors are blocks of linear memory, operations run at once on the calling thread.
 *
 * @module
 */
import type {
  Activation,
  Backend,
  BackendInfo,
  BackendOptions,
  GradientKernels,
  Kernels,
  LightningCall,
  LightningStepCall,
} from "../core/backend.ts";
import { checkDimensions } from "../core/check.ts";
import { decayChange } from "../core/decay.ts";
import { BackendError, rangeError, typeError } from "../core/errors.ts";
import { ACTIVATIONS } from "../core/ops.ts";
import { type DType, Tensor } from "../core/tensor.ts";
import { WasmGradients } from "./gradients.ts";
import { decayTable, headRows, optionalPointer, pointer, TABLE, TABLE_BYTES } from "./operands.ts";
import { LinearMemory } from "./memory.ts";
import { compileKernels, type KernelExports } from "./module.ts";

/** Makes a WASM backend; `reason` says why it was chosen. */
export async function createWasmBackend(options: BackendOptions, reason: string): Promise<Backend> {
  const { module = await compileKernels(options.baseline ?? false), signal } = options;
  if (!(module instanceof WebAssembly.Module)) {
    typeError("createBackend", "module must be a WebAssembly.Module", module);
  }
  const memory = new LinearMemory();
  let instance: WebAssembly.Instance;
  try {
    instance = await WebAssembly.instantiate(module, { env: { memory: memory.memory } });
  } catch (cause) {
    const sentence = "Cannot create the WASM backend as its module could not be instantiated";
    throw new BackendError("unavailable", sentence, { cause });
  }
  if (!("RELAXED" in instance.exports)) {
    typeError("createBackend", "module must be compiled from wasmKernels()", Object.keys(instance.exports));
  }
  signal?.throwIfAborted();
  return new WasmBackend(memory, instance.exports as unknown as KernelExports, reason);
}

class WasmBackend implements Backend, Kernels {
  readonly name = "wasm";
  readonly info: BackendInfo;
  readonly kernels: Kernels = this;
  readonly gradients: GradientKernels;
  readonly #exports: KernelExports;
  #memory: LinearMemory | undefined;
  /** Work space of the operation that runs, kept for the next one; offset 0: none yet. */
  #scratch = { offset: 0, bytes: 0 };

  constructor(memory: LinearMemory, exports: KernelExports, reason: string) {
    this.#memory = memory;
    this.#exports = exports;
    this.gradients = new WasmGradients(exports, {
      reserve: (bytes) => this.#reserve(bytes),
      decayTables: (slopes, bytes) => this.#decayTables(slopes, bytes),
    }) as Partial<GradientKernels> as GradientKernels;
    const device = exports.RELAXED.value === 1 ? "relaxed SIMD" : "baseline SIMD";
    this.info = { reason, device, threads: 1 };
  }

  get bytesInUse(): number {
    return this.#memory === undefined
      ? 0
      : this.#memory.bytesInUse - this.#memory.sizeOf(this.#scratch.offset);
  }

  get bytesReserved(): number {
    return this.#memory?.memory.buffer.byteLength ?? 0;
  }

  tensor(data: Float32Array, shape: readonly number[], options: { dtype?: DType } = {}): Tensor {
    if (!(data instanceof Float32Array)) typeError("tensor", "data must be a Float32Array", data);
    checkDimensions("tensor", shape, data.length);
    const tensor = this.empty(shape, options.dtype);
    this.write(tensor, data);
    return tensor;
  }

  empty(shape: readonly number[], dtype: DType = "f32"): Tensor {
    checkDimensions("tensor", shape);
    if (dtype !== "f32") rangeError("tensor", `dtype must be "f32" on the WASM backend`, dtype);
    const size = shape.reduce((product, n) => product * n, 1);
    return new Tensor(this, shape, dtype, this.#live().allocate(4 * size));
  }

  zeros(shape: readonly number[], dtype?: DType): Tensor {
    const tensor = this.empty(shape, dtype);
    this.#view(tensor).fill(0);
    return tensor;
  }

  // deno-lint-ignore require-await -- errors arrive as rejections, as on every backend
  async read(tensor: Tensor): Promise<Float32Array> {
    return this.#view(tensor).slice();
  }

  write(tensor: Tensor, data: Float32Array): void {
    if (data.length !== tensor.size) {
      rangeError("write", `data must hold ${tensor.size} elements, those of the tensor`, data.length);
    }
    this.#view(tensor).set(data);
  }

  release(storage: unknown): void {
    this.#memory?.free(storage as number);
  }

  dispose(): void {
    this.#memory = undefined;
  }

  [Symbol.dispose](): void {
    this.dispose();
  }

  lightning(call: LightningCall): void {
    const { shape: { heads, headDim, valueDim }, slopes, scale, sequences, initialState, output, state } =
      call;
    const [decay, scratch] = this.#decayTables(slopes, this.#exports.lightningScratch(headDim, valueDim));
    sequences.forEach((sequence, index) => {
      for (let head = 0; head < heads; head++) {
        const stateOffset = 4 * (index * heads + head) * headDim * valueDim;
        this.#exports.lightning(
          ...headRows(call, "q", call.q, sequence, head),
          ...headRows(call, "k", call.k, sequence, head),
          ...headRows(call, "v", call.v, sequence, head),
          ...headRows(call, "v", output, sequence, head),
          sequence.length,
          headDim,
          valueDim,
          decay + head * TABLE_BYTES,
          scale,
          initialState === undefined ? 0 : pointer(initialState) + stateOffset,
          pointer(state) + stateOffset,
          0,
          scratch,
        );
      }
    });
  }

  lightningStep({ shape, q, k, v, slopes, scale, state, output }: LightningStepCall): void {
    const { batch, heads, queryHeads, keyHeads, headDim, valueDim } = shape;
    for (let b = 0; b < batch; b++) {
      for (let head = 0; head < heads; head++) {
        const row = b * heads + head;
        this.#exports.lightningStep(
          pointer(q) + 4 * (b * queryHeads + Math.floor(head * queryHeads / heads)) * headDim,
          pointer(k) + 4 * (b * keyHeads + Math.floor(head * keyHeads / heads)) * headDim,
          pointer(v) + 4 * row * valueDim,
          pointer(output) + 4 * row * valueDim,
          pointer(state) + 4 * row * headDim * valueDim,
          headDim,
          valueDim,
          decayChange(slopes[head], 1),
          scale,
        );
      }
    }
  }

  embedding(table: Tensor, ids: Uint32Array, scale: number, output: Tensor): void {
    this.#copyRows(table, ids, scale, output);
  }

  linear(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | undefined,
    residual: Tensor | undefined,
    output: Tensor,
  ): void {
    const [outs, depth] = weight.shape;
    const rows = outs === 0 ? 0 : output.size / outs;
    const scratch = this.#reserve(this.#exports.linearScratch(rows, depth, outs));
    this.#exports.linear(
      pointer(x),
      pointer(weight),
      optionalPointer(bias),
      optionalPointer(residual),
      pointer(output),
      rows,
      depth,
      outs,
      scratch,
    );
  }

  norm(
    x: Tensor,
    width: number,
    affine: { weight: Tensor; bias: Tensor } | undefined,
    eps: number,
    gate: Tensor | undefined,
    output: Tensor,
  ): void {
    this.#exports.norm(
      pointer(x),
      optionalPointer(affine?.weight),
      optionalPointer(affine?.bias),
      optionalPointer(gate),
      pointer(output),
      width === 0 ? 0 : x.size / width,
      width,
      eps,
    );
  }

  splitHeads(
    x: Tensor,
    heads: number,
    activation: Activation,
    { q, k, v, u }: { q: Tensor; k: Tensor; v: Tensor; u: Tensor },
  ): void {
    const [batch, seqLen, joint] = x.shape;
    const hidden = joint / 4;
    this.#exports.splitHeads(
      pointer(x),
      pointer(q),
      pointer(k),
      pointer(v),
      pointer(u),
      batch * seqLen,
      hidden,
      hidden / heads,
      ACTIVATIONS.indexOf(activation),
    );
  }

  lrpe(x: Tensor, theta: Tensor, positions: Float64Array, output: Tensor): void {
    const [batch, seqLen, heads, headDim] = x.shape;
    const bytes = 4 * seqLen * heads * headDim;
    for (let b = 0; b < batch; b++) {
      this.#exports.lrpe(
        pointer(x) + b * bytes,
        pointer(theta),
        pointer(output) + 2 * b * bytes,
        seqLen,
        heads,
        headDim,
        positions[b],
      );
    }
  }

  multiply(x: Tensor, y: Tensor, output: Tensor): void {
    this.#exports.multiply(pointer(x), pointer(y), pointer(output), output.size);
  }

  gatherRows(x: Tensor, rows: Uint32Array, output: Tensor): void {
    this.#copyRows(x, rows, 1, output);
  }

  #copyRows(source: Tensor, rows: Uint32Array, scale: number, output: Tensor): void {
    const dim = source.shape[source.shape.length - 1];
    rows.forEach((row, i) => {
      this.#exports.scaledCopy(pointer(source) + 4 * row * dim, pointer(output) + 4 * i * dim, dim, scale);
    });
  }

  /** Decay tables of all heads, followed by `bytes` of work space. */
  #decayTables(slopes: Float64Array, bytes: number): [decay: number, scratch: number] {
    const decay = this.#reserve(slopes.length * TABLE_BYTES + bytes);
    slopes.forEach((slope, head) => {
      this.#live().floats(decay + head * TABLE_BYTES, TABLE).set(decayTable(slope));
    });
    return [decay, decay + slopes.length * TABLE_BYTES];
  }

  #live(): LinearMemory {
    if (this.#memory === undefined) {
      throw new BackendError("disposed", "Cannot use a backend that was disposed");
    }
    return this.#memory;
  }

  #view(tensor: Tensor): Float32Array<ArrayBuffer> {
    return this.#live().floats(pointer(tensor), tensor.size);
  }

  /** Work space of at least `bytes`, valid until the next call. */
  #reserve(bytes: number): number {
    const memory = this.#live();
    if (bytes > this.#scratch.bytes) {
      const { offset } = this.#scratch;
      this.#scratch = { offset: 0, bytes: 0 };
      if (offset !== 0) memory.free(offset);
      this.#scratch = { offset: memory.allocate(bytes), bytes };
    }
    return this.#scratch.offset;
  }
}
