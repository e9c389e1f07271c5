/**
 * Lightning Attention: cuts sequences into segments, dispatches the stages of `lightning.wgsl`.
 *
 *     call        sequences × heads
 *     ├ span      some heads of some parts of sequences: what fits into windows, one set of dispatches
 *     │ ├ part    consecutive tokens of one sequence, usually all of them
 *     │ │ └ segment   consecutive tokens of a part, a multiple of PERIOD: what one workgroup walks
 *     │ └ tile    rows × columns of a state that one workgroup holds
 *     └ ...       the next span; parts of the same sequence continue from the state that the span before left
 *
 * The way of q: `lightning` pads it (`withPadding`), `runSequences` takes whole sequences for one span, `spans` halves
 * that until `footprint` finds windows that can be bound, `runSpan` dispatches with those windows.
 *
 * Memory in addition to the result: one state per segment. Segments are enough to fill the GPU and one per sequence at
 * least, whatever the length.
 *
 * @module
 */
import { decayChange } from "../core/decay.ts";
import type { FloatType } from "../core/dtype.ts";
import type { LightningCall, LightningShape, LightningStepCall, Sequence } from "../core/machine.ts";
import type { Tensor } from "../core/tensor.ts";
import { type Device, type Store, storeOf, type Window } from "./device.ts";
import { multipleOf4, pad, padded } from "./pad.ts";
import * as shaders from "./shaders.ts";

/** Tokens after which the state decays, and which a segment has a multiple of. */
export const PERIOD = shaders.lightning.constants.PERIOD;
/** Where the state before the first token of a part comes from. */
const { ZERO, INITIAL, STATE } = shaders.lightning.constants;
/** Steeper slopes let the state decay at every token: beyond, λ^−(PERIOD−1) would cost range. */
const STEEP = 1;
/** Workgroups that fill a large GPU, two on each of 132 processors. */
const TARGET_WORKGROUPS = 264;
/** With at least this many workgroups, walking whole sequences is faster: segment sums are not needed. */
const ALONE_WORKGROUPS = 100;
/** Tokens of one segment at least. */
export const SEGMENT_TOKENS = 96;

/** The operands of a call, as stores, with dimensions that are multiples of 4. */
export interface Operands {
  shape: LightningShape;
  q: Store;
  k: Store;
  v: Store;
  initialState: Store | undefined;
  state: Store;
  output: Store;
}

/** `length` tokens of a sequence from `start`, whose state is row `row` of the states. */
interface Part {
  readonly row: number;
  readonly batch: number;
  readonly start: number;
  readonly length: number;
  /** {@linkcode ZERO}, {@linkcode INITIAL} or {@linkcode STATE}. */
  readonly origin: number;
}

/** What one set of dispatches computes: some heads of some parts. */
interface Span {
  readonly head: number;
  readonly heads: number;
  readonly parts: readonly Part[];
  /** Whether tokens run from the last to the first. */
  readonly reverse: boolean;
}

/** See {@linkcode Operations.lightning}. */
export function lightning(device: Device, call: LightningCall): void {
  const { slopes, scale, sequences, initialState } = call;
  withPadding(device, call, initialState, (operands) => {
    const { shape, output } = operands;
    if (output.dtype === "f32" || tiling(device, shape).rowTiles === 1) {
      return runSequences(device, operands, slopes, scale, sequences, false);
    }
    // Tiles of rows add to what the tiles before them wrote: halves would round every sum.
    using scope = device.scope();
    const sums = scope.allocate([output.length]);
    runSequences(device, { ...operands, output: sums }, slopes, scale, sequences, false);
    pad(device, sums, [1, shape.valueDim], [1, shape.valueDim], output);
  });
}

/**
 * Runs the stages over sequences, or, for gradients, over the same sequences from their last token to their first:
 * see `REVERSE` in `lightning.wgsl`.
 */
export function runSequences(
  device: Device,
  operands: Operands,
  slopes: Float64Array,
  scale: number,
  sequences: readonly Sequence[],
  reverse: boolean,
): void {
  const origin = operands.initialState === undefined ? ZERO : INITIAL;
  const parts = sequences.map(({ batch, start, length }, row) => ({ row, batch, start, length, origin }));
  const whole = { head: 0, heads: operands.shape.heads, parts, reverse };
  for (const span of spans(device, operands, whole)) runSpan(device, operands, slopes, scale, span);
}

/** See {@linkcode Operations.lightningStep}. */
export function lightningStep(device: Device, call: LightningStepCall): void {
  const { slopes, scale, stateRows } = call;
  withPadding(device, call, undefined, ({ shape, q, k, v, state, output }) => {
    const { batch, heads, queryHeads, keyHeads, headDim, valueDim } = shape;
    using scope = device.scope();
    // With stateRows any state may be anywhere: they are bound as a whole.
    const table = stateRows && scope.upload(rowTable(stateRows));
    const { step } = shaders.lightning;
    const kernel = device.kernel(step, {
      access: { states: "update", output: "update" },
      ...kernelOptions(device, { S: q.dtype, O: output.dtype }, shape),
    });
    const decays = device.constant(`lightning step ${slopes.join()}`, () => {
      return Float32Array.from(slopes, (slope) => decayChange(slope, 1));
    });
    const queryLength = queryHeads * headDim, keyLength = keyHeads * headDim, valueLength = heads * valueDim;
    const stateLength = heads * headDim * valueDim;
    const cut = stateRows === undefined ? [[state, stateLength] as const] : [];
    const rowsOf = [[q, queryLength], [k, keyLength], [v, valueLength], [output, valueLength]] as const;
    for (const { start, count } of device.chunks(batch, ...rowsOf, ...cut)) {
      const part = (store: Store, length: number) => store.window(start * length, count * length);
      const workgroups = count * heads * Math.ceil(valueDim / 64);
      device.dispatch(
        kernel,
        {
          table: table?.window(4 * start, 4 * count) ?? device.nothing,
          decays,
          states: table === undefined ? part(state, stateLength) : state,
          k: part(k, keyLength),
          v: part(v, valueLength),
          q: part(q, queryLength),
          output: part(output, valueLength),
        },
        {
          heads,
          queryHeads,
          keyHeads,
          queryGroup: heads / queryHeads,
          keyGroup: heads / keyHeads,
          headDim,
          valueDim,
          workgroups,
          rowTable: table === undefined ? 0 : 1,
          scale,
        },
        workgroups,
      );
    }
  });
}

/** Rows of states as vectors, which is how `step` reads its table. */
function rowTable(rows: Uint32Array): Uint32Array {
  const table = new Uint32Array(4 * rows.length);
  rows.forEach((row, i) => table[4 * i] = row);
  return table;
}

/** Runs an operation on operands whose dimensions are multiples of 4: the call's own, or padded copies of them. */
function withPadding(
  device: Device,
  call: LightningCall | LightningStepCall,
  initialTensor: Tensor | undefined,
  run: (operands: Operands) => void,
): void {
  const { shape } = call;
  const [q, k, v, state, output] = [call.q, call.k, call.v, call.state, call.output].map(storeOf);
  const initialState = initialTensor && storeOf(initialTensor);
  const { headDim: d, valueDim: e } = shape;
  const [d4, e4] = [multipleOf4(d), multipleOf4(e)];
  if (d4 === d && e4 === e) return run({ shape, q, k, v, initialState, state, output });

  using scope = device.scope();
  const rows = (store: Store, from: number, to: number) => padded(scope, store, [1, from], [1, to]);
  const states = (store: Store) => padded(scope, store, [d, e], [d4, e4]);
  const operands = {
    shape: { ...shape, headDim: d4, valueDim: e4 },
    q: rows(q, d, d4),
    k: rows(k, d, d4),
    v: rows(v, e, e4),
    initialState: initialState && states(initialState),
    state: states(state),
    output: e === e4 ? output : scope.allocate([output.length / e, e4], output.dtype),
  };
  run(operands);
  if (operands.output !== output) pad(device, operands.output, [1, e4], [1, e], output);
  if (operands.state !== state) pad(device, operands.state, [d4, e4], [d, e], state);
}

/** Elements from one batch element, one head and one token to the next. */
function strides({ layout, seqLen }: LightningShape, heads: number, dim: number): [number, number, number] {
  return layout === "bhnd"
    ? [heads * seqLen * dim, seqLen * dim, dim]
    : [seqLen * heads * dim, dim, heads * dim];
}

/** The part of a store that a span touches, or all of it where that can be bound. */
function spanWindow(store: Store, shape: LightningShape, heads: number, dim: number, span: Span): Window {
  const used = span.parts.filter(({ length }) => length > 0);
  if (store.pieces.length === 1 || used.length === 0) return store;
  const [batchStride, headStride, tokenStride] = strides(shape, heads, dim);
  const group = shape.heads / heads;
  const ends = used.map(({ batch, start, length }) =>
    batch * batchStride + (start + length - 1) * tokenStride
  );
  const starts = used.map(({ batch, start }) => batch * batchStride + start * tokenStride);
  const start = Math.min(...starts) + Math.floor(span.head / group) * headStride;
  const end = Math.max(...ends) + Math.floor((span.head + span.heads - 1) / group) * headStride + dim;
  return store.window(start, end - start);
}

/** The states that a span reads and writes, or all of them. */
function stateWindow(store: Store, { heads, headDim, valueDim }: LightningShape, span: Span): Window {
  if (store.pieces.length === 1 || span.parts.length === 0) return store;
  const size = headDim * valueDim;
  const start = (span.parts[0].row * heads + span.head) * size;
  const end = (span.parts.at(-1)!.row * heads + span.head + span.heads) * size;
  return store.window(start, end - start);
}

const tokensOf = ({ parts }: Span) => parts.reduce((sum, { length }) => sum + length, 0);

/** Tiles of the state, as `lightning.wgsl` cuts it. */
function tiling(device: Device, { headDim, valueDim }: LightningShape) {
  const wideHead = headDim > 64;
  // A tile of 128 columns takes 22 KiB of workgroup memory, and half the reads of keys and queries that two of 64 take.
  const wideValue = valueDim > 64 && device.adapterLimits.maxComputeWorkgroupStorageSize >= 32768;
  const rows = wideHead ? 128 : 64, columns = wideValue ? 128 : 64;
  return {
    wideHead,
    wideValue,
    rows,
    columns,
    rowTiles: Math.ceil(headDim / rows),
    columnTiles: Math.ceil(valueDim / columns),
  };
}

/**
 * Tokens of a segment: few sequences and heads are cut into enough segments to fill the GPU. `alone`: sequences
 * are walked whole, by no more workgroups than there are processors.
 */
function segmentation(device: Device, shape: LightningShape, span: Span): { tokens: number; alone: boolean } {
  const { rows, columns, columnTiles } = tiling(device, shape);
  const longest = Math.max(...span.parts.map(({ length }) => length));
  const fill = TARGET_WORKGROUPS * 128 * 128 / (rows * columns);
  // Sequences count as far as they are as long as the longest.
  const workgroups = tokensOf(span) / Math.max(1, longest) * span.heads * columnTiles;
  // (From the last token to the first, walking whole sequences was measured to be slower.)
  const whole = !span.reverse && rows * columns === 128 * 128;
  if (whole && workgroups >= ALONE_WORKGROUPS && workgroups <= TARGET_WORKGROUPS / 2) {
    return { tokens: Math.max(1, Math.ceil(longest / PERIOD)) * PERIOD, alone: true };
  }
  const states = Math.floor(device.limits.windowBytes / (span.heads * shape.headDim * shape.valueDim * 4));
  const wanted = tokensOf(span) /
    Math.max(1, Math.min(states, Math.floor(fill / (span.heads * columnTiles))));
  // Segments of the longest sequence of equal length.
  const count = Math.max(1, Math.round(longest / Math.max(SEGMENT_TOKENS, wanted)));
  return { tokens: Math.max(SEGMENT_TOKENS, Math.ceil(longest / count / PERIOD) * PERIOD), alone: false };
}

/** The windows of a span's operands, and its segments. */
function footprint(device: Device, operands: Operands, span: Span) {
  const { shape, q, k, v, state, initialState, output } = operands;
  const { queryHeads, keyHeads, heads, headDim, valueDim } = shape;
  const { tokens: length, alone } = segmentation(device, shape, span);
  return {
    q: spanWindow(q, shape, queryHeads, headDim, span),
    k: spanWindow(k, shape, keyHeads, headDim, span),
    v: spanWindow(v, shape, heads, valueDim, span),
    output: spanWindow(output, shape, heads, valueDim, span),
    state: stateWindow(state, shape, span),
    initialState: initialState && stateWindow(initialState, shape, span),
    segmentTokens: length,
    alone,
    segments: span.parts.reduce((sum, part) => sum + Math.max(1, Math.ceil(part.length / length)), 0),
  };
}

/** Cuts a span until its windows and scratch can be bound; in order, for states that carry on. */
function* spans(device: Device, operands: Operands, span: Span): Generator<Span> {
  const { q, k, v, output, state, initialState, segments } = footprint(device, operands, span);
  const limit = device.limits.windowBytes;
  const { headDim, valueDim } = operands.shape;
  const bound = segments * span.heads * headDim * valueDim * 4 <= limit &&
    [q, k, v, output, state, initialState ?? state].every(
      (window) => window.length * window.store.elementBytes <= limit,
    );
  const halves = bound ? undefined : halve(span, operands.shape);
  if (halves === undefined) yield span;
  else for (const half of halves) yield* spans(device, operands, half);
}

/** Halves of the sequences, of the heads or of the tokens: the first that gives smaller windows. */
function halve(span: Span, { layout }: LightningShape): [Span, Span] | undefined {
  const { head, heads, parts, reverse } = span;
  const batches = parts.at(-1)!.batch - parts[0].batch + 1;
  if (batches > 1) {
    const middle = parts[0].batch + Math.ceil(batches / 2);
    return [
      { ...span, parts: parts.filter(({ batch }) => batch < middle) },
      { ...span, parts: parts.filter(({ batch }) => batch >= middle) },
    ];
  }
  if (layout === "bhnd" && heads > 1) {
    const half = Math.ceil(heads / 2);
    return [{ ...span, heads: half }, { ...span, head: head + half, heads: heads - half }];
  }
  const tokens = tokensOf(span);
  if (tokens <= PERIOD) return undefined;
  const [first, second]: [Part[], Part[]] = [[], []];
  let left = Math.ceil(tokens / 2 / 16) * 16; // of the first half; pieces of tensors are halves, too
  for (const part of parts) {
    const length = Math.min(part.length, left);
    left -= length;
    if (length === part.length) first.push(part);
    else if (length === 0) second.push(part);
    else {
      const { start } = part, rest = part.length - length;
      first.push({ ...part, start: reverse ? start + rest : start, length });
      second.push({ ...part, start: reverse ? start : start + length, length: rest, origin: STATE });
    }
  }
  return [{ ...span, parts: first }, { ...span, parts: second }];
}

/** What the stages are compiled with. */
function kernelOptions(
  device: Device,
  dtypes: { S: FloatType; O: FloatType },
  shape: LightningShape,
  { threads = tiling(device, shape).columns, reverse = false, steep = false, later = false, alone = false } =
    {},
) {
  const { wideHead, wideValue, columns } = tiling(device, shape);
  return {
    types: { ...dtypes, PartialRow: `array<vec4<f32>, ${columns / 4}>` },
    constants: {
      WIDE_HEAD: wideHead,
      WIDE_VALUE: wideValue,
      THREADS: threads,
      HALVES: columns / 64,
      BUFFERS: device.adapterLimits.maxComputeWorkgroupStorageSize >= 32768 ? 2 : 1,
      ROUNDS: alone ? 2 : 1,
      LATER: later,
      STEEP: steep,
      REVERSE: reverse,
    },
  };
}

/** Segments and sequences of a span, as `lightning.wgsl` reads them. */
function schedule({ parts, reverse }: Span, segmentTokens: number): Uint32Array {
  const carried: number[] = [], last: number[] = [], sequences: number[] = [];
  for (const { row, batch, start, length, origin } of parts) {
    // Where token t of the walk is; negative where its stride is: the product is then the address, modulo 2^32.
    const place = (t: number) => reverse ? -(start + length - 1 - t) : start + t;
    const count = Math.max(1, Math.ceil(length / segmentTokens)) - 1;
    sequences.push(carried.length / 4, count, row, origin);
    for (let i = 0; i < count; i++) carried.push(place(i * segmentTokens), segmentTokens, batch, 0);
    last.push(place(count * segmentTokens), length - count * segmentTokens, batch, 0);
  }
  return Uint32Array.of(...carried, ...last, ...sequences);
}

/** What `lightning.wgsl` knows of the decay of each head. */
function decayTable(
  slopes: Float64Array,
  segmentTokens: number,
  keyScale: number,
  queryScale: number,
): Float32Array {
  const powers = (slope: number, scale: number) => [
    ...Array.from({ length: PERIOD }, (_, n) => n === 0 ? scale : scale * Math.exp(-slope * n)),
    0,
  ];
  return Float32Array.from([...slopes].flatMap((slope) => [
    ...powers(slope, keyScale),
    ...powers(-slope, queryScale),
    ...Array.from({ length: PERIOD + 1 }, (_, n) => decayChange(slope, n)),
    decayChange(slope, segmentTokens),
  ]));
}

function runSpan(device: Device, operands: Operands, slopes: Float64Array, scale: number, span: Span): void {
  const { shape } = operands;
  const { heads, queryHeads, keyHeads, headDim, valueDim } = shape;
  const { parts, reverse } = span;
  const { segmentTokens, alone, segments, ...windows } = footprint(device, operands, span);
  const { rows, columns, rowTiles, columnTiles } = tiling(device, shape);
  const carried = segments - parts.length;

  const key = parts.map(({ row, batch, start, length, origin }) =>
    [row, batch, start, length, origin].join(" ")
  );
  const table = device.constant(
    `lightning table ${reverse},${segmentTokens},${key.join()}`,
    () => schedule(span, segmentTokens),
  );
  const decays = device.constant(
    `lightning decays ${segmentTokens},${scale},${reverse},${slopes.join()}`,
    () => decayTable(slopes, segmentTokens, reverse ? scale : 1, reverse ? 1 : scale),
  );
  /** Strides of an operand, and the elements before its window. */
  const walk = (heads: number, dim: number, { start }: Window): [number, number, number, number] => {
    const [batch, head, token] = strides(shape, heads, dim);
    return [batch, head, reverse ? -token : token, start];
  };
  const values = {
    query: walk(queryHeads, headDim, windows.q),
    key: walk(keyHeads, headDim, windows.k),
    value: walk(heads, valueDim, windows.v),
    heads,
    queryGroup: heads / queryHeads,
    keyGroup: heads / keyHeads,
    firstHead: span.head,
    headCount: span.heads,
    headDim,
    valueDim,
    segments,
    sequences: parts.length,
    stateOrigin: windows.state.start,
  };
  const dtypes = { S: operands.q.dtype, O: operands.output.dtype };
  const variant = { reverse, steep: slopes.some((slope) => slope > STEEP), alone };
  const { updateState, carryState, attend } = shaders.lightning;
  using scope = device.scope();
  const scratch = scope.allocate([segments, span.heads, headDim, valueDim]);

  if (carried > 0) {
    const workgroups = carried * span.heads * rowTiles * columnTiles;
    device.dispatch(
      device.kernel(updateState, {
        access: { scratch: "update" },
        ...kernelOptions(device, dtypes, shape, { threads: rows * columns / 64, ...variant }),
      }),
      { table, decays, scratch, k: windows.k, v: windows.v },
      { ...values, workgroups, firstRow: 0 },
      workgroups,
    );
  }
  const elements = parts.length * span.heads * headDim * valueDim;
  const workgroups = Math.ceil(elements / 4 / carryState.threads);
  device.dispatch(
    device.kernel(carryState, {
      access: { scratch: "update" },
      ...kernelOptions(device, dtypes, shape, variant),
    }),
    {
      table,
      decays,
      scratch,
      initialState: windows.initialState ?? device.nothing,
      carriedState: windows.state,
    },
    { ...values, workgroups, firstRow: 0 },
    workgroups,
  );
  for (let firstRow = 0; firstRow < headDim; firstRow += rows) {
    const workgroups = segments * span.heads * columnTiles;
    device.dispatch(
      device.kernel(attend, {
        access: { scratch: "update", output: "update", state: "update" },
        ...kernelOptions(device, dtypes, shape, { later: firstRow > 0, ...variant }),
      }),
      {
        table,
        decays,
        scratch,
        k: windows.k,
        v: windows.v,
        q: windows.q,
        output: windows.output,
        state: windows.state,
      },
      { ...values, workgroups, firstRow },
      workgroups,
    );
  }
}
