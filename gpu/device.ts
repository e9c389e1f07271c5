/// <reference types="@webgpu/types" />
/**
 * The WebGPU device: pipelines, and one queue of work over the memory of `store.ts` and `pool.ts`.
 *
 * Everything enqueued is recorded into one command encoder and submitted by {@linkcode Device.flush}, which reading a
 * tensor calls, and much recorded work too: a decoded token of a model is one submit and one readback. Windows of stores are bound as they are if
 * they lie inside one piece. One that crosses a cut, or starts at an offset that cannot be bound, is copied to a scratch
 * buffer before the dispatch and back after it.
 *
 * **An operation** is a .wgsl file and a function of this form. `deno task build` reads the names of its bindings and
 * parameters into `shaders.ts`.
 *
 *     import { type Device, storeOf } from "./device.ts";
 *     import { scale as shaders } from "./shaders.ts";
 *
 *     export function scale(device: Device, { x, factor, output }: ScaleCall): void {
 *       const kernel = device.kernel(shaders.main, {
 *         access: { output: "write" },                // what is not read-only: "write" sets all, "update" a part
 *         types: { X: x.dtype, Output: output.dtype }, // prepends `alias X = f32;`, `enable f16;` where needed
 *         constants: { WORKGROUP: 256 },              // pipeline-overridable constants
 *       });
 *       const from = storeOf(x), to = storeOf(output);
 *       for (const { start, count } of device.chunks(x.size, [from, 1], [to, 1])) {
 *         device.dispatch(
 *           kernel,
 *           { x: from.window(start, count), output: to.window(start, count) },
 *           { count, factor },                        // converted to the types that WGSL declares
 *           Math.ceil(count / 256),                   // workgroups: a number, folded into x and y, or [x, y, z]
 *         );
 *       }
 *     }
 *
 * A folded number of workgroups (see `folded.wgsl`) may exceed what was asked for, so kernels compare it with a
 * parameter. One buffer must not be bound both for reading and for writing in one dispatch: bind it once, as `"update"`.
 *
 * @module
 */
import type { FloatType } from "../core/dtype.ts";
import { BackendError } from "../core/errors.ts";
import { yieldToEventLoop } from "../core/eventLoop.ts";
import { elementCount } from "../core/shape.ts";
import { Faults } from "./faults.ts";
import { type Block, IDLE_BYTES, MAP_READ, Pool } from "./pool.ts";
import {
  type Access,
  type KernelOptions,
  PARAMETERS_BINDING,
  type ParameterType,
  type Shader,
  type Values,
  type Windows,
} from "./shader.ts";
import { chunks, pieceLength, roundUp, type Rows, Scope, Store, type Window } from "./store.ts";

export { Scope, Store, storeOf } from "./store.ts";
export type { Window } from "./store.ts";

/** A compiled pipeline; see {@linkcode Device.kernel}. */
export interface Kernel<S extends Shader = Shader> {
  readonly id: number;
  readonly shader: S;
  readonly pipeline: GPUComputePipeline;
  readonly layout: GPUBindGroupLayout;
  readonly bindings: readonly { readonly name: string; readonly binding: number; readonly access: Access }[];
  readonly parameters: readonly {
    readonly name: string;
    readonly word: number;
    readonly type: ParameterType;
  }[];
}

/** One dispatch of {@linkcode Device.profile}. */
export interface TimedDispatch {
  /** What was dispatched. */
  readonly shader: Shader;
  /** Its parameters. */
  readonly values: Readonly<Record<string, number | readonly number[]>>;
  /** Bytes of the windows it was given. */
  readonly bytes: number;
  /** Bytes of live stores meanwhile, scratch included. */
  readonly bytesInUse: number;
  /** By the device's own clock. */
  milliseconds: number;
}

/** Limits that tests lower to see tensors and dispatches split at small sizes. */
export interface Limits {
  /** Bytes of the largest piece and window; a multiple of 256. */
  readonly windowBytes: number;
  /** Workgroups per dimension of a dispatch. */
  readonly workgroups: number;
}

/** A buffer that bytes are read from, between the copy that was recorded and the moment at which it is mapped. */
interface Staged {
  readonly block: Block;
  mapped?: Promise<void>;
}

/**
 * Copies the bytes of a staging buffer that is being mapped, was mapped before and unmapped since, and leaves it mapped.
 *
 * Deno waits for the device inside of `mapAsync`, and then for 10 ms more before the promise settles (2.9.6), which is
 * three times what a token of 100 M parameters takes. So the bytes are asked for immediately: elsewhere that throws, as the
 * specification has it. Deno ends the process if the buffer was never mapped before.
 */
async function readMapped({ block: { buffer }, mapped }: Staged, target: Uint8Array): Promise<void> {
  let range: ArrayBuffer;
  try {
    range = buffer.getMappedRange();
  } catch {
    await mapped;
    range = buffer.getMappedRange();
  }
  target.set(new Uint8Array(range, 0, target.length));
}

/** One dispatch of a {@linkcode Plan}. */
interface Command {
  readonly pipeline: GPUComputePipeline;
  readonly group: GPUBindGroup;
  readonly workgroups: readonly [number, number, number];
}

/**
 * Dispatches that were recorded once, and all that enqueuing them again takes. A plan holds no memory: what it allocated
 * went back to the pool, and must lie there when it is enqueued again.
 */
export interface Plan {
  readonly commands: readonly Command[];
  /** Parameters of all commands. */
  readonly words: Uint32Array;
  /** Workgroups of all commands. */
  readonly workgroups: number;
  /** What is uploaded each time. */
  readonly input: Block;
  /** The store that is left, empty: a pattern for the next one. */
  readonly output: Store;
  /** Its buffer. */
  readonly outputBlock: Block;
  /** Buffers that were acquired on the way, input and output too. */
  readonly own: readonly Block[];
  /** All buffers that commands use. */
  readonly blocks: readonly Block[];
  /** Stores from outside that commands read or write. */
  readonly stores: readonly Store[];
  /** Those that commands write. */
  readonly written: readonly Store[];
}

/** A plan while it is recorded. */
interface Recording {
  readonly commands: Command[];
  readonly words: number[][];
  readonly own: Set<Block>;
  readonly blocks: Set<Block>;
  readonly stores: Set<Store>;
  readonly written: Set<Store>;
  /** Whether something happened that dispatches alone do not repeat: a copy, an upload, a submit. */
  isBroken: boolean;
}

/** Bytes of the parameters of one dispatch: dynamic uniform offsets are multiples of 256 at most. */
const PARAMETER_BYTES = 256;
/** Dispatches of one submit at most; a model of 24 layers records fewer than 400 per token. */
const BATCH_DISPATCHES = 2048;
/**
 * Dispatches, and their workgroups, that are submitted before anything is read: the GPU begins while the host records on.
 * A token's 138 dispatches are fewer workgroups, and stay one submit.
 */
const BEGUN_DISPATCHES = 64, BEGUN_WORKGROUPS = 2 ** 18;
/** Dispatches of a plan that are submitted together: the device begins with them while the host encodes the next. */
const PLAN_DISPATCHES = 32;
/** Where the parameters of each dispatch begin: as an array of this type, an offset costs no conversion. */
const OFFSETS = Uint32Array.from({ length: BATCH_DISPATCHES }, (_, slot) => slot * PARAMETER_BYTES);
/** Bind groups kept for reuse. */
const BIND_GROUPS = 8192;
/** Stores of {@linkcode Device.constant} kept for reuse. */
const CONSTANTS = 1024;

// The numbers of GPUBufferUsage, as MAP_READ.
const COPY_SRC = 0x4, COPY_DST = 0x8, UNIFORM = 0x40, STORAGE = 0x80, QUERY_RESOLVE = 0x200;
const COMPUTE = 0x4;
const STORE_USAGE = STORAGE | COPY_SRC | COPY_DST;
const STAGING_USAGE = MAP_READ | COPY_DST;

/** A GPU device with its memory and its queue. */
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
  readonly #faults: Faults;
  readonly #pool: Pool;
  readonly #parameters: GPUBuffer;
  readonly #words = new Uint32Array(BATCH_DISPATCHES * PARAMETER_BYTES / 4);
  readonly #floats = new Float32Array(this.#words.buffer);
  readonly #layouts = new Map<string, GPUBindGroupLayout>();
  readonly #kernels = new Map<Shader, { writable: string[]; variants: Map<string, Kernel> }>();
  readonly #bindGroups = new Map<string, GPUBindGroup>();
  readonly #constants = new Map<string, Store>();
  #ids = 0;
  #bytesInUse = 0;

  #encoder: GPUCommandEncoder | undefined;
  #pass: GPUComputePassEncoder | undefined;
  #dispatches = 0;
  #workgroups = 0;
  #uploadedBytes = 0;
  #recording: Recording | undefined;
  /** Of reads that are not mapped yet. */
  readonly #staged = new Set<Staged>();
  #profile: { readonly timed: TimedDispatch[]; readonly clocks: PassClock[] } | undefined;

  private constructor(device: GPUDevice, name: string, limits: Partial<Limits>) {
    this.#device = device;
    this.name = name;
    this.adapterLimits = device.limits;
    const largest = Math.min(device.limits.maxStorageBufferBindingSize, device.limits.maxBufferSize);
    this.limits = {
      windowBytes: Math.floor(largest / 256) * 256,
      workgroups: device.limits.maxComputeWorkgroupsPerDimension,
      ...limits,
    };
    this.half = device.features.has("shader-f16");
    this.#faults = new Faults(device, () => {
      // Buffers and constants made meanwhile may have no memory behind them, and idle ones hold what others may need.
      this.#pool.clear();
      for (const key of [...this.#constants.keys()]) this.#forget(key);
    });
    const bytesInUse = () => this.#bytesInUse;
    this.#pool = new Pool(device, this.#faults, {
      get bytesInUse() {
        return bytesInUse();
      },
      flush: () => this.flush(),
      forgetBuffers: () => this.#bindGroups.clear(),
    });
    this.#parameters = device.createBuffer({
      size: BATCH_DISPATCHES * PARAMETER_BYTES,
      usage: UNIFORM | COPY_DST,
    });
    this.nothing = this.upload(new Uint32Array(1));
    this.#bytesInUse = 0;
  }

  /** Requests a device with all that the adapter offers of what kernels use, and with the features that some need. */
  static async request(
    adapter: GPUAdapter,
    limits: Partial<Limits> = {},
    features: readonly string[] = [],
  ): Promise<Device> {
    const wanted = (["shader-f16", "timestamp-query"] as const).filter((name) => adapter.features.has(name));
    const offered = adapter.limits;
    const device = await adapter.requestDevice({
      requiredFeatures: [...new Set([...wanted, ...features])] as GPUFeatureName[],
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
    return this.#pool.bytes;
  }

  // ---------------------------------------------------------------------------------------------------- kernels

  /**
   * The pipeline of an entry point for these options, compiled on first use.
   */
  kernel<const S extends Shader>(shader: S, options: KernelOptions<S>): Kernel<S> {
    let known = this.#kernels.get(shader);
    if (known === undefined) {
      const writable = Object.keys(shader.bindings).filter((name) => shader.bindings[name][1] !== "read");
      this.#kernels.set(shader, known = { writable, variants: new Map() });
    }
    const { access, types, constants } = options as AnyOptions;
    let key = ""; // values in the order in which the shader names them: each stands for its name
    for (const name of known.writable) key += access[name];
    for (const name of shader.aliases) key += `,${types![name]}`;
    for (const name of shader.overrides) key += `,${Number(constants![name])}`;
    let kernel = known.variants.get(key);
    if (kernel === undefined) known.variants.set(key, kernel = this.#compile(shader, options as AnyOptions));
    return kernel as Kernel<S>;
  }

  #compile(shader: Shader, { access, types = {}, constants = {} }: AnyOptions): Kernel {
    const wgsl = (type: string) => type === "bf16" ? "u32" : type; // two elements to a word, see bfloat16.wgsl
    const aliases = shader.aliases.map((name) => `alias ${name} = ${wgsl(types[name])};\n`).join("");
    const [directives] = /^(?:(?:enable|diagnostic)\b.*\n)*/.exec(shader.code)!; // WGSL wants them first
    const enable = Object.values(types).includes("f16") ? "enable f16;\n" : "";
    const bindings = Object.entries(shader.bindings).map(([name, [binding, allowed]]) => {
      return { name, binding, access: allowed === "read" ? allowed : access[name] };
    });
    const parameters = Object.entries(shader.parameters).map(([name, [word, type]]) => ({
      name,
      word,
      type,
    }));
    const layout = this.#layout(bindings);
    const pipeline = this.#device.createComputePipeline({
      layout: this.#device.createPipelineLayout({ bindGroupLayouts: [layout] }),
      compute: {
        module: this.#device.createShaderModule({
          code: directives + enable + aliases + shader.code.slice(directives.length),
        }),
        entryPoint: shader.entryPoint,
        constants: Object.fromEntries(shader.overrides.map((name) => [name, Number(constants[name])])),
      },
    });
    return { id: this.#ids++, shader, pipeline, layout, bindings, parameters };
  }

  #layout(bindings: Kernel["bindings"]): GPUBindGroupLayout {
    const entries: GPUBindGroupLayoutEntry[] = bindings.map(({ binding, access }) => ({
      binding,
      visibility: COMPUTE,
      buffer: { type: access === "read" ? "read-only-storage" : "storage" },
    }));
    const key = entries.map(({ binding, buffer }) => `${binding} ${buffer!.type}`).join();
    entries.push({
      binding: PARAMETERS_BINDING,
      visibility: COMPUTE,
      buffer: { type: "uniform", hasDynamicOffset: true },
    });
    let layout = this.#layouts.get(key);
    if (layout === undefined) {
      this.#layouts.set(key, layout = this.#device.createBindGroupLayout({ entries }));
    }
    return layout;
  }

  /**
   * Enqueues a kernel.
   *
   * @param windows one per binding, by name @param values one per parameter, by name
   * @param workgroups a number, folded into x and y if it exceeds the limit, or `[x, y, z]`; with 0 nothing happens
   */
  dispatch<S extends Shader>(
    kernel: Kernel<S>,
    windows: Windows<S>,
    values: Values<S>,
    workgroups: number | readonly [number, number, number],
  ): void {
    const { bindings } = kernel, bound = windows as Readonly<Record<string, Window>>;
    this.#faults.checkAlive();
    for (const { name, access } of bindings) {
      if (access !== "write") this.#faults.checkSound(bound[name].store.writtenAt);
    }
    const [x, y, z] = typeof workgroups === "number" ? this.#fold(workgroups) : workgroups;
    if (x === 0 || y === 0 || z === 0) return;
    if (this.#dispatches === BATCH_DISPATCHES) this.flush();
    const slot = this.#dispatches++;
    this.#writeParameters(slot * PARAMETER_BYTES / 4, kernel, values as AnyValues);
    const recording = this.#recording;

    let key = String(kernel.id);
    const entries: GPUBindGroupEntry[] = [];
    const scratch: { window: Window; access: Access; block: Block }[] = [];
    for (const { name, binding, access } of bindings) {
      const window = bound[name], { store, start, length } = window;
      const piece = Math.min(Math.floor(start / store.pieceLength), store.pieces.length - 1);
      let block = store.pieces[piece];
      let offset = (start - piece * store.pieceLength) * store.elementBytes;
      const size = Math.max(roundUp(length * store.elementBytes, 16), 16); // whole vectors of 4 words
      if (start + length > (piece + 1) * store.pieceLength || offset % 256 !== 0) {
        block = this.#acquire(size, STORE_USAGE);
        offset = 0;
        if (access !== "write") this.#copy(window, block, "from store");
        scratch.push({ window, access, block });
      }
      block.usedAt = this.#faults.clock;
      key += `,${block.id}:${offset}:${size}`;
      entries.push({ binding, resource: { buffer: block.buffer, offset, size } });
      recording?.blocks.add(block);
    }

    let group = this.#bindGroups.get(key);
    if (group === undefined) {
      if (this.#bindGroups.size >= BIND_GROUPS) this.#bindGroups.clear();
      const resource = { buffer: this.#parameters, size: PARAMETER_BYTES };
      entries.push({ binding: PARAMETERS_BINDING, resource });
      group = this.#device.createBindGroup({ layout: kernel.layout, entries });
      this.#bindGroups.set(key, group);
    }
    if (this.#profile !== undefined) this.#beginTimedPass(slot, kernel, bound, values as AnyValues);
    const pass = this.#pass ??= this.#encode().beginComputePass();
    pass.setPipeline(kernel.pipeline);
    pass.setBindGroup(0, group, OFFSETS, slot, 1);
    pass.dispatchWorkgroups(x, y, z);

    for (const { name, access } of bindings) {
      if (access !== "read") bound[name].store.writtenAt = this.#faults.clock;
    }
    if (recording !== undefined) this.#keepCommand(recording, kernel, bound, group, [x, y, z]);
    for (const { window, access, block } of scratch) {
      if (access !== "read") this.#copy(window, block, "to store");
      this.#pool.recycle(block);
    }
    this.#workgroups += x * y * z;
    if (recording === undefined) this.#begin();
  }

  /** Submits what is much work already; not while a read is to be mapped, which would wait for it. */
  #begin(): void {
    if (this.#staged.size > 0) return;
    if (this.#dispatches >= BEGUN_DISPATCHES && this.#workgroups >= BEGUN_WORKGROUPS) this.flush();
  }

  // ------------------------------------------------------------------------------------------------------ plans

  /**
   * Has `enqueue` enqueue its operations, as always, and keeps their dispatches so that they can be enqueued again.
   *
   * @param data uploaded before; `enqueue` finds it in the store that it is given
   * @param enqueue nothing but the data may differ the next time; returns the one store that is left
   * @returns that store, and a plan; undefined if dispatches alone do not repeat what was enqueued
   */
  record(data: Uint32Array, enqueue: (input: Store) => Store): { output: Store; plan: Plan | undefined } {
    using scope = this.scope();
    const input = scope.upload(data), [inputBlock] = input.pieces;
    const recording: Recording = {
      commands: [],
      words: [],
      own: new Set([inputBlock]),
      blocks: new Set(),
      stores: new Set(),
      written: new Set(),
      isBroken: this.#profile !== undefined,
    };
    const first = this.#workgroups;
    this.#recording = recording;
    let output: Store;
    try {
      output = enqueue(input);
    } finally {
      this.#recording = undefined;
    }
    const { commands, own, blocks, stores, written, isBroken } = recording;
    const workgroups = this.#workgroups - first, [outputBlock] = output.pieces;
    this.#begin();
    const isWhole = !isBroken && output.pieces.length === 1 && own.has(outputBlock);
    const plan = !isWhole ? undefined : {
      commands,
      words: Uint32Array.from(recording.words.flat()),
      workgroups,
      input: inputBlock,
      output: new Store(output.dtype, output.length, output.pieceLength),
      outputBlock,
      own: [...own],
      blocks: [...blocks],
      stores: [...stores],
      written: [...written],
    };
    return { output, plan };
  }

  /**
   * Enqueues a plan again with other data: no object is made for a dispatch, and no name is looked up.
   *
   * Whether stores from outside are sound was checked when the plan was recorded. A fault since then has emptied the pool.
   *
   * @returns the store that is left; undefined, with nothing enqueued, if somebody has taken a buffer of the plan or freed
   * one, or dispatches are timed
   */
  replay(plan: Plan, data: Uint32Array): Store | undefined {
    this.#faults.checkAlive();
    if (this.#profile !== undefined || this.#recording !== undefined) return undefined;
    for (const { isIdle } of plan.own) if (!isIdle) return undefined;
    for (const { pieces } of plan.stores) if (pieces.length === 0) return undefined;
    const { commands, words, blocks, written, input } = plan;
    // Uploads overtake the commands that are recorded but not submitted, as in `write`.
    if (input.usedAt >= this.#faults.batchStart) this.flush();
    this.#device.queue.writeBuffer(input.buffer, 0, data as BufferSource);
    for (let start = 0; start < commands.length; start += PLAN_DISPATCHES) {
      const end = Math.min(start + PLAN_DISPATCHES, commands.length), count = end - start;
      if (start > 0 || this.#dispatches + count > BATCH_DISPATCHES) this.flush();
      const first = this.#dispatches;
      this.#words.set(
        words.subarray(start * PARAMETER_BYTES / 4, end * PARAMETER_BYTES / 4),
        first * PARAMETER_BYTES / 4,
      );
      this.#dispatches += count;
      const pass = this.#pass ??= this.#encode().beginComputePass();
      for (let i = start; i < end; i++) {
        const { pipeline, group, workgroups } = commands[i];
        pass.setPipeline(pipeline);
        pass.setBindGroup(0, group, OFFSETS, first + i - start, 1);
        pass.dispatchWorkgroups(workgroups[0], workgroups[1], workgroups[2]);
      }
    }
    const { clock } = this.#faults;
    for (const block of blocks) block.usedAt = clock;
    for (const store of written) store.writtenAt = clock;
    const { dtype, length, pieceLength } = plan.output, output = new Store(dtype, length, pieceLength);
    this.#pool.take(plan.outputBlock);
    output.pieces.push(plan.outputBlock);
    output.writtenAt = clock;
    this.#bytesInUse += output.bytes;
    this.#workgroups += plan.workgroups;
    this.#begin();
    return output;
  }

  /** Adds a dispatch to what is recorded. */
  #keepCommand(
    { commands, words, own, stores, written }: Recording,
    { pipeline, bindings }: Kernel,
    bound: Readonly<Record<string, Window>>,
    group: GPUBindGroup,
    workgroups: readonly [number, number, number],
  ): void {
    const first = (this.#dispatches - 1) * PARAMETER_BYTES / 4;
    commands.push({ pipeline, group, workgroups });
    words.push([...this.#words.subarray(first, first + PARAMETER_BYTES / 4)]);
    for (const { name, access } of bindings) {
      const { store } = bound[name];
      if (store.pieces.some((block) => own.has(block))) continue;
      stores.add(store);
      if (access !== "read") written.add(store);
    }
  }

  /** What is enqueued now is more than dispatches. */
  #breakPlan(): void {
    if (this.#recording !== undefined) this.#recording.isBroken = true;
  }

  /** A buffer of the pool; a plan that is recorded will want it again. */
  #acquire(bytes: number, usage: number, fresh?: boolean): Block {
    const block = this.#pool.acquire(bytes, usage, fresh);
    this.#recording?.own.add(block);
    return block;
  }

  #writeParameters(first: number, { parameters }: Kernel, values: AnyValues): void {
    for (const { name, word, type } of parameters) {
      const value = values[name];
      if (typeof value !== "number") this.#words.set(value, first + word);
      else if (type === "f32") this.#floats[first + word] = value;
      else this.#words[first + word] = value; // modulo 2^32
    }
  }

  #fold(workgroups: number): [number, number, number] {
    const x = Math.min(workgroups, this.limits.workgroups);
    return [x, x === 0 ? 0 : Math.ceil(workgroups / x), 1];
  }

  /** See {@linkcode chunks} of `store.ts`. */
  chunks(rows: number, ...stores: readonly Rows[]): Generator<{ start: number; count: number }> {
    return chunks(this.limits.windowBytes, rows, stores);
  }

  // ----------------------------------------------------------------------------------------------------- memory

  /** A store for elements of this shape; what it holds is not defined. */
  allocate(shape: readonly number[], dtype: FloatType = "f32"): Store {
    const length = elementCount(shape);
    return this.#store(dtype, length, pieceLength(this.limits.windowBytes, shape, length, dtype), false);
  }

  #store(dtype: FloatType, length: number, pieceLength: number, fresh: boolean): Store {
    this.#faults.checkAlive();
    const store = new Store(dtype, length, pieceLength);
    for (let start = 0; start === 0 || start < length; start += pieceLength) {
      const bytes = roundUp(Math.min(pieceLength, length - start) * store.elementBytes, 4);
      store.pieces.push(this.#acquire(bytes, STORE_USAGE, fresh));
    }
    this.#bytesInUse += store.bytes;
    return store;
  }

  /** Gives a store's memory back: to later stores, or to the system. */
  release(store: Store): void {
    if (store.pieces.length === 0 || this.#faults.disposed) return;
    this.#bytesInUse -= store.bytes;
    for (const block of store.pieces.splice(0)) this.#pool.recycle(block);
  }

  /** Stores that are given back together: `using scope = device.scope()`. */
  scope(): Scope {
    return new Scope(this);
  }

  /** A store with these elements (u32 values as they are), for the duration of an operation: release it after. */
  upload(data: Float32Array | Uint32Array): Store {
    const pieceLength = Math.max(Math.min(data.length, this.limits.windowBytes / 4), 1);
    const store = this.#store("f32", data.length, pieceLength, true);
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
    for (const block of this.#constants.get(key)!.pieces.splice(0)) this.#pool.recycle(block);
    this.#constants.delete(key);
  }

  /**
   * Overwrites elements of a store, from element `start` on: f32 and u32 values as they are, f16 and bf16 as bits, from an
   * even one to an even one or the last.
   */
  write(store: Store, data: Float32Array | Uint32Array | Uint16Array, start = 0): void {
    this.#faults.checkAlive();
    this.#breakPlan();
    // Uploads overtake the commands that are recorded but not submitted; those that use the old elements go first.
    if (store.pieces.some((block) => block.usedAt >= this.#faults.batchStart)) this.flush();
    store.pieces.forEach((block, index) => {
      const first = index * store.pieceLength, from = Math.max(first, start);
      let part = data.subarray(from - start, Math.max(0, first + store.pieceLength - start));
      if (part.byteLength % 4 !== 0) { // an odd number of 16 bits: uploads come in words
        const padded = new Uint16Array(part.length + 1);
        padded.set(part);
        part = padded;
      }
      if (part.length === 0) return;
      this.#device.queue.writeBuffer(block.buffer, (from - first) * store.elementBytes, part as BufferSource);
    });
    store.writtenAt = this.#faults.clock;
    this.#uploadedBytes += data.byteLength;
    if (this.#uploadedBytes > IDLE_BYTES) this.flush();
  }

  /** Sets all elements to zero. */
  clear(store: Store): void {
    this.#faults.checkAlive();
    for (const block of store.pieces) {
      this.#copyEncoder().clearBuffer(block.buffer);
      block.usedAt = this.#faults.clock;
    }
    store.writtenAt = this.#faults.clock;
  }

  /**
   * Copies the elements of a store, in whole words, once all work enqueued before is done. What is enqueued after the call
   * and before the caller waits is recorded while the device works, and begun as soon as it is done: hosts such as Deno
   * wait for all that is submitted, and the device would have nothing to do until the bytes are copied.
   */
  async read(store: Store, into: Float32Array | Uint16Array): Promise<void> {
    this.#faults.checkAlive();
    const { writtenAt } = store, readAt = this.#faults.clock;
    this.#faults.checkSound(writtenAt);
    const result = new Uint8Array(into.buffer, into.byteOffset, into.byteLength);
    const staged: Staged[] = [];
    try {
      store.pieces.forEach((block, index) => {
        const length = Math.min(store.length - index * store.pieceLength, store.pieceLength);
        const bytes = roundUp(length * store.elementBytes, 4);
        const staging = this.#pool.acquire(bytes, STAGING_USAGE), one = { block: staging };
        staged.push(one);
        this.#staged.add(one);
        staging.buffer.unmap();
        this.#copyEncoder().copyBufferToBuffer(block.buffer, 0, staging.buffer, 0, bytes);
        block.usedAt = staging.usedAt = this.#faults.clock;
      });
      this.flush();
      await undefined; // the caller records on
      this.#faults.checkAlive();
      this.#mapStaged();
      const copied = Promise.all(staged.map((one, index) => {
        const bytes = store.pieceLength * store.elementBytes;
        return readMapped(one, result.subarray(index * bytes, (index + 1) * bytes));
      }));
      copied.catch(() => {}); // where the device ends first
      const known = this.#faults.known();
      await Promise.race([Promise.allSettled([copied]), this.#faults.ended]);
      await known;
      this.#faults.checkAlive();
      this.#faults.checkSound(writtenAt);
      this.#faults.checkSound(readAt); // a refused batch does not copy either
      await copied;
    } catch (cause) {
      for (const one of staged) {
        this.#staged.delete(one);
        this.#pool.destroy(one.block);
      }
      if (cause instanceof BackendError) throw cause;
      await yieldToEventLoop(); // a lost device refuses first, and says a turn later that it is lost
      this.#faults.checkAlive();
      throw new BackendError("validation", "Cannot read a tensor as the device refused to map it", { cause });
    }
    for (const { block } of staged) this.#pool.recycle(block);
  }

  /** Maps the buffers of all reads of this turn, and begins what was recorded meanwhile: Deno waits in the first `mapAsync`. */
  #mapStaged(): void {
    for (const one of this.#staged) {
      one.mapped = one.block.buffer.mapAsync(MAP_READ);
      one.mapped.catch(() => {}); // told where it is waited for
    }
    this.#staged.clear();
    this.begin();
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
      block.usedAt = scratch.usedAt = this.#faults.clock;
    }
  }

  // ------------------------------------------------------------------------------------------------------- work

  /** Submits all recorded work, if there is some. Does not wait. */
  begin(): void {
    if (this.#encoder !== undefined) this.flush();
  }

  /** Submits all recorded work, and frees what waited for that. Does not wait. */
  flush(): void {
    if (this.#faults.over) return;
    this.#breakPlan();
    this.#pass?.end();
    this.#pass = undefined;
    if (this.#profile !== undefined && this.#dispatches > 0) {
      this.#profile.clocks.at(-1)!.resolve(this.#encode(), 2 * this.#dispatches);
    }
    if (this.#dispatches > 0) {
      const used = this.#dispatches * PARAMETER_BYTES / 4;
      this.#device.queue.writeBuffer(this.#parameters, 0, this.#words, 0, used);
    }
    this.#device.queue.submit(this.#encoder === undefined ? [] : [this.#encoder.finish()]);
    this.#encoder = undefined;
    this.#dispatches = this.#workgroups = this.#uploadedBytes = 0;
    this.#faults.nextBatch();
    this.#pool.submitted();
  }

  /** Milliseconds that the device takes for the work that `enqueue` enqueues, by its own clock. */
  async time(enqueue: () => void | Promise<void>): Promise<number> {
    if (!this.#device.features.has("timestamp-query")) {
      throw new BackendError(
        "unavailable",
        `Cannot time as the adapter has no timestamp-query: ${this.name}`,
      );
    }
    this.flush();
    using clock = new PassClock(this.#device, 2);
    const mark = (index: number) => {
      const timestampWrites = { querySet: clock.querySet, endOfPassWriteIndex: index };
      this.#copyEncoder().beginComputePass({ timestampWrites }).end();
    };
    mark(0);
    await enqueue();
    mark(1);
    clock.resolve(this.#copyEncoder(), 2);
    this.flush();
    const [start, end] = await this.#timesOf(clock);
    return Number(end - start) / 1e6;
  }

  /**
   * The dispatches that `enqueue` enqueues, in their order, each timed by the device's own clock. Each has a compute pass
   * to itself, so together they take somewhat longer than without.
   */
  async profile(enqueue: () => void | Promise<void>): Promise<TimedDispatch[]> {
    if (!this.#device.features.has("timestamp-query")) {
      throw new BackendError(
        "unavailable",
        `Cannot profile as the adapter has no timestamp-query: ${this.name}`,
      );
    }
    this.flush();
    const timed: TimedDispatch[] = [], clocks: PassClock[] = [];
    this.#profile = { timed, clocks };
    try {
      await enqueue();
      this.flush();
      let index = 0;
      for (const clock of clocks) {
        const times = await this.#timesOf(clock);
        for (let i = 0; i < times.length; i += 2) {
          timed[index++].milliseconds = Number(times[i + 1] - times[i]) / 1e6;
        }
      }
      return timed;
    } finally {
      this.#profile = undefined;
      for (const clock of clocks) clock[Symbol.dispose]();
    }
  }

  /** Opens the pass of dispatch number `slot` of the batch. */
  #beginTimedPass(
    slot: number,
    { shader }: Kernel,
    bound: Readonly<Record<string, Window>>,
    values: AnyValues,
  ): void {
    const { timed, clocks } = this.#profile!;
    if (slot === 0) clocks.push(new PassClock(this.#device, 2 * BATCH_DISPATCHES));
    const { querySet } = clocks.at(-1)!;
    const timestampWrites = {
      querySet,
      beginningOfPassWriteIndex: 2 * slot,
      endOfPassWriteIndex: 2 * slot + 1,
    };
    this.#pass = this.#copyEncoder().beginComputePass({ timestampWrites });
    const windows = Object.values(bound).filter(({ store }) => store !== this.nothing);
    const bytes = windows.reduce((sum, { length, store }) => sum + length * store.elementBytes, 0);
    timed.push({ shader, values, bytes, bytesInUse: this.#bytesInUse, milliseconds: NaN });
  }

  /** What a clock shows, once the commands that resolve it are done. */
  async #timesOf(clock: PassClock): Promise<BigUint64Array> {
    const times = await Promise.race([clock.times(), this.#faults.ended]);
    this.#faults.checkAlive();
    return times!;
  }

  #encode(): GPUCommandEncoder {
    return this.#encoder ??= this.#device.createCommandEncoder();
  }

  /** The encoder outside a compute pass. */
  #copyEncoder(): GPUCommandEncoder {
    this.#breakPlan();
    this.#pass?.end();
    this.#pass = undefined;
    return this.#encode();
  }

  // -------------------------------------------------------------------------------------------------------- end

  /** Ends the device as the system would; for tests of what follows a loss. */
  async lose(): Promise<void> {
    this.#device.destroy();
    await this.#faults.ended;
  }

  /** Frees all memory and ends the device. */
  dispose(): void {
    if (this.#faults.disposed) return;
    this.#faults.end();
    this.#pool.dispose();
    this.#bytesInUse = 0;
    this.#parameters.destroy();
    this.#device.destroy();
  }
}

/** Timestamps of compute passes, and the way to read them. */
class PassClock implements Disposable {
  readonly querySet: GPUQuerySet;
  readonly #resolved: GPUBuffer;
  readonly #staging: GPUBuffer;
  #bytes = 0;

  /** @param count timestamps, at most */
  constructor(device: GPUDevice, count: number) {
    this.querySet = device.createQuerySet({ type: "timestamp", count });
    this.#resolved = device.createBuffer({ size: 8 * count, usage: QUERY_RESOLVE | COPY_SRC });
    this.#staging = device.createBuffer({ size: 8 * count, usage: STAGING_USAGE });
  }

  /** Records the reading of the first `count` timestamps. */
  resolve(encoder: GPUCommandEncoder, count: number): void {
    this.#bytes = 8 * count;
    encoder.resolveQuerySet(this.querySet, 0, count, this.#resolved, 0);
    encoder.copyBufferToBuffer(this.#resolved, 0, this.#staging, 0, this.#bytes);
  }

  /** The timestamps in nanoseconds, once the recorded commands are done. */
  async times(): Promise<BigUint64Array> {
    await this.#staging.mapAsync(MAP_READ);
    return new BigUint64Array(this.#staging.getMappedRange(0, this.#bytes).slice(0));
  }

  [Symbol.dispose](): void {
    this.querySet.destroy();
    this.#resolved.destroy();
    this.#staging.destroy();
  }
}

/** Options of a kernel, whatever its shader. */
interface AnyOptions {
  readonly access: Readonly<Record<string, "write" | "update">>;
  readonly types?: Readonly<Record<string, string>>;
  readonly constants?: Readonly<Record<string, number | boolean>>;
}

type AnyValues = Readonly<Record<string, number | readonly number[]>>;
