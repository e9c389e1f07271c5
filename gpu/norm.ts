/**
 * SRMSNorm, RMSNorm and LayerNorm, with an output gate, and their gradients.
 *
 * @module
 */
import type { NormBackwardCall, NormCall } from "../core/machine.ts";
import { type Device, type Store, storeOf } from "./device.ts";
import * as shaders from "./shaders.ts";
import { addRows } from "./sums.ts";

/** Ranges of rows that gradients of a norm's parameters are summed over, before those sums are added up. */
const SUMMED_RANGES = 512;

/** See {@linkcode Operations.norm}. */
export function norm(device: Device, { x, affine, eps, gate, rows, width, output }: NormCall): void {
  if (x.size === 0) return;
  const kernel = device.kernel(shaders.norm.main, {
    access: { output: "write" },
    types: {
      X: x.dtype,
      Weight: affine?.weight.dtype ?? "f32",
      Bias: affine?.bias?.dtype ?? "f32",
      Gate: gate?.dtype ?? "f32",
      Output: output.dtype,
    },
    constants: {
      WORKGROUP: workgroupOf(width),
      AFFINE: affine !== undefined,
      CENTRED: affine?.bias !== undefined,
      GATED: gate !== undefined,
    },
  });
  const from = storeOf(x), to = storeOf(output), gates = gate && storeOf(gate);
  const weight = affine === undefined ? device.nothing : storeOf(affine.weight);
  const bias = affine?.bias === undefined ? device.nothing : storeOf(affine.bias);
  const gateRows = gates === undefined ? [] : [[gates, width] as const];
  for (const { start, count } of device.chunks(rows, [from, width], [to, width], ...gateRows)) {
    const first = start * width, length = count * width;
    device.dispatch(
      kernel,
      {
        x: from.window(first, length),
        weight,
        bias,
        gate: gates?.window(first, length) ?? device.nothing,
        output: to.window(first, length),
      },
      { rows: count, width, eps },
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
    WORKGROUP: workgroupOf(width),
    AFFINE: affine !== undefined,
    CENTRED: affine?.bias !== undefined,
    GATED: gate !== undefined,
    RESIDUAL: residual !== undefined,
  };
  const inputKernel = device.kernel(shaders.normBackward.input, {
    access: { dx: "write", dGate: "write" },
    constants,
  });
  const affineKernel = device.kernel(shaders.normBackward.affine, {
    access: { dWeight: "write", dBias: "write" },
    constants,
  });
  using scope = device.scope();
  const unused = scope.allocate([1]); // in the place of dGate: `nothing` is for reading
  const stores = {
    x: storeOf(x),
    dy: storeOf(dy),
    gate: gate && storeOf(gate.gate),
    residual: residual && storeOf(residual),
    dx: storeOf(dx),
    dGate: gate && storeOf(gate.dGate),
  };
  const weight = affine === undefined ? device.nothing : storeOf(affine.weight);
  const bias = affine?.bias === undefined ? device.nothing : storeOf(affine.bias);
  const rowsOf = Object.values(stores).filter((store) => store !== undefined)
    .map((store) => [store, width] as const);
  for (const { start, count } of device.chunks(rows, ...rowsOf)) {
    const part = (store: Store) => store.window(start * width, count * width);
    const shared = {
      x: part(stores.x),
      dy: part(stores.dy),
      gate: stores.gate === undefined ? device.nothing : part(stores.gate),
    };
    device.dispatch(
      inputKernel,
      {
        ...shared,
        weight,
        bias,
        residual: stores.residual === undefined ? device.nothing : part(stores.residual),
        dx: part(stores.dx),
        dGate: stores.dGate === undefined ? unused : part(stores.dGate),
      },
      { rows: count, width, eps, step: 0 },
      count,
    );
    if (affine === undefined) continue;
    const step = Math.ceil(count / SUMMED_RANGES), workgroups = Math.ceil(count / step);
    using sums = device.scope();
    const dWeight = sums.allocate([workgroups, width]), dBias = sums.allocate([workgroups, width]);
    device.dispatch(
      affineKernel,
      { ...shared, dWeight, dBias },
      { rows: count, width, eps, step },
      workgroups,
    );
    addRows(device, dWeight, width, storeOf(affine.dWeight));
    if (affine.dBias !== undefined) addRows(device, dBias, width, storeOf(affine.dBias));
  }
}

/** Threads that norm a row. */
function workgroupOf(width: number): number {
  return width < 512 ? 64 : 256;
}
