/**
 * What a person at a terminal sees of a training run.
 *
 * @module
 */
import { StatusLine } from "../cli/mod.ts";
import type { EvaluationReport, StepReport } from "./train.ts";

/** A bar that redraws itself on a terminal, and lines that stay. */
export class Progress {
  readonly #steps: number;
  readonly #status: StatusLine;

  /** @param steps steps in all @param status where it is shown */
  constructor(steps: number, status: StatusLine = new StatusLine()) {
    this.#steps = steps;
    this.#status = status;
  }

  /** Redraws the bar. */
  step({ step, loss, learningRate, tokensPerSecond }: StepReport, secondsPerStep: number): void {
    const width = 24, done = Math.floor(width * step / this.#steps);
    this.#status.draw(
      `${"█".repeat(done)}${"░".repeat(width - done)} ${step}/${this.#steps}  loss ${loss.toFixed(4)}  lr ${
        learningRate.toExponential(2)
      }  ${Math.round(tokensPerSecond)} tokens/s  ${duration((this.#steps - step) * secondsPerStep)} left`,
    );
  }

  /** A line that stays, above the bar. */
  note(text: string): void {
    this.#status.note(text);
  }

  /** See {@linkcode EvaluationReport}. */
  evaluation({ step, heldOutLoss, perplexity, bitsPerByte }: EvaluationReport): void {
    this.note(
      `step ${step}: held-out loss ${heldOutLoss.toFixed(4)}, perplexity ${perplexity.toFixed(3)}, ${
        bitsPerByte.toFixed(4)
      } bits per byte`,
    );
  }

  /** Ends the bar's line. */
  end(): void {
    this.#status.end();
  }
}

/** `1h02m`, `3m07s` or `12s`. */
export function duration(seconds: number): string {
  if (!Number.isFinite(seconds)) return "?";
  const whole = Math.round(seconds), two = (n: number) => String(n).padStart(2, "0");
  if (whole >= 3600) return `${Math.floor(whole / 3600)}h${two(Math.floor(whole / 60) % 60)}m`;
  return whole >= 60 ? `${Math.floor(whole / 60)}m${two(whole % 60)}s` : `${whole}s`;
}
