/**
 * How slow a GPU's clock is: cards lower it while they wait for the host, and now and then under load.
 *
 * @module
 */
import type { Device } from "../../gpu/device.ts";

/** A chain of dependent fmas: its time is the clock's, whatever the memory does. */
const CHAIN = {
  code: `
    @group(0) @binding(0) var<storage, read_write> z: array<f32>;
    @compute @workgroup_size(1) fn main() {
      var a = z[0];
      for (var i = 0u; i < 4096u; i++) { ${"a = fma(a, 0.999, 0.001);".repeat(16)} }
      z[0] = a;
    }`,
  entryPoint: "main",
  threads: 1,
  overrides: [],
  aliases: [],
  bindings: { z: [0, "read_write"] },
  parameters: {},
} as const;

/** Milliseconds of the chain at the highest clock seen. */
let fastest = Infinity;

/** How many times as long the chain takes as at the highest clock that was seen. */
export async function slowness(device: Device): Promise<number> {
  const z = device.upload(new Float32Array(4));
  const milliseconds = await device.time(() =>
    device.dispatch(device.kernel(CHAIN, { access: { z: "update" } }), { z }, {}, 1)
  );
  device.release(z);
  fastest = Math.min(fastest, milliseconds);
  return milliseconds / fastest;
}
