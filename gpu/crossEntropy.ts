/**
 * Cross entropy and its gradient.
 *
 * @module
 */
import type { CrossEntropyCall } from "../core/machine.ts";
import { type Device, float, storeOf } from "./device.ts";
import source from "./crossEntropy.wgsl" with { type: "text" };

/** See {@linkcode Operations.crossEntropy}. */
export function crossEntropy(
  device: Device,
  { logits, labels, scale, vocab, loss, dLogits }: CrossEntropyCall,
): void {
  if (logits.size === 0) return;
  const kernel = device.kernel({
    source,
    bindings: ["read", "read", "write", "write"],
    constants: { WORKGROUP: vocab < 512 ? 64 : 256 },
  });
  const [from, losses, to] = [logits, loss, dLogits].map(storeOf);
  using scope = device.scope();
  const wanted = scope.upload(new Uint32Array(labels.buffer, labels.byteOffset, labels.length));
  const rowsOf = [[from, vocab], [to, vocab], [losses, 1], [wanted, 1]] as const;
  for (const { start, count } of device.chunks(labels.length, ...rowsOf)) {
    device.dispatch(
      kernel,
      [
        from.window(start * vocab, count * vocab),
        wanted.window(start, count),
        losses.window(start, count),
        to.window(start * vocab, count * vocab),
      ],
      [count, vocab, float(scale)],
      count,
    );
  }
}
