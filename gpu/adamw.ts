/**
 * The optimiser's step.
 *
 * @module
 */
import type { AdamWCall } from "../core/machine.ts";
import { type Device, storeOf } from "./device.ts";
import * as shaders from "./shaders.ts";

/** See {@linkcode Operations.adamw}. */
export function adamw(
  device: Device,
  { parameter, gradient, first, second, squares, ...rates }: AdamWCall,
): void {
  const { count: step, learningRate, beta1, beta2, eps, weightDecay, maxNorm } = rates;
  const kernel = device.kernel(shaders.adamw.main, {
    access: { parameter: "update", first: "update", second: "update" },
  });
  const values = {
    keep: 1 - learningRate * weightDecay,
    rate: learningRate / (1 - beta1 ** step),
    beta1,
    rest1: 1 - beta1,
    beta2,
    rest2: 1 - beta2,
    correction: 1 / Math.sqrt(1 - beta2 ** step),
    eps,
    maxNorm,
  };
  const [from, p, m, v] = [gradient, parameter, first, second].map(storeOf);
  for (const { start, count } of device.chunks(parameter.size, [from, 1], [p, 1], [m, 1], [v, 1])) {
    device.dispatch(
      kernel,
      {
        gradient: from.window(start, count),
        squares: storeOf(squares),
        parameter: p.window(start, count),
        first: m.window(start, count),
        second: v.window(start, count),
      },
      { count, ...values },
      Math.ceil(count / kernel.shader.threads),
    );
  }
}
