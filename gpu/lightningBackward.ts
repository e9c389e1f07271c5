/**
 * Gradients of Lightning Attention by its own kernels. With S_t = λ S_{t−1} + k_t v_tᵀ, o_t = scale · q_tᵀ S_t, and
 * Z_t the gradient of S_t:
 *
 *     dq_t = scale · S_t do_t                                      S_t  = λ S_{t−1} + k_t v_tᵀ
 *     dk_t = Z_t v_t,   dv_t = Z_tᵀ k_t                            Z_t  = λ Z_{t+1} + scale · q_t do_tᵀ
 *     dInitialState = λ Z_1
 *
 * dq is the forward itself with (do, v, k) for (q, k, v) and the transposed initial state. dv is the forward from the
 * last token to the first with (k, q, do) for (q, k, v), dk the same with (v, do, q) and transposed. What differs is
 * when states decay: the forward's initial state precedes its first token, while Z of the final state, dState, stands
 * at the last one. `REVERSE` in `lightning.wgsl` moves two exponents for that.
 *
 * @module
 */
import type { LightningBackwardCall, LightningShape } from "../core/backend.ts";
import { typeError } from "../core/errors.ts";
import type { Tensor } from "../core/tensor.ts";
import { type Device, type Store, storeOf } from "./device.ts";
import { runSequences } from "./lightning.ts";
import { multipleOf4, pad } from "./pad.ts";
import source from "./lightningBackward.wgsl" with { type: "text" };

/** See {@linkcode GradientKernels.lightning}. */
export function lightningBackward(device: Device, call: LightningBackwardCall): void {
  for (const name of ["q", "k", "v", "dOutput"] as const) {
    if (call[name].dtype !== "f32") {
      typeError("lightningAttentionBackward", `${name} must be stored as f32 on webgpu`, call[name].dtype);
    }
  }
  const { slopes, scale, sequences } = call;
  const { heads, queryHeads, keyHeads, headDim: d, valueDim: e } = call.shape;
  const [d4, e4] = [multipleOf4(d), multipleOf4(e)];
  const shape = { ...call.shape, headDim: d4, valueDim: e4 };
  const transposed = { ...shape, queryHeads: heads, keyHeads: heads, headDim: e4, valueDim: d4 };

  const held: Store[] = [];
  const keep = (store: Store) => (held.push(store), store);
  const free = (store: Store) => {
    const index = held.indexOf(store);
    if (index >= 0) device.release(held.splice(index, 1)[0]);
  };
  /** A tensor's store, or a padded copy of it. */
  const padded = (tensor: Tensor, dim: number, dim4: number) => {
    return dim === dim4 ? storeOf(tensor) : keep(pad(device, storeOf(tensor), [1, dim], [1, dim4]));
  };
  /** Runs into a tensor, or into a padded store that is then cut. */
  const into = (
    tensor: Tensor,
    [rows, columns]: readonly [number, number],
    [rows4, columns4]: readonly [number, number],
    run: (store: Store) => void,
  ) => {
    if (rows === rows4 && columns === columns4) return run(storeOf(tensor));
    const store = keep(device.allocate([tensor.size / (rows * columns), rows4, columns4]));
    run(store);
    pad(device, store, [rows4, columns4], [rows, columns], storeOf(tensor));
    free(store);
  };
  const states = (rows: number, columns: number) =>
    keep(device.allocate([sequences.length, heads, rows, columns]));

  try {
    const q = padded(call.q, d, d4), k = padded(call.k, d, d4);
    const v = padded(call.v, e, e4), dOutput = padded(call.dOutput, e, e4);
    const state = states(e4, d4); // what the transposed runs end with: of no use
    const stateOf = (tensor: Tensor | undefined) => {
      return tensor && transposeStates(device, storeOf(tensor), [d, e], states(e4, d4));
    };
    // A transposed run, whose value is the key or query of the call: its heads are repeated for all that share them. Of
    // those that share a head of the gradient, the sum is the gradient.
    const runTransposed = (
      operands: { q: Store; k: Store; v: Store; initialState: Store | undefined },
      valueHeads: number,
      gradient: Tensor,
      gradientHeads: number,
      reverse: boolean,
    ) =>
      into(gradient, [1, d], [1, d4], (store) => {
        const repeated = valueHeads < heads, summed = gradientHeads < heads;
        const value = repeated ? keep(repeatHeads(device, transposed, operands.v, valueHeads)) : operands.v;
        const output = summed ? keep(device.allocate(headsShape(transposed, heads))) : store;
        const all = { ...operands, shape: transposed, v: value, output, state };
        runSequences(device, all, slopes, scale, sequences, reverse);
        if (summed) sumHeads(device, transposed, output, gradientHeads, store);
        if (repeated) free(value);
        if (summed) free(output);
        if (operands.initialState !== undefined) free(operands.initialState);
      });

    const initialState = stateOf(call.initialState);
    runTransposed({ q: dOutput, k: v, v: k, initialState }, keyHeads, call.dq, queryHeads, false);
    const dState = stateOf(call.dState);
    runTransposed({ q: v, k: dOutput, v: q, initialState: dState }, queryHeads, call.dk, keyHeads, true);

    into(call.dv, [1, e], [1, e4], (output) =>
      into(call.dInitialState, [d, e], [d4, e4], (state) => {
        const initialState = call.dState && (d === d4 && e === e4
          ? storeOf(call.dState)
          : keep(pad(device, storeOf(call.dState), [d, e], [d4, e4])));
        const turned = { ...shape, queryHeads: keyHeads, keyHeads: queryHeads };
        const operands = { shape: turned, q: k, k: q, v: dOutput, initialState, state, output };
        runSequences(device, operands, slopes, scale, sequences, true);
      }));
  } finally {
    for (const store of held) device.release(store);
  }
}

const headsShape = ({ layout, batch, seqLen, valueDim }: LightningShape, heads: number) =>
  layout === "bhnd" ? [batch, heads, seqLen, valueDim] : [batch, seqLen, heads, valueDim];

/** Copies each head of x to all the heads of value that share it; the caller releases the result. */
function repeatHeads(device: Device, shape: LightningShape, x: Store, sharedHeads: number): Store {
  const y = device.allocate(headsShape(shape, shape.heads));
  const kernel = device.kernel({ source, entryPoint: "repeatHeads", bindings: ["read", "write"] });
  for (const { shared, each, size, group, width } of groups(device, shape, sharedHeads, x, y)) {
    device.dispatch(kernel, [shared, each], [size, group, width], Math.ceil(size / 64));
  }
  return y;
}

/** Sums the heads of x that share a head of y, in their order. */
function sumHeads(device: Device, shape: LightningShape, x: Store, sharedHeads: number, y: Store): void {
  const kernel = device.kernel({ source, entryPoint: "sumHeads", bindings: ["update", "read"] });
  for (const { shared, each, size, group, width, first } of groups(device, shape, sharedHeads, y, x)) {
    device.dispatch(kernel, [shared, each], [size, group, width, Number(!first)], Math.ceil(size / 64));
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

/** Turns each state of x, `[count, d, e]`, to `[e, d]`, with zeros up to multiples of 4, into y. */
function transposeStates(device: Device, x: Store, [d, e]: readonly [number, number], y: Store): Store {
  const [d4, e4] = [multipleOf4(d), multipleOf4(e)];
  const kernel = device.kernel({ source, entryPoint: "transposeStates", bindings: ["read", "write"] });
  for (const { start, count } of device.chunks(x.length / (d * e), [x, d * e], [y, e4 * d4])) {
    device.dispatch(
      kernel,
      [x.window(start * d * e, count * d * e), y.window(start * e4 * d4, count * e4 * d4)],
      [count * e4 * d4, d, e, d4, e4],
      Math.ceil(count * e4 * d4 / 64),
    );
  }
  return y;
}
