/**
 * Attention: one kernel call per sequence and head, or several stages where these are too few for the threads.
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
import { BLOCK, TILE_COLUMNS, TILE_ROWS } from "../core/sizes.ts";
import type { Tensor } from "../core/tensor.ts";
import { type Crew, ranges, type Scratch } from "./crew.ts";
import type { KernelCalls } from "./exports.ts";
import { at, roundUp } from "./operands.ts";

/** Elements of a decay table. */
const TABLE = 5 * BLOCK + 3, TABLE_BYTES = 4 * TABLE;

/** Work space for the states of long sequences in parts: it should stay in the caches. See docs/experiments.md. */
const STATES_BYTES = 8 * 2 ** 20;

/** The share of threads that sequences and heads must keep busy: in three stages, one takes 1.14 to 1.35 times as long. */
const BUSY = 0.75;

/** Blocks of a segment that a thread computes, at least: with each it loads and stores a state. */
const SEGMENT = 10;

/** See `Operations.lightning`. */
export function lightning(crew: Crew, call: LightningCall): void {
  const { shape, slopes, scale, sequences, initialState, output, state } = call;
  const { heads, queryHeads, keyHeads, headDim, valueDim } = shape;
  const work = output.size * 2 * headDim;
  const calls: KernelCalls["lightning"][] = [];
  for (const [index, sequence] of sequences.entries()) {
    for (let head = 0; head < heads; head++) {
      const [q, qStride] = headRows(call.q, shape, sequence, head, queryHeads, headDim);
      const [k, kStride] = headRows(call.k, shape, sequence, head, keyHeads, headDim);
      const [v, vStride] = headRows(call.v, shape, sequence, head, heads, valueDim);
      const [o, outputStride] = headRows(output, shape, sequence, head, heads, valueDim);
      const stateElement = (index * heads + head) * headDim * valueDim;
      calls.push({
        q,
        qStride,
        k,
        kStride,
        v,
        vStride,
        output: o,
        outputStride,
        length: sequence.length,
        headDim,
        valueDim,
        decay: head * TABLE_BYTES,
        scale,
        states: 0,
        initialState: at(initialState, stateElement),
        finalState: at(state, stateElement),
        stateStride: 4 * valueDim,
      });
    }
  }
  const bytes = crew.call("lightningScratch", { headDim, valueDim });
  // Few sequences and heads would leave threads idle: then blocks are computed in stages, if that is worth its price.
  const parts = crew.parts("lightning", work);
  const isCut = parts > calls.length && calls.length < BUSY * crew.threads;
  const stateBytes = 4 * roundUp(headDim, TILE_ROWS) * roundUp(valueDim, TILE_COLUMNS);
  const blocks = Math.max(1, Math.floor(STATES_BYTES / (calls.length * stateBytes)) - 1);
  const [decay, scratch, states] = decayTables(
    crew,
    slopes,
    bytes,
    isCut ? calls.length * (blocks + 1) * stateBytes : 0,
  );
  for (const one of calls) one.decay += decay;
  if (isCut) inSpans(crew, calls, { work, parts, scratch, states, stateBytes, blocks });
  else {
    const { segments, behind } = inSegments(calls, parts);
    crew.run("lightning", segments, { work, behind, scratch });
  }
}

/**
 * Sequences in segments, the first ones of all, then the second ones, and so on: each continues with the state that the
 * one before it leaves. So threads have many parts to take, and none is long at the end. Where sequences are too short
 * or too different for that, they stay whole.
 */
function inSegments(
  calls: KernelCalls["lightning"][],
  parts: number,
): { segments: KernelCalls["lightning"][]; behind: number } {
  const cut = calls.map(({ length }) =>
    ranges(length, Math.min(Math.floor(parts / calls.length), Math.floor(length / (SEGMENT * BLOCK))), BLOCK)
  );
  const count = cut[0].length;
  if (count === 1 || cut.some(({ length }) => length !== count)) return { segments: calls, behind: 0 };
  const segments = cut[0].flatMap((_, segment) =>
    calls.map((call, index) => {
      const { start, count } = cut[index][segment];
      return {
        ...call,
        q: call.q + start * call.qStride,
        k: call.k + start * call.kStride,
        v: call.v + start * call.vStride,
        output: call.output + start * call.outputStride,
        length: count,
        initialState: segment === 0 ? call.initialState : call.finalState,
      };
    })
  );
  return { segments, behind: calls.length };
}

/** How sequences are cut, and where their states lie. */
interface Cut {
  /** Multiply-adds of all calls. */
  readonly work: number;
  /** Parts of a stage. */
  readonly parts: number;
  readonly scratch: Scratch;
  /** Offset of `blocks + 1` states per call. */
  readonly states: number;
  /** Bytes of a state in panels. */
  readonly stateBytes: number;
  /** Blocks of a span. */
  readonly blocks: number;
}

/**
 * Sequences span by span, each in three stages whose calls are independent: products of all blocks, the states before
 * them, their outputs. It is the arithmetic of the loop that carries the state, in the same order, so the bits are the
 * same however it is cut. The states between are written to memory, which costs less than idle threads.
 */
function inSpans(
  crew: Crew,
  calls: readonly KernelCalls["lightning"][],
  { work, parts, scratch, states, stateBytes, blocks }: Cut,
): void {
  const longest = Math.max(...calls.map(({ length }) => length)), tokens = blocks * BLOCK;
  for (let first = 0; first === 0 || first < longest; first += tokens) {
    const products: KernelCalls["lightningProducts"][] = [], carries: KernelCalls["lightningCarry"][] = [];
    const outputs: KernelCalls["lightning"][] = [];
    for (const [index, call] of calls.entries()) {
      if (first > 0 && first >= call.length) continue;
      const {
        q,
        qStride,
        k,
        kStride,
        v,
        vStride,
        output,
        outputStride,
        headDim,
        valueDim,
        decay,
        stateStride,
      } = call;
      const own = states + index * (blocks + 1) * stateBytes, length = Math.min(tokens, call.length - first);
      for (const { start, count } of ranges(length, Math.ceil(parts / calls.length), BLOCK)) {
        const token = first + start, before = own + start / BLOCK * stateBytes;
        const part = {
          k: k + token * kStride,
          kStride,
          v: v + token * vStride,
          vStride,
          length: count,
          headDim,
          valueDim,
          decay,
        };
        products.push({ ...part, products: before + stateBytes });
        outputs.push({
          ...part,
          q: q + token * qStride,
          qStride,
          output: output + token * outputStride,
          outputStride,
          scale: call.scale,
          states: before,
          initialState: 0,
          finalState: 0,
          stateStride,
        });
      }
      for (const { start, count } of ranges(valueDim, valueDim, TILE_COLUMNS)) {
        carries.push({
          states: own + 4 * start * roundUp(headDim, TILE_ROWS),
          stateBytes,
          length,
          headDim,
          valueDim: count,
          decay,
          initialState: first > 0
            ? call.finalState + 4 * start
            : call.initialState && call.initialState + 4 * start,
          finalState: call.finalState + 4 * start,
          stateStride,
        });
      }
    }
    const share = work * Math.min(1, tokens / longest);
    crew.run("lightningProducts", products, { work: share / 2, scratch });
    crew.run("lightningCarry", carries, { work: share / BLOCK });
    crew.run("lightning", outputs, { work: share / 2, scratch });
  }
}

/** Multiply-adds that take as long as an element of a state on its way from memory and back. */
const STEP_WORK = 4;

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
  crew.run("lightningStep", calls, { work: STEP_WORK * batch * heads * headDim * valueDim });
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
  crew.run("lightningBackward", calls, { work: 5 * call.v.size * headDim, chain, scratch });
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

/** Writes the decay tables of all heads, followed by `bytes` of work space per thread, and by `shared` bytes for all. */
function decayTables(
  crew: Crew,
  slopes: Float64Array,
  bytes: number,
  shared = 0,
): [decay: number, Scratch, shared: number] {
  const own = roundUp(bytes, 64), tables = roundUp(slopes.length * TABLE_BYTES, 64);
  const decay = crew.reserve(tables + crew.threads * own + shared), offset = decay + tables;
  slopes.forEach((slope, head) => {
    crew.memory.floats(decay + head * TABLE_BYTES, TABLE).set(decayTable(slope));
  });
  return [decay, { offset, bytes: own }, offset + crew.threads * own];
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
