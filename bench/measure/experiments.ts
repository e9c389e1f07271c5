/**
 * The experiments of `docs/evidence.md` that train: models that differ in one thing, on the same text, by the same trainer.
 *
 * @module
 */
import type { Backend } from "../../core/tensor.ts";
import type { Mixer } from "../../train/backward.ts";
import { findCheckpoints } from "../../train/checkpoint.ts";
import { configByName } from "../../train/configs.ts";
import type { Corpus } from "../../train/data.ts";
import { type StepReport, train } from "../../train/train.ts";
import { leftProductMixer, llamaConfig, softmaxConfig, softmaxMixer } from "../baselines/mixers.ts";

type Config = Record<string, unknown>;

/** What differs from TransNormerLLM. */
export interface Variant {
  /** Its `config.json`, made from that of TransNormerLLM. */
  config(tnl: Config): Config;
  /** What mixes its tokens. Default: Lightning Attention. */
  readonly mixer?: Mixer;
  /** Models that share a learning rate. */
  readonly family: "tnl" | "llama" | "softmax";
}

const tnl = (change: Config = {}): Variant => ({
  config: (config) => ({ ...config, ...change }),
  family: "tnl",
});
const lrpe = (use: number): Variant => ({
  config: (config) => ({ ...config, linear_use_lrpe_list: Array(config.decoder_layers).fill(use) }),
  family: "tnl",
});

/** Models by name. */
export const VARIANTS: Readonly<Record<string, Variant>> = {
  "tnl": tnl(),
  "llama": { config: llamaConfig, mixer: softmaxMixer, family: "llama" },
  "softmax": { config: softmaxConfig, mixer: softmaxMixer, family: "softmax" },
  "no-temperature": tnl({ use_decay_temperature: false }),
  "no-gate": tnl({ use_output_gate: false }),
  "lrpe-all": lrpe(1),
  "lrpe-none": lrpe(0),
  "1+elu": tnl({ linear_act_fun: "1+elu" }),
  "identity": tnl({ linear_act_fun: "identity" }),
  "glu-silu": tnl({ glu_act_fun: "silu" }),
  "rmsnorm": tnl({ norm_type: "rmsnorm" }),
  "layernorm": tnl({ norm_type: "layernorm" }),
  "left-product": { ...tnl(), mixer: leftProductMixer },
};

/** Learning rates that the sweep of each family begins with. */
export const SWEEP: readonly number[] = [0.001, 0.002, 0.004];
/** Where a sweep ends, whatever it has found. */
const HIGHEST = 0.032;
/** The part of the steps that a run of the sweep takes. */
const SWEEP_SHARE = 0.4;

/** What all runs of a file share. */
export interface ExperimentRecipe {
  /** `"tiny"`, `"small"` or `"medium"`. */
  readonly size: string;
  readonly steps: number;
  readonly seqLen: number;
  readonly batch: number;
}

/** A run that is finished. */
export interface RunResult {
  readonly parameters: number;
  readonly learningRate: number;
  readonly steps: number;
  /** Of the last step. */
  readonly loss: number;
  /** Nats per held-out token. NaN, which JSON writes as null, of a run of the sweep that diverged. */
  readonly heldOutLoss: number;
  readonly bitsPerByte: number;
  /** Median of the steps. */
  readonly tokensPerSecond: number;
}

/** Results of one size, as they are kept. */
export interface Experiments extends ExperimentRecipe {
  readonly format: "levin experiments 1";
  readonly device: string;
  readonly date: string;
  readonly commit: string;
  /** Fingerprint of the text, its tokens to learn from and those held out. */
  readonly data: { readonly sha256: string; readonly train: number; readonly heldOut: number };
  /** By {@linkcode Run.name}. */
  readonly runs: Readonly<Record<string, RunResult>>;
}

/** One run. */
export interface Run {
  /** `<variant> <seed>`, or `<family> sweep <learning rate>`. */
  readonly name: string;
  readonly variant: string;
  readonly seed: number;
  /** Of the sweep; otherwise what the sweep has found for the family. */
  readonly learningRate: number | undefined;
}

export const runName = (variant: string, seed: number): string => `${variant} ${seed}`;
const sweepName = (family: string, learningRate: number) => `${family} sweep ${learningRate}`;

type Runs = Experiments["runs"];

/** The held-out loss of a run; infinite without one. */
const lossOf = (runs: Runs, name: string): number => {
  const loss = runs[name]?.heldOutLoss;
  return Number.isFinite(loss) ? loss : Infinity;
};

/** The rate with the lowest held-out loss. */
function lowest(family: string, rates: readonly number[], runs: Runs): number {
  const loss = (rate: number) => lossOf(runs, sweepName(family, rate));
  return rates.reduce((best, rate) => loss(rate) < loss(best) ? rate : best);
}

/**
 * Learning rates of a family's sweep: {@linkcode SWEEP}, then the double of the highest as long as the highest is the
 * best. So no family's best lies above what was tried.
 */
export function sweepRates(family: string, runs: Runs): number[] {
  const rates = [...SWEEP];
  const isRun = () => rates.every((rate) => runs[sweepName(family, rate)] !== undefined);
  while (isRun() && lowest(family, rates, runs) === rates.at(-1) && rates.at(-1)! < HIGHEST) {
    rates.push(2 * rates.at(-1)!);
  }
  return rates;
}

/** Those of the runs that are of a sweep. */
export function sweepRuns(runs: Runs = {}): Runs {
  return Object.fromEntries(Object.entries(runs).filter(([name]) => name.includes(" sweep ")));
}

/** All runs in their order: the sweep of each family, then the first seed of all variants, the second, ... */
export function planRuns(variants: readonly string[], seeds: readonly number[], kept: Runs = {}): Run[] {
  const families = new Set(variants.map((name) => VARIANTS[name].family));
  const sweep = [...families].flatMap((family) =>
    sweepRates(family, kept).map((learningRate) => ({
      name: sweepName(family, learningRate),
      variant: family, // each family is the name of its first variant
      seed: 1,
      learningRate,
    }))
  );
  const runs = seeds.flatMap((seed) =>
    variants.map((variant) => ({ name: runName(variant, seed), variant, seed, learningRate: undefined }))
  );
  return [...sweep, ...runs];
}

/** Runs that nothing was kept of, and that wait for no other: those of the sweep, and those whose sweep is over. */
export function readyRuns(plan: readonly Run[], kept: Runs): Run[] {
  return plan.filter(({ name, variant, learningRate }) =>
    kept[name] === undefined &&
    (learningRate !== undefined || isSwept(VARIANTS[variant].family, kept))
  );
}

function isSwept(family: string, kept: Runs): boolean {
  return sweepRates(family, kept).every((rate) => kept[sweepName(family, rate)] !== undefined);
}

/** The learning rate with the lowest held-out loss of the family's sweep. */
export function bestLearningRate(family: string, runs: Runs): number {
  const rate = lowest(family, sweepRates(family, runs), runs);
  if (lossOf(runs, sweepName(family, rate)) === Infinity) {
    throw new RangeError(`The sweep of ${family} must come before its runs`);
  }
  return rate;
}

/**
 * Trains one model, or continues where it was stopped.
 *
 * @param folder of its checkpoints
 * @returns nothing where `signal` stopped it: a checkpoint is kept
 */
export async function runExperiment(
  { variant: name, seed, learningRate }: Run,
  { size, steps, seqLen, batch }: ExperimentRecipe,
  { backend, corpus, folder, runs, signal, onStep }: {
    backend: Backend;
    corpus: Corpus;
    folder: string;
    runs: Runs;
    signal: AbortSignal;
    onStep?: (step: StepReport) => void;
  },
): Promise<RunResult | undefined> {
  const variant = VARIANTS[name];
  const rate = learningRate ?? bestLearningRate(variant.family, runs);
  const taken = learningRate === undefined ? steps : Math.max(1, Math.round(SWEEP_SHARE * steps));
  // Stopped between its last step and its evaluation, which nothing resumes.
  if ((await findCheckpoints(folder)).at(-1) === taken) await Deno.remove(folder, { recursive: true });
  await Deno.mkdir(folder, { recursive: true });
  const config = `${folder}/config.json`;
  await Deno.writeTextFile(config, JSON.stringify(variant.config(configByName(size)), null, 2));
  const reports: StepReport[] = [];
  let parameters = 0;
  const training = train({
    ...{ backend, data: corpus, out: folder, config, mixer: variant.mixer, signal },
    ...{ seqLen, batch, steps: taken, seed, learningRate: rate, warmup: Math.ceil(taken / 10) },
    ...{ logEvery: Math.min(20, taken), saveEvery: taken, evaluateEvery: taken, keep: 1 },
    resume: (await findCheckpoints(folder)).length > 0,
    onStart: (start) => parameters = start.parameters,
    onStep: (step) => {
      reports.push(step);
      onStep?.(step);
    },
  });
  const evaluation = await training.then((result) => result.evaluation, (error) => {
    // A learning rate of the sweep may be too high; with one that it chose, divergence is an error.
    if (learningRate === undefined || !/loss and gradients must be finite/.test(String(error))) throw error;
    return { heldOutLoss: NaN, bitsPerByte: NaN };
  });
  if (evaluation === undefined) return undefined;
  const { heldOutLoss, bitsPerByte } = evaluation;
  const speeds = reports.map(({ tokensPerSecond }) => tokensPerSecond).sort((a, b) => a - b);
  return {
    ...{ parameters, learningRate: rate, steps: taken, loss: reports.at(-1)?.loss ?? NaN },
    ...{ heldOutLoss, bitsPerByte, tokensPerSecond: speeds[speeds.length >> 1] ?? NaN },
  };
}
