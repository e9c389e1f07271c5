/**
 * Truncated backpropagation: states that one step leaves to the next.
 *
 * @module
 */
import type { Backend } from "../core/tensor.ts";
import { gatherRows } from "../core/ops.ts";
import { elementCount } from "../core/shape.ts";
import type { Tensor } from "../core/tensor.ts";
import type { Segment } from "./backward.ts";
import type { NamedTensor } from "./checkpoint.ts";

/** The states that a packed segment leaves to the next one, `[sequences, heads, headDim, valueDim]` per layer. */
export class CarriedStates implements Disposable {
  readonly #backend: Backend;
  /** Of each layer, after the last segment. */
  #states: Tensor[];

  constructor(backend: Backend, saved: readonly NamedTensor[]) {
    this.#backend = backend;
    this.#states = saved.map(({ data, shape }) => backend.tensor(data, shape));
  }

  /** Runs a segment with the states that are its own, and keeps those that it leaves. */
  async take(
    segment: Segment & { carried?: readonly number[] },
    run: (segment: Segment) => Promise<Tensor[]>,
  ): Promise<void> {
    const { carried } = segment;
    using initial = new DisposableStack();
    const states = carried === undefined || carried.length === 0 ? undefined : this.#states.map((state) => {
      const [sequences, ...size] = state.shape;
      const rows = initial.use(state.reshape([sequences, elementCount(size)]));
      return initial.use(gatherRows(rows, carried).reshape([carried.length, ...size]));
    });
    const left = await run({ ...segment, states });
    if (carried === undefined) {
      for (const state of left) state.dispose();
    } else {
      this[Symbol.dispose]();
      this.#states = left;
    }
  }

  /** For a checkpoint. */
  async read(): Promise<readonly NamedTensor[]> {
    const tensors = [];
    for (const [l, state] of this.#states.entries()) {
      tensors.push({ name: `state.${l}`, shape: state.shape, data: await this.#backend.read(state) });
    }
    return tensors;
  }

  [Symbol.dispose](): void {
    for (const state of this.#states.splice(0)) state.dispose();
  }
}
