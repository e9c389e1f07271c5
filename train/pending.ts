/**
 * Steps under way: their losses are read back together, so that no step waits for the one before.
 *
 * @module
 */
import { rangeError } from "../core/errors.ts";
import type { Tensor } from "../core/tensor.ts";
import { lastGood } from "./checkpoint.ts";
import type { Recipe } from "./recipe.ts";

/** One step. */
export interface StepReport {
  /** From 1. */
  readonly step: number;
  /** Mean cross entropy of its tokens, natural logarithm. */
  readonly loss: number;
  /** Its learning rate. */
  readonly learningRate: number;
  /** Norm of all gradients before clipping. */
  readonly gradientNorm: number;
  /** Tokens per second since the last report. */
  readonly tokensPerSecond: number;
}

/** Steps whose losses are still on the device. */
export class PendingSteps implements Disposable {
  readonly #tokensPerStep: number;
  readonly #out: string;
  #steps: { step: number; total: Tensor; squares: Tensor; labels: number; learningRate: number }[] = [];
  #clock = performance.now();
  #before = "";

  constructor({ batch, seqLen, accumulate, processes, split }: Recipe, out: string) {
    this.#tokensPerStep = batch * seqLen * accumulate * (split === "batch" ? processes : 1);
    this.#out = out;
  }

  add(step: { step: number; total: Tensor; squares: Tensor; labels: number; learningRate: number }): void {
    this.#steps.push(step);
  }

  restartClock(): void {
    this.#clock = performance.now();
  }

  /** Waits for all of them, with one wait. Throws a `RangeError` when a loss or a norm is not finite. */
  async settle(): Promise<StepReport[]> {
    const steps = this.#steps;
    const values = await Promise.all(steps.flatMap(({ total, squares }) => [total.data(), squares.data()]));
    const tokensPerSecond = 1000 * steps.length * this.#tokensPerStep / (performance.now() - this.#clock);
    this.restartClock();
    const reports: StepReport[] = [];
    for (const [i, { step, labels, learningRate }] of steps.entries()) {
      const loss = values[2 * i][0] / labels, gradientNorm = Math.sqrt(values[2 * i + 1][0]);
      if (!(Number.isFinite(loss) && Number.isFinite(gradientNorm))) {
        rangeError(
          "train",
          "loss and gradients must be finite",
          loss,
          `step ${step}, norm of the gradients ${gradientNorm}; ${this.#before}${await lastGood(this.#out)}`,
        );
      }
      this.#before = `step ${step}: loss ${loss}, norm of the gradients ${gradientNorm}; `;
      reports.push({ step, loss, learningRate, gradientNorm, tokensPerSecond });
    }
    this[Symbol.dispose]();
    return reports;
  }

  [Symbol.dispose](): void {
    for (const { total, squares } of this.#steps.splice(0)) {
      total.dispose();
      squares.dispose();
    }
  }
}
