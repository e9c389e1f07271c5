/**
 * A WebGPU device with the least workgroup memory that the specification allows, where kernels choose smaller tiles.
 *
 * @module
 */
import assert from "node:assert/strict";
import { Device } from "../gpu/device.ts";

/** Bytes of workgroup memory of every device. */
const LEAST_BYTES = 16384;

/** The device of the first adapter, without what it has above the least. */
export async function smallDevice(): Promise<Device> {
  const adapter = (await navigator.gpu.requestAdapter())!;
  const replaced = <T extends object>(target: T, name: string, value: unknown): T =>
    new Proxy(target, {
      get(target, key) {
        const found = key === name ? value : Reflect.get(target, key, target);
        return typeof found === "function" ? found.bind(target) : found;
      },
    });
  const limits = replaced(adapter.limits, "maxComputeWorkgroupStorageSize", LEAST_BYTES);
  const device = await Device.request(replaced(adapter, "limits", limits));
  assert.equal(device.adapterLimits.maxComputeWorkgroupStorageSize, LEAST_BYTES);
  return device;
}
