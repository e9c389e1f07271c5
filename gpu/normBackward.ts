/**
 * Gradients of SRMSNorm and LayerNorm, with an output gate.
 *
 * @module
 */
import type { Tensor } from "../core/tensor.ts";
import { type Device, float, storeOf } from "./device.ts";
import { sumRows } from "./sumRows.ts";
import source from "./normBackward.wgsl" with { type: "text" };

/** Workgroups that fill a large GPU: as many sums over rows are added up in a second stage. */
const ENOUGH_WORKGROUPS = 512;

/** See {@linkcode GradientKernels.norm}. */
export function normBackward(
  device: Device,
  x: Tensor,
  width: number,
  affine: { weight: Tensor; bias: Tensor; dWeight: Tensor; dBias: Tensor } | undefined,
  eps: number,
  gate: { gate: Tensor; dGate: Tensor } | undefined,
  dy: Tensor,
  residual: Tensor | undefined,
  dx: Tensor,
): void {
  if (x.size === 0) return;
  const constants = {
    WORKGROUP: width < 512 ? 64 : 256,
    AFFINE: Number(affine !== undefined),
    GATED: Number(gate !== undefined),
    RESIDUAL: Number(residual !== undefined),
  };
  const input = device.kernel({
    source,
    entryPoint: "input",
    bindings: ["read", "read", "read", "read", "read", "read", "write", "write"],
    constants,
  });
  const parameters = device.kernel({
    source,
    entryPoint: "affine",
    bindings: ["read", "read", "read", "write", "write"],
    constants,
  });
  const [from, incoming, result] = [x, dy, dx].map(storeOf);
  const [gates, dGates, past] = [gate?.gate, gate?.dGate, residual].map((tensor) =>
    tensor && storeOf(tensor)
  );
  const stores = [from, incoming, result, gates, dGates, past].filter((store) => store !== undefined);
  const unused = device.allocate([1]); // in the place of dGate: `nothing` is for reading
  const held = [unused];
  try {
    for (
      const { start, count } of device.chunks(
        x.size / width,
        ...stores.map((store) => [store, width] as const),
      )
    ) {
      const rows = [start * width, count * width] as const;
      device.dispatch(
        input,
        [
          from.window(...rows),
          incoming.window(...rows),
          gates?.window(...rows) ?? device.nothing,
          affine === undefined ? device.nothing : storeOf(affine.weight),
          affine === undefined ? device.nothing : storeOf(affine.bias),
          past?.window(...rows) ?? device.nothing,
          result.window(...rows),
          dGates?.window(...rows) ?? unused,
        ],
        [count, width, float(eps), 0],
        count,
      );
      if (affine === undefined) continue;
      const step = Math.ceil(count / ENOUGH_WORKGROUPS);
      const workgroups = Math.ceil(count / step);
      const sums = [device.allocate([workgroups, width]), device.allocate([workgroups, width])];
      held.push(...sums);
      device.dispatch(
        parameters,
        [from.window(...rows), incoming.window(...rows), gates?.window(...rows) ?? device.nothing, ...sums],
        [count, width, float(eps), step],
        workgroups,
      );
      sumRows(device, sums[0], width, storeOf(affine.dWeight));
      sumRows(device, sums[1], width, storeOf(affine.dBias));
    }
  } finally {
    for (const store of held) device.release(store);
  }
}
