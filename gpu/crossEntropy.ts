/**
 * Cross entropy and its gradient.
 *
 * @module
 */
import type { Tensor } from "../core/tensor.ts";
import { type Device, float, storeOf } from "./device.ts";
import source from "./crossEntropy.wgsl" with { type: "text" };

/** See {@linkcode GradientKernels.crossEntropy}. */
export function crossEntropy(
  device: Device,
  logits: Tensor,
  labels: Int32Array,
  scale: number,
  loss: Tensor,
  dLogits: Tensor,
): void {
  if (logits.size === 0) return;
  const vocab = logits.size / labels.length;
  const kernel = device.kernel({
    source,
    bindings: ["read", "read", "write", "write"],
    constants: { WORKGROUP: vocab < 512 ? 64 : 256 },
  });
  const [from, losses, to] = [logits, loss, dLogits].map(storeOf);
  const wanted = device.upload(new Uint32Array(labels.buffer, labels.byteOffset, labels.length));
  try {
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
  } finally {
    device.release(wanted);
  }
}
