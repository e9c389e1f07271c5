/**
 * Cross entropy and its gradient.
 *
 * @module
 */
import type { CrossEntropyCall } from "../core/machine.ts";
import { type Device, storeOf } from "./device.ts";
import * as shaders from "./shaders.ts";

/** See {@linkcode Operations.crossEntropy}. */
export function crossEntropy(
  device: Device,
  { logits, labels, scale, vocab, loss, dLogits }: CrossEntropyCall,
): void {
  if (logits.size === 0) return;
  const kernel = device.kernel(shaders.crossEntropy.main, {
    access: { loss: "write", dLogits: "write" },
    constants: { WORKGROUP: vocab < 512 ? 64 : 256 },
  });
  const [from, losses, to] = [logits, loss, dLogits].map(storeOf);
  using scope = device.scope();
  const wanted = scope.upload(new Uint32Array(labels.buffer, labels.byteOffset, labels.length));
  const rowsOf = [[from, vocab], [to, vocab], [losses, 1], [wanted, 1]] as const;
  for (const { start, count } of device.chunks(labels.length, ...rowsOf)) {
    device.dispatch(
      kernel,
      {
        logits: from.window(start * vocab, count * vocab),
        labels: wanted.window(start, count),
        loss: losses.window(start, count),
        dLogits: to.window(start * vocab, count * vocab),
      },
      { rows: count, vocab, scale },
      count,
    );
  }
}
