/**
 * The papers' claims, and what results that were kept say of them: `docs/evidence.md`. Every figure of the page is
 * computed from a file.
 *
 * @module
 */
import { fileURLToPath } from "node:url";
import { type Evaluation, shortLength } from "./evaluation.ts";
import type { Experiments } from "../measure/experiments.ts";
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

/** Losses of the seeds of one model. */
interface Seeds {
  readonly losses: readonly number[];
  readonly mean: number;
}

/** Held-out losses, nats per token, of the runs `<variant> <seed>`; undefined with fewer than two. */
function seedsOf({ runs }: Experiments, variant: string): Seeds | undefined {
  const losses = Object.entries(runs).filter(([name]) =>
    /^\S+ \d+$/.test(name) && name.startsWith(`${variant} `)
  )
    .map(([, { heldOutLoss }]) => heldOutLoss);
  if (losses.length < 2) return undefined;
  return { losses, mean: losses.reduce((sum, loss) => sum + loss, 0) / losses.length };
}

/** Whether a model is better than another: in every seed than in each of the other's, or worse. */
export function better(one: readonly number[], other: readonly number[]): Verdict {
  if (Math.max(...one) < Math.min(...other)) return "holds";
  return Math.min(...one) > Math.max(...other) ? "contradicts" : "does not show";
}

/** Whether models differ little: their mean losses, over the smallest of them. */
export function near(difference: number): Verdict {
  return difference <= 0.01 ? "holds" : difference >= 0.05 ? "contradicts" : "does not show";
}

/** Perplexity per token: that of the mean loss, and half of what seeds differ by. */
function perplexity({ losses, mean }: Seeds): string {
  const half = (Math.exp(Math.max(...losses)) - Math.exp(Math.min(...losses))) / 2;
  return `${Math.exp(mean).toFixed(4)} ± ${half.toFixed(4)}`;
}

/** What was trained, and on what. */
function trained({ size, steps, seqLen, batch, device, runs }: Experiments, seeds: Seeds): string {
  const parameters = (Object.values(runs)[0].parameters / 1e6).toFixed(1);
  const tokens = (steps * seqLen * batch / 1e6).toPrecision(3);
  return `${device}, \`${size}\`, ${parameters} M, ${tokens} M tokens, ${seeds.losses.length} seeds`;
}

/** Compares the perplexity of a model with another's, which a claim says is higher. */
function betterFinding(one: string, other: string) {
  return (result: Experiments): Finding | undefined => {
    const [a, b] = [seedsOf(result, one), seedsOf(result, other)];
    if (a === undefined || b === undefined) return undefined;
    return {
      setting: trained(result, a),
      ours: `${perplexity(a)} (${one}) and ${perplexity(b)} (${other}) per byte`,
      verdict: better(a.losses, b.losses),
    };
  };
}

/** Compares models of which a claim says that they differ little. */
function nearFinding(names: readonly string[]) {
  return (result: Experiments): Finding | undefined => {
    const found = names.map((name) => seedsOf(result, name));
    if (!found.every((seeds) => seeds !== undefined)) return undefined;
    const means = found.map(({ mean }) => mean);
    return {
      setting: trained(result, found[0]),
      ours: `${found.map((seeds, i) => `${perplexity(seeds)} (${names[i]})`).join(", ")} per byte`,
      verdict: near((Math.max(...means) - Math.min(...means)) / Math.min(...means)),
    };
  };
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

const experiments = (size: string, ...options: string[]): Result => ({
  file: `docs/evidence/training-${size}.json`,
  command: ["experiment", "--size", size, ...options],
});
const SMALL = experiments("small");
const MEDIUM = experiments("medium", "--variants", "tnl,llama", "--seeds", "1,2");
const METHODS: Result = {
  file: "docs/evidence/methods.json",
  command: [
    ...["experiment", "--variants", "tnl,left-product", "--seeds", "1,2", "--steps", "2000", "--batch", "8"],
    ...["--work", "out/methods", "--json", "docs/evidence/methods.json"],
  ],
};
const EVERY_SEED =
  "holds where every seed of the first is better than each of the second; contradicts where worse";
const LITTLE = "holds where mean losses differ by at most 1 %; contradicts at 5 %";

/** Claims about models that are trained, in the order of the page. */
export const EXPERIMENT_CLAIMS: readonly Claim[] = [
  {
    claim: "TNL reaches a lower perplexity than a LLaMA of its size.",
    paper: "385M: 4.770 and 5.160; 44M on WikiText-103: 24.03 and 24.78",
    rule: EVERY_SEED,
    results: [SMALL, MEDIUM],
    find: betterFinding("tnl", "llama"),
  },
  {
    claim: "TNL reaches a lower perplexity than TNL with softmax attention.",
    paper: "no figure; what Lightning Attention itself does of the difference to a LLaMA",
    rule: EVERY_SEED,
    results: [SMALL],
    find: betterFinding("tnl", "softmax"),
  },
  {
    claim: "Decay temperature lowers the perplexity.",
    paper: "4.770; without 4.804",
    rule: EVERY_SEED,
    results: [SMALL],
    find: betterFinding("tnl", "no-temperature"),
  },
  {
    claim: "The output gate lowers the perplexity.",
    paper: "4.770; without 4.820",
    rule: EVERY_SEED,
    results: [SMALL],
    find: betterFinding("tnl", "no-gate"),
  },
  {
    claim: "LRPE on all layers is better than on the first.",
    paper: "all layers 4.728, the first 4.770",
    rule: EVERY_SEED,
    results: [SMALL],
    find: betterFinding("lrpe-all", "tnl"),
  },
  {
    claim: "LRPE on the first layer is better than on none.",
    paper: "the first 4.770, none worse",
    rule: EVERY_SEED,
    results: [SMALL],
    find: betterFinding("tnl", "lrpe-none"),
  },
  {
    claim: "The activation of query and key makes little difference.",
    paper: "Table 7: silu, 1+elu, none",
    rule: LITTLE,
    results: [SMALL],
    find: nearFinding(["tnl", "1+elu", "identity"]),
  },
  {
    claim: "An activation in the GLU makes little difference.",
    paper: "Table 8: SGLU has none",
    rule: LITTLE,
    results: [SMALL],
    find: nearFinding(["tnl", "glu-silu"]),
  },
  {
    claim: "The norm makes little difference to the perplexity.",
    paper: "Table 9: SRMSNorm, RMSNorm, LayerNorm",
    rule: LITTLE,
    results: [SMALL],
    find: nearFinding(["tnl", "rmsnorm", "layernorm"]),
  },
  {
    claim: "Lightning Attention-2 reaches the loss of Lightning Attention-1.",
    paper: "the same within 0.001 (Lightning-2)",
    rule: "holds where the held-out losses of each seed differ by at most 0.001; contradicts at 0.01",
    results: [METHODS],
    find(result: Experiments) {
      const [two, one] = [seedsOf(result, "tnl"), seedsOf(result, "left-product")];
      if (two === undefined || one === undefined) return undefined;
      const difference = Math.max(...two.losses.map((loss, i) => Math.abs(loss - one.losses[i])));
      return {
        setting: `${trained(result, two)}, ${result.steps} steps`,
        ours: `${difference.toFixed(5)} apart at most`,
        verdict: difference <= 0.001 ? "holds" : difference >= 0.01 ? "contradicts" : "does not show",
      };
    },
  },
];

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

/** Claims that nothing measures yet. */
const OPEN = ["Throughput of large models in batches (Lengths, Fig. 5, at 1B)."];

/** Reads a result; undefined if it was not kept. */
export type ReadResult = (result: Result) => Promise<Record<string, unknown> | undefined>;

/** Results that a claim has nothing to read from, each once. */
export async function missingResults(
  claims: readonly Claim[] = [...CLAIMS, ...EXPERIMENT_CLAIMS],
  read: ReadResult = readResult,
): Promise<Result[]> {
  const missing = new Map<string, Result>();
  for (const { results, find } of claims) {
    for (const result of results) {
      const kept = await read(result);
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
export async function renderEvidence(read: ReadResult = readResult): Promise<string> {
  const sections: string[] = [], open: string[] = [];
  for (const { claim, paper, rule, results, find } of [...CLAIMS, ...EXPERIMENT_CLAIMS]) {
    const rows: string[] = [];
    for (const result of results) {
      const kept = await read(result), finding = kept && find(kept);
      if (kept === undefined || finding === undefined) continue;
      const { setting, ours, verdict } = finding;
      // As it was run, where that was kept.
      const command = kept.command ?? `deno task ${result.command.join(" ")}`;
      const link = `[${kept.date}](${result.file.replace(/^docs\//, "")})`;
      rows.push(`| ${setting} | ${ours} | **${verdict}** | \`${command}\` | ${link} |`);
    }
    if (rows.length === 0) {
      open.push(`${claim} The paper: ${paper}. \`deno task ${results[0].command.join(" ")}\``);
      continue;
    }
    sections.push(
      `## ${claim.replace(/\.$/, "")}\n\nThe paper: ${paper}. It ${rule}.\n\n` +
        `| measured | ours | verdict | command | result |\n|---|---|---|---|---|\n${rows.join("\n")}\n`,
    );
  }
  return `${INTRODUCTION}\n${
    sections.join("\n")
  }\n## Open\n\nNo result has been kept of these claims yet:\n\n${
    [...open, ...OPEN].map((claim) => `- ${claim}`).join("\n")
  }\n`;
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
