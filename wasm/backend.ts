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
import { checkDimensions, checkTensor } from "../core/check.ts";
import { decayChange } from "../core/decay.ts";
import { BackendError, rangeError, typeError } from "../core/errors.ts";
import { ACTIVATIONS } from "../core/ops.ts";
import { checkQuantized, type Quantization, type QuantizedWeight } from "../core/quantize.ts";
import { type DType, elementCount, Tensor } from "../core/tensor.ts";
import { FEW_ROWS, TILE_COLUMNS, TILE_ROWS } from "../core/tile.ts";
import { Crew, ranges } from "./crew.ts";
import { WasmGradients } from "./gradients.ts";
import { decayTable, headRows, optionalPointer, pointer, roundUp, TABLE, TABLE_BYTES } from "./operands.ts";
import { LinearMemory } from "./memory.ts";
import { compileKernels, type KernelExports } from "./module.ts";
import { BLOCK_OUTS, blockBytes, pack, packedBytes, unpackRow } from "./quantized.ts";

/** Makes a WASM backend; `reason` says why it was chosen. */
export async function createWasmBackend(options: BackendOptions, reason: string): Promise<Backend> {
  const threads = threadCount(options.threads ?? 1);
  const { module = await compileKernels(options.baseline ?? false, threads > 1), signal } = options;
  if (!(module instanceof WebAssembly.Module)) {
    typeError("createBackend", "module must be a WebAssembly.Module", module);
  }
  const memory = new LinearMemory(threads > 1);
  let instance: WebAssembly.Instance;
  try {
    instance = await WebAssembly.instantiate(module, { env: { memory: memory.memory } });
  } catch (cause) {
    const sentence = "Cannot create the WASM backend as its module could not be instantiated" +
      (threads > 1 ? ": with several threads it must come from wasmKernels(variant, true)" : "");
    throw new BackendError("unavailable", sentence, { cause });
  }
  if (!("RELAXED" in instance.exports)) {
    typeError("createBackend", "module must be compiled from wasmKernels()", Object.keys(instance.exports));
  }
  const exports = instance.exports as unknown as KernelExports;
  const crew = await Crew.start(exports, memory, module, threads);
  if (signal?.aborted) crew.dispose();
  signal?.throwIfAborted();
  return new WasmBackend(memory, exports, crew, reason);
}

/** Checks `threads`, and whether this host has what more than one needs. */
function threadCount(threads: number | "auto"): number {
  const lacking = typeof SharedArrayBuffer === "undefined"
    ? "SharedArrayBuffer (a web page must be cross-origin isolated)"
    : typeof Worker === "undefined"
    ? "workers"
    : undefined;
  if (threads === "auto") return lacking === undefined ? navigator.hardwareConcurrency : 1;
  if (!Number.isInteger(threads) || threads < 1) {
    rangeError("createBackend", `threads must be an integer >= 1 or "auto"`, threads);
  }
  if (threads > 1 && lacking !== undefined) {
    throw new BackendError(
      "unavailable",
      `Cannot create the WASM backend with ${threads} threads as this host has no ${lacking}: ask for one thread`,
    );
  }
  return threads;
}

class WasmBackend implements Backend, Kernels {
  readonly name = "wasm";
  readonly info: BackendInfo;
  readonly kernels: Kernels = this;
  readonly gradients: GradientKernels;
  readonly #exports: KernelExports;
  readonly #crew: Crew;
  #memory: LinearMemory | undefined;
  /** Work space of the operation that runs, kept for the next one; offset 0: none yet. */
  #scratch = { offset: 0, bytes: 0 };

  constructor(memory: LinearMemory, exports: KernelExports, crew: Crew, reason: string) {
    this.#memory = memory;
    this.#exports = exports;
    this.#crew = crew;
    this.gradients = new WasmGradients(exports, crew, {
      reserve: (bytes) => this.#reserve(bytes),
      decayTables: (slopes, bytes) => this.#decayTables(slopes, bytes),
    });
    const device = exports.RELAXED.value === 1 ? "relaxed SIMD" : "baseline SIMD";
    this.info = { reason, device, threads: crew.threads };
  }

  get bytesInUse(): number {
    const memory = this.#memory;
    return memory === undefined
      ? 0
      : memory.bytesInUse - memory.sizeOf(this.#scratch.offset) - this.#crew.bytes;
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

  quantized(weight: QuantizedWeight): Tensor {
    const shape = checkQuantized("quantized", weight);
    const { bits, group } = weight;
    const bytes = packedBytes(shape, weight), memory = this.#live(), offset = memory.allocate(bytes);
    pack(weight, memory.bytes(offset, bytes));
    return new Tensor(this, shape, "f32", offset, { bits, group });
  }

  empty(shape: readonly number[], dtype: DType = "f32"): Tensor {
    checkDimensions("tensor", shape);
    if (dtype !== "f32") rangeError("tensor", `dtype must be "f32" on the WASM backend`, dtype);
    const size = elementCount(shape);
    return new Tensor(this, shape, dtype, this.#live().allocate(4 * size));
  }

  zeros(shape: readonly number[], dtype?: DType): Tensor {
    const tensor = this.empty(shape, dtype);
    this.#view(tensor).fill(0);
    return tensor;
  }

  // deno-lint-ignore require-await -- errors arrive as rejections, as on every backend
  async read(tensor: Tensor): Promise<Float32Array> {
    if (tensor.quantization === undefined) return this.#view(tensor).slice();
    const data = new Float32Array(tensor.size);
    this.#unpackRows(tensor, tensor.quantization, Array(tensor.shape[0]).keys(), 1, data);
    return data;
  }

  write(tensor: Tensor, data: Float32Array): void {
    checkTensor("write", "tensor", tensor, this);
    if (data.length !== tensor.size) {
      rangeError("write", `data must hold ${tensor.size} elements, those of the tensor`, data.length);
    }
    this.#view(tensor).set(data);
  }

  release(storage: unknown): void {
    this.#memory?.free(storage as number);
  }

  dispose(): void {
    if (this.#memory !== undefined) this.#crew.dispose();
    this.#memory = undefined;
  }

  [Symbol.dispose](): void {
    this.dispose();
  }

  lightning(call: LightningCall): void {
    const { shape, slopes, scale, sequences, initialState, output, state } = call;
    const { heads, headDim, valueDim } = shape;
    const { threads } = this.#crew;
    const scratchBytes = roundUp(this.#exports.lightningScratch(headDim, valueDim), 64);
    const [decay, scratch] = this.#decayTables(slopes, threads * scratchBytes);
    // Heads that do not divide by the threads are cut into columns of the value, which do not depend on one another.
    const parts = (sequences.length * heads) % threads === 0 ? 1 : threads;
    const calls = sequences.flatMap((sequence, index) =>
      Array.from(
        { length: heads },
        (_, head) =>
          ranges(valueDim, parts, TILE_COLUMNS).map(({ start, count }) => {
            const stateOffset = 4 * ((index * heads + head) * headDim * valueDim + start);
            const [v, vStride] = headRows(call, "v", call.v, sequence, head);
            const [o, oStride] = headRows(call, "v", output, sequence, head);
            return [
              ...headRows(call, "q", call.q, sequence, head),
              ...headRows(call, "k", call.k, sequence, head),
              ...[v + 4 * start, vStride],
              ...[o + 4 * start, oStride],
              sequence.length,
              headDim,
              count,
              decay + head * TABLE_BYTES,
              scale,
              initialState === undefined ? 0 : pointer(initialState) + stateOffset,
              pointer(state) + stateOffset,
              4 * valueDim,
              0,
            ];
          }),
      ).flat()
    );
    const work = output.size * headDim;
    this.#crew.run("lightning", calls, { work, scratch, scratchBytes });
  }

  lightningStep({ shape, q, k, v, slopes, scale, state, rows, output }: LightningStepCall): void {
    const { batch, heads, queryHeads, keyHeads, headDim, valueDim } = shape;
    const calls: number[][] = [];
    for (let row = 0; row < batch * heads; row++) {
      const b = Math.floor(row / heads), head = row % heads;
      calls.push([
        pointer(q) + 4 * (b * queryHeads + Math.floor(head * queryHeads / heads)) * headDim,
        pointer(k) + 4 * (b * keyHeads + Math.floor(head * keyHeads / heads)) * headDim,
        pointer(v) + 4 * row * valueDim,
        pointer(output) + 4 * row * valueDim,
        pointer(state) + 4 * ((rows?.[b] ?? b) * heads + head) * headDim * valueDim,
        headDim,
        valueDim,
        decayChange(slopes[head], 1),
        scale,
      ]);
    }
    this.#crew.run("lightningStep", calls, { work: batch * heads * headDim * valueDim });
  }

  embedding(table: Tensor, ids: Uint32Array, scale: number, output: Tensor): void {
    if (table.quantization === undefined) this.#copyRows(table, ids, scale, output);
    else this.#unpackRows(table, table.quantization, ids, scale, this.#view(output));
  }

  linear(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | undefined,
    residual: Tensor | undefined,
    output: Tensor,
  ): void {
    if (weight.quantization !== undefined) {
      return this.#linearQuantized(x, weight, weight.quantization, bias, residual, output);
    }
    const [outs, depth] = weight.shape;
    const rows = outs === 0 ? 0 : output.size / outs;
    const { threads } = this.#crew;
    const scratchBytes = roundUp(this.#exports.linearScratch(rows, depth, outs), 64);
    const scratch = this.#reserve(threads * scratchBytes);
    // Each thread takes some rows: where they are many, more than FEW_ROWS as all of them are. One row: some outputs.
    const isShared = rows <= FEW_ROWS || rows >= (FEW_ROWS + 2 * TILE_ROWS) * threads;
    const rowRanges = ranges(rows, isShared ? threads : 1, TILE_ROWS);
    const outRanges = ranges(outs, rows === 1 ? threads : 1, TILE_COLUMNS);
    const at = (tensor: Tensor | undefined, element: number) =>
      tensor === undefined ? 0 : pointer(tensor) + 4 * element;
    const calls = rowRanges.flatMap((row) =>
      outRanges.map((out) => [
        at(x, row.start * depth),
        at(weight, out.start * depth),
        at(bias, out.start),
        at(residual, row.start * outs + out.start),
        at(output, row.start * outs + out.start),
        row.count,
        depth,
        out.count,
      ])
    );
    this.#crew.run("linear", calls, { work: rows * weight.size, scratch, scratchBytes });
  }

  /** Rows of x become integers once; then each thread takes some of the outputs. */
  #linearQuantized(
    x: Tensor,
    weight: Tensor,
    { bits, group }: Quantization,
    bias: Tensor | undefined,
    residual: Tensor | undefined,
    output: Tensor,
  ): void {
    const [outs, depth] = weight.shape;
    const rows = outs === 0 ? 0 : output.size / outs;
    const { threads } = this.#crew;
    const integers = this.#reserve(this.#exports.quantizedScratch(rows, depth, bits, group));
    this.#exports.quantizeRows(pointer(x), rows, depth, bits, group, integers);
    const at = (tensor: Tensor | undefined, out: number) =>
      tensor === undefined ? 0 : pointer(tensor) + 4 * out;
    const calls = ranges(outs, threads, BLOCK_OUTS).map(({ start, count }) => [
      integers,
      pointer(weight) + start / BLOCK_OUTS * blockBytes(depth, { bits, group }),
      at(bias, start),
      at(residual, start),
      at(output, start),
      rows,
      depth,
      count,
      4 * outs,
      bits,
      group,
    ]);
    this.#crew.run("linearQuantized", calls, { work: rows * weight.size });
  }

  norm(
    x: Tensor,
    width: number,
    affine: { weight: Tensor; bias: Tensor } | undefined,
    eps: number,
    gate: Tensor | undefined,
    output: Tensor,
  ): void {
    const rows = ranges(width === 0 ? 0 : x.size / width, this.#crew.threads, 1);
    const calls = rows.map(({ start, count }) => [
      pointer(x) + 4 * start * width,
      optionalPointer(affine?.weight),
      optionalPointer(affine?.bias),
      gate === undefined ? 0 : pointer(gate) + 4 * start * width,
      pointer(output) + 4 * start * width,
      count,
      width,
      eps,
    ]);
    this.#crew.run("norm", calls, { work: x.size });
  }

  splitHeads(
    x: Tensor,
    heads: number,
    activation: Activation,
    { q, k, v, u }: { q: Tensor; k: Tensor; v: Tensor; u: Tensor },
  ): void {
    const [batch, seqLen, joint] = x.shape;
    const hidden = joint / 4;
    const calls = ranges(batch * seqLen, this.#crew.threads, 1).map(({ start, count }) => [
      pointer(x) + 4 * start * joint,
      ...[q, k, v, u].map((tensor) => pointer(tensor) + 4 * start * hidden),
      count,
      hidden,
      hidden / heads,
      ACTIVATIONS.indexOf(activation),
    ]);
    this.#crew.run("splitHeads", calls, { work: x.size });
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
    const calls = ranges(output.size, this.#crew.threads, 4).map(({ start, count }) => [
      ...[x, y, output].map((tensor) => pointer(tensor) + 4 * start),
      count,
    ]);
    this.#crew.run("multiply", calls, { work: output.size });
  }

  gatherRows(x: Tensor, rows: Uint32Array, output: Tensor): void {
    this.#copyRows(x, rows, 1, output);
  }

  scatterRows(x: Tensor, rows: Uint32Array, width: number, target: Tensor): void {
    rows.forEach((row, i) => {
      this.#exports.scaledCopy(pointer(x) + 4 * i * width, pointer(target) + 4 * row * width, width, 1);
    });
  }

  #copyRows(source: Tensor, rows: Uint32Array, scale: number, output: Tensor): void {
    const dim = output.shape[output.shape.length - 1];
    rows.forEach((row, i) => {
      this.#exports.scaledCopy(pointer(source) + 4 * row * dim, pointer(output) + 4 * i * dim, dim, scale);
    });
  }

  #unpackRows(
    table: Tensor,
    quantization: Quantization,
    rows: Iterable<number>,
    factor: number,
    target: Float32Array,
  ): void {
    const inner = table.shape[1];
    const packed = this.#live().bytes(pointer(table), packedBytes(table.shape, quantization));
    let i = 0;
    for (const row of rows) {
      const to = target.subarray(i * inner, (i + 1) * inner);
      unpackRow(packed, inner, quantization, row, factor, to);
      i++;
    }
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

  #view(tensor: Tensor): Float32Array {
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
