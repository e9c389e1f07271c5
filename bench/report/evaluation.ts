/**
 * Evaluations as they are kept and compared: a JSON report, a table, a plot, and what counts as a regression.
 *
 * @module
 */
import { z } from "zod";
import { message, rangeError } from "../../core/errors.ts";
import { median } from "../measure/timing.ts";
import { LIGHTNING, NEUTRAL, type Panel, renderPanels } from "./plot.ts";

const OPERATION = "evaluate";

const speedSchema = z.object({
  median: z.number(),
  least: z.number(),
  most: z.number(),
  turns: z.array(z.number()).min(1).readonly(),
});

const evaluationSchema = z.object({
  format: z.literal("levin evaluation 1"),
  /** What was evaluated: the last part of a path, a URL or an id. */
  model: z.string(),
  /** Of the weights: tells models apart. */
  fingerprint: z.string(),
  parameters: z.number(),
  /** How its matrices are stored on the backend. */
  weights: z.string(),
  backend: z.object({
    name: z.string(),
    device: z.string(),
    threads: z.number(),
    cores: z.number(),
    os: z.string(),
    runtime: z.string(),
  }),
  date: z.string(),
  data: z.object({
    sources: z.array(z.string()),
    documents: z.number(),
    bytes: z.number(),
    sha256: z.string(),
  }),
  lengths: z.array(z.object({
    length: z.number(),
    /** Mean negative log-likelihood of a token, in nats. */
    loss: z.number(),
    bitsPerByte: z.number(),
    /** Tokens per second; absent where only the loss was asked for. */
    read: speedSchema.optional(),
    write: speedSchema.optional(),
  })).min(1),
});

/** One model on one text, as it is kept. */
export type Evaluation = z.infer<typeof evaluationSchema>;

/** What a model is at one length, compared with the baseline: shares by which it is more. */
export interface Comparison {
  readonly length: number;
  /** Of bits per byte: 0.01 is 1 % worse. */
  readonly loss: number;
  /** Of tokens per second: −0.1 is 10 % slower. Absent where speeds were not measured, or on other machines. */
  readonly read?: number;
  readonly write?: number;
}

/** A whole run, as `--json` keeps it; it serves as the baseline of another. */
export interface Report extends Evaluation {
  readonly baseline?: Evaluation;
  readonly comparison?: readonly Comparison[];
  /** Sentences; none: no regression. */
  readonly regressions?: readonly string[];
}

/**
 * Reads a report that was kept.
 *
 * @throws {RangeError} when the file holds none
 */
export async function readReport(file: string): Promise<Evaluation> {
  const refuse = (reason: string, cause?: unknown) => {
    const text = message(OPERATION, "a baseline of JSON must be what --json has written", file, reason);
    throw new RangeError(text, { cause });
  };
  let json: unknown;
  try {
    json = JSON.parse(await Deno.readTextFile(file));
  } catch (error) {
    if (error instanceof SyntaxError) return refuse("no JSON", error);
    throw error;
  }
  const result = evaluationSchema.safeParse(json);
  if (result.success) return result.data;
  const [{ path, message: reason }] = result.error.issues;
  return refuse(`${path.join(".")}: ${reason}`, result.error);
}

/** Whether speeds of two evaluations may be compared: those of one device. */
export function isSameMachine({ backend: a }: Evaluation, { backend: b }: Evaluation): boolean {
  return (["name", "device", "threads", "cores", "os"] as const).every((field) => a[field] === b[field]);
}

/**
 * Compares an evaluation with a baseline, length by length.
 *
 * @param options `inTurns`: both were measured in turns, so that the ratio of each turn counts, not that of the medians
 * @throws {RangeError} when they are of different texts, or a length is missing in the baseline
 */
export function compare(
  current: Evaluation,
  baseline: Evaluation,
  { inTurns }: { inTurns: boolean },
): Comparison[] {
  if (current.data.sha256 !== baseline.data.sha256) {
    rangeError(
      OPERATION,
      `data must be the text of the baseline, ${
        baseline.data.sources.join(", ")
      } of ${baseline.data.bytes} bytes`,
      current.data.sources.join(", "),
      `${current.data.bytes} bytes`,
    );
  }
  const isTimed = isSameMachine(current, baseline);
  return current.lengths.map((one) => {
    const other = baseline.lengths.find(({ length }) => length === one.length);
    if (other === undefined) {
      const lengths = baseline.lengths.map(({ length }) => shortLength(length)).join(",");
      rangeError(OPERATION, `lengths must be among those of the baseline, ${lengths}`, one.length);
    }
    const change = (work: "read" | "write") => {
      const a = one[work], b = other[work];
      if (!isTimed || a === undefined || b === undefined) return {};
      const ratio = inTurns ? median(a.turns.map((speed, i) => speed / b.turns[i])) : a.median / b.median;
      return { [work]: ratio - 1 };
    };
    return {
      length: one.length,
      loss: one.bitsPerByte / other.bitsPerByte - 1,
      ...change("read"),
      ...change("write"),
    };
  });
}

/** How much worse a model may be than the baseline, in shares: 0.01 is 1 %. */
export interface Limits {
  /** Of bits per byte. */
  readonly maxLoss: number;
  /** Of tokens per second. */
  readonly maxSlowdown: number;
}

/** What is worse than it may be, a sentence each. What is no number is worse than anything. */
export function regressions(
  comparison: readonly Comparison[],
  { maxLoss, maxSlowdown }: Limits,
): string[] {
  return comparison.flatMap(({ length, loss, read, write }) => {
    const at = `at ${shortLength(length)}`, found: string[] = [];
    if (!(loss <= maxLoss)) {
      found.push(`${at} bits per byte change by ${percent(loss)}, ${percent(maxLoss)} is allowed`);
    }
    for (const [work, change] of [["reading", read], ["writing", write]] as const) {
      if (change !== undefined && !(-change <= maxSlowdown)) {
        found.push(
          `${at} the speed of ${work} changes by ${percent(change)}, ${percent(-maxSlowdown)} is allowed`,
        );
      }
    }
    return found;
  });
}

/** A length as people say it: `8K`. */
export function shortLength(length: number): string {
  if (length % 2 ** 20 === 0) return `${length / 2 ** 20}M`;
  return length % 2 ** 10 === 0 ? `${length / 2 ** 10}K` : String(length);
}

/** `+1.2 %`. */
function percent(share: number): string {
  const digits = (100 * share).toFixed(Math.abs(share) < 0.1 ? 2 : 1);
  return `${share < 0 ? "" : "+"}${digits} %`.replace("-", "−");
}

/** A report as a table for people. */
export function table({ comparison, ...report }: Report): string {
  const whole = (value: number) => Math.round(value).toLocaleString("en-US");
  const shown = (speed: z.infer<typeof speedSchema> | undefined) =>
    speed === undefined ? "" : `${whole(speed.median)} (${whole(speed.least)}–${whole(speed.most)})`;
  const isTimed = report.lengths.some(({ read }) => read !== undefined);
  const change = (share: number | undefined) => share === undefined ? "–" : percent(share);
  const changed = <T>(cell: T): T[] => comparison === undefined ? [] : [cell];
  const head = [
    "context",
    "bits per byte",
    ...changed("change"),
    "nats per token",
    ...isTimed ? ["reading, tokens/s", ...changed("change"), "writing, tokens/s", ...changed("change")] : [],
  ];
  const rows = report.lengths.map(({ length, loss, bitsPerByte, read, write }, i) => {
    const one = comparison?.[i];
    return [
      shortLength(length),
      bitsPerByte.toFixed(4),
      ...changed(change(one?.loss)),
      loss.toFixed(4),
      ...isTimed
        ? [shown(read), ...changed(change(one?.read)), shown(write), ...changed(change(one?.write))]
        : [],
    ];
  });
  const widths = head.map((text, i) =>
    Math.max(...[text, ...rows.map((row) => row[i])].map((t) => t.length))
  );
  const line = (cells: readonly string[]) =>
    `| ${cells.map((cell, i) => cell.padStart(widths[i])).join(" | ")} |\n`;
  const rule = `|${widths.map((width) => `${"-".repeat(width + 1)}:`).join("|")}|\n`;
  return line(head) + rule + rows.map(line).join("");
}

/** A report as a plot: loss and speeds against length, with the ranges of the turns. An SVG document. */
export function plot(report: Report): Promise<string> {
  const { baseline } = report;
  const names = baseline === undefined
    ? [`${report.model}, ${report.weights}`]
    : [`${report.model}, ${report.weights}`, `baseline: ${baseline.model}, ${baseline.weights}`];
  const sides = baseline === undefined ? [report] : [report, baseline];
  const lengths = new Set(report.lengths.map(({ length }) => length));
  const shown = sides.map((side) => side.lengths.filter(({ length }) => lengths.has(length)));
  const common = {
    methods: names,
    colors: [LIGHTNING[0], NEUTRAL].slice(0, names.length),
    xTitle: "tokens of context (log scale)",
  };
  const speeds = (title: string, work: "read" | "write"): Panel[] => {
    const values = shown.flatMap((side, i) =>
      side.flatMap(({ length, [work]: speed }) =>
        speed === undefined
          ? []
          : [{ method: names[i], length, y: speed.median, range: [speed.least, speed.most] as const }]
      )
    );
    return values.length === 0 ? [] : [{ ...common, title, values, labels: "format(datum.value, ',')" }];
  };
  return renderPanels([
    {
      ...common,
      title: "Bits per byte",
      isFromZero: false,
      values: shown.flatMap((side, i) =>
        side.map(({ length, bitsPerByte }) => ({ method: names[i], length, y: bitsPerByte }))
      ),
      labels: "format(datum.value, '.4~r')",
    },
    ...speeds("Reading, tokens per second: medians and ranges", "read"),
    ...speeds("Writing, tokens per second: medians and ranges", "write"),
  ]);
}
