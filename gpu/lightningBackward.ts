/**
 * Gradients of Lightning Attention by its own kernels. (Apart from `lightning.ts`: that file is how work is cut and
 * dispatched, this one is which runs of it make the gradients.) With S_t = λ S_{t−1} + k_t v_tᵀ, o_t = scale · q_tᵀ S_t,
 * and dS_t the gradient of S_t:
 *
 *     dq_t = scale · S_t do_t                                      S_t  = λ S_{t−1} + k_t v_tᵀ
 *     dk_t = dS_t v_t,   dv_t = dS_tᵀ k_t                          dS_t = λ dS_{t+1} + scale · q_t do_tᵀ
 *     dInitialState = λ dS_1
 *
 * dq is the forward itself with (do, v, k) for (q, k, v) and the transposed initial state. dv is the forward from the
 * last token to the first with (k, q, do) for (q, k, v), dk the same with (v, do, q) and transposed. What differs is
 * when states decay: the forward's initial state precedes its first token, while dState, the gradient of the final
 * state, stands at the last one. `REVERSE` in `lightning.wgsl` moves two exponents for that.
 *
 * @module
 */
import type { LightningBackwardCall, LightningShape } from "../core/machine.ts";
import type { Tensor } from "../core/tensor.ts";
import { type Device, type Scope, type Store, storeOf } from "./device.ts";
import { runSequences } from "./lightning.ts";
import { multipleOf4, pad, padded } from "./pad.ts";
import * as shaders from "./shaders.ts";

/** See {@linkcode Operations.lightningBackward}. */
export function lightningBackward(device: Device, call: LightningBackwardCall): void {
  const { slopes, scale, sequences } = call;
  const { heads, queryHeads, keyHeads, headDim: d, valueDim: e } = call.shape;
  const [d4, e4] = [multipleOf4(d), multipleOf4(e)];
  const shape = { ...call.shape, headDim: d4, valueDim: e4 };
  const transposed = { ...shape, queryHeads: heads, keyHeads: heads, headDim: e4, valueDim: d4 };

  using scope = device.scope();
  const rows = (tensor: Tensor, dim: number, dim4: number) =>
    padded(scope, storeOf(tensor), [1, dim], [1, dim4]);
  const q = rows(call.q, d, d4), k = rows(call.k, d, d4);
  const v = rows(call.v, e, e4), dOutput = rows(call.dOutput, e, e4);
  const transposedState = (scope: Scope) => scope.allocate([sequences.length, heads, e4, d4]);
  const unused = transposedState(scope); // the final state of a transposed run

  /**
   * A transposed run, whose value is the key or query of the call: its heads are repeated for all that share them. Of
   * those that share a head of the gradient, the sum is the gradient.
   */
  const runTransposed = (
    operands: { q: Store; k: Store; v: Store },
    valueHeads: number,
    state: Tensor | undefined,
    gradient: Tensor,
    gradientHeads: number,
    reverse: boolean,
  ) => {
    using scope = device.scope();
    const initialState = state && transposedState(scope);
    if (initialState !== undefined) transposeStates(device, storeOf(state!), [d, e], initialState);
    writePadded(device, gradient, [1, d], [1, d4], (result) => {
      const repeated = valueHeads < heads, summed = gradientHeads < heads;
      const value = repeated ? scope.allocate(headsShape(transposed, heads)) : operands.v;
      if (repeated) repeatHeads(device, transposed, operands.v, valueHeads, value);
      const output = summed ? scope.allocate(headsShape(transposed, heads)) : result;
      const all = { ...operands, shape: transposed, v: value, initialState, output, state: unused };
      runSequences(device, all, slopes, scale, sequences, reverse);
      if (summed) sumHeads(device, transposed, output, gradientHeads, result);
    });
  };
  runTransposed({ q: dOutput, k: v, v: k }, keyHeads, call.initialState, call.dq, queryHeads, false);
  runTransposed({ q: v, k: dOutput, v: q }, queryHeads, call.dState, call.dk, keyHeads, true);

  writePadded(
    device,
    call.dv,
    [1, e],
    [1, e4],
    (output) =>
      writePadded(device, call.dInitialState, [d, e], [d4, e4], (state) => {
        const initialState = call.dState && padded(scope, storeOf(call.dState), [d, e], [d4, e4]);
        const exchanged = { ...shape, queryHeads: keyHeads, keyHeads: queryHeads };
        const operands = { shape: exchanged, q: k, k: q, v: dOutput, initialState, state, output };
        runSequences(device, operands, slopes, scale, sequences, true);
      }),
  );
}

/** Has a tensor written: as it is, or, where its sizes are no multiples of 4, as a padded store that is then cut. */
function writePadded(
  device: Device,
  tensor: Tensor,
  [rows, columns]: readonly [number, number],
  [rows4, columns4]: readonly [number, number],
  write: (store: Store) => void,
): void {
  if (rows === rows4 && columns === columns4) return write(storeOf(tensor));
  using scope = device.scope();
  const store = scope.allocate([tensor.size / (rows * columns), rows4, columns4]);
  write(store);
  pad(device, store, [rows4, columns4], [rows, columns], storeOf(tensor));
}

const headsShape = ({ layout, batch, seqLen, valueDim }: LightningShape, heads: number) =>
  layout === "bhnd" ? [batch, heads, seqLen, valueDim] : [batch, seqLen, heads, valueDim];

/** Copies each head of x to all the heads of value that share it. */
function repeatHeads(device: Device, shape: LightningShape, x: Store, sharedHeads: number, y: Store): void {
  const kernel = device.kernel(shaders.lightningBackward.repeatHeads, { access: { copies: "write" } });
  for (const { shared, each, size, group, width } of groups(device, shape, sharedHeads, x, y)) {
    const workgroups = Math.ceil(size / kernel.shader.threads);
    device.dispatch(
      kernel,
      { sharedHeads: shared, copies: each },
      { size, group, width, add: 0 },
      workgroups,
    );
  }
}

/** Sums the heads of x that share a head of y, in their order. */
function sumHeads(device: Device, shape: LightningShape, x: Store, sharedHeads: number, y: Store): void {
  const kernel = device.kernel(shaders.lightningBackward.sumHeads, { access: { sums: "update" } });
  for (const { shared, each, size, group, width, first } of groups(device, shape, sharedHeads, y, x)) {
    const workgroups = Math.ceil(size / kernel.shader.threads), add = first ? 0 : 1;
    device.dispatch(kernel, { sums: shared, terms: each }, { size, group, width, add }, workgroups);
  }
}

/**
 * Walks over `shared`, `[rows, width]`, and `each`, `[rows, group, width]`, in windows that can be bound: of whole
 * groups, or, where one is too large, of parts of one row, once for each head of its group. Sizes are in vectors of 4.
 */
function* groups(device: Device, shape: LightningShape, sharedHeads: number, shared: Store, each: Store) {
  const { layout, heads, batch, seqLen, valueDim } = shape;
  const all = heads / sharedHeads;
  const [rows, width] = layout === "bhnd"
    ? [batch * sharedHeads, seqLen * valueDim]
    : [batch * seqLen * sharedHeads, valueDim];
  const most = device.limits.windowBytes / 4;
  if (all * width <= most) {
    for (const { start, count } of device.chunks(rows, [shared, width], [each, all * width])) {
      yield {
        shared: shared.window(start * width, count * width),
        each: each.window(start * all * width, count * all * width),
        size: count * width / 4,
        group: all,
        width: width / 4,
        first: true,
      };
    }
    return;
  }
  for (let row = 0; row < rows; row++) {
    for (let start = 0; start < width; start += most) {
      const length = Math.min(most, width - start);
      for (let head = 0; head < all; head++) {
        yield {
          shared: shared.window(row * width + start, length),
          each: each.window((row * all + head) * width + start, length),
          size: length / 4,
          group: 1,
          width: length / 4,
          first: head === 0,
        };
      }
    }
  }
}

/** Transposes each state of x, `[count, d, e]`, to `[e, d]`, with zeros up to multiples of 4, into y. */
function transposeStates(device: Device, x: Store, [d, e]: readonly [number, number], y: Store): void {
  const [d4, e4] = [multipleOf4(d), multipleOf4(e)];
  const kernel = device.kernel(shaders.lightningBackward.transposeStates, {
    access: { transposed: "write" },
  });
  for (const { start, count } of device.chunks(x.length / (d * e), [x, d * e], [y, e4 * d4])) {
    device.dispatch(
      kernel,
      {
        states: x.window(start * d * e, count * d * e),
        transposed: y.window(start * e4 * d4, count * e4 * d4),
      },
      { size: count * e4 * d4, headDim: d, valueDim: e, toHeadDim: d4, toValueDim: e4 },
      Math.ceil(count * e4 * d4 / kernel.shader.threads),
    );
  }
}
