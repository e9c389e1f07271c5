/**
 * The papers' claims, and what results that were kept say of them: `docs/evidence.md`. Every figure of the page is
 * computed from a file.
 *
 * @module
 */
import { fileURLToPath } from "node:url";
import { type Evaluation, shortLength } from "./evaluation.ts";
import type { NormPoint, Report, SpeedPoint, TrainingReport } from "./results.ts";

const ROOT = new URL("../../", import.meta.url);

/** What a result says of a claim. */
export type Verdict = "holds" | "does not show" | "contradicts";

/** A file that a command writes. */
export interface Result {
  /** From the project's folder. */
  readonly file: string;
  /** Words of the command that writes it. */
  readonly command: readonly string[];
}

/** What one result says of a claim. */
export interface Finding {
  /** What was measured, and where. */
  readonly setting: string;
  /** The figure that compares with the paper's. */
  readonly ours: string;
  readonly verdict: Verdict;
}

/** A claim of the papers, and how results are read. */
export interface Claim {
  readonly claim: string;
  /** The paper's figure, and where it stands. */
  readonly paper: string;
  /** When it counts as held, and when as contradicted. */
  readonly rule: string;
  readonly results: readonly Result[];
  /** What a result says; nothing where it does not speak of this. */
  // deno-lint-ignore no-explicit-any -- each claim knows its files
  find(result: any): Finding | undefined;
}

/** Lightning attention is constant if it keeps so much of its speed. */
const CONSTANT = 0.9;
/** What keeps no more than half of something has lost it. */
const HALF = 0.5;

/** A share that is to be near 1. */
export function constant(share: number): Verdict {
  return share >= CONSTANT ? "holds" : share <= HALF ? "contradicts" : "does not show";
}

/** A share that is to be small. */
export function falling(share: number): Verdict {
  return share <= HALF ? "holds" : share >= 1 ? "contradicts" : "does not show";
}

/** A ratio that is to reach a figure, or is at least on its side. */
export function reaching(ratio: number, figure: number): Verdict {
  return ratio >= figure ? "holds" : ratio < 1 ? "contradicts" : "does not show";
}

/** The share of its speed at the shortest length that is kept at the longest. */
function keptShare(points: readonly SpeedPoint[]): { share: number; from: number; to: number } {
  const sorted = points.toSorted((a, b) => a.length - b.length), first = sorted[0], last = sorted.at(-1)!;
  return { share: last.tokensPerSecond / first.tokensPerSecond, from: first.length, to: last.length };
}

const percent = (share: number) => `${(100 * share).toFixed(0)} %`;
const times = (ratio: number) => ratio.toFixed(ratio < 10 ? 2 : 1);

const of = (points: readonly SpeedPoint[], start: string) =>
  points.filter(({ method }) => method.startsWith(start));

function speedFinding(
  points: readonly SpeedPoint[],
  setting: string,
  verdict: (share: number) => Verdict,
): Finding | undefined {
  if (points.length < 2) return undefined;
  const { share, from, to } = keptShare(points);
  return {
    setting: `${setting}, ${shortLength(from)} to ${shortLength(to)}`,
    ours: `keeps ${percent(share)}`,
    verdict: verdict(share),
  };
}

const [WASM, WEBGPU] = ["wasm", "webgpu"].map((backend): Result => ({
  file: `docs/benchmarks/${backend}.json`,
  command: ["report", "--backend", backend],
}));
const training = (mixer: string): Result => ({
  file: "docs/benchmarks/training.json",
  command: ["bench:training", "--backend", "webgpu", "--mixer", mixer, "--keep"],
});
const LENGTHS: Result = {
  file: "docs/evidence/lengths.json",
  command: [
    ...["evaluate", "--model", "models/sotu", "--data", "sotu", "--bytes", "140000"],
    ...["--lengths", "1K,4K,16K,64K,128K", "--repeats", "0", "--json", "docs/evidence/lengths.json"],
  ],
};
/** Tokens of a sequence that `models/sotu` was trained on. */
const TRAINED = 4096;

/** Training speed is in reports of a backend, and, of a machine that had all its time for it, in a file of its own. */
function trainingFinding(start: string, verdict: (share: number) => Verdict) {
  return (result: Report | TrainingReport) => {
    const isReport = "results" in result;
    const points = of(isReport ? result.results.training : result.speeds, start);
    const config = isReport ? /"(\w+)"/.exec(points[0]?.method ?? "")?.[1] : result.config;
    return speedFinding(points, `${where(result)}, \`${config}\``, verdict);
  };
}

function where(result: Report | TrainingReport): string {
  return "backend" in result && result.backend === "wasm"
    ? `WASM, ${result.machine.cores} cores of ${result.machine.cpu}`
    : result.device;
}

/** The claims that a result speaks of, in the order of the page. */
export const CLAIMS: readonly Claim[] = [
  {
    claim: "Training is as fast on long sequences as on short ones, the tokens of a step being the same.",
    paper: "constant from 1K to 128K (Lengths, Fig. 1 and 4)",
    rule: "holds where the longest sequences keep 90 % of the speed of the shortest; contradicts at half",
    results: [training("lightning"), WASM, WEBGPU],
    find: trainingFinding("lightning", constant),
  },
  {
    claim: "Training a transformer with FlashAttention-2 is slower the longer the sequences are.",
    paper: "LLaMA-FA2 falls (Lengths, Fig. 1 and 4)",
    rule: "holds where half of the speed is lost; contradicts where nothing is",
    results: [training("softmax"), WEBGPU],
    find: trainingFinding("softmax", falling),
  },
  {
    claim: "A token is written as fast after a long context as after a short one.",
    paper: "a state of fixed size, whatever the length",
    rule: "holds where 90 % of the speed is kept; contradicts at half",
    results: [WASM, WEBGPU],
    find: (report: Report) =>
      speedFinding(
        of(report.results.generation, "TransNormerLLM"),
        `${where(report)}, 5 M, one sequence`,
        constant,
      ),
  },
  {
    claim: "Inference is many times as fast as that of softmax models of the same size.",
    paper: "up to 11 times the throughput (Lengths, Fig. 5)",
    rule: "holds where it reaches 11 times at some length; contradicts below 1",
    results: [WASM, WEBGPU],
    find(report: Report) {
      const { generation } = report.results, softmax = of(generation, "the same with softmax");
      const ratios = of(generation, "TransNormerLLM").flatMap(({ length, tokensPerSecond }) => {
        const other = softmax.find((point) => point.length === length);
        return other === undefined ? [] : [{ length, ratio: tokensPerSecond / other.tokensPerSecond }];
      });
      if (ratios.length === 0) return undefined;
      const { length, ratio } = ratios.reduce((best, one) => one.ratio > best.ratio ? one : best);
      return {
        setting: `${where(report)}, 5 M, one sequence`,
        ours: `up to ${times(ratio)} times, at ${shortLength(length)}`,
        verdict: reaching(ratio, 11),
      };
    },
  },
  {
    claim: "SRMSNorm takes less time than other norms.",
    paper: "no figure (Lengths, Fig. 7 is a plot)",
    rule:
      "holds where it is faster at every width than every other norm that was measured; contradicts at none",
    results: [WASM, WEBGPU],
    find(report: Report) {
      const ratios = normRatios(report.results.norms);
      if (ratios.length === 0) return undefined;
      const faster = ratios.filter((ratio) => ratio > 1).length;
      return {
        setting: `${where(report)}, widths of 128 to 8192`,
        ours: `${times(Math.min(...ratios))} to ${times(Math.max(...ratios))} times the speed`,
        verdict: faster === ratios.length ? "holds" : faster === 0 ? "contradicts" : "does not show",
      };
    },
  },
  {
    claim: "A model reads longer contexts than it was trained on.",
    paper: "no figure; “unlimited” (Lightning-2, title)",
    rule:
      "holds where bits per byte in the longest windows are at most those at the trained length; contradicts at 5 % more",
    results: [LENGTHS],
    find({ model, lengths }: Evaluation) {
      const trained = lengths.find(({ length }) => length === TRAINED), last = lengths.at(-1);
      if (trained === undefined || last === undefined || last.length <= TRAINED) return undefined;
      const change = last.bitsPerByte / trained.bitsPerByte - 1;
      return {
        setting: `\`models/${model}\`, trained on ${shortLength(TRAINED)}, up to ${shortLength(last.length)}`,
        ours:
          lengths.map(({ length, bitsPerByte }) => `${shortLength(length)}: ${bitsPerByte.toFixed(4)}`).join(
            ", ",
          ) +
          " bits per byte",
        verdict: change <= 0 ? "holds" : change >= 0.05 ? "contradicts" : "does not show",
      };
    },
  },
];

function normRatios(norms: readonly NormPoint[]): number[] {
  const own = norms.filter(({ method }) => method === "SRMSNorm");
  return norms.filter(({ method }) => method !== "SRMSNorm").flatMap(({ width, gigabytesPerSecond }) => {
    const one = own.find((point) => point.width === width);
    return one === undefined ? [] : [one.gigabytesPerSecond / gigabytesPerSecond];
  });
}

/** Claims that no result has been kept of. */
const OPEN = [
  "TNL reaches a lower perplexity than a transformer of its size (385M: 4.770 and 5.160)",
  "decay temperature, the output gate, and LRPE on all layers or on the first",
  "activations and norms make little difference (Tables 7 to 9)",
  "Lightning-2 equals Lightning-1 within 0.001 of loss",
  "throughput of large models in batches",
];

/** Results that a claim has nothing to read from, each once. */
export async function missingResults(): Promise<Result[]> {
  const missing = new Map<string, Result>();
  for (const { results, find } of CLAIMS) {
    for (const result of results) {
      const kept = await readResult(result);
      if (kept === undefined || find(kept) === undefined) missing.set(result.command.join(" "), result);
    }
  }
  return [...missing.values()];
}

/** A result as it was kept; undefined if it was not. */
export async function readResult({ file }: Result): Promise<Record<string, unknown> | undefined> {
  try {
    return JSON.parse(await Deno.readTextFile(new URL(file, ROOT)));
  } catch (error) {
    if (error instanceof Deno.errors.NotFound) return undefined;
    throw error;
  }
}

/** The page, as Markdown. */
export async function renderEvidence(): Promise<string> {
  const sections: string[] = [];
  for (const { claim, paper, rule, results, find } of CLAIMS) {
    const rows: string[] = [];
    for (const result of results) {
      const kept = await readResult(result), finding = kept && find(kept);
      if (kept === undefined || finding === undefined) continue;
      const { setting, ours, verdict } = finding;
      // As it was run, where that was kept.
      const command = kept.command ?? `deno task ${result.command.join(" ")}`;
      const link = `[${kept.date}](${result.file.replace(/^docs\//, "")})`;
      rows.push(`| ${setting} | ${ours} | **${verdict}** | \`${command}\` | ${link} |`);
    }
    if (rows.length === 0) continue;
    sections.push(
      `## ${claim.replace(/\.$/, "")}\n\nThe paper: ${paper}. It ${rule}.\n\n` +
        `| measured | ours | verdict | command | result |\n|---|---|---|---|---|\n${rows.join("\n")}\n`,
    );
  }
  return `${INTRODUCTION}\n${
    sections.join("\n")
  }\n## Open\n\nNo result has been kept of these claims yet:\n\n${
    OPEN.map((claim) => `- ${claim}`).join(";\n")
  }.\n`;
}

const INTRODUCTION = `# Evidence

What "Various Lengths, Constant Speed" (Lengths) and "Lightning Attention-2" (Lightning-2) claim, and what was measured
here: in small, and on other machines. Written by \`deno task evidence\` from results that were kept; edit neither.
\`deno task evidence --run\` measures what no result was kept of, one command after another; stopped, it continues with
the next that is missing. A verdict is one of three: the claim *holds*, it *does not show*, or the result *contradicts*
it. One rule stands with each claim, and applies wherever it was measured, also on a machine that others used too.
`;

/** Where the page lies. */
export const PAGE: string = fileURLToPath(new URL("docs/evidence.md", ROOT));
