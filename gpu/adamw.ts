/**
 * The optimiser's step.
 *
 * @module
 */
import type { AdamWCall } from "../core/machine.ts";
import { type Device, float, storeOf } from "./device.ts";
import source from "./adamw.wgsl" with { type: "text" };

/** See {@linkcode Operations.adamw}. */
export function adamw(
  device: Device,
  { parameter, gradient, first, second, squares, count: step, ...rates }: AdamWCall,
): void {
  const { learningRate, beta1, beta2, eps, weightDecay, maxNorm } = rates;
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
