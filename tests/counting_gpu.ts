/**
 * A WebGPU device that computes nothing, for tests of how much it is asked for: sizes at which a real one would take
 * minutes here.
 *
 * @module
 */
import { Backend } from "../core/tensor.ts";
import { Device } from "../gpu/device.ts";
import { WebgpuMachine } from "../gpu/machine.ts";

/** What a device was asked for since {@linkcode Counts.reset}. */
export class Counts {
  /** Buffers made. */
  buffers = 0;
  /** Their bytes. */
  bytes = 0;
  submits = 0;
  dispatches = 0;
  maps = 0;
  pipelines = 0;
  /** Submits, maps of buffers and reads of what is mapped, in their order. */
  order: ("submit" | "map" | "read")[] = [];
  /** What the device was requested with. */
  features: string[] = [];
  /** The text of every shader. */
  shaders: string[] = [];

  reset(): void {
    Object.assign(this, new Counts());
  }
}

/** Limits of a large GPU. */
const LIMITS = {
  maxBufferSize: 2 ** 40,
  maxStorageBufferBindingSize: 2 ** 32 - 4,
  maxStorageBuffersPerShaderStage: 16,
  maxComputeWorkgroupStorageSize: 48 * 1024,
  maxComputeInvocationsPerWorkgroup: 1024,
  maxComputeWorkgroupSizeX: 1024,
  maxComputeWorkgroupSizeY: 1024,
  maxComputeWorkgroupSizeZ: 64,
  maxComputeWorkgroupsPerDimension: 65535,
};

/** A backend over such a device; every element is 0. */
export async function countingBackend(): Promise<{ backend: Backend; counts: Counts }> {
  const counts = new Counts(), adapter = countingAdapter(counts);
  return { backend: new Backend(new WebgpuMachine(await Device.request(adapter), "counts")), counts };
}

/** The adapter of such a device. */
export function countingAdapter(
  counts: Counts,
  { features = [], info = {} }: { features?: readonly string[]; info?: object } = {},
): GPUAdapter {
  const ignore = () => {};
  const pass = {
    setPipeline: ignore,
    setBindGroup: ignore,
    end: ignore,
    dispatchWorkgroups: () => void counts.dispatches++,
  };
  const encoder = {
    beginComputePass: () => pass,
    copyBufferToBuffer: ignore,
    clearBuffer: ignore,
    finish: () => ({}),
  };
  const buffer = (size: number) => {
    let mapped: ArrayBuffer | undefined;
    return {
      destroy: ignore,
      unmap: ignore,
      getMappedRange: () => {
        counts.order.push("read");
        return mapped ??= new ArrayBuffer(size);
      },
      mapAsync: () => {
        counts.maps++;
        counts.order.push("map");
        return Promise.resolve();
      },
    };
  };
  const device = {
    limits: LIMITS,
    features: new Set(features),
    lost: new Promise(ignore),
    addEventListener: ignore,
    pushErrorScope: ignore,
    popErrorScope: () => Promise.resolve(null),
    createBuffer: ({ size }: { size: number }) => {
      counts.buffers++;
      counts.bytes += size;
      return buffer(size);
    },
    createBindGroupLayout: () => ({}),
    createPipelineLayout: () => ({}),
    createShaderModule: ({ code }: { code: string }) => {
      counts.shaders.push(code);
      return {};
    },
    createBindGroup: () => ({}),
    createComputePipeline: () => {
      counts.pipelines++;
      return {};
    },
    createCommandEncoder: () => encoder,
    destroy: ignore,
    queue: {
      writeBuffer: ignore,
      submit: () => {
        counts.submits++;
        counts.order.push("submit");
      },
    },
  };
  return {
    limits: LIMITS,
    features: device.features,
    info: { description: "counts", ...info },
    requestDevice: ({ requiredFeatures }: GPUDeviceDescriptor) => {
      counts.features = [...requiredFeatures ?? []];
      return Promise.resolve(device);
    },
  } as unknown as GPUAdapter;
}
