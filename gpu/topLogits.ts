/**
 * The largest of a row of logits, so that choosing a token reads back a few numbers.
 *
 * @module
 */
import type { TopLogitsCall } from "../core/machine.ts";
import { type Device, storeOf } from "./device.ts";
import * as shaders from "./shaders.ts";

/** See {@linkcode Fused.topLogits}. */
export function topLogits(device: Device, { logits, count, output }: TopLogitsCall): void {
  const { first, merge, constants: { CHUNK } } = shaders.topLogits;
  const from = storeOf(logits), result = storeOf(output);
  const types = { Logit: from.dtype };
  using scope = device.scope();
  let size = from.length, workgroups = Math.ceil(size / CHUNK);
  const parts = workgroups;
  const sums = scope.allocate([parts, 4]);
  let largest = scope.allocate([workgroups * count, 2]);
  device.dispatch(
    device.kernel(first, { access: { largest: "write", sums: "write" }, types }),
    { logits: from, largest, sums },
    { size, count, workgroups, parts: 0 },
    workgroups,
  );
  do {
    size = workgroups * count;
    workgroups = Math.ceil(size / CHUNK);
    const isLast = workgroups === 1, candidates = largest;
    largest = isLast ? result : scope.allocate([workgroups * count, 2]);
    device.dispatch(
      device.kernel(merge, { access: { largest: "write" }, types }),
      { candidates, largest, allSums: sums },
      { size, count, workgroups, parts: isLast ? parts : 0 },
      workgroups,
    );
  } while (workgroups > 1);
}
