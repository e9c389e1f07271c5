/**
 * The layers of a model for one token per sequence, in few dispatches: beginning one costs the host and the device more
 * than the work of a small one.
 *
 * @module
 */
import { decayChange } from "../core/decay.ts";
import type { Fused, HeldTokens, MixerStepCall, StepSizes, StepTokens } from "../core/machine.ts";
import { ACTIVATION_NUMBERS } from "../core/ops/splitHeads.ts";
import { FEW_ROWS } from "../core/sizes.ts";
import { type Device, type Plan, type Store, storeOf } from "./device.ts";
import { pickTokens } from "./embedding.ts";
import { normLinear } from "./linear.ts";
import * as shaders from "./shaders.ts";
import { topLogits } from "./topLogits.ts";

/** Elements of a query that workgroup memory holds, with a key and sums: 12 KiB of the 16 that every device has. */
const MOST_KEYS = 1024;

/** Keys of the decays of a layer's slopes, which do not change: writing the numbers takes longer than a dispatch. */
const decayKeys = new WeakMap<readonly number[], string>();

/**
 * Where positions and rows of states begin in the words of a step's tokens, after the ids: 256 bytes, which can be bound.
 */
const PLACES_AT = FEW_ROWS;

/** The fused operations of a device. */
export function fused(device: Device): Fused {
  /** By key, and by how many sequences there are. */
  const plans = new WeakMap<object, Map<number, Plan>>();
  return {
    fits,
    repeat(key, tokens, enqueue) {
      const words = wordsOf(tokens), batch = tokens.ids.length, hasRows = tokens.rows !== undefined;
      let known = plans.get(key);
      if (known === undefined) plans.set(key, known = new Map());
      const kind = 2 * batch + Number(hasRows), plan = known.get(kind);
      const repeated = plan && device.replay(plan, words);
      if (repeated !== undefined) return repeated;
      known.delete(kind);
      const recorded = device.record(words, (storage) => enqueue({ batch, hasRows, storage }) as Store);
      if (recorded.plan !== undefined) known.set(kind, recorded.plan);
      return recorded.output;
    },
    embedding: (call) => pickTokens(device, call, wordsIn(call.tokens).window(0, call.tokens.batch)),
    normLinear: (call) => normLinear(device, call),
    mixerStep: (call) => mixerStep(device, call),
    topLogits: (call) => topLogits(device, call),
  };
}

/** A step's tokens as they are uploaded: ids, then from {@linkcode PLACES_AT} a position and a row for each sequence. */
function wordsOf({ ids, positions, rows }: StepTokens): Uint32Array {
  const words = new Uint32Array(PLACES_AT + 2 * ids.length);
  words.set(ids);
  for (let b = 0; b < ids.length; b++) {
    words[PLACES_AT + 2 * b] = positions[b];
    words[PLACES_AT + 2 * b + 1] = rows?.[b] ?? b;
  }
  return words;
}

const wordsIn = ({ storage }: HeldTokens): Store => storage as Store;

function fits({ rows, embedDim, hiddenDim, heads, activation }: StepSizes): boolean {
  const headDim = hiddenDim / heads;
  return rows <= FEW_ROWS && embedDim % 8 === 0 && hiddenDim % 8 === 0 && headDim % 4 === 0 &&
    2 * headDim <= MOST_KEYS && activation !== "exp"; // which needs the maximum of a head first
}

function mixerStep(
  device: Device,
  { x, tokens, heads, headDim, activation, slopes, theta, state, attended, gated }: MixerStepCall,
): void {
  const { batch, hasRows } = tokens;
  if (batch === 0) return;
  const keys = theta === undefined ? headDim : 2 * headDim, hidden = heads * headDim;
  const kernel = device.kernel(shaders.mixerStep.main, {
    access: { states: "update", attended: "write", gated: "write" },
    constants: { HEAD: headDim, KEYS: keys, ACTIVATION: ACTIVATION_NUMBERS[activation] },
  });
  let key = decayKeys.get(slopes);
  if (key === undefined) decayKeys.set(slopes, key = `lightning step ${slopes.join()}`);
  const decays = device.constant(key, () => Float32Array.from(slopes, (slope) => decayChange(slope, 1)));
  const states = storeOf(state), stateLength = hidden * keys, from = storeOf(x);
  const outputs = [storeOf(attended), storeOf(gated)] as const;
  // With rows any state may be anywhere: they are bound as a whole.
  const cut = hasRows ? [] : [[states, stateLength] as const];
  const cuts = outputs.map((store) => [store, hidden] as const);
  for (const { start, count } of device.chunks(batch, [from, 4 * hidden], ...cuts, ...cut)) {
    const part = (store: Store, length: number) => store.window(start * length, count * length);
    const workgroups = count * heads * Math.ceil(headDim / 64);
    device.dispatch(
      kernel,
      {
        x: part(from, 4 * hidden),
        decays,
        theta: theta === undefined ? device.nothing : storeOf(theta),
        tokens: wordsIn(tokens).window(PLACES_AT + 2 * start, 2 * count),
        states: hasRows ? states : part(states, stateLength),
        attended: part(outputs[0], hidden),
        gated: part(outputs[1], hidden),
      },
      { workgroups, heads, rowTable: hasRows ? 1 : 0 },
      workgroups,
    );
  }
}
