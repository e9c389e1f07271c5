/**
 * Attention: one kernel call per sequence and head.
 *
 * @module
 */
import { decayChange, decayPowers } from "../core/decay.ts";
import type {
  LightningBackwardCall,
  LightningCall,
  LightningShape,
  LightningStepCall,
  Sequence,
} from "../core/machine.ts";
import { BLOCK, TILE_COLUMNS } from "../core/sizes.ts";
import type { Tensor } from "../core/tensor.ts";
import { type Crew, ranges, type Scratch } from "./crew.ts";
import type { KernelCalls } from "./exports.ts";
import { at, roundUp } from "./operands.ts";

/** Elements of a decay table. */
const TABLE = 5 * BLOCK + 3, TABLE_BYTES = 4 * TABLE;

/** See `Operations.lightning`. */
export function lightning(crew: Crew, call: LightningCall): void {
  const { shape, slopes, scale, sequences, initialState, output, state } = call;
  const { heads, queryHeads, keyHeads, headDim, valueDim } = shape;
  const [decay, scratch] = decayTables(crew, slopes, crew.call("lightningScratch", { headDim, valueDim }));
  // Heads that do not divide by the threads are cut into columns of the value, which do not depend on one another.
  const parts = (sequences.length * heads) % crew.threads === 0 ? 1 : crew.threads;
  const calls: KernelCalls["lightning"][] = [];
  for (const [index, sequence] of sequences.entries()) {
    for (let head = 0; head < heads; head++) {
      const [q, qStride] = headRows(call.q, shape, sequence, head, queryHeads, headDim);
      const [k, kStride] = headRows(call.k, shape, sequence, head, keyHeads, headDim);
      const [v, vStride] = headRows(call.v, shape, sequence, head, heads, valueDim);
      const [o, outputStride] = headRows(output, shape, sequence, head, heads, valueDim);
      for (const { start, count } of ranges(valueDim, parts, TILE_COLUMNS)) {
        const stateElement = (index * heads + head) * headDim * valueDim + start;
        calls.push({
          q,
          qStride,
          k,
          kStride,
          v: v + 4 * start,
          vStride,
          output: o + 4 * start,
          outputStride,
          length: sequence.length,
          headDim,
          valueDim: count,
          decay: decay + head * TABLE_BYTES,
          scale,
          initialState: at(initialState, stateElement),
          finalState: at(state, stateElement),
          stateStride: 4 * valueDim,
        });
      }
    }
  }
  crew.run("lightning", calls, { work: output.size * headDim, scratch });
}

/** See `Operations.lightningStep`. */
export function lightningStep(
  crew: Crew,
  { shape, q, k, v, slopes, scale, state, stateRows, output }: LightningStepCall,
): void {
  const { batch, heads, queryHeads, keyHeads, headDim, valueDim } = shape;
  const calls: KernelCalls["lightningStep"][] = [];
  for (let row = 0; row < batch * heads; row++) {
    const b = Math.floor(row / heads), head = row % heads;
    calls.push({
      q: at(q, (b * queryHeads + Math.floor(head * queryHeads / heads)) * headDim),
      k: at(k, (b * keyHeads + Math.floor(head * keyHeads / heads)) * headDim),
      v: at(v, row * valueDim),
      output: at(output, row * valueDim),
      state: at(state, ((stateRows?.[b] ?? b) * heads + head) * headDim * valueDim),
      headDim,
      valueDim,
      change: decayChange(slopes[head], 1),
      scale,
    });
  }
  crew.run("lightningStep", calls, { work: batch * heads * headDim * valueDim });
}

/** See `Operations.lightningBackward`. */
export function lightningBackward(crew: Crew, call: LightningBackwardCall): void {
  const { shape, slopes, scale, sequences, initialState, dState, dInitialState } = call;
  const { heads, queryHeads, keyHeads, headDim, valueDim } = shape;
  const bytes = crew.call("lightningBackwardScratch", { headDim, valueDim });
  const [decay, scratch] = decayTables(crew, slopes, bytes);
  // Heads of value that share a query or key add up their gradients, in the order of the heads, on one thread.
  const queryGroup = heads / queryHeads, keyGroup = heads / keyHeads;
  const chain = Math.max(queryGroup, keyGroup) % Math.min(queryGroup, keyGroup) === 0
    ? Math.max(queryGroup, keyGroup)
    : heads;
  const calls: KernelCalls["lightningBackward"][] = [];
  for (const [index, sequence] of sequences.entries()) {
    for (let head = 0; head < heads; head++) {
      const [q, qStride] = headRows(call.q, shape, sequence, head, queryHeads, headDim);
      const [k, kStride] = headRows(call.k, shape, sequence, head, keyHeads, headDim);
      const [v, vStride] = headRows(call.v, shape, sequence, head, heads, valueDim);
      const [dOutput, dOutputStride] = headRows(call.dOutput, shape, sequence, head, heads, valueDim);
      const [dq, dqStride] = headRows(call.dq, shape, sequence, head, queryHeads, headDim);
      const [dk, dkStride] = headRows(call.dk, shape, sequence, head, keyHeads, headDim);
      const [dv, dvStride] = headRows(call.dv, shape, sequence, head, heads, valueDim);
      const stateElement = (index * heads + head) * headDim * valueDim;
      calls.push({
        q,
        qStride,
        k,
        kStride,
        v,
        vStride,
        dOutput,
        dOutputStride,
        dq,
        dqStride,
        dk,
        dkStride,
        dv,
        dvStride,
        addToQ: head % queryGroup === 0 ? 0 : 1,
        addToK: head % keyGroup === 0 ? 0 : 1,
        length: sequence.length,
        headDim,
        valueDim,
        decay: decay + head * TABLE_BYTES,
        scale,
        initialState: at(initialState, stateElement),
        dState: at(dState, stateElement),
        dInitialState: at(dInitialState, stateElement),
      });
    }
  }
  crew.run("lightningBackward", calls, { work: call.v.size * headDim, chain, scratch });
}

/** Where one head's rows of a sequence begin, and bytes between them. Its tensor has `count` heads of `dim` elements. */
function headRows(
  tensor: Tensor,
  { layout, seqLen, heads }: LightningShape,
  { batch, start }: Sequence,
  head: number,
  count: number,
  dim: number,
): [offset: number, stride: number] {
  const own = Math.floor(head * count / heads);
  return layout === "bhnd"
    ? [at(tensor, dim * ((batch * count + own) * seqLen + start)), 4 * dim]
    : [at(tensor, dim * ((batch * seqLen + start) * count + own)), 4 * dim * count];
}

/** Writes the decay tables of all heads, followed by `bytes` of work space per thread. */
function decayTables(crew: Crew, slopes: Float64Array, bytes: number): [decay: number, Scratch] {
  const own = roundUp(bytes, 64), tables = slopes.length * TABLE_BYTES;
  const decay = crew.reserve(tables + crew.threads * own);
  slopes.forEach((slope, head) => {
    crew.memory.floats(decay + head * TABLE_BYTES, TABLE).set(decayTable(slope));
  });
  return [decay, { offset: decay + tables, bytes: own }];
}

/** The decay table of one head, as `assembly/lightning.ts` reads it. */
function decayTable(slope: number): Float32Array {
  const table = new Float32Array(TABLE);
  const powers = decayPowers(slope, BLOCK + 1);
  table.set(powers, BLOCK);
  table.set(powers.reverse(), 2 * BLOCK + 1);
  for (let tokens = 0; tokens <= BLOCK; tokens++) table[4 * BLOCK + 2 + tokens] = decayChange(slope, tokens);
  return table;
}
