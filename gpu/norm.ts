/**
 * SRMSNorm and LayerNorm, with an output gate.
 *
 * @module
 */
import type { Tensor } from "../core/tensor.ts";
import { type Device, float, storeOf } from "./device.ts";
import source from "./norm.wgsl" with { type: "text" };

/** See {@linkcode Kernels.norm}. */
export function norm(
  device: Device,
  x: Tensor,
  width: number,
  affine: { weight: Tensor; bias: Tensor } | undefined,
  eps: number,
  gate: Tensor | undefined,
  output: Tensor,
): void {
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
  for (const { start, count } of device.chunks(x.size / width, [from, width], [to, width], ...gateRows)) {
    const rows = [start * width, count * width] as const;
    device.dispatch(
      kernel,
      [
        from.window(...rows),
        affine === undefined ? device.nothing : storeOf(affine.weight),
        affine === undefined ? device.nothing : storeOf(affine.bias),
        gateStore?.window(...rows) ?? device.nothing,
        to.window(...rows),
      ],
      [count, width, float(eps)],
      count,
    );
  }
}
