/**
 * Attention cases: as plain data, as arbitraries, on a backend and for the oracle.
 *
 * @module
 */
import fc from "fast-check";
import { type Backend, lightningAttentionBackward, type LightningOptions, type Tensor } from "../mod.ts";
import { BLOCK, FEW_ROWS } from "../core/sizes.ts";
import { PERIOD, SEGMENT_TOKENS } from "../gpu/lightning.ts";
import { CHUNK, LEAST_SEGMENT } from "../gpu/units/lightning.ts";
import { ascending, assertClose, edges, poison, randomArray, Scope } from "./harness.ts";
import * as reference from "./reference.ts";

/**
 * Against float64: what one rounding per multiply-add leaves at these lengths, with room for other orders of sums.
 *
 * On matrix units every term is a product of four numbers that were rounded to f16: of q, k and v, and of Q Kᵀ ⊙ M or of S.
 * Each rounding is off by 2^−11 √(1/6) = 2.0e−4 RMS, so all are off by 4.0e−4, and by 2.9e−4 in states, which take two. `many`
 * leaves a quarter for chance; of few terms, such as the state of two tokens, two may be off by 2^−11 each.
 */
export function limitOf({ info }: Backend, many = false): number {
  if (info.units === "f32") return 2e-6;
  return many ? 5e-4 : 1e-3;
}

/** Everything a call can be given. Heads of q and k divide `heads`. */
export interface Case {
  batch: number;
  heads: number;
  queryHeads?: number;
  keyHeads?: number;
  seqLen: number;
  headDim: number;
  valueDim: number;
  slopes?: number[];
  scale?: number;
  cuSeqlens?: number[];
  withState?: boolean;
  layout?: "bhnd" | "bnhd";
  seed?: number;
}

/**
 * Lengths around the edges of what either backend cuts a sequence into: blocks on WASM, periods and segments on WebGPU.
 * A second segment starts at one and a half, and the longest sequence ends within its fourth.
 */
export const LENGTHS: readonly number[] = ascending(
  ...[0, 1, 2],
  ...edges(BLOCK, 1, 2, 3),
  ...edges(PERIOD, 1),
  ...edges(SEGMENT_TOKENS, 1, 1.5, 2),
  3 * SEGMENT_TOKENS + PERIOD + 1,
);

/** The same for what matrix units take: more than a few tokens, over the edges of chunks and segments. */
export const UNIT_LENGTHS: readonly number[] = ascending(
  FEW_ROWS + 1,
  ...edges(CHUNK, 1, 2),
  ...edges(LEAST_SEGMENT, 1),
  2 * LEAST_SEGMENT + CHUNK + 5,
);

const head = fc.constantFrom(1, 2, 3);

/** Any option. */
function cases(dims: fc.Arbitrary<[number, number]>, seqLen: fc.Arbitrary<number>): fc.Arbitrary<Case> {
  return fc.record({
    batch: fc.constantFrom(1, 2),
    queryHeads: head,
    keyHeads: head,
    groups: fc.constantFrom(1, 2),
    seqLen,
    dims,
    slope: fc.constantFrom(undefined, 0, 1e-7, 0.01, 0.5, 3, 100, Infinity),
    scale: fc.constantFrom(undefined, 0.125, -2),
    cuts: fc.option(fc.array(fc.nat(150), { maxLength: 5 }), { nil: undefined }),
    withState: fc.boolean(),
    layout: fc.constantFrom("bhnd" as const, "bnhd" as const),
    seed: fc.nat(1000),
  }).map(({ groups, slope, cuts, dims: [headDim, valueDim], ...c }) => {
    const heads = c.queryHeads * c.keyHeads * groups;
    return {
      ...c,
      headDim,
      valueDim,
      heads,
      batch: cuts === undefined ? c.batch : 1,
      slopes: slope === undefined ? undefined : Array.from({ length: heads }, (_, h) => slope / (h + 1)),
      cuSeqlens: cuts && [0, ...cuts.map((cut) => Math.min(cut, c.seqLen)).sort((a, b) => a - b), c.seqLen],
    };
  });
}

/** Any shape and any option, small enough for the oracle. */
export const anyCase: fc.Arbitrary<Case> = cases(
  fc.tuple(fc.integer({ min: 1, max: 40 }), fc.integer({ min: 1, max: 40 })),
  fc.integer({ min: 0, max: 150 }),
);

/** Any option with shapes of whole matrices, which units take. Two shapes: each has kernels of its own. */
export const unitCase: fc.Arbitrary<Case> = cases(
  fc.constantFrom([16, 32], [32, 16]),
  fc.integer({ min: FEW_ROWS + 1, max: 2 * CHUNK + 20 }),
);

/** The shapes of a case's tensors, layout `"bhnd"`. */
export function shapesOf(
  { batch, heads, queryHeads = heads, keyHeads = heads, seqLen, headDim, valueDim, cuSeqlens }: Case,
) {
  return {
    q: [batch, queryHeads, seqLen, headDim],
    k: [batch, keyHeads, seqLen, headDim],
    v: [batch, heads, seqLen, valueDim],
    state: [cuSeqlens === undefined ? batch : cuSeqlens.length - 1, heads, headDim, valueDim],
  };
}

/** Random operands of a case, layout `"bhnd"`. */
export function operandsOf(c: Case): Record<"q" | "k" | "v", Float32Array> & { initialState?: Float32Array } {
  const shapes = shapesOf(c), { seed = 1 } = c;
  return {
    q: randomArray(shapes.q, seed),
    k: randomArray(shapes.k, seed + 1),
    v: randomArray(shapes.v, seed + 2),
    initialState: c.withState ? randomArray(shapes.state, seed + 3) : undefined,
  };
}

/** A tensor, in the case's layout, of data of layout `"bhnd"`. */
export function operand(
  scope: Scope,
  backend: Backend,
  c: Case,
  data: Float32Array,
  shape: readonly number[],
): Tensor {
  return scope.keep(
    c.layout === "bnhd"
      ? backend.tensor(reference.toBnhd(data, shape), [shape[0], shape[2], shape[1], shape[3]])
      : backend.tensor(data, shape),
  );
}

/** Expected data of layout `"bhnd"` in the case's layout. */
export function inLayout(c: Case, data: Float64Array, shape: readonly number[]): ArrayLike<number> {
  return c.layout === "bnhd" ? reference.toBnhd(data, shape) : data;
}

/** The options of a case's call. */
export function optionsOf(
  scope: Scope,
  backend: Backend,
  c: Case,
  initialState: Float32Array | undefined,
): LightningOptions {
  return {
    slopes: c.slopes,
    scale: c.scale,
    cuSeqlens: c.cuSeqlens,
    layout: c.layout,
    initialState: initialState && scope.keep(backend.tensor(initialState, shapesOf(c).state)),
  };
}

/** Runs a case backward on the backend and holds all four gradients to the oracle. */
export async function checkBackward(
  backend: Backend,
  c: Case,
  { withStateGradient = true, limit = limitOf(backend) } = {},
): Promise<void> {
  using scope = new Scope();
  const shapes = shapesOf(c), { seed = 1 } = c;
  const { q, k, v, initialState } = operandsOf(c);
  const dOutput = randomArray(shapes.v, seed + 4);
  const dState = withStateGradient ? randomArray(shapes.state, seed + 5) : undefined;
  const expected = reference.lightningAttentionBackward(q, k, v, dOutput, c, { ...c, initialState, dState });
  const tensors = [
    operand(scope, backend, c, q, shapes.q),
    operand(scope, backend, c, k, shapes.k),
    operand(scope, backend, c, v, shapes.v),
    operand(scope, backend, c, dOutput, shapes.v),
  ] as const;
  const options = {
    ...optionsOf(scope, backend, c, initialState),
    dState: dState && scope.keep(backend.tensor(dState, shapes.state)),
  };
  poison(backend, shapes.q, shapes.k, shapes.v, shapes.state);
  const actual = scope.keep(lightningAttentionBackward(...tensors, options));
  for (const name of ["dq", "dk", "dv"] as const) {
    const wanted = inLayout(c, expected[name], shapes[name[1] as "q" | "k" | "v"]);
    assertClose(await actual[name].data(), wanted, limit, `${name} of ${JSON.stringify(c)}`);
  }
  const dInitialState = await actual.dInitialState.data();
  assertClose(dInitialState, expected.dInitialState, limit, `dInitialState of ${JSON.stringify(c)}`);
}
