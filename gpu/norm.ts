/**
 * SRMSNorm and LayerNorm, with an output gate, and their gradients.
 *
 * @module
 */
import type { NormBackwardCall, NormCall } from "../core/machine.ts";
import { type Device, float, storeOf } from "./device.ts";
import { addRows } from "./sums.ts";
import source from "./norm.wgsl" with { type: "text" };
import backwardSource from "./normBackward.wgsl" with { type: "text" };

/** Ranges of rows that gradients of parameters are summed over before their sums are added up. */
const SUMMED_RANGES = 512;

/** See {@linkcode Operations.norm}. */
export function norm(device: Device, { x, affine, eps, gate, rows, width, output }: NormCall): void {
  if (x.size === 0) return;
  const kernel = device.kernel({
    source,
    bindings: ["read", "read", "read", "read", "write"],
    types: {
      X: x.dtype,
      Weight: affine?.weight.dtype ?? "f32",
      Bias: affine?.bias.dtype ?? "f32",
      Gate: gate?.dtype ?? "f32",
      Output: output.dtype,
    },
    constants: {
      WORKGROUP: width < 512 ? 64 : 256,
      AFFINE: Number(affine !== undefined),
      GATED: Number(gate !== undefined),
    },
  });
  const [from, to] = [storeOf(x), storeOf(output)];
  const gateStore = gate && storeOf(gate);
  const gateRows = gateStore === undefined ? [] : [[gateStore, width] as const];
  for (const { start, count } of device.chunks(rows, [from, width], [to, width], ...gateRows)) {
    const range = [start * width, count * width] as const;
    device.dispatch(
      kernel,
      [
        from.window(...range),
        affine === undefined ? device.nothing : storeOf(affine.weight),
        affine === undefined ? device.nothing : storeOf(affine.bias),
        gateStore?.window(...range) ?? device.nothing,
        to.window(...range),
      ],
      [count, width, float(eps)],
      count,
    );
  }
}

/** See {@linkcode Operations.normBackward}. */
export function normBackward(
  device: Device,
  { x, affine, eps, gate, rows, width, dy, residual, dx }: NormBackwardCall,
): void {
  if (x.size === 0) return;
  const constants = {
    WORKGROUP: width < 512 ? 64 : 256,
    AFFINE: Number(affine !== undefined),
    GATED: Number(gate !== undefined),
    RESIDUAL: Number(residual !== undefined),
  };
  const input = device.kernel({
    source: backwardSource,
    entryPoint: "input",
    bindings: ["read", "read", "read", "read", "read", "read", "write", "write"],
    constants,
  });
  const parameters = device.kernel({
    source: backwardSource,
    entryPoint: "affine",
    bindings: ["read", "read", "read", "write", "write"],
    constants,
  });
  const [from, incoming, result] = [x, dy, dx].map(storeOf);
  const [gates, dGates, past] = [gate?.gate, gate?.dGate, residual].map((tensor) =>
    tensor && storeOf(tensor)
  );
  const stores = [from, incoming, result, gates, dGates, past].filter((store) => store !== undefined);
  using scope = device.scope();
  const unused = scope.allocate([1]); // in the place of dGate: `nothing` is for reading
  for (
    const { start, count } of device.chunks(
      rows,
      ...stores.map((store) => [store, width] as const),
    )
  ) {
    const range = [start * width, count * width] as const;
    device.dispatch(
      input,
      [
        from.window(...range),
        incoming.window(...range),
        gates?.window(...range) ?? device.nothing,
        affine === undefined ? device.nothing : storeOf(affine.weight),
        affine === undefined ? device.nothing : storeOf(affine.bias),
        past?.window(...range) ?? device.nothing,
        result.window(...range),
        dGates?.window(...range) ?? unused,
      ],
      [count, width, float(eps), 0],
      count,
    );
    if (affine === undefined) continue;
    const step = Math.ceil(count / SUMMED_RANGES);
    const workgroups = Math.ceil(count / step);
    const sums = [scope.allocate([workgroups, width]), scope.allocate([workgroups, width])];
    device.dispatch(
      parameters,
      [from.window(...range), incoming.window(...range), gates?.window(...range) ?? device.nothing, ...sums],
      [count, width, float(eps), step],
      workgroups,
    );
    addRows(device, sums[0], width, storeOf(affine.dWeight));
    addRows(device, sums[1], width, storeOf(affine.dBias));
  }
}
