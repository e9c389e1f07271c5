/**
 * The WebGPU machine: tensors are stores of the device, operations enqueue compute passes. See `device.ts`.
 *
 * @module
 */
import { fromBfloat16s, toBfloat16s } from "../core/bfloat16.ts";
import { BackendError, rangeError, typeError } from "../core/errors.ts";
import { fromHalf, toHalf } from "../core/half.ts";
import type { BackendInfo, Fused, Gradients, Machine, Operations } from "../core/machine.ts";
import type { FloatType } from "../core/dtype.ts";
import type { QuantizedWeight } from "../core/quantize.ts";
import type { Tensor } from "../core/tensor.ts";
import { activate } from "./activate.ts";
import { Device, type Limits, type Store, storeOf } from "./device.ts";
import { embedding } from "./embedding.ts";
import { fused } from "./fused.ts";
import { lightning, lightningStep } from "./lightning.ts";
import { linear } from "./linear.ts";
import { lrpe } from "./lrpe.ts";
import { multiply } from "./multiply.ts";
import { norm } from "./norm.ts";
import type { WebgpuGradients, WebgpuOptions, WebgpuUnits } from "./options.ts";
import { elementsOf, upload } from "./quantized.ts";
import { gatherRows, scatterRows } from "./rows.ts";
import { splitHeads } from "./splitHeads.ts";

/** The `GPU` objects that were used. Dawn's npm package ends the process when one is collected, with a device or without. */
const kept = new Set<object>();

/** The matrix units of an adapter; see `gpu/units/mod.ts`. */
export interface Units {
  /** Which they are, for `backend.info`. */
  readonly name: string;
  /** What a device must be requested with. */
  readonly features: readonly string[];
  /** The operations that they compute, given those of f32, which take what units do not. */
  operations(device: Device, operations: Operations): Partial<Operations>;
}

/** What {@linkcode createMachine} asks of the adapter. */
export interface WebgpuRequirements {
  /** Refuse an adapter that computes on the CPU. */
  hardware?: boolean;
  /** Lower limits than the adapter's, for tests. */
  limits?: Partial<Limits>;
  /** What training needs. Without it those operations are refused. */
  gradients?: WebgpuGradients;
  /** What `precision: "f16"` needs; it is refused without. */
  units?: WebgpuUnits;
}

/**
 * Makes a WebGPU machine; `reason` says why it was chosen.
 *
 * @throws {TypeError} when `gpu` is no `GPU` object
 * @throws {BackendError} `"unavailable"` when there is no WebGPU, no adapter that will do, or no device
 */
export async function createMachine(
  { signal, gpu: given, precision = "f32" }: WebgpuOptions,
  reason: string,
  { hardware = false, limits, gradients, units: find }: WebgpuRequirements = {},
): Promise<WebgpuMachine> {
  const unavailable = (why: string, cause?: unknown) =>
    new BackendError("unavailable", `Cannot create the WebGPU backend as ${why}`, { cause });
  if (given !== undefined && typeof given?.requestAdapter !== "function") {
    typeError("createBackend", "gpu must be a GPU object", given);
  }
  if (precision !== "f32" && precision !== "f16") {
    rangeError("createBackend", `precision must be "f32" or "f16"`, precision);
  }
  if (precision === "f16" && find === undefined) {
    throw unavailable("precision is f16 and the units of @levin/attention/webgpu/units were not passed");
  }
  const gpu = given ?? globalThis.navigator?.gpu;
  if (gpu === undefined) throw unavailable("this host has no WebGPU (navigator.gpu)");
  kept.add(gpu);
  const adapter = await gpu.requestAdapter({ powerPreference: "high-performance" }) as GPUAdapter | null;
  signal?.throwIfAborted();
  if (adapter === null) throw unavailable("no GPU adapter was found: is a driver installed?");
  // The flag moved from the adapter to its info; hosts have it in one place, in both, or in the old one only.
  const software = adapter.info.isFallbackAdapter ||
    (adapter as { isFallbackAdapter?: boolean }).isFallbackAdapter;
  if (hardware && software) {
    throw unavailable(`the only adapter is software, ${adapter.info.description || adapter.info.vendor}`);
  }
  const units = precision === "f16" ? (find as (adapter: GPUAdapter) => Units | string)(adapter) : undefined;
  if (typeof units === "string") {
    throw unavailable(
      `precision is f16 and ${adapter.info.description || adapter.info.vendor} has no matrix units: ${units}`,
    );
  }
  let device: Device;
  try {
    device = await Device.request(adapter, limits, units?.features);
  } catch (cause) {
    throw unavailable(`the adapter gives no device: ${(cause as Error).message}`, cause);
  }
  if (signal?.aborted) device.dispose();
  signal?.throwIfAborted();
  return new WebgpuMachine(device, reason, gradients, units);
}

/** A GPU that computes, behind the seam of `core/machine.ts`. */
export class WebgpuMachine implements Machine {
  readonly name = "webgpu";
  readonly info: BackendInfo;
  readonly dtypes: readonly FloatType[];
  readonly operations: Operations;
  readonly fused: Fused;
  /** The GPU. */
  readonly device: Device;

  /**
   * @param device the GPU, taken over @param reason why it was chosen @param gradients what training needs
   * @param units what large products are computed by
   */
  constructor(device: Device, reason: string, gradients?: WebgpuGradients, units?: Units) {
    this.device = device;
    this.info = { reason, device: device.name, threads: 1, units: units?.name ?? "f32" };
    this.dtypes = device.half ? ["f32", "f16", "bf16"] : ["f32", "bf16"];
    this.fused = fused(device);
    const operations: Operations = {
      lightning: (call) => lightning(device, call),
      lightningStep: (call) => lightningStep(device, call),
      embedding: (call) => embedding(device, call),
      linear: (call) => linear(device, call),
      norm: (call) => norm(device, call),
      splitHeads: (call) => splitHeads(device, call),
      activate: (call) => activate(device, call),
      lrpe: (call) => lrpe(device, call),
      multiply: (call) => multiply(device, call),
      gatherRows: (call) => gatherRows(device, call),
      scatterRows: (call) => scatterRows(device, call),
      ...gradients === undefined ? refused() : (gradients as (device: Device) => Gradients)(device),
    };
    this.operations = {
      ...operations,
      ...units?.operations(device, operations),
      ...gradients === undefined ? refused() : undefined, // with units too
    };
  }

  get bytesInUse(): number {
    return this.device.bytesInUse;
  }

  get bytesReserved(): number {
    return this.device.bytesReserved;
  }

  allocate(shape: readonly number[], dtype: FloatType): Store {
    return this.device.allocate(shape, dtype);
  }

  allocateQuantized(weight: QuantizedWeight): Store {
    return upload(this.device, weight);
  }

  free(storage: unknown): void {
    this.device.release(storage as Store);
  }

  write(tensor: Tensor, data: Float32Array | Uint16Array, start: number): void {
    const { dtype } = tensor;
    if (dtype !== "f32" && data instanceof Float32Array) {
      data = dtype === "f16" ? toHalf(data) : toBfloat16s(data);
    }
    this.device.write(storeOf(tensor), data, start);
  }

  clear(tensor: Tensor): void {
    this.device.clear(storeOf(tensor));
  }

  async read(tensor: Tensor, into?: Float32Array): Promise<Float32Array> {
    const { size, dtype } = tensor;
    if (dtype === "f16" || dtype === "bf16") {
      const bits = new Uint16Array(tensor.size + tensor.size % 2); // whole words
      await this.device.read(storeOf(tensor), bits);
      const used = bits.subarray(0, size), elements = dtype === "f16" ? fromHalf(used) : fromBfloat16s(used);
      into?.set(elements);
      return into ?? elements;
    }
    using scope = this.device.scope();
    const elements = into ?? new Float32Array(size);
    await this.device.read(elementsOf(scope, tensor, "f32"), elements);
    return elements;
  }

  begin(): void {
    this.device.begin();
  }

  dispose(): void {
    this.device.dispose();
  }
}

/** The operations of training where the program has not brought them. */
function refused(): Gradients {
  const refuse = (operation: string) => () => {
    throw new BackendError(
      "unavailable",
      `Cannot run ${operation} as this backend was made without gradients: pass those of ` +
        `@levin/attention/webgpu/gradients to createBackend()`,
    );
  };
  return {
    lightningBackward: refuse("lightningBackward"),
    embeddingBackward: refuse("embeddingBackward"),
    linearBackward: refuse("linearBackward"),
    normBackward: refuse("normBackward"),
    splitHeadsBackward: refuse("splitHeadsBackward"),
    activateBackward: refuse("activateBackward"),
    lrpeBackward: refuse("lrpeBackward"),
    crossEntropy: refuse("crossEntropy"),
    sumRows: refuse("sumRows"),
    sumSquares: refuse("sumSquares"),
    adamw: refuse("adamw"),
  };
}
