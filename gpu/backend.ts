/**
 * The WebGPU backend: tensors are stores of the device, operations enqueue compute passes. See `device.ts`.
 *
 * @module
 */
import type { Backend, BackendInfo, BackendOptions, GradientKernels, Kernels } from "../core/backend.ts";
import { checkDimensions, checkTensor } from "../core/check.ts";
import { BackendError, rangeError, typeError } from "../core/errors.ts";
import { fromHalf, toHalf } from "../core/half.ts";
import { checkQuantized, type QuantizedWeight } from "../core/quantize.ts";
import { type DType, Tensor } from "../core/tensor.ts";
import { Device, type Limits, type Store, storeOf } from "./device.ts";
import { embedding, scatterRows } from "./embedding.ts";
import { gradientsOf } from "./gradients.ts";
import { lightning, lightningStep } from "./lightning.ts";
import { linear } from "./linear.ts";
import { lrpe } from "./lrpe.ts";
import { multiply } from "./multiply.ts";
import { norm } from "./norm.ts";
import { dequantized, linearQuantized, quantizedRows, upload } from "./quantized.ts";
import { splitHeads } from "./splitHeads.ts";

export { selfTest } from "./selfTest.ts";

/** What {@linkcode createWebgpuBackend} asks of the adapter. */
export interface WebgpuRequirements {
  /** Refuse an adapter that computes on the CPU. */
  hardware?: boolean;
  /** Lower limits than the adapter's, for tests. */
  limits?: Partial<Limits>;
}

/**
 * Makes a WebGPU backend; `reason` says why it was chosen.
 *
 * @throws {BackendError} `"unavailable"` when there is no WebGPU, no adapter that will do, or no device
 */
export async function createWebgpuBackend(
  { signal }: BackendOptions,
  reason: string,
  { hardware = false, limits }: WebgpuRequirements = {},
): Promise<WebgpuBackend> {
  const unavailable = (why: string, cause?: unknown) =>
    new BackendError("unavailable", `Cannot create the WebGPU backend as ${why}`, { cause });
  const gpu = globalThis.navigator?.gpu;
  if (gpu === undefined) throw unavailable("this host has no WebGPU (navigator.gpu)");
  const adapter = await gpu.requestAdapter({ powerPreference: "high-performance" });
  signal?.throwIfAborted();
  if (adapter === null) throw unavailable("no GPU adapter was found: is a driver installed?");
  // The flag moved from the adapter to its info; hosts have it in one place, in both, or in the old one only.
  const software = adapter.info.isFallbackAdapter ||
    (adapter as { isFallbackAdapter?: boolean }).isFallbackAdapter;
  if (hardware && software) {
    throw unavailable(`the only adapter is software, ${adapter.info.description || adapter.info.vendor}`);
  }
  let device: Device;
  try {
    device = await Device.request(adapter, limits);
  } catch (cause) {
    throw unavailable(`the adapter gives no device: ${(cause as Error).message}`, cause);
  }
  if (signal?.aborted) device.dispose();
  signal?.throwIfAborted();
  return new WebgpuBackend(device, reason);
}

/** The WebGPU backend. */
export class WebgpuBackend implements Backend {
  readonly name = "webgpu";
  readonly info: BackendInfo;
  readonly kernels: Kernels;
  readonly gradients: GradientKernels;

  /** @param device the GPU @param reason why it was chosen */
  constructor(readonly device: Device, reason: string) {
    this.info = { reason, device: device.name, threads: 1 };
    this.kernels = {
      lightning: (call) => lightning(device, call),
      lightningStep: (call) => lightningStep(device, call),
      embedding: (table, ids, scale, output) =>
        table.quantization === undefined
          ? embedding(device, table, table.shape[1], ids, scale, output)
          : quantizedRows(device, table, table.quantization, ids, scale, storeOf(output)),
      linear: (x, weight, ...rest) =>
        weight.quantization === undefined
          ? linear(device, x, weight, ...rest)
          : linearQuantized(device, x, weight, weight.quantization, ...rest),
      norm: (...call) => norm(device, ...call),
      splitHeads: (...call) => splitHeads(device, ...call),
      lrpe: (...call) => lrpe(device, ...call),
      multiply: (...call) => multiply(device, ...call),
      gatherRows: (x, rows, output) => embedding(device, x, output.shape[1], rows, 1, output),
      scatterRows: (...call) => scatterRows(device, ...call),
    };
    this.gradients = gradientsOf(device);
  }

  get bytesInUse(): number {
    return this.device.bytesInUse;
  }

  get bytesReserved(): number {
    return this.device.bytesAllocated;
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
    return new Tensor(this, shape, "f32", upload(this.device, weight), { bits, group });
  }

  empty(shape: readonly number[], dtype: DType = "f32"): Tensor {
    checkDimensions("tensor", shape);
    if (dtype !== "f32" && dtype !== "f16") rangeError("tensor", `dtype must be "f32" or "f16"`, dtype);
    return new Tensor(this, shape, dtype, this.device.allocate(shape, dtype));
  }

  zeros(shape: readonly number[], dtype?: DType): Tensor {
    const tensor = this.empty(shape, dtype);
    this.device.clear(storeOf(tensor));
    return tensor;
  }

  async read(tensor: Tensor): Promise<Float32Array> {
    const { size, dtype, quantization } = tensor;
    if (quantization !== undefined) {
      const store = dequantized(this.device, tensor, quantization);
      try {
        return new Float32Array(await this.device.read(store), 0, size);
      } finally {
        this.device.release(store);
      }
    }
    const bytes = await this.device.read(storeOf(tensor));
    return dtype === "f16" ? fromHalf(new Uint16Array(bytes, 0, size)) : new Float32Array(bytes, 0, size);
  }

  write(tensor: Tensor, data: Float32Array): void {
    checkTensor("write", "tensor", tensor, this);
    if (data.length !== tensor.size) {
      rangeError("write", `data must hold ${tensor.size} elements, those of the tensor`, data.length);
    }
    this.device.write(storeOf(tensor), tensor.dtype === "f16" ? toHalf(data) : data);
  }

  release(storage: unknown): void {
    this.device.release(storage as Store);
  }

  dispose(): void {
    this.device.dispose();
  }

  [Symbol.dispose](): void {
    this.dispose();
  }
}
