/**
 * Rows of a table by token id, and the gradient of the table.
 *
 * @module
 */
import type { EmbeddingBackwardCall, EmbeddingCall } from "../core/machine.ts";
import { type Device, storeOf, type Window } from "./device.ts";
import { quantizedRows } from "./quantized.ts";
import { pickRows } from "./rows.ts";
import * as shaders from "./shaders.ts";

/** Rows that a thread adds up: a frequent id has many, so its sum is one of sums. */
const LONGEST_RUN = 64;

/** See {@linkcode Operations.embedding}. */
export function embedding(device: Device, { ids, ...call }: EmbeddingCall): void {
  using scope = device.scope();
  pickTokens(device, call, scope.upload(ids));
}

/** The same with ids that the device has. */
export function pickTokens(
  device: Device,
  { table, scale, width, output }: Omit<EmbeddingCall, "ids">,
  ids: Window,
): void {
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
  const incoming = storeOf(dy), table = storeOf(dTable);
  const { main } = shaders.embeddingBackward, access = { result: "update" } as const;
  const sumRuns = device.kernel(main, { access, constants: { ADD: false } });
  const addSums = device.kernel(main, { access, constants: { ADD: true } });
  const groups = Math.ceil(width / main.threads);
  for (const { start, count } of device.chunks(ids.length, [incoming, width])) {
    using scope = device.scope();
    const { order, starts, firstRuns, distinct } = runsOf(ids.subarray(start, start + count), vocab);
    const runs = starts.length - 1;
    const identity = scope.upload(Uint32Array.from({ length: runs }, (_, i) => i));
    const sums = scope.allocate([runs, width]);
    device.dispatch(
      sumRuns,
      {
        source: incoming.window(start * width, count * width),
        rows: scope.upload(order),
        starts: scope.upload(starts),
        targets: identity,
        result: sums,
      },
      { width, first: 0, count: runs, scale: 1, workgroups: runs * groups },
      runs * groups,
    );
    const firstSums = scope.upload(firstRuns), targets = scope.upload(distinct);
    for (const range of device.chunks(vocab, [table, width])) {
      const workgroups = distinct.length * groups;
      device.dispatch(
        addSums,
        {
          source: sums,
          rows: identity,
          starts: firstSums,
          targets,
          result: table.window(range.start * width, range.count * width),
        },
        { width, first: range.start, count: range.count, scale, workgroups },
        workgroups,
      );
    }
  }
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
  const next = new Uint32Array(vocab + 1); // counts, one place later; then where the order continues for each id
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
