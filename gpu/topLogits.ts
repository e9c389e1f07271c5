/**
 * The largest of each row of logits, so that choosing a token reads back a few numbers.
 *
 * @module
 */
import type { TopLogitsCall } from "../core/machine.ts";
import { type Device, storeOf } from "./device.ts";
import * as shaders from "./shaders.ts";

/** See {@linkcode Fused.topLogits}. */
export function topLogits(device: Device, { logits, rows, count, output }: TopLogitsCall): void {
  if (rows === 0) return;
  const { first, merge, constants: { CHUNK } } = shaders.topLogits;
  const from = storeOf(logits), result = storeOf(output);
  const types = { Logit: from.dtype }, vocab = from.length / rows, width = result.length / rows;
  for (const { start, count: part } of device.chunks(rows, [from, vocab], [result, width])) {
    using scope = device.scope();
    let size = vocab, ofRow = Math.ceil(size / CHUNK);
    const parts = ofRow;
    const sums = scope.allocate([part * parts, 4]);
    let largest = scope.allocate([part * ofRow * count, 2]).window(0, 2 * part * ofRow * count);
    device.dispatch(
      device.kernel(first, { access: { largest: "write", sums: "write" }, types }),
      { logits: from.window(start * vocab, part * vocab), largest, sums },
      { size, count, workgroups: part * ofRow, ofRow, parts: 0 },
      part * ofRow,
    );
    do {
      size = ofRow * count;
      ofRow = Math.ceil(size / CHUNK);
      const isLast = ofRow === 1, candidates = largest, length = part * ofRow * count;
      largest = isLast
        ? result.window(start * width, part * width)
        : scope.allocate([length, 2]).window(0, 2 * length);
      device.dispatch(
        device.kernel(merge, { access: { largest: "write" }, types }),
        { candidates, largest, allSums: sums },
        { size, count, workgroups: part * ofRow, ofRow, parts: isLast ? parts : 0 },
        part * ofRow,
      );
    } while (size > CHUNK);
  }
}
