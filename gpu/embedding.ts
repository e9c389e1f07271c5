/**
 * Rows of a table by token id, and the gradient of the table.
 *
 * @module
 */
import type { EmbeddingBackwardCall, EmbeddingCall } from "../core/machine.ts";
import { type Device, float, storeOf } from "./device.ts";
import { quantizedRows } from "./quantized.ts";
import { pickRows } from "./rows.ts";
import source from "./embeddingBackward.wgsl" with { type: "text" };

/** Rows that a thread adds up: a frequent id has many, so its sum is one of sums. */
const LONGEST_RUN = 64;

/** See {@linkcode Operations.embedding}. */
export function embedding(device: Device, { table, ids, scale, width, output }: EmbeddingCall): void {
  if (table.quantization === undefined) {
    pickRows(device, storeOf(table), ids, scale, width, storeOf(output));
  } else quantizedRows(device, table, table.quantization, ids, scale, storeOf(output));
}

/** See {@linkcode Operations.embeddingBackward}. */
export function embeddingBackward(
  device: Device,
  { ids, scale, width, dy, dTable }: EmbeddingBackwardCall,
): void {
  if (dy.size === 0) return;
  const [vocab] = dTable.shape;
  const [incoming, table] = [storeOf(dy), storeOf(dTable)];
  const groups = Math.ceil(width / 64);
  using scope = device.scope();
  for (const { start, count } of device.chunks(ids.length, [incoming, width])) {
    const { order, starts, firstRuns, distinct } = runsOf(ids.subarray(start, start + count), vocab);
    const runs = starts.length - 1;
    const identity = scope.upload(Uint32Array.from({ length: runs }, (_, i) => i));
    const sums = scope.allocate([runs, width]);
    device.dispatch(
      kernelOf(device, false),
      [
        incoming.window(start * width, count * width),
        scope.upload(order),
        scope.upload(starts),
        identity,
        sums,
      ],
      [width, 0, runs, float(1), runs * groups],
      runs * groups,
    );
    const targets = [scope.upload(firstRuns), scope.upload(distinct)];
    for (const range of device.chunks(vocab, [table, width])) {
      const workgroups = distinct.length * groups;
      device.dispatch(
        kernelOf(device, true),
        [sums, identity, ...targets, table.window(range.start * width, range.count * width)],
        [width, range.start, range.count, float(scale), workgroups],
        workgroups,
      );
    }
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
