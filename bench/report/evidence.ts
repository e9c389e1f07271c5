/**
 * The papers' claims, and what results that were kept say of them: `docs/evidence.md`. Every figure of the page is
 * computed from a file.
 *
 * @module
 */
import { fileURLToPath } from "node:url";
import { type Evaluation, shortLength } from "./evaluation.ts";
import type { Experiments } from "../measure/experiments.ts";
import type { RecallResults } from "../measure/recall.ts";
import { readKept } from "../measure/sharing.ts";
import type { ThroughputResults } from "../measure/throughput.ts";
import { CONVENTIONAL, LIGHTNING, NUMBERS, type Panel, type PlotPoint, renderPanels } from "./plot.ts";
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
  /** A word for it, as `deno task evidence --run` takes it. */
  readonly name: string;
  readonly claim: string;
  /** The paper's figure, and where it stands. */
  readonly paper: string;
  /** When it counts as held, and when as contradicted. */
  readonly rule: string;
  readonly results: readonly Result[];
  /** What a result says; nothing where it does not speak of this. */
  // deno-lint-ignore no-explicit-any -- each claim knows its files
  find(result: any): Finding | readonly Finding[] | undefined;
}

/** What a result says of a claim. */
export function findings({ find }: Claim, result: unknown): readonly Finding[] {
  const found = find(result) ?? [];
  return "verdict" in found ? [found] : found;
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
  return `${device}, \`${size}\`, ${parameters} M, ${tokens} M tokens in ${steps} steps, ${seeds.losses.length} seeds`;
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
/** Training speeds, at lengths whose steps end in a time that a person waits. */
const speeds = (config: string, mixer: string, lengths: string, ...options: string[]): Result => ({
  file: `docs/evidence/speed-${config}.json`,
  command: [
    ...["bench:training", "--backend", "webgpu", "--config", config, "--mixer", mixer, "--tokens", "128K"],
    ...["--lengths", lengths, ...options, "--json", `docs/evidence/speed-${config}.json`],
  ],
});
const TO_16K = "1K,2K,4K,8K,16K", TO_32K = `${TO_16K},32K`, TO_128K = `${TO_32K},64K,128K`;
const TWICE = ["--repeats", "2"], LARGE = ["--repeats", "1", "--recompute"];
const LIGHTNING_SPEEDS = [
  speeds("small", "lightning", TO_128K, ...TWICE),
  speeds("medium", "lightning", TO_128K, ...TWICE),
  speeds("large", "lightning", "1K,4K,16K,64K,128K", ...LARGE),
];
const LLAMA_SPEEDS = [
  speeds("small", "llama", TO_32K, ...TWICE),
  speeds("medium", "llama", TO_16K, ...TWICE),
  speeds("large", "llama", "1K,4K,16K", ...LARGE),
];
const LEFT_SPEEDS = [
  speeds("small", "left-product", TO_32K, ...TWICE),
  speeds("medium", "left-product", TO_16K, ...TWICE),
];
const throughputOf = (model: string): Result => ({
  file: "docs/evidence/throughput.json",
  command: ["bench:throughput", "--models", model],
});
const THROUGHPUT = throughputOf("125M,1B");
const RECALL: Result = { file: "docs/evidence/recall.json", command: ["recall"] };
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
    const again = !isReport && result.recompute ? ", activations computed again" : "";
    return speedFinding(points, `${where(result)}, \`${config}\`${again}`, verdict);
  };
}

/** What a step of the longest sequences holds over one of the shortest. */
function memoryFinding({ device, config, recompute, speeds }: TrainingReport): Finding | undefined {
  const points = of(speeds, "lightning").flatMap(({ length, bytes }) =>
    bytes === undefined ? [] : [{ length, bytes }]
  );
  if (points.length < 2) return undefined;
  const [first, last] = [points[0], points.at(-1)!], ratio = last.bytes / first.bytes;
  const gib = (bytes: number) => (bytes / 2 ** 30).toFixed(2);
  return {
    setting: `${device}, \`${config}\`${recompute ? ", activations computed again" : ""}, ${
      shortLength(first.length)
    } to ${shortLength(last.length)}`,
    ours: `${gib(first.bytes)} and ${gib(last.bytes)} GiB`,
    verdict: ratio <= 1.1 ? "holds" : ratio >= 2 ? "contradicts" : "does not show",
  };
}

/** Results of a model's throughput at all lengths, the shortest first. */
function ofModel({ runs }: ThroughputResults, model: string) {
  return Object.entries(runs).filter(([name]) => name.split(" ")[0] === model).map(([, run]) => run)
    .sort((a, b) => a.length - b.length);
}

const modelsOf = (
  { runs }: ThroughputResults,
) => [...new Set(Object.keys(runs).map((name) => name.split(" ")[0]))];

/** How many times as fast as softmax attention a batch writes, at most. */
function throughputFindings(result: ThroughputResults): Finding[] {
  return modelsOf(result).map((model) => {
    const runs = ofModel(result, model).map(({ length, lightning, softmax }) => ({
      ...{ length, lightning, softmax, ratio: lightning.tokensPerSecond / softmax.tokensPerSecond },
    }));
    const { length, lightning, softmax, ratio } = runs.reduce((best, one) =>
      one.ratio > best.ratio ? one : best
    );
    const same = runs.filter((run) => run.softmax.batch === run.lightning.batch).at(-1);
    return {
      setting: `${result.device}, ${model}, weights in ${result.weights}, caches in f32 of ${
        result.memory / 2 ** 30
      } GiB at most`,
      ours:
        `up to ${times(ratio)} times, at ${
          shortLength(length)
        }, ${lightning.batch} sequences against the ${softmax.batch} that fit` +
        (same === undefined
          ? ""
          : `; ${same.lightning.batch} against ${same.softmax.batch}, at ${shortLength(same.length)}: ${
            times(same.ratio)
          } times`),
      verdict: reaching(ratio, 11),
    };
  });
}

/** How much of its speed a batch keeps after the longest context. */
function batchFindings(result: ThroughputResults): Finding[] {
  return modelsOf(result).flatMap((model) => {
    const points = ofModel(result, model).map(({ length, lightning }) => ({
      ...{ method: model, length, tokensPerSecond: lightning.tokensPerSecond },
    }));
    return speedFinding(points, `${result.device}, ${model}, ${result.batch} sequences`, constant) ?? [];
  });
}

/** Runs of one variant, with the length that each was trained on. */
function recallRuns({ runs }: RecallResults, variant: string) {
  return Object.entries(runs).map(([name, run]) => ({ ...run, name, trained: Number(name.split(" ")[1]) }))
    .filter(({ name }) => name.split(" ")[0] === variant);
}

const describeRecall = ({ device, size, steps, tokens }: RecallResults, name: string, trained: number) =>
  `${device}, \`${size}\`, ${(steps * tokens / 1e6).toPrecision(3)} M tokens, ${name} trained on ${
    shortLength(trained)
  }`;

/** Loss at the longest position over that at the trained length. */
function positionFindings(variant: string, verdict: (change: number) => Verdict) {
  return (result: RecallResults): Finding[] =>
    recallRuns(result, variant).flatMap(({ trained, positions }) => {
      const at = positions.find(({ position }) => position === trained), last = positions.at(-1);
      if (at === undefined || last === undefined || last.position <= trained) return [];
      return {
        setting: describeRecall(result, variant, trained),
        ours: positions.map(({ position, loss }) =>
          `${shortLength(position)}: ${loss.toFixed(4)}`
        ).join(", ") +
          " nats",
        verdict: verdict(last.loss / at.loss - 1),
      };
    });
}

/** Least share of what is remembered within the trained length that is still remembered beyond. */
function recallFindings(variant: string) {
  return (result: RecallResults): Finding[] =>
    recallRuns(result, variant).flatMap(({ trained, recall }) => {
      const within = recall.filter(({ distance }) => distance < trained),
        beyond = recall.filter(({ distance }) => distance >= trained);
      if (within.length === 0 || beyond.length === 0) return [];
      const best = Math.max(...within.map(({ recalled }) => recalled));
      const last = beyond.at(-1)!.recalled / best;
      return {
        setting: describeRecall(result, variant, trained),
        ours: recall.map(({ distance, recalled }) => `${shortLength(distance)}: ${percent(recalled)}`).join(
          ", ",
        ),
        verdict: best < LEARNT
          ? "does not show"
          : last >= CONSTANT
          ? "holds"
          : last <= HALF
          ? "contradicts"
          : "does not show",
      };
    });
}

/** A model that remembers less than this within its trained length has not learnt to. */
const LEARNT = 0.5;

/** A loss that is not to rise. */
export const notRising = (change: number): Verdict =>
  change <= 0 ? "holds" : change >= 0.05 ? "contradicts" : "does not show";
/** A loss that is to rise. */
export const rising = (change: number): Verdict =>
  change >= 0.05 ? "holds" : change <= 0 ? "contradicts" : "does not show";

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
const SWEPT = ["--sweep", "docs/evidence/training-small.json"];
const MEDIUM = experiments("medium", "--variants", "tnl,llama", "--seeds", "1,2", ...SWEPT);
const METHODS: Result = {
  file: "docs/evidence/methods.json",
  command: [
    ...["experiment", "--variants", "tnl,left-product", "--seeds", "1,2", "--steps", "2000", "--batch", "8"],
    ...[...SWEPT, "--work", "out/methods", "--json", "docs/evidence/methods.json"],
  ],
};
const RECALLED =
  "holds where the longest distance keeps 90 % of the best share within the trained length; contradicts at half; does not show where that best is below 50 %: such a model has not learnt to remember";
const EVERY_SEED =
  "holds where every seed of the first is better than each of the second; contradicts where worse";
const LITTLE = "holds where mean losses differ by at most 1 %; contradicts at 5 %";

/** Claims about models that are trained, in the order of the page. */
export const EXPERIMENT_CLAIMS: readonly Claim[] = [
  {
    name: "llama",
    claim: "TNL reaches a lower perplexity than a LLaMA of its size.",
    paper: "385M: 4.770 and 5.160; 44M on WikiText-103: 24.03 and 24.78",
    rule: EVERY_SEED,
    results: [SMALL, MEDIUM],
    find: betterFinding("tnl", "llama"),
  },
  {
    name: "softmax",
    claim: "TNL reaches a lower perplexity than TNL with softmax attention.",
    paper: "no figure; what Lightning Attention itself does of the difference to a LLaMA",
    rule: EVERY_SEED,
    results: [SMALL],
    find: betterFinding("tnl", "softmax"),
  },
  {
    name: "temperature",
    claim: "Decay temperature lowers the perplexity.",
    paper: "4.770; without 4.804",
    rule: EVERY_SEED,
    results: [SMALL],
    find: betterFinding("tnl", "no-temperature"),
  },
  {
    name: "gate",
    claim: "The output gate lowers the perplexity.",
    paper: "4.770; without 4.820",
    rule: EVERY_SEED,
    results: [SMALL],
    find: betterFinding("tnl", "no-gate"),
  },
  {
    name: "lrpe-all",
    claim: "LRPE on all layers is better than on the first.",
    paper: "all layers 4.728, the first 4.770",
    rule: EVERY_SEED,
    results: [SMALL],
    find: betterFinding("lrpe-all", "tnl"),
  },
  {
    name: "lrpe-none",
    claim: "LRPE on the first layer is better than on none.",
    paper: "the first 4.770, none worse",
    rule: EVERY_SEED,
    results: [SMALL],
    find: betterFinding("tnl", "lrpe-none"),
  },
  {
    name: "activation",
    claim: "The activation of query and key makes little difference.",
    paper: "Table 7: silu, 1+elu, none",
    rule: LITTLE,
    results: [SMALL],
    find: nearFinding(["tnl", "1+elu", "identity"]),
  },
  {
    name: "glu",
    claim: "An activation in the GLU makes little difference.",
    paper: "Table 8: SGLU has none",
    rule: LITTLE,
    results: [SMALL],
    find: nearFinding(["tnl", "glu-silu"]),
  },
  {
    name: "norm",
    claim: "The norm makes little difference to the perplexity.",
    paper: "Table 9: SRMSNorm, RMSNorm, LayerNorm",
    rule: LITTLE,
    results: [SMALL],
    find: nearFinding(["tnl", "rmsnorm", "layernorm"]),
  },
  {
    name: "methods",
    claim: "Lightning Attention-2 reaches the loss of Lightning Attention-1.",
    paper: "the same within 0.001 (Lightning-2)",
    rule: "holds where the held-out losses of each seed differ by at most 0.001; contradicts at 0.01",
    results: [METHODS],
    find(result: Experiments) {
      const [two, one] = [seedsOf(result, "tnl"), seedsOf(result, "left-product")];
      if (two === undefined || one === undefined) return undefined;
      const difference = Math.max(...two.losses.map((loss, i) => Math.abs(loss - one.losses[i])));
      return {
        setting: trained(result, two),
        ours: `${difference.toFixed(5)} apart at most`,
        verdict: difference <= 0.001 ? "holds" : difference >= 0.01 ? "contradicts" : "does not show",
      };
    },
  },
];

/** The claims that a result speaks of, in the order of the page. */
export const CLAIMS: readonly Claim[] = [
  {
    name: "training",
    claim: "Training is as fast on long sequences as on short ones, the tokens of a step being the same.",
    paper: "constant from 1K to 128K (Lengths, Fig. 1 and 4)",
    rule: "holds where the longest sequences keep 90 % of the speed of the shortest; contradicts at half",
    results: [...LIGHTNING_SPEEDS, WASM, WEBGPU],
    find: trainingFinding("lightning", constant),
  },
  {
    name: "memory",
    claim:
      "Training takes no more memory on long sequences than on short ones, the tokens of a step being the same.",
    paper: "no figure; linear in the length, so that tokens alone count (Lightning-2)",
    rule: "holds where the longest sequences take at most 10 % more than the shortest; contradicts at twice",
    results: LIGHTNING_SPEEDS,
    find: memoryFinding,
  },
  {
    name: "training-llama",
    claim: "Training a transformer with FlashAttention-2 is slower the longer the sequences are.",
    paper: "LLaMA-FA2 falls (Lengths, Fig. 1 and 4)",
    rule: "holds where half of the speed is lost; contradicts where nothing is",
    results: [...LLAMA_SPEEDS, WEBGPU],
    find: (result: Report | TrainingReport) =>
      trainingFinding("results" in result ? "softmax" : "llama", falling)(result),
  },
  {
    name: "training-left",
    claim: "Training with Lightning Attention-1 is slower the longer the sequences are.",
    paper: "Lightning-1 falls (Lengths, Fig. 1 and 4)",
    rule: "holds where half of the speed is lost; contradicts where nothing is",
    results: LEFT_SPEEDS,
    find: trainingFinding("left-product", falling),
  },
  {
    name: "writing",
    claim: "A token is written as fast after a long context as after a short one.",
    paper: "a state of fixed size, whatever the length",
    rule: "holds where 90 % of the speed is kept; contradicts at half",
    results: [THROUGHPUT, WASM, WEBGPU],
    find: (report: Report | ThroughputResults) =>
      "runs" in report ? batchFindings(report) : speedFinding(
        of(report.results.generation, "TransNormerLLM"),
        `${where(report)}, 5 M, one sequence`,
        constant,
      ),
  },
  {
    name: "throughput",
    claim: "Inference is many times as fast as that of softmax models of the same size.",
    paper: "up to 11 times the throughput (Lengths, Fig. 5)",
    rule: "holds where it reaches 11 times at some length; contradicts below 1",
    results: [THROUGHPUT, WASM, WEBGPU],
    find(report: Report | ThroughputResults) {
      if ("runs" in report) return throughputFindings(report);
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
    name: "norm-speed",
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
    name: "lengths",
    claim: "A model reads longer contexts than it was trained on.",
    paper: "no figure; “unlimited” (Lightning-2, title)",
    rule:
      "holds where the loss with the longest contexts is at most that at the trained length; contradicts at 5 % more",
    results: [LENGTHS, RECALL],
    find(result: Evaluation | RecallResults) {
      if ("runs" in result) return positionFindings("tnl", notRising)(result);
      const { model, lengths } = result;
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
        verdict: notRising(change),
      };
    },
  },
  {
    name: "lengths-llama",
    claim: "A LLaMA does not read longer contexts than it was trained on.",
    paper: "no figure; what TNL is compared with",
    rule:
      "holds where the loss at the longest positions is at least 5 % above that at the trained length; contradicts where it is no higher",
    results: [RECALL],
    find: positionFindings("llama", rising),
  },
  {
    name: "recall",
    claim: "TNL remembers a number in the text over distances beyond the length that it was trained on.",
    paper: "no figure; “unlimited” (Lightning-2, title)",
    rule: RECALLED,
    results: [RECALL],
    find: recallFindings("tnl"),
  },
  {
    name: "recall-llama",
    claim: "A LLaMA remembers a number in the text over distances beyond the length that it was trained on.",
    paper: "no figure; what TNL is compared with",
    rule: RECALLED,
    results: [RECALL],
    find: recallFindings("llama"),
  },
];

function normRatios(norms: readonly NormPoint[]): number[] {
  const own = norms.filter(({ method }) => method === "SRMSNorm");
  return norms.filter(({ method }) => method !== "SRMSNorm").flatMap(({ width, gigabytesPerSecond }) => {
    const one = own.find((point) => point.width === width);
    return one === undefined ? [] : [one.gigabytesPerSecond / gigabytesPerSecond];
  });
}

/** Reads a result; undefined if it was not kept. */
export type ReadResult = (result: Result) => Promise<Record<string, unknown> | undefined>;

/** Results that a claim has nothing to read from, each once. */
export async function missingResults(
  claims: readonly Claim[] = [...CLAIMS, ...EXPERIMENT_CLAIMS],
  read: ReadResult = readResult,
): Promise<Result[]> {
  const missing = new Map<string, Result>();
  for (const claim of claims) {
    for (const result of claim.results) {
      const kept = await read(result);
      if (kept === undefined || findings(claim, kept).length === 0) {
        missing.set(result.command.join(" "), result);
      }
    }
  }
  return [...missing.values()];
}

/** A result as it was kept; undefined if it was not. */
export function readResult({ file }: Result): Promise<Record<string, unknown> | undefined> {
  return readKept(new URL(file, ROOT));
}

/** The page, as Markdown. */
export async function renderEvidence(read: ReadResult = readResult): Promise<string> {
  const sections: string[] = [], open: string[] = [];
  for (const one of [...CLAIMS, ...EXPERIMENT_CLAIMS]) {
    const { name, claim, paper, rule, results } = one, rows: string[] = [];
    for (const result of results) {
      const kept = await read(result), found = kept === undefined ? [] : findings(one, kept);
      const command = `deno task ${result.command.join(" ")}`;
      if (kept === undefined || found.length === 0) open.push(`${claim} \`${command}\``);
      for (const { setting, ours, verdict } of found) {
        const link = `[${kept!.date}](${result.file.replace(/^docs\//, "")})`;
        rows.push(`| ${setting} | ${ours} | **${verdict}** | \`${kept!.command ?? command}\` | ${link} |`);
      }
    }
    if (rows.length === 0) continue;
    const figure = FIGURES[name], drawn = figure !== undefined && await read(figure.of) !== undefined;
    sections.push(
      `## ${claim.replace(/\.$/, "")}\n\nThe paper: ${paper}. It ${rule}. (\`${name}\`)\n\n` +
        `| measured | ours | verdict | command | result |\n|---|---|---|---|---|\n${rows.join("\n")}\n` +
        (drawn ? `\n![${figure.title}](${figure.file.replace(/^docs\//, "")})\n` : ""),
    );
  }
  const last = open.length === 0
    ? ""
    : `\n## Open\n\nOf these no result has been kept yet:\n\n${open.map((one) => `- ${one}`).join("\n")}\n`;
  return `${INTRODUCTION}\n${sections.join("\n")}${last}`;
}

/** A chart of a result. */
interface Figure {
  /** From the project's folder. */
  readonly file: string;
  readonly title: string;
  readonly of: Result;
  // deno-lint-ignore no-explicit-any -- each figure knows its file
  panels(result: any): Panel[];
}

const colorsOf = (methods: readonly string[]) => {
  const own = [...LIGHTNING], others = [...CONVENTIONAL];
  return methods.map((method) => (/^tnl|^TNL/.test(method) ? own : others).shift()!);
};

function panelOf(
  title: string,
  values: readonly PlotPoint[],
  rest: Pick<Panel, "xTitle" | "isFromZero" | "steps">,
): Panel {
  const methods = [...new Set(values.map(({ method }) => method))];
  return { title, values, methods, colors: colorsOf(methods), labels: NUMBERS, ...rest };
}

/** Charts by the claims that they belong to. */
const FIGURES: Readonly<Record<string, Figure>> = {
  throughput: {
    file: "docs/evidence/throughput.svg",
    title: "Tokens per second of a batch against context",
    of: THROUGHPUT,
    panels: (result: ThroughputResults) =>
      modelsOf(result).map((model) =>
        panelOf(
          `${model}, tokens per second`,
          (["lightning", "softmax"] as const).flatMap((kind) =>
            ofModel(result, model).map((run) => ({
              method: kind === "lightning"
                ? `TNL, ${run.lightning.batch} sequences`
                : "softmax, sequences that fit",
              length: run.length,
              y: run[kind].tokensPerSecond,
              range: [Math.min(...run[kind].turns), Math.max(...run[kind].turns)] as const,
            }))
          ),
          { xTitle: "context, tokens (log scale)", steps: (power) => 10 ** power },
        )
      ),
  },
  lengths: {
    file: "docs/evidence/positions.svg",
    title: "Loss by position",
    of: RECALL,
    panels: ({ runs }: RecallResults) => [
      panelOf(
        "Loss by position, nats per byte",
        Object.entries(runs).flatMap(([method, { positions }]) =>
          positions.map(({ position, loss }) => ({ method, length: position, y: loss }))
        ),
        { xTitle: "position, tokens (log scale)", isFromZero: false },
      ),
    ],
  },
  recall: {
    file: "docs/evidence/recall.svg",
    title: "Numbers remembered by distance",
    of: RECALL,
    panels: ({ runs }: RecallResults) => [
      panelOf(
        "Share of numbers remembered",
        Object.entries(runs).flatMap(([method, { recall }]) =>
          recall.map(({ distance, recalled }) => ({ method, length: distance, y: recalled }))
        ),
        { xTitle: "distance, bytes (log scale)" },
      ),
    ],
  },
};

/** Draws the charts of all results that were kept. */
export async function drawFigures(read: ReadResult = readResult): Promise<void> {
  for (const { file, of, panels } of Object.values(FIGURES)) {
    const kept = await read(of);
    if (kept !== undefined) await Deno.writeTextFile(new URL(file, ROOT), await renderPanels(panels(kept)));
  }
}

const INTRODUCTION = `# Evidence

What "Various Lengths, Constant Speed" (Lengths) and "Lightning Attention-2" (Lightning-2) claim, and what was measured
here: in small, and on other machines. Written by \`deno task evidence\` from results that were kept; edit neither.
\`deno task evidence --run\` measures what no result was kept of, one command after another; stopped, it continues with
the next that is missing. \`--run gate,recall\` does so for the claims with these names, \`--seconds\` limits its time.
A verdict is one of three: the claim *holds*, it *does not show*, or the result *contradicts*
it. One rule stands with each claim, and applies wherever it was measured, also on a machine that others used too.
`;

/** Where the page lies. */
export const PAGE: string = fileURLToPath(new URL("docs/evidence.md", ROOT));
