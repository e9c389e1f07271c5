/**
 * The layers of a model for one token per sequence, in few dispatches: beginning one costs the host and the device more
 * than the work of a small one.
 *
 * @module
 */
import { decayChange } from "../core/decay.ts";
import type { Fused, MixerStepCall, StepSizes } from "../core/machine.ts";
import { ACTIVATION_NUMBERS } from "../core/ops/splitHeads.ts";
import { FEW_ROWS } from "../core/sizes.ts";
import { type Device, type Store, storeOf } from "./device.ts";
import { normLinear } from "./linear.ts";
import * as shaders from "./shaders.ts";
import { topLogits } from "./topLogits.ts";

/** Elements of a query that workgroup memory holds, with a key and sums: 12 KiB of the 16 that every device has. */
const MOST_KEYS = 1024;

/** Keys of the decays of a layer's slopes, which do not change: writing the numbers takes longer than a dispatch. */
const decayKeys = new WeakMap<readonly number[], string>();

/** The fused operations of a device. */
export function fused(device: Device): Fused {
  return {
    fits,
    normLinear: (call) => normLinear(device, call),
    mixerStep: (call) => mixerStep(device, call),
    topLogits: (call) => topLogits(device, call),
  };
}

function fits({ rows, embedDim, hiddenDim, heads, activation }: StepSizes): boolean {
  const headDim = hiddenDim / heads;
  return rows <= FEW_ROWS && embedDim % 8 === 0 && hiddenDim % 8 === 0 && headDim % 4 === 0 &&
    2 * headDim <= MOST_KEYS && activation !== "exp"; // which needs the maximum of a head first
}

function mixerStep(
  device: Device,
  { x, batch, heads, headDim, activation, slopes, lrpe, state, stateRows, attended, gated }: MixerStepCall,
): void {
  if (batch === 0) return;
  const keys = lrpe === undefined ? headDim : 2 * headDim, hidden = heads * headDim;
  const kernel = device.kernel(shaders.mixerStep.main, {
    access: { states: "update", attended: "write", gated: "write" },
    constants: { HEAD: headDim, KEYS: keys, ACTIVATION: ACTIVATION_NUMBERS[activation] },
  });
  let key = decayKeys.get(slopes);
  if (key === undefined) decayKeys.set(slopes, key = `lightning step ${slopes.join()}`);
  const decays = device.constant(key, () => Float32Array.from(slopes, (slope) => decayChange(slope, 1)));
  using scope = device.scope();
  const tokens = lrpe === undefined && stateRows === undefined ? undefined : scope.upload(
    Uint32Array.from(
      { length: 2 * batch },
      (_, i) => (i % 2 === 0 ? lrpe?.positions[i / 2] : stateRows?.[(i - 1) / 2]) ?? 0,
    ),
  );
  const states = storeOf(state), stateLength = hidden * keys, from = storeOf(x);
  const outputs = [storeOf(attended), storeOf(gated)] as const;
  // With stateRows any state may be anywhere: they are bound as a whole.
  const cut = stateRows === undefined ? [[states, stateLength] as const] : [];
  const cuts = outputs.map((store) => [store, hidden] as const);
  for (const { start, count } of device.chunks(batch, [from, 4 * hidden], ...cuts, ...cut)) {
    const part = (store: Store, length: number) => store.window(start * length, count * length);
    const workgroups = count * heads * Math.ceil(headDim / 64);
    device.dispatch(
      kernel,
      {
        x: part(from, 4 * hidden),
        decays,
        theta: lrpe === undefined ? device.nothing : storeOf(lrpe.theta),
        tokens: tokens === undefined ? device.nothing : part(tokens, 2),
        states: stateRows === undefined ? part(states, stateLength) : states,
        attended: part(outputs[0], hidden),
        gated: part(outputs[1], hidden),
      },
      { workgroups, heads, rowTable: stateRows === undefined ? 0 : 1 },
      workgroups,
    );
  }
}
