/**
 * The optimiser's step.
 *
 * @module
 */
import type { AdamWStep } from "../core/backend.ts";
import type { Tensor } from "../core/tensor.ts";
import { type Device, float, storeOf } from "./device.ts";
import source from "./adamw.wgsl" with { type: "text" };

/** See {@linkcode GradientKernels.adamw}. */
export function adamw(
  device: Device,
  parameter: Tensor,
  gradient: Tensor,
  { first, second }: { first: Tensor; second: Tensor },
  squares: Tensor,
  { count: step, learningRate, beta1, beta2, eps, weightDecay, maxNorm }: AdamWStep,
): void {
  const kernel = device.kernel({ source, bindings: ["read", "read", "update", "update", "update"] });
  const numbers = [
    1 - learningRate * weightDecay,
    learningRate / (1 - beta1 ** step),
    beta1,
    1 - beta1,
    beta2,
    1 - beta2,
    1 / Math.sqrt(1 - beta2 ** step),
    eps,
    maxNorm,
  ].map(float);
  const [from, ...updated] = [gradient, parameter, first, second].map(storeOf);
  const elements = [from, ...updated].map((store) => [store, 1] as const);
  for (const { start, count } of device.chunks(parameter.size, ...elements)) {
    device.dispatch(
      kernel,
      [
        from.window(start, count),
        storeOf(squares),
        ...updated.map((store) => store.window(start, count)),
      ],
      [count, ...numbers],
      Math.ceil(count / 256),
    );
  }
}
