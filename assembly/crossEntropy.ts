// Cross entropy and its gradient, together: both need the softmax. Its denominator is summed in float64.
import { exp4 } from "./parts/exp";
import { horizontalSum, loadLanes, storeLanes } from "./parts/simd";

/**
 * One row: `loss = logsumexp(logits) − logits[label]`, `dLogits = (softmax(logits) − onehot(label)) · scale`. A negative
 * label is ignored: loss and gradient are 0.
 */
export function crossEntropy(
  logits: usize, vocab: i32, label: i32, scale: f32, loss: usize, dLogits: usize,
): void {
  if (label < 0) {
    store<f32>(loss, 0);
    memory.fill(dLogits, 0, <usize> vocab << 2);
    return;
  }
  let max = load<f32>(logits);
  for (let i = 1; i < vocab; i++) max = Mathf.max(max, load<f32>(logits + (<usize> i << 2)));
  const shift = f32x4.splat(max);
  let sum: f64 = 0;
  for (let i = 0; i < vocab; i += 4) {
    const at = <usize> i << 2, count = vocab - i;
    storeLanes(dLogits + at, exp4(f32x4.sub(loadLanes(logits + at, count), shift)), count);
    sum += <f64> horizontalSum(loadLanes(dLogits + at, count));
  }
  const own = <usize> label << 2;
  store<f32>(loss, <f32> (Math.log(sum) + (<f64> max - <f64> load<f32>(logits + own))));
  const factor = f32x4.splat(<f32> (<f64> scale / sum));
  for (let i = 0; i < vocab; i += 4) {
    const at = <usize> i << 2, count = vocab - i;
    storeLanes(dLogits + at, f32x4.mul(loadLanes(dLogits + at, count), factor), count);
  }
  store<f32>(dLogits + own, load<f32>(dLogits + own) - scale);
}
