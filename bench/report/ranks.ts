/**
 * What `bench/ranks.ts` measures, its plot, and how much faster several processes are than one.
 *
 * @module
 */
import { CONVENTIONAL, LIGHTNING, NUMBERS, type Panel, renderPanels } from "./plot.ts";
import type { Report } from "./results.ts";

/** One measurement, as `measure/ranks.ts` prints it. */
export interface RanksRow {
  readonly what: string;
  readonly ranks: number;
  readonly tokens: number;
  readonly tokensPerSecond: number;
  readonly seconds: number;
  /** The least and the most of those of which {@linkcode seconds} is the median. */
  readonly range: readonly [number, number];
  /** That all ranks send together. */
  readonly bytes: number;
  readonly device: string;
}

/** What a run kept. */
export interface RanksReport extends Pick<Report, "date" | "commit" | "versions" | "command"> {
  readonly rows: readonly RanksRow[];
}

const COLORS = [CONVENTIONAL[1], LIGHTNING[0], CONVENTIONAL[0], LIGHTNING[1]];

/** Kinds of work that were measured. */
export function kindsOf(rows: readonly RanksRow[]): string[] {
  return [...new Set(rows.map(({ what }) => what))];
}

/** How a number of processes is called. */
export function processes(count: number): string {
  return count === 1 ? "1 process" : `${count} processes`;
}

/** Tokens that are compared: of the prompt, which all share, or of a step for each process. */
function compared({ what, tokens, ranks }: RanksRow): number {
  return what === "prefill" ? tokens : tokens / ranks;
}

/** Draws tokens per second and bytes against the length, for each kind of work. */
export function renderScaling({ rows }: Pick<RanksReport, "rows">): Promise<string> {
  const counts = [...new Set(rows.map(({ ranks }) => ranks))].sort((a, b) => a - b);
  const panel = (
    what: string,
    title: string,
    of: readonly RanksRow[],
    y: (row: RanksRow) => number,
  ): Panel => {
    const shown = counts.filter((count) => of.some(({ ranks }) => ranks === count));
    return {
      title: `${what}: ${title}`,
      values: of.map((row) => ({ method: processes(row.ranks), length: compared(row), y: y(row) })),
      methods: shown.map(processes),
      colors: shown.map((count) => COLORS[counts.indexOf(count) % COLORS.length]),
      xTitle: what === "prefill" ? "tokens" : "tokens of a step, for each process",
      labels: NUMBERS,
    };
  };
  const panels = kindsOf(rows).flatMap((what) => {
    const own = rows.filter((row) => row.what === what), shared = own.filter(({ ranks }) => ranks > 1);
    return [
      panel(what, "tokens per second", own, ({ tokensPerSecond }) => tokensPerSecond),
      panel(what, "MiB that all send", shared, ({ bytes }) => bytes / 2 ** 20),
    ];
  });
  return renderPanels(panels.filter(({ values }) => values.length > 0));
}

/** What one process does at what several did. */
export function aloneOf(row: RanksRow, rows: readonly RanksRow[]): RanksRow | undefined {
  return rows.find((one) => one.what === row.what && one.ranks === 1 && one.tokens === compared(row));
}

/** How much faster several processes are than one. */
export function speedups(rows: readonly RanksRow[]): string[] {
  return rows.filter(({ ranks }) => ranks > 1).flatMap((row) => {
    const alone = aloneOf(row, rows);
    if (alone === undefined) return [];
    const times = (row.tokensPerSecond / alone.tokensPerSecond).toFixed(2);
    const length = `${alone.tokens} tokens${row.what === "prefill" ? "" : " for each"}`;
    return [`${row.what}, ${length}: ${times} × with ${processes(row.ranks)}`];
  });
}
