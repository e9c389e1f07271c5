/**
 * What a person at a terminal sees of a training run.
 *
 * @module
 */
import type { EvaluationReport, StepReport } from "./train.ts";

/** A line that redraws itself; without a terminal only the rare lines are written. */
export class Progress {
  readonly #steps: number;
  readonly #write: (text: string) => void;
  readonly #isTerminal: boolean;
  #line = "";

  /**
   * @param steps steps in all
   * @param write puts text out
   * @param isTerminal whether that is a terminal, on which a line can be drawn over
   */
  constructor(steps: number, write: (text: string) => void, isTerminal: boolean) {
    this.#steps = steps;
    this.#write = write;
    this.#isTerminal = isTerminal;
  }

  /** Redraws the bar. */
  step({ step, loss, learningRate, tokensPerSecond }: StepReport, secondsPerStep: number): void {
    if (!this.#isTerminal) return;
    const width = 24, done = Math.floor(width * step / this.#steps);
    this.#line = `${"█".repeat(done)}${"░".repeat(width - done)} ${step}/${this.#steps}  loss ${
      loss.toFixed(4)
    }  lr ${learningRate.toExponential(2)}  ${Math.round(tokensPerSecond)} tokens/s  ${
      duration((this.#steps - step) * secondsPerStep)
    } left`;
    this.#write(`\r\x1b[K${this.#line}`);
  }

  /** A separate line, above the bar. */
  note(text: string): void {
    this.#write(this.#isTerminal ? `\r\x1b[K${text}\n${this.#line}` : `${text}\n`);
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
    if (this.#line !== "") this.#write("\n");
    this.#line = "";
  }
}

/** `1h02m`, `3m07s` or `12s`. */
export function duration(seconds: number): string {
  if (!Number.isFinite(seconds)) return "?";
  const whole = Math.round(seconds), two = (n: number) => String(n).padStart(2, "0");
  if (whole >= 3600) return `${Math.floor(whole / 3600)}h${two(Math.floor(whole / 60) % 60)}m`;
  return whole >= 60 ? `${Math.floor(whole / 60)}m${two(whole % 60)}s` : `${whole}s`;
}
