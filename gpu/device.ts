/// <reference types="@webgpu/types" />
/**
 * The WebGPU device: memory, pipelines, and one queue of work.
 *
 * **Memory.** A {@linkcode Store} holds the elements of a tensor. It is one buffer, or, where the adapter's binding or
 * buffer limit is smaller than the tensor, several *pieces*: buffers of equal length (the last one shorter), cut
 * between rows of the outermost dimension that allows it. Kernels see *windows*: ranges of a store that fit into one
 * binding. A window inside one piece is bound as it is; one that crosses a cut, or starts at an offset that cannot be
 * bound, is copied to a scratch buffer before the dispatch and back after it. So an operation walks over ranges of
 * rows with {@linkcode Device.chunks} (one range in the normal case), binds windows, and need not know of pieces.
 *
 * **Work.** Everything enqueued is recorded into one command encoder and submitted by {@linkcode Device.flush}, which
 * reading a tensor calls: a decoded token of a model is one submit and one readback.
 *
 * **An operation** is a .wgsl file and a function of this form:
 *
 *     import source from "./scale.wgsl" with { type: "text" };
 *
 *     export function scale(device: Device, x: Tensor, factor: number, output: Tensor): void {
 *       const kernel = device.kernel({
 *         source,
 *         bindings: ["read", "write"],                  // @group(0) @binding(0), (1): storage buffers
 *         types: { X: x.dtype, Y: output.dtype },       // prepends `alias X = f32;`, `enable f16;` where needed
 *         constants: { WORKGROUP: 256 },                // pipeline-overridable constants
 *       });
 *       const [from, to] = [storeOf(x), storeOf(output)];
 *       for (const { start, count } of device.chunks(x.size, [from, 1], [to, 1])) {
 *         device.dispatch(kernel, [from.window(start, count), to.window(start, count)],
 *           [count, float(factor)],                     // @group(1) @binding(0) var<uniform>: u32, f32, i32 scalars
 *           Math.ceil(count / 256));                    // workgroups: a number, folded into x and y, or [x, y, z]
 *       }
 *     }
 *
 * In WGSL a folded workgroup number is `id.x + id.y * num_workgroups.x`; it may exceed what was asked for, so kernels
 * compare it with a parameter. One buffer must not be bound both for reading and for writing in one dispatch: bind it
 * once, as `"update"`.
 *
 * @module
 */
import { BackendError } from "../core/errors.ts";
import { elementBytes, type FloatType } from "../core/dtype.ts";
import { elementCount } from "../core/shape.ts";
import type { Tensor } from "../core/tensor.ts";

/**
 * How a kernel uses a binding: `"read"` is `var<storage, read>`; `"write"` and `"update"` are
 * `var<storage, read_write>`, where `"write"` sets every element of the window and `"update"` reads it or sets a part.
 */
export type Access = "read" | "write" | "update";

/** What makes a pipeline. */
export interface KernelOptions {
  /** WGSL text. */
  source: string;
  /** Entry point; default `"main"`. */
  entryPoint?: string;
  /** Storage bindings of group 0, in order, from 0. */
  bindings: readonly Access[];
  /** Aliases that the source uses for what no override can say: storage types, lengths of arrays inside of arrays. */
  types?: Readonly<Record<string, string>>;
  /** Values of pipeline-overridable constants. */
  constants?: Readonly<Record<string, number>>;
}

/** A compiled pipeline; see {@linkcode Device.kernel}. */
export interface Kernel {
  readonly id: number;
  readonly pipeline: GPUComputePipeline;
  readonly layout: GPUBindGroupLayout;
  readonly bindings: readonly Access[];
}

/** A range of elements of a store, to be bound. */
export interface Window {
  readonly store: Store;
  /** First element. */
  readonly start: number;
  /** Number of elements. */
  readonly length: number;
}

/** Limits that tests lower to see tensors and dispatches split at small sizes. */
export interface Limits {
  /** Bytes of the largest piece and window; a multiple of 256. */
  readonly windowBytes: number;
  /** Workgroups per dimension of a dispatch. */
  readonly workgroups: number;
}

/** A buffer of the device. */
interface Block {
  readonly id: number;
  readonly buffer: GPUBuffer;
  readonly bytes: number;
  readonly usage: number;
  /** Clock of its creation: a fault then may have left it without memory. */
  readonly createdAt: number;
  /** Clock of the last recorded use: at or after the batch's start, the commands that use it are not submitted. */
  usedAt: number;
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
  readonly pieces: Block[];
  /** Clock of the last write; see {@linkcode Device} on faults. */
  writtenAt = 0;
  /**
   * @param dtype storage of an element @param length number of elements
   * @param pieceLength elements of every piece but the last @param pieces buffers, empty after release
   */
  constructor(dtype: FloatType, length: number, pieceLength: number, pieces: Block[]) {
    this.dtype = dtype;
    this.elementBytes = elementBytes(dtype);
    this.length = length;
    this.pieceLength = pieceLength;
    this.pieces = pieces;
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

/** The store of a tensor of this backend. */
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

const floats = new Float32Array(1);
const words = new Uint32Array(floats.buffer);

/** The bits of an f32, for the parameters of {@linkcode Device.dispatch}. */
export function float(value: number): number {
  floats[0] = value;
  return words[0];
}

/**
 * Copies the bytes of a staging buffer that was mapped before and unmapped since, and leaves it mapped.
 *
 * Deno waits for the device inside of `mapAsync`, and then for 10 ms more before the promise settles (2.9.6), which is
 * three times what a token of 100 M parameters takes. So the bytes are asked for at once: elsewhere that throws, as the
 * specification has it. Deno ends the process where the buffer was never mapped before.
 */
async function readMapped(buffer: GPUBuffer, target: Uint8Array): Promise<void> {
  const mapped = buffer.mapAsync(MAP_READ);
  let range: ArrayBuffer;
  try {
    range = buffer.getMappedRange();
    mapped.catch(() => {}); // unmapping earlier may refuse it
  } catch {
    await mapped;
    range = buffer.getMappedRange();
  }
  target.set(new Uint8Array(range, 0, target.length));
}

/** Bytes of the parameters of one dispatch: dynamic uniform offsets are multiples of 256 at most. */
const PARAMETER_BYTES = 256;
/** Dispatches of one submit at most; a model of 24 layers records fewer than 400 per token. */
const BATCH_DISPATCHES = 2048;
/**
 * Bytes that idle buffers may hold (or as many as live tensors do, where that is more), and that buffers to be freed and
 * uploads may hold until they are submitted.
 */
const IDLE_BYTES = 256 * 2 ** 20;
/** Bind groups kept for reuse. */
const BIND_GROUPS = 8192;
/** Stores of {@linkcode Device.constant} kept for reuse. */
const CONSTANTS = 1024;

// The numbers of GPUBufferUsage and GPUMapMode: those globals do not exist where there is no WebGPU.
const MAP_READ = 0x1, COPY_SRC = 0x4, COPY_DST = 0x8, UNIFORM = 0x40, STORAGE = 0x80, QUERY_RESOLVE = 0x200;
const COMPUTE = 0x4;
const STORE_USAGE = STORAGE | COPY_SRC | COPY_DST;
const STAGING_USAGE = MAP_READ | COPY_DST;

const roundUp = (value: number, multiple: number) => Math.ceil(value / multiple) * multiple;

/** One fault of the device: what was written from `from` to `to` on the clock cannot be trusted. */
interface Fault {
  readonly from: number;
  readonly to: number;
  readonly error: BackendError;
}

/**
 * A GPU device with its memory and its queue.
 *
 * Faults: the device reports errors later than the call that causes them. Each batch is wrapped in error scopes; a
 * fault marks all that was written from its batch to its discovery as lost, so that reading it, or computing from it,
 * throws instead of handing out zeros. A clock that ticks at every submit and every fault orders the two.
 */
export class Device {
  readonly limits: Limits;
  /** Whether stores may hold f16. */
  readonly half: boolean;
  /** What the adapter calls itself. */
  readonly name: string;
  /** The adapter's limits that kernels choose their tiles by. */
  readonly adapterLimits: GPUSupportedLimits;

  /** A store to bind where a kernel has a binding that this call does not use; for reading. */
  readonly nothing: Store;

  readonly #device: GPUDevice;
  readonly #largestBuffer: number;
  readonly #parameters: GPUBuffer;
  readonly #parameterLayout: GPUBindGroupLayout;
  readonly #parameterGroup: GPUBindGroup;
  readonly #parameterData = new Uint32Array(BATCH_DISPATCHES * PARAMETER_BYTES / 4);
  readonly #layouts = new Map<string, GPUBindGroupLayout>();
  readonly #kernels = new Map<string, Map<string, Kernel>>();
  readonly #bindGroups = new Map<string, GPUBindGroup>();
  readonly #constants = new Map<string, Store>();

  readonly #blocks = new Set<Block>();
  readonly #idle = new Map<string, Block[]>();
  #idleBytes = 0;
  #ids = 0;
  #doomed: Block[] = [];
  #doomedBytes = 0;
  #bytesInUse = 0;

  #encoder: GPUCommandEncoder | undefined;
  #pass: GPUComputePassEncoder | undefined;
  #dispatches = 0;
  #uploadedBytes = 0;
  #clock = 1;
  #batchStart = 1;
  #faults: Fault[] = [];
  #checks = new Set<Promise<void>>();
  #end: BackendError | undefined;
  readonly #ended: Promise<undefined>;

  private constructor(device: GPUDevice, name: string, limits: Partial<Limits>) {
    this.#device = device;
    this.name = name;
    this.adapterLimits = device.limits;
    const largest = Math.min(device.limits.maxStorageBufferBindingSize, device.limits.maxBufferSize);
    this.#largestBuffer = Math.floor(device.limits.maxBufferSize / 256) * 256;
    this.limits = {
      windowBytes: Math.floor(largest / 256) * 256,
      workgroups: device.limits.maxComputeWorkgroupsPerDimension,
      ...limits,
    };
    this.half = device.features.has("shader-f16");
    this.#openScopes();
    this.#parameters = device.createBuffer({
      size: BATCH_DISPATCHES * PARAMETER_BYTES,
      usage: UNIFORM | COPY_DST,
    });
    this.#parameterLayout = device.createBindGroupLayout({
      entries: [{ binding: 0, visibility: COMPUTE, buffer: { type: "uniform", hasDynamicOffset: true } }],
    });
    this.#parameterGroup = device.createBindGroup({
      layout: this.#parameterLayout,
      entries: [{ binding: 0, resource: { buffer: this.#parameters, size: PARAMETER_BYTES } }],
    });
    this.nothing = this.upload(new Uint32Array(1));
    this.#bytesInUse = 0;
    this.#ended = device.lost.then((info) => {
      this.#end ??= new BackendError(
        "lost",
        `Cannot go on as the GPU device was lost: ${info.message || info.reason}. ` +
          "Create a new backend, and continue from a snapshot",
      );
      return undefined;
    });
    device.addEventListener("uncapturederror", (event) => {
      event.preventDefault();
      this.#fault((event as GPUUncapturedErrorEvent).error, this.#batchStart);
    });
  }

  /** Requests a device with all that the adapter offers of what kernels use. */
  static async request(adapter: GPUAdapter, limits: Partial<Limits> = {}): Promise<Device> {
    const wanted = ["shader-f16", "timestamp-query"] as const;
    const offered = adapter.limits;
    const device = await adapter.requestDevice({
      requiredFeatures: wanted.filter((feature) => adapter.features.has(feature)),
      requiredLimits: {
        maxBufferSize: offered.maxBufferSize,
        maxStorageBufferBindingSize: offered.maxStorageBufferBindingSize,
        maxStorageBuffersPerShaderStage: offered.maxStorageBuffersPerShaderStage,
        maxComputeWorkgroupStorageSize: offered.maxComputeWorkgroupStorageSize,
        maxComputeInvocationsPerWorkgroup: offered.maxComputeInvocationsPerWorkgroup,
        maxComputeWorkgroupSizeX: offered.maxComputeWorkgroupSizeX,
        maxComputeWorkgroupSizeY: offered.maxComputeWorkgroupSizeY,
        maxComputeWorkgroupSizeZ: offered.maxComputeWorkgroupSizeZ,
        maxComputeWorkgroupsPerDimension: offered.maxComputeWorkgroupsPerDimension,
      },
    });
    const { description, vendor, architecture } = adapter.info;
    return new Device(device, description || `${vendor} ${architecture}`.trim() || "unnamed GPU", limits);
  }

  /** Bytes of live stores. */
  get bytesInUse(): number {
    return this.#bytesInUse;
  }

  /** Bytes of all buffers, also the idle ones. */
  get bytesReserved(): number {
    let bytes = 0;
    for (const block of this.#blocks) bytes += block.bytes;
    return bytes;
  }

  // ---------------------------------------------------------------------------------------------------- kernels

  /** The pipeline for these options, compiled on first use. */
  kernel({ source, entryPoint = "main", bindings, types = {}, constants = {} }: KernelOptions): Kernel {
    let variants = this.#kernels.get(source);
    if (variants === undefined) this.#kernels.set(source, variants = new Map());
    let key = entryPoint;
    for (const alias in types) key += `,${types[alias]}`;
    for (const name in constants) key += `,${constants[name]}`;
    const known = variants.get(key);
    if (known !== undefined) return known;

    const aliases = Object.entries(types).map(([alias, type]) => `alias ${alias} = ${type};\n`).join("");
    const enable = Object.values(types).includes("f16") ? "enable f16;\n" : "";
    const layout = this.#layout(bindings);
    const pipeline = this.#device.createComputePipeline({
      layout: this.#device.createPipelineLayout({ bindGroupLayouts: [layout, this.#parameterLayout] }),
      compute: {
        module: this.#device.createShaderModule({ code: enable + aliases + source }),
        entryPoint,
        constants: { ...constants },
      },
    });
    const kernel = { id: this.#ids++, pipeline, layout, bindings };
    variants.set(key, kernel);
    return kernel;
  }

  #layout(bindings: readonly Access[]): GPUBindGroupLayout {
    const key = bindings.map((access) => access === "read").join();
    let layout = this.#layouts.get(key);
    if (layout === undefined) {
      layout = this.#device.createBindGroupLayout({
        entries: bindings.map((access, binding) => ({
          binding,
          visibility: COMPUTE,
          buffer: { type: access === "read" ? "read-only-storage" : "storage" },
        })),
      });
      this.#layouts.set(key, layout);
    }
    return layout;
  }

  /**
   * Enqueues a kernel.
   *
   * @param windows one per binding @param parameters u32 values, or {@linkcode float} bits: at most 64
   * @param workgroups a number, folded into x and y where it exceeds the limit, or `[x, y, z]`; none: nothing happens
   */
  dispatch(
    kernel: Kernel,
    windows: readonly Window[],
    parameters: ArrayLike<number>,
    workgroups: number | readonly [number, number, number],
  ): void {
    this.#checkAlive();
    windows.forEach(({ store }, binding) => {
      if (kernel.bindings[binding] !== "write") this.#checkSound(store.writtenAt);
    });
    const [x, y, z] = typeof workgroups === "number" ? this.#fold(workgroups) : workgroups;
    if (x === 0 || y === 0 || z === 0) return;
    if (this.#dispatches === BATCH_DISPATCHES) this.flush();
    const slot = this.#dispatches++;
    this.#parameterData.set(parameters, slot * PARAMETER_BYTES / 4);

    let key = String(kernel.id);
    const entries: GPUBindGroupEntry[] = [];
    const scratch: [binding: number, Block][] = [];
    windows.forEach((window, binding) => {
      const { store, start, length } = window;
      const access = kernel.bindings[binding];
      const piece = Math.min(Math.floor(start / store.pieceLength), store.pieces.length - 1);
      let block = store.pieces[piece];
      let offset = (start - piece * store.pieceLength) * store.elementBytes;
      const size = Math.max(roundUp(length * store.elementBytes, 4), 16); // one vector of 4, at least
      if (start + length > (piece + 1) * store.pieceLength || offset % 256 !== 0) {
        block = this.#acquire(size, STORE_USAGE);
        offset = 0;
        if (access !== "write") this.#copy(window, block, "from store");
        scratch.push([binding, block]);
      }
      block.usedAt = this.#clock;
      key += `,${block.id}:${offset}:${size}`;
      entries.push({ binding, resource: { buffer: block.buffer, offset, size } });
    });

    let group = this.#bindGroups.get(key);
    if (group === undefined) {
      if (this.#bindGroups.size >= BIND_GROUPS) this.#bindGroups.clear();
      group = this.#device.createBindGroup({ layout: kernel.layout, entries });
      this.#bindGroups.set(key, group);
    }
    const pass = this.#pass ??= this.#encode().beginComputePass();
    pass.setPipeline(kernel.pipeline);
    pass.setBindGroup(0, group);
    pass.setBindGroup(1, this.#parameterGroup, [slot * PARAMETER_BYTES]);
    pass.dispatchWorkgroups(x, y, z);

    windows.forEach(({ store }, binding) => {
      if (kernel.bindings[binding] !== "read") store.writtenAt = this.#clock;
    });
    for (const [binding, block] of scratch) {
      if (kernel.bindings[binding] !== "read") this.#copy(windows[binding], block, "to store");
      this.#recycle(block);
    }
  }

  #fold(workgroups: number): [number, number, number] {
    const x = Math.min(workgroups, this.limits.workgroups);
    return [x, x === 0 ? 0 : Math.ceil(workgroups / x), 1];
  }

  /**
   * Cuts `rows` rows into the ranges that can be dispatched at once: for each `[store, rowLength]`, row r being the
   * `rowLength` elements from `r · rowLength`, the range fits into one window, and crosses no cut where it can be
   * helped. One range where nothing is split, none where there are no rows.
   */
  *chunks(
    rows: number,
    ...stores: readonly (readonly [store: Store, rowLength: number])[]
  ): Generator<{ start: number; count: number }> {
    for (let start = 0, count; start < rows; start += count) {
      count = rows - start;
      for (const [store, rowLength] of stores) {
        if (store.pieces.length === 1 || rowLength === 0) continue;
        const fit = Math.floor(this.limits.windowBytes / (rowLength * store.elementBytes));
        if (fit < 1) {
          throw new BackendError(
            "out-of-memory",
            `Cannot bind a row of ${rowLength} elements as the device binds ${this.limits.windowBytes} bytes at most`,
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

  // ----------------------------------------------------------------------------------------------------- memory

  /** A store for elements of this shape; what it holds is not defined. */
  allocate(shape: readonly number[], dtype: FloatType = "f32"): Store {
    this.#checkAlive();
    const length = elementCount(shape);
    const pieceLength = this.#pieceLength(shape, length, elementBytes(dtype));
    const store = new Store(dtype, length, pieceLength, []);
    for (let start = 0; start === 0 || start < length; start += pieceLength) {
      const bytes = roundUp(Math.min(pieceLength, length - start) * store.elementBytes, 4);
      store.pieces.push(this.#acquire(bytes, STORE_USAGE));
    }
    this.#bytesInUse += store.bytes;
    return store;
  }

  /**
   * Elements of a piece: whole rows of the outermost dimension whose rows fit, an even number of them where it can be.
   * Pieces are halves, quarters, ..., so that operations which halve their work cut it where tensors are cut.
   */
  #pieceLength(shape: readonly number[], length: number, elementBytes: number): number {
    const most = this.limits.windowBytes / elementBytes;
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

  /** Gives a store's memory back: to later stores, or to the system. */
  release(store: Store): void {
    if (store.pieces.length === 0 || this.#end?.reason === "disposed") return;
    this.#bytesInUse -= store.bytes;
    for (const block of store.pieces.splice(0)) this.#recycle(block);
  }

  /** Stores that are given back together: `using scope = device.scope()`. */
  scope(): Scope {
    return new Scope(this);
  }

  /** A store with these elements (u32 values as they are), for the duration of an operation: release it after. */
  upload(data: Float32Array | Uint32Array): Store {
    this.#checkAlive();
    const limit = this.limits.windowBytes / 4;
    const store = new Store("f32", data.length, Math.max(Math.min(data.length, limit), 1), []);
    for (let start = 0; start === 0 || start < data.length; start += limit) {
      store.pieces.push(this.#acquire(Math.min(limit, data.length - start) * 4, STORE_USAGE, true));
    }
    this.#bytesInUse += store.bytes;
    this.write(store, data);
    return store;
  }

  /**
   * A small table that does not change, uploaded once: decay factors, for example. The key must say all that the
   * elements depend on. Not to be released.
   */
  constant(key: string, elements: () => Float32Array | Uint32Array): Store {
    let store = this.#constants.get(key);
    if (store === undefined) {
      store = this.upload(elements());
      this.#bytesInUse -= store.bytes; // no tensor's
      const [oldest] = this.#constants.keys();
      if (this.#constants.size >= CONSTANTS) this.#forget(oldest);
    } else this.#constants.delete(key); // and put it last: the least recently used one goes first
    this.#constants.set(key, store);
    return store;
  }

  #forget(key: string): void {
    for (const block of this.#constants.get(key)!.pieces.splice(0)) this.#recycle(block);
    this.#constants.delete(key);
  }

  /** Overwrites the elements of a store: f32 and u32 values as they are, f16 as bits. */
  write(store: Store, data: Float32Array | Uint32Array | Uint16Array): void {
    this.#checkAlive();
    // Uploads overtake the commands that are recorded but not submitted; those that use the old elements go first.
    if (store.pieces.some((block) => block.usedAt >= this.#batchStart)) this.flush();
    store.pieces.forEach((block, index) => {
      const start = index * store.pieceLength;
      let part = data.subarray(start, Math.min(start + store.pieceLength, data.length));
      if (part.byteLength % 4 !== 0) { // an odd number of f16: uploads come in words
        const padded = new Uint16Array(part.length + 1);
        padded.set(part);
        part = padded;
      }
      if (part.length > 0) this.#device.queue.writeBuffer(block.buffer, 0, part as BufferSource);
    });
    store.writtenAt = this.#clock;
    this.#uploadedBytes += data.byteLength;
    if (this.#uploadedBytes > IDLE_BYTES) this.flush();
  }

  /** Sets all elements to zero. */
  clear(store: Store): void {
    this.#checkAlive();
    for (const block of store.pieces) {
      this.#copyEncoder().clearBuffer(block.buffer);
      block.usedAt = this.#clock;
    }
    store.writtenAt = this.#clock;
  }

  /** The bytes of a store, once all work enqueued before is done. */
  async read(store: Store): Promise<ArrayBuffer> {
    this.#checkAlive();
    const { writtenAt } = store, readAt = this.#clock;
    this.#checkSound(writtenAt);
    const result = new Uint8Array(roundUp(store.bytes, 4));
    const staged: Block[] = [];
    try {
      store.pieces.forEach((block, index) => {
        const length = Math.min(store.length - index * store.pieceLength, store.pieceLength);
        const bytes = roundUp(length * store.elementBytes, 4);
        const staging = this.#acquire(bytes, STAGING_USAGE);
        staged.push(staging);
        staging.buffer.unmap();
        this.#copyEncoder().copyBufferToBuffer(block.buffer, 0, staging.buffer, 0, bytes);
        block.usedAt = staging.usedAt = this.#clock;
      });
      this.flush();
      const copied = Promise.all(staged.map(({ buffer }, index) => {
        const bytes = store.pieceLength * store.elementBytes;
        return readMapped(buffer, result.subarray(index * bytes, (index + 1) * bytes));
      }));
      copied.catch(() => {}); // where the device ends first
      const checks = Promise.all(this.#checks);
      await Promise.race([Promise.allSettled([copied]), this.#ended]);
      await Promise.race([checks, this.#ended]);
      this.#checkAlive();
      this.#checkSound(writtenAt);
      this.#checkSound(readAt); // a refused batch does not copy either
      await copied;
    } catch (cause) {
      for (const block of staged) this.#destroy(block);
      if (cause instanceof BackendError) throw cause;
      throw new BackendError("validation", "Cannot read a tensor as the device refused to map it", { cause });
    }
    for (const block of staged) this.#recycle(block);
    return result.buffer;
  }

  /** Copies between a window and a block, piece by piece. */
  #copy({ store, start, length }: Window, scratch: Block, direction: "from store" | "to store"): void {
    const encoder = this.#copyEncoder();
    for (let done = 0, count; done < length; done += count) {
      const piece = Math.floor((start + done) / store.pieceLength);
      const inside = start + done - piece * store.pieceLength;
      count = Math.min(length - done, store.pieceLength - inside);
      const block = store.pieces[piece];
      const at = inside * store.elementBytes, to = done * store.elementBytes;
      const bytes = roundUp(count * store.elementBytes, 4);
      if (direction === "from store") {
        encoder.copyBufferToBuffer(block.buffer, at, scratch.buffer, to, bytes);
      } else encoder.copyBufferToBuffer(scratch.buffer, to, block.buffer, at, bytes);
      block.usedAt = scratch.usedAt = this.#clock;
    }
  }

  /** An idle buffer or a new one; `fresh`: none that unsubmitted commands use, since an upload would overtake them. */
  #acquire(bytes: number, usage: number, fresh = false): Block {
    // Sizes in steps of an eighth: at most an eighth is wasted, and lengths that vary a little share buffers.
    const step = Math.max(256, 2 ** (Math.floor(Math.log2(Math.max(bytes, 1))) - 3));
    const size = Math.min(roundUp(Math.max(bytes, 4), step), this.#largestBuffer);
    const idle = this.#idle.get(`${usage},${size}`);
    const index = idle === undefined
      ? -1
      : fresh
      ? idle.findLastIndex((block) => block.usedAt < this.#batchStart)
      : idle.length - 1;
    if (idle !== undefined && index >= 0) {
      this.#idleBytes -= size;
      return idle.splice(index, 1)[0];
    }
    // Staging buffers stay mapped while they are idle.
    const buffer = this.#device.createBuffer({ size, usage, mappedAtCreation: usage === STAGING_USAGE });
    const block = { id: this.#ids++, buffer, bytes: size, usage, createdAt: this.#clock, usedAt: 0 };
    this.#blocks.add(block);
    return block;
  }

  #recycle(block: Block): void {
    if (!this.#blocks.has(block)) return; // the device ended meanwhile
    if (this.#faultAt(block.createdAt) !== undefined) return this.#destroy(block);
    const key = `${block.usage},${block.bytes}`;
    const idle = this.#idle.get(key);
    if (idle === undefined) this.#idle.set(key, [block]);
    else idle.push(block);
    this.#idleBytes += block.bytes;
    this.#trim(Math.max(IDLE_BYTES, this.#bytesInUse));
  }

  /** Frees idle buffers, those of the sizes met first before others, until they hold no more than this. */
  #trim(bytes: number): void {
    for (const [key, idle] of this.#idle) {
      while (this.#idleBytes > bytes && idle.length > 0) {
        const block = idle.shift()!;
        this.#idleBytes -= block.bytes;
        this.#destroy(block);
      }
      if (this.#idleBytes <= bytes) return;
      this.#idle.delete(key);
    }
  }

  /** Frees a buffer, after the submit of the commands that use it. */
  #destroy(block: Block): void {
    if (block.usedAt >= this.#batchStart) {
      this.#doomed.push(block);
      this.#doomedBytes += block.bytes;
      if (this.#doomedBytes > IDLE_BYTES) this.flush();
      return;
    }
    this.#blocks.delete(block);
    this.#bindGroups.clear(); // they keep the buffers that they name
    block.buffer.destroy();
  }

  // ------------------------------------------------------------------------------------------------------- work

  /** Submits all recorded work. Does not wait. */
  flush(): void {
    if (this.#end !== undefined) return;
    this.#pass?.end();
    this.#pass = undefined;
    if (this.#dispatches > 0) {
      const used = this.#dispatches * PARAMETER_BYTES / 4;
      this.#device.queue.writeBuffer(this.#parameters, 0, this.#parameterData, 0, used);
    }
    this.#device.queue.submit(this.#encoder === undefined ? [] : [this.#encoder.finish()]);
    this.#encoder = undefined;
    this.#dispatches = this.#uploadedBytes = 0;
    this.#closeScopes();
    this.#batchStart = ++this.#clock;
    this.#openScopes();
    const doomed = this.#doomed;
    this.#doomed = [];
    this.#doomedBytes = 0;
    for (const block of doomed) this.#destroy(block);
  }

  /** Milliseconds that the device takes for the work that `enqueue` enqueues, by its own clock. */
  async time(enqueue: () => void): Promise<number> {
    if (!this.#device.features.has("timestamp-query")) {
      throw new BackendError(
        "unavailable",
        `Cannot time as the adapter has no timestamp-query: ${this.name}`,
      );
    }
    this.flush();
    const querySet = this.#device.createQuerySet({ type: "timestamp", count: 2 });
    const resolved = this.#device.createBuffer({ size: 256, usage: QUERY_RESOLVE | COPY_SRC });
    const staging = this.#device.createBuffer({ size: 256, usage: STAGING_USAGE });
    const mark = (index: number) => {
      this.#copyEncoder().beginComputePass({ timestampWrites: { querySet, endOfPassWriteIndex: index } })
        .end();
    };
    try {
      mark(0);
      enqueue();
      mark(1);
      this.#copyEncoder().resolveQuerySet(querySet, 0, 2, resolved, 0);
      this.#copyEncoder().copyBufferToBuffer(resolved, 0, staging, 0, 16);
      this.flush();
      await Promise.race([staging.mapAsync(MAP_READ), this.#ended]);
      this.#checkAlive();
      const [start, end] = new BigUint64Array(staging.getMappedRange(0, 16));
      return Number(end - start) / 1e6;
    } finally {
      querySet.destroy();
      resolved.destroy();
      staging.destroy();
    }
  }

  #encode(): GPUCommandEncoder {
    return this.#encoder ??= this.#device.createCommandEncoder();
  }

  /** The encoder outside a compute pass. */
  #copyEncoder(): GPUCommandEncoder {
    this.#pass?.end();
    this.#pass = undefined;
    return this.#encode();
  }

  // ----------------------------------------------------------------------------------------------------- faults

  #openScopes(): void {
    this.#device.pushErrorScope("validation");
    this.#device.pushErrorScope("internal");
    this.#device.pushErrorScope("out-of-memory");
  }

  #closeScopes(): void {
    const from = this.#batchStart;
    const scopes = [1, 2, 3].map(() => this.#device.popErrorScope());
    const check = Promise.all(scopes).then(
      (errors) => {
        const error = errors.find((error) => error !== null); // out of memory first: it causes the others
        if (error) this.#fault(error, from);
      },
      () => this.#ended, // scopes are refused where the device is lost
    ).finally(() => this.#checks.delete(check));
    this.#checks.add(check);
  }

  #fault(error: GPUError, from: number): void {
    const kind = error.constructor.name === "GPUOutOfMemoryError" ? "out-of-memory" : "validation";
    const what = kind === "out-of-memory"
      ? "the GPU is out of memory: dispose tensors, or use shorter segments"
      : "the GPU refused a command";
    this.#faults.push({
      from,
      to: this.#clock++,
      error: new BackendError(kind, `Cannot compute a tensor as ${what}: ${error.message}`, { cause: error }),
    });
    // Buffers and constants made meanwhile may have no memory behind them, and idle ones hold what others may need.
    this.#trim(0);
    for (const key of [...this.#constants.keys()]) this.#forget(key);
  }

  /** The fault that spoilt what was made or written at this time. */
  #faultAt(time: number): BackendError | undefined {
    return this.#faults.find(({ from, to }) => from <= time && time <= to)?.error;
  }

  #checkSound(time: number): void {
    const error = this.#faultAt(time);
    if (error !== undefined) throw error;
  }

  #checkAlive(): void {
    if (this.#end !== undefined) throw this.#end;
  }

  /** Ends the device as the system would; for tests of what follows a loss. */
  async lose(): Promise<void> {
    this.#device.destroy();
    await this.#ended;
  }

  /** Frees all memory and ends the device. */
  dispose(): void {
    if (this.#end?.reason === "disposed") return;
    this.#end = new BackendError("disposed", "Cannot use the backend as it was disposed");
    for (const { buffer } of this.#blocks) buffer.destroy();
    this.#blocks.clear();
    this.#idle.clear();
    this.#bytesInUse = this.#idleBytes = 0;
    this.#parameters.destroy();
    this.#device.destroy();
  }
}
