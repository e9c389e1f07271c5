/**
 * Cross entropy and its gradient, in one pass.
 *
 * @module
 */
import { checkArray, checkFinite, checkOptions, results } from "../check.ts";
import { F32 } from "../dtype.ts";
import { rangeError } from "../errors.ts";
import { lastDimension } from "../shape.ts";
import { checkTensor, type Tensor } from "../tensor.ts";

/**
 * Cross entropy of each row, `loss = logsumexp(logits) − logits[label]`, and its gradient,
 * `dLogits = scale · (softmax(logits) − onehot(label))`. A negative label is ignored: loss and gradient are 0.
 *
 * @param logits `[..., vocab]`
 * @param labels one integer per row, below vocab
 * @param options `scale`: factor of the gradient, default 1; 1 / (labels that count) makes it that of the mean
 * @returns `loss`, in nats, one value per row, `[labels.length]`, and `dLogits`, shaped like logits
 * @throws {TypeError} when an argument is of the wrong kind, or logits are not stored as f32
 * @throws {RangeError} when a label is outside the vocabulary, or shapes do not match
 */
export function crossEntropy(
  logits: Tensor,
  labels: ArrayLike<number>,
  options: { scale?: number } = {},
): { loss: Tensor; dLogits: Tensor } {
  const operation = "crossEntropy";
  const vocab = lastDimension(operation, "logits", checkTensor(operation, "logits", logits, F32));
  checkArray(operation, "labels", labels, "integers, one per row of logits");
  checkOptions(operation, options);
  const { scale = 1 } = options;
  checkFinite(operation, "scale", scale);
  if (labels.length * vocab !== logits.size) {
    rangeError(operation, "labels must have one value per row of logits", labels.length, `[${logits.shape}]`);
  }
  for (let i = 0; i < labels.length; i++) {
    if (!Number.isInteger(labels[i]) || labels[i] >= vocab || labels[i] < -(2 ** 31)) {
      rangeError(operation, `labels must be integers below ${vocab}`, labels[i], `index ${i}`);
    }
  }
  const { backend } = logits, checked = Int32Array.from(labels);
  return results(backend, { loss: [labels.length], dLogits: logits.shape }, {}, ({ loss, dLogits }) => {
    backend.machine.operations.crossEntropy({ logits, labels: checked, scale, vocab, loss, dLogits });
  });
}
