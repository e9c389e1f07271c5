/**
 * Gradient of rows looked up by index.
 *
 * @module
 */
import type { Tensor } from "../core/tensor.ts";
import { type Device, float, type Store, storeOf } from "./device.ts";
import source from "./embeddingBackward.wgsl" with { type: "text" };

/** Rows that a thread adds up: a frequent id has many, so its sum is one of sums. */
const LONGEST_RUN = 64;

/** See {@linkcode GradientKernels.embedding}. */
export function embeddingBackward(
  device: Device,
  ids: Uint32Array,
  scale: number,
  dy: Tensor,
  dTable: Tensor,
): void {
  if (dy.size === 0) return;
  const [vocab, dim] = dTable.shape;
  const [incoming, table] = [storeOf(dy), storeOf(dTable)];
  const groups = Math.ceil(dim / 64);
  const held: Store[] = [];
  const upload = (values: Uint32Array) => {
    held.push(device.upload(values));
    return held.at(-1)!;
  };
  try {
    for (const { start, count } of device.chunks(ids.length, [incoming, dim])) {
      const { order, starts, firstRuns, distinct } = runsOf(ids.subarray(start, start + count), vocab);
      const runs = starts.length - 1;
      const identity = upload(Uint32Array.from({ length: runs }, (_, i) => i));
      const sums = device.allocate([runs, dim]);
      held.push(sums);
      device.dispatch(
        kernelOf(device, false),
        [incoming.window(start * dim, count * dim), upload(order), upload(starts), identity, sums],
        [dim, 0, runs, float(1), runs * groups],
        runs * groups,
      );
      const targets = [upload(firstRuns), upload(distinct)];
      for (const range of device.chunks(vocab, [table, dim])) {
        const workgroups = distinct.length * groups;
        device.dispatch(
          kernelOf(device, true),
          [sums, identity, ...targets, table.window(range.start * dim, range.count * dim)],
          [dim, range.start, range.count, float(scale), workgroups],
          workgroups,
        );
      }
    }
  } finally {
    for (const store of held) device.release(store);
  }
}

function kernelOf(device: Device, add: boolean) {
  return device.kernel({
    source,
    bindings: ["read", "read", "read", "read", "update"],
    constants: { ADD: Number(add) },
  });
}

/**
 * The indices of ids, sorted by id and then by index, and cut into runs of the same id: run r is
 * `order[starts[r] ..< starts[r + 1]]`, and the runs of `distinct[j]` are those from `firstRuns[j]` to before
 * `firstRuns[j + 1]`.
 */
function runsOf(
  ids: Uint32Array,
  vocab: number,
): Record<"order" | "starts" | "firstRuns" | "distinct", Uint32Array> {
  const next = new Uint32Array(vocab + 1); // counts, one place on; then where the order goes on for each id
  for (const id of ids) next[id + 1]++;
  const starts = [], firstRuns = [], distinct = [];
  for (let id = 0; id < vocab; id++) {
    const count = next[id + 1];
    if (count > 0) {
      firstRuns.push(starts.length);
      distinct.push(id);
    }
    for (let i = 0; i < count; i += LONGEST_RUN) starts.push(next[id] + i);
    next[id + 1] += next[id];
  }
  firstRuns.push(starts.length);
  starts.push(ids.length);
  const order = new Uint32Array(ids.length);
  ids.forEach((id, i) => order[next[id]++] = i);
  return {
    order,
    starts: Uint32Array.from(starts),
    firstRuns: Uint32Array.from(firstRuns),
    distinct: Uint32Array.from(distinct),
  };
}
