/**
 * What a model makes of contexts longer than those that it was trained on: its loss by position, and whether it
 * remembers numbers that were planted into the text.
 *
 * @module
 */
import { yieldToEventLoop } from "../../core/eventLoop.ts";
import { crossEntropy } from "../../core/gradients.ts";
import type { Backend } from "../../core/tensor.ts";
import { parseConfig } from "../../model/config.ts";
import { randomNumbers } from "../../model/sampling.ts";
import { allLogits, type Network, residualStream } from "../../model/transnormer.ts";
import { lightningMixer, type Mixer } from "../../train/backward.ts";
import { findCheckpoints, loadCheckpointState } from "../../train/checkpoint.ts";
import { configByName } from "../../train/configs.ts";
import { Corpus, IGNORED, type SplitText } from "../../train/data.ts";
import { evaluate } from "../../train/evaluate.ts";
import { Parameters } from "../../train/optimizer.ts";
import { type StepReport, train } from "../../train/train.ts";
import { VARIANTS } from "./experiments.ts";
import { DIGITS, plant, type Planting } from "./needles.ts";
import { median } from "./timing.ts";

/** Needles of the text that models are trained on: nearly half of it, every pair within the longest sequences. */
const TRAINED: Planting = { every: 120, distances: [64, 8192] };
/** Needles of a context that is asked, and bytes of text for each. */
const ASKED = { every: 128, count: 8 };
/** Text of a context besides the distance: room for the needles and their repetitions. */
const MARGIN = 3072;
/** Tokens that are evaluated together. */
const TOGETHER = 2 ** 17;

/** The text to learn from with needles in it; the held-out text stays as it is. */
export function planted({ train, heldOut }: SplitText): Promise<Corpus> {
  return Corpus.of({ train: train.map((text, i) => plant(text, TRAINED, i + 1).bytes), heldOut });
}

/** A model and the length of the sequences that it is trained on. */
export interface RecallRun {
  /** `<variant> <seqLen>` */
  readonly name: string;
  readonly variant: string;
  readonly seqLen: number;
}

/** What all runs of a file share. */
export interface RecallRecipe {
  /** Configuration by name. */
  readonly size: string;
  readonly steps: number;
  /** Tokens of a step. */
  readonly tokens: number;
  /** Tokens of the held-out text whose loss is taken, whatever the position. */
  readonly scored: number;
  /** Positions of {@linkcode PositionLoss}. */
  readonly positions: readonly number[];
  /** Of {@linkcode Recall}. */
  readonly distances: readonly number[];
  /** Needles for each distance. */
  readonly trials: number;
}

/** Loss of the same tokens, each after some context. */
export interface PositionLoss {
  /** Tokens that precede: from half as many up to so many. */
  readonly position: number;
  /** Nats per token. */
  readonly loss: number;
}

/** What is remembered at a distance. */
export interface Recall {
  /** Bytes from a number to the place where it is asked for, at least: that is where the next sentence ends. */
  readonly distance: number;
  /** Numbers that were asked for. */
  readonly trials: number;
  /** Share of them to which the model gives more than half of all probability. */
  readonly recalled: number;
  /** Without memory log2(10) = 3.32. */
  readonly bitsPerDigit: number;
}

/** A run that is finished. */
export interface RecallResult {
  readonly parameters: number;
  readonly learningRate: number;
  /** On held-out text without needles, in windows of the trained length. */
  readonly bitsPerByte: number;
  /** Median of the steps. */
  readonly tokensPerSecond: number;
  readonly positions: readonly PositionLoss[];
  readonly recall: readonly Recall[];
}

/** Results as they are kept. */
export interface RecallResults extends RecallRecipe {
  readonly format: "levin recall 1";
  readonly device: string;
  readonly date: string;
  readonly commit: string;
  /** Fingerprint of the text with its needles, its tokens to learn from and those held out. */
  readonly data: { readonly sha256: string; readonly train: number; readonly heldOut: number };
  /** By {@linkcode RecallRun.name}. */
  readonly runs: Readonly<Record<string, RecallResult>>;
}

/** All runs: each variant at each length, the shortest first. */
export function planRecall(variants: readonly string[], lengths: readonly number[]): RecallRun[] {
  return lengths.flatMap((seqLen) =>
    variants.map((variant) => ({ name: `${variant} ${seqLen}`, variant, seqLen }))
  );
}

/**
 * Trains one model and evaluates it, or continues where that was stopped.
 *
 * @param folder of its checkpoints
 * @returns nothing where `signal` stopped it
 */
export async function runRecall(
  { variant: name, seqLen }: RecallRun,
  recipe: RecallRecipe,
  { backend, corpus, learningRate, folder, signal, onStep, onEvaluate }: {
    backend: Backend;
    corpus: Corpus;
    learningRate: number;
    folder: string;
    signal: AbortSignal;
    onStep(step: StepReport): void;
    onEvaluate(what: string): void;
  },
): Promise<RecallResult | undefined> {
  const { steps } = recipe, variant = VARIANTS[name], mixer = variant.mixer ?? lightningMixer;
  await Deno.mkdir(folder, { recursive: true });
  const config = `${folder}/config.json`;
  await Deno.writeTextFile(config, JSON.stringify(variant.config(configByName(recipe.size)), null, 2));
  const speeds: number[] = [];
  // A run that was stopped in its evaluation has nothing to train.
  const { finished } = await train({
    ...{ backend, data: corpus, out: folder, config, mixer, signal, seqLen, steps, seed: 1 },
    ...{ batch: recipe.tokens / seqLen, learningRate, warmup: Math.ceil(steps / 10) },
    ...{ logEvery: Math.min(20, steps), saveEvery: Math.min(500, steps), evaluateEvery: steps + 1, keep: 1 },
    resume: (await findCheckpoints(folder)).length > 0,
    onStep: (step) => {
      speeds.push(step.tokensPerSecond);
      onStep(step);
    },
  });
  if (!finished) return undefined;
  using network = await loadParameters(backend, folder);
  const model: Model = { network, mixer, signal };
  const batch = Math.max(1, TOGETHER / seqLen);
  const evaluation = await evaluate(network, corpus, { batch, seqLen }, { mixer, signal });
  const positions: PositionLoss[] = [], recall: Recall[] = [];
  try {
    for (const position of recipe.positions) {
      onEvaluate(`loss at ${position}`);
      const first = Math.max(...recipe.positions) / 2;
      positions.push({
        position,
        loss: await lossAtPosition(model, corpus.heldOut, first, position, recipe.scored),
      });
    }
    for (const distance of recipe.distances) {
      onEvaluate(`recall over ${distance}`);
      recall.push(await recallOver(model, corpus.heldOut, distance, recipe.trials));
    }
  } catch (error) {
    if (signal.aborted) return undefined;
    throw error;
  }
  if (evaluation === undefined) return undefined;
  return {
    ...{ parameters: network.count, learningRate, bitsPerByte: evaluation.bitsPerByte },
    ...{ tokensPerSecond: speeds.length > 0 ? median(speeds) : NaN, positions, recall },
  };
}

/** The last checkpoint's parameters. */
async function loadParameters(backend: Backend, folder: string): Promise<Parameters> {
  const { config, weights } = await loadCheckpointState(folder);
  const values = new Map(weights.map(({ name, data }) => [name, data]));
  return new Parameters(backend, parseConfig(config), (name) => ({ value: values.get(name)! }));
}

/** A model that is evaluated, until `signal` stops it: its reason is thrown. */
export interface Model {
  readonly network: Network;
  readonly mixer: Mixer;
  readonly signal: AbortSignal;
}

/**
 * Mean loss of `scored` tokens from index `first` on, each with the tokens before it as context: from half of `position`
 * up to it. So all positions speak of the same text.
 */
export async function lossAtPosition(
  model: Model,
  tokens: Uint16Array,
  first: number,
  position: number,
  scored: number,
): Promise<number> {
  const half = position / 2, rows: Row[] = [];
  const last = Math.min(first + scored, tokens.length - 1);
  for (let start = first; start < last; start += half) {
    const places = Array.from({ length: Math.min(half, last - start) }, (_, i) => half + i);
    rows.push({ ids: tokens.subarray(start - half, start + half + 1), places });
  }
  let sum = 0, count = 0;
  for await (const losses of lossesOf(model, rows, position)) {
    for (const loss of losses) sum += loss;
    count += losses.length;
  }
  return sum / count;
}

/** Plants needles into held-out text, from random places on, and asks for them after the distance. */
export async function recallOver(
  model: Model,
  heldOut: Uint16Array,
  distance: number,
  trials: number,
): Promise<Recall> {
  let recalled = 0, sum = 0;
  for await (const losses of lossesOf(model, needleRows(heldOut, distance, trials), distance + MARGIN)) {
    for (let i = 0; i < losses.length; i += DIGITS) {
      const loss = losses.slice(i, i + DIGITS).reduce((sum, one) => sum + one, 0);
      if (Math.exp(-loss) > 0.5) recalled++;
      sum += loss;
    }
  }
  return {
    ...{ distance, trials, recalled: recalled / trials },
    bitsPerDigit: sum / trials / DIGITS / Math.LN2,
  };
}

/** Rows in which so many numbers are asked for: the places before their digits. */
export function needleRows(heldOut: Uint16Array, distance: number, trials: number): Row[] {
  const random = randomNumbers(distance), length = distance + MARGIN;
  const text = Uint8Array.from(heldOut.filter((id) => id < 256));
  if (text.length <= length) {
    throw new RangeError(`A distance of ${distance} needs more held-out text than ${text.length} bytes`);
  }
  const rows: Row[] = [];
  for (let asked = 0; asked < trials;) {
    const start = Math.floor(random() * (text.length - length));
    const planting: Planting = { ...ASKED, distances: [distance, distance] };
    const { bytes, needles } = plant(text.subarray(start, start + length), planting, rows.length + 1);
    const whole = needles.filter(({ at }) => at + DIGITS <= length).slice(0, trials - asked);
    // A token is predicted at the place before it.
    const places = whole.flatMap(({ at }) => Array.from({ length: DIGITS }, (_, i) => at - 1 + i));
    rows.push({ ids: Uint16Array.from(bytes.subarray(0, length + 1)), places });
    asked += whole.length;
  }
  return rows;
}

/** A sequence that begins with nothing before it, and the places in it whose next token is to be predicted. */
export interface Row {
  readonly ids: Uint16Array;
  readonly places: readonly number[];
}

/** Losses of the rows' places in their order, in nats, some rows at a time. */
async function* lossesOf(model: Model, rows: readonly Row[], seqLen: number): AsyncGenerator<number[]> {
  const most = Math.max(1, Math.floor(TOGETHER / seqLen));
  for (let first = 0; first < rows.length; first += most) {
    const some = rows.slice(first, first + most), batch = some.length;
    const ids = new Uint32Array(batch * seqLen), labels = new Int32Array(batch * seqLen).fill(IGNORED);
    for (const [b, row] of some.entries()) {
      ids.set(row.ids.subarray(0, seqLen), b * seqLen);
      for (const place of row.places) labels[b * seqLen + place] = row.ids[place + 1];
    }
    const losses = await tokenLosses(model, ids, labels, batch, seqLen);
    yield some.flatMap(({ places }, b) => places.map((place) => losses[b * seqLen + place]));
    await yieldToEventLoop();
    model.signal.throwIfAborted();
  }
}

/** Loss of each token `[batch, seqLen]`; 0 where none is to be predicted. */
async function tokenLosses(
  { network, mixer }: Model,
  ids: Uint32Array,
  labels: Int32Array,
  batch: number,
  seqLen: number,
): Promise<Float32Array> {
  const tokens = { ids, batch, seqLen, positions: new Array<number>(batch).fill(0) };
  using hidden = residualStream(network, tokens, (l, q, k, v) => {
    const { slopes } = network.weights.layers[l];
    const { output, state } = mixer.forward(q, k, v, { slopes, layout: "bnhd" });
    state.dispose();
    return output;
  });
  using logits = allLogits(network, hidden);
  const entropy = crossEntropy(logits, labels);
  using loss = entropy.loss, _ = entropy.dLogits;
  return await loss.data();
}
