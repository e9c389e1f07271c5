/**
 * Training: from text to a model folder. The same seed gives the same losses on the same backend, bit for bit, also
 * when the run is stopped, or killed, and resumed.
 *
 * @module
 */
import { readFile } from "node:fs/promises";
import type { Backend } from "../core/tensor.ts";
import { message, rangeError } from "../core/errors.ts";
import { yieldToEventLoop } from "../core/eventLoop.ts";
import type { Tensor } from "../core/tensor.ts";
import { parseConfig } from "../model/config.ts";
import { lightningMixer, lossAndGradients, lossOf, type Mixer, type Segment } from "./backward.ts";
import {
  checkpointPath,
  findCheckpoints,
  lastGood,
  loadCheckpointState,
  saveCheckpoint,
  type TrainingState,
} from "./checkpoint.ts";
import { configByName, initialWeights, VOCAB_SIZE } from "./configs.ts";
import { Corpus, readDocuments } from "./data.ts";
import { openLog } from "./log.ts";
import { learningRateAt, Parameters } from "./optimizer.ts";
import { checkCount, completeRecipe, type Recipe } from "./recipe.ts";
import { CarriedStates } from "./states.ts";

/** Options of {@linkcode train}. Parts of the recipe that are left out come from the checkpoint, or the defaults. */
export interface TrainingOptions extends Partial<Recipe> {
  /** See {@linkcode readDocuments}. */
  data: readonly string[];
  /** Folder of the checkpoints and of `log.jsonl`. */
  out: string;
  /** Where to compute. It stays the caller's. */
  backend: Backend;
  /** Go on from the last checkpoint in `out`. Default false: `out` must hold none. */
  resume?: boolean;
  /** Keep only the input of each layer for the backward pass. Default false. */
  recompute?: boolean;
  /** Read losses back every so many steps. Default 10. */
  logEvery?: number;
  /** Save a checkpoint every so many steps. Default 250; also at the end and when stopped. */
  saveEvery?: number;
  /** Evaluate on the held-out text every so many steps. Default 250; also at the end. */
  evaluateEvery?: number;
  /** Number of checkpoints to keep. Default 2. */
  keep?: number;
  /** What mixes tokens. Default: Lightning Attention. */
  mixer?: Mixer;
  /** Stops after the step that runs, with a checkpoint. */
  signal?: AbortSignal;
  /** Called before the first step. */
  onStart?: (start: StartReport) => void;
  /** Called once per step, when its loss is known. */
  onStep?: (step: StepReport) => void;
  /** Called after each evaluation. */
  onEvaluation?: (evaluation: EvaluationReport) => void;
  /** Called after each checkpoint, with its path. */
  onSave?: (path: string) => void;
}

/** What a run begins with. */
export interface StartReport {
  /** All settings. */
  readonly recipe: Readonly<Recipe>;
  /** Steps that were taken before. */
  readonly step: number;
  /** Number of parameters. */
  readonly parameters: number;
  /** Tokens to learn from. */
  readonly trainTokens: number;
  /** Tokens to test with. */
  readonly heldOutTokens: number;
}

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

/** One evaluation. */
export interface EvaluationReport {
  /** Steps that were taken. */
  readonly step: number;
  /** Mean cross entropy per held-out token. */
  readonly heldOutLoss: number;
  /** `exp(heldOutLoss)`. */
  readonly perplexity: number;
  /** All of the held-out loss, in bits, over the bytes of the held-out text. */
  readonly bitsPerByte: number;
}

/** How a run ended. */
export interface TrainingResult {
  /** Steps that were taken. */
  readonly step: number;
  /** Whether that is all of them. */
  readonly finished: boolean;
  /** The checkpoint. */
  readonly checkpoint: string;
  /** The last evaluation, where the run finished. */
  readonly evaluation: EvaluationReport | undefined;
}

/**
 * Trains a model.
 *
 * @throws {RangeError} when the data is missing, empty or shorter than a sequence; an option is out of range; the
 * folder holds checkpoints already, or, to resume, none, a damaged one, or one of another configuration or other data;
 * or a loss is not finite: the message names step and norms
 * @throws {Error} when a checkpoint cannot be written. The last good checkpoint stays whole in each case
 */
export async function train(options: TrainingOptions): Promise<TrainingResult> {
  const { backend, out, signal, keep = 2, mixer = lightningMixer } = options;
  const { logEvery = 10, saveEvery = 250, evaluateEvery = 250 } = options;
  for (const [name, value] of Object.entries({ logEvery, saveEvery, evaluateEvery, keep })) {
    checkCount(name, value);
  }
  const start = await startingPoint(options);
  const { recipe, corpus } = start;
  const network = parseConfig(start.config);
  using parameters = new Parameters(backend, network, start.initial);
  using carried = new CarriedStates(backend, start.states);
  const frozen = (name: string) => recipe.packed && name.endsWith("theta");
  const pass = { mixer, recompute: options.recompute };

  const save = async (step: number) => {
    const state: TrainingState = {
      step,
      recipe: { ...recipe, mixer: mixer.name },
      config: start.config,
      data: corpus.fingerprint,
      ...await readBack(parameters, carried),
    };
    const path = await saveCheckpoint(out, state, keep);
    options.onSave?.(path);
  };
  const log = await openLog(out, start.step);
  using pending = new PendingSteps(recipe, out);
  options.onStart?.({
    recipe,
    step: start.step,
    parameters: parameters.count,
    trainTokens: corpus.train.length,
    heldOutTokens: corpus.heldOut.length,
  });
  let step = start.step, saved = options.resume ? start.step : -1, evaluation: EvaluationReport | undefined;
  /** Waits for the steps under way, and reports them. */
  const settle = async () => {
    const reports = await pending.settle();
    for (const report of reports) options.onStep?.(report);
    await log(reports);
  };
  while (step < recipe.steps && !signal?.aborted) {
    step++;
    using gradients = parameters.gradients();
    const total = backend.zeros([1]);
    const segments = Array.from({ length: recipe.accumulate }, (_, i) => {
      const index = (step - 1) * recipe.accumulate + i;
      return recipe.packed
        ? corpus.packed(index, recipe.batch, recipe.seqLen)
        : corpus.windows(index, recipe.batch, recipe.seqLen, recipe.seed);
    });
    const labels = segments.reduce((sum, segment) => sum + countLabels(segment), 0);
    for (const segment of segments) {
      const { tree } = gradients;
      carried.take(segment, (s) => lossAndGradients(parameters, tree, s, 1 / labels, total, pass));
    }
    const learningRate = learningRateAt(step, recipe.learningRate, recipe.warmup, recipe.steps);
    const squares = parameters.step(gradients, { ...recipe, count: step, learningRate }, frozen);
    pending.add({ step, total, squares, labels, learningRate });
    await yieldToEventLoop();

    const isLast = step === recipe.steps || signal?.aborted === true;
    if (isLast || step % logEvery === 0 || step % saveEvery === 0 || step % evaluateEvery === 0) {
      await settle();
    }
    if (step % saveEvery === 0 || isLast) {
      await save(step);
      saved = step;
    }
    if (step % evaluateEvery === 0 || step === recipe.steps) {
      evaluation = await evaluate(parameters, corpus, recipe, { step, mixer, signal });
      if (evaluation === undefined) break;
      options.onEvaluation?.(evaluation);
      await log([evaluation]);
      pending.restartClock();
    }
  }
  if (saved !== step) await save(step);
  return { step, finished: step === recipe.steps, checkpoint: checkpointPath(out, step), evaluation };
}

/**
 * Loss on the held-out text, in windows of `seqLen` tokens that begin with a state of zero, as in training.
 *
 * @returns nothing where `signal` ended it early
 */
export async function evaluate(
  parameters: Parameters,
  corpus: Corpus,
  { batch, seqLen }: { batch: number; seqLen: number },
  { step = 0, mixer, signal }: { step?: number; mixer?: Mixer; signal?: AbortSignal } = {},
): Promise<EvaluationReport | undefined> {
  let loss = 0, labels = 0, bytes = 0;
  for (const segment of corpus.heldOutWindows(batch, seqLen)) {
    // One total per batch: a sum in f32 over all of the text would lose digits.
    using total = parameters.weights.embedTokens.backend.zeros([1]);
    for (const state of lossOf(parameters, segment, total, { mixer })) state.dispose();
    loss += (await total.data())[0];
    labels += countLabels(segment);
    bytes += segment.labels.reduce((sum, label) => label >= 0 && label < 256 ? sum + 1 : sum, 0);
    await yieldToEventLoop();
    if (signal?.aborted) return undefined;
  }
  const heldOutLoss = loss / labels;
  return { step, heldOutLoss, perplexity: Math.exp(heldOutLoss), bitsPerByte: loss / Math.LN2 / bytes };
}

/** Where a run begins: from nothing, or from a checkpoint. */
interface StartingPoint {
  readonly step: number;
  readonly recipe: Recipe;
  readonly config: Record<string, unknown>;
  readonly corpus: Corpus;
  readonly initial: ConstructorParameters<typeof Parameters>[2];
  readonly states: TrainingState["optimizer"];
}

async function startingPoint(options: TrainingOptions): Promise<StartingPoint> {
  const { out, data, mixer = lightningMixer } = options;
  const checkpoint = options.resume ? await loadCheckpointState(out) : undefined;
  if (checkpoint !== undefined && checkpoint.recipe.mixer !== mixer.name) {
    rangeError(
      "train",
      `mixer must be as in the checkpoint to resume, ${checkpoint.recipe.mixer}`,
      mixer.name,
    );
  }
  if (checkpoint === undefined && (await findCheckpoints(out)).length > 0) {
    rangeError("train", "out must hold no checkpoint, unless it is to be resumed", out);
  }
  const recipe = completeRecipe(options, checkpoint?.recipe as Partial<Recipe> | undefined);
  const config = checkpoint?.config ?? await readConfig(recipe.config);
  const network = parseConfig(config);
  if (network.vocabSize < VOCAB_SIZE) {
    rangeError(
      "train",
      `vocab_size must be at least ${VOCAB_SIZE}, bytes and special tokens`,
      network.vocabSize,
    );
  }
  const corpus = await Corpus.create(await readDocuments(data));
  corpus.checkLength(recipe.seqLen, recipe.batch, recipe.packed);
  if (checkpoint === undefined) {
    return { step: 0, recipe, config, corpus, initial: initialWeights(network, recipe.seed), states: [] };
  }
  if (corpus.fingerprint !== checkpoint.data) {
    rangeError("train", `data must be that of the checkpoint, ${checkpoint.data}`, corpus.fingerprint);
  }
  const tensors = new Map(
    [...checkpoint.weights, ...checkpoint.optimizer].map(({ name, data }) => [name, data]),
  );
  const get = (name: string) =>
    tensors.get(name) ?? rangeError("train", `the checkpoint must hold ${name}`, undefined);
  return {
    step: checkpoint.step,
    recipe,
    config,
    corpus,
    initial: (name) => ({ value: get(name), first: get(`first.${name}`), second: get(`second.${name}`) }),
    states: checkpoint.optimizer.filter(({ name }) => name.startsWith("state.")),
  };
}

/** A `config.json` by the name of its size, or by its path. */
export async function readConfig(nameOrPath: string): Promise<Record<string, unknown>> {
  if (!nameOrPath.endsWith(".json")) return configByName(nameOrPath);
  try {
    return JSON.parse(await readFile(nameOrPath, "utf8"));
  } catch (cause) {
    throw new RangeError(message("train", "config must be a readable config.json", nameOrPath), { cause });
  }
}

function countLabels(segment: Segment): number {
  return segment.labels.reduce((sum, label) => label >= 0 ? sum + 1 : sum, 0);
}

/** Steps whose losses are still on the device. */
class PendingSteps implements Disposable {
  readonly #tokensPerStep: number;
  readonly #out: string;
  #steps: { step: number; total: Tensor; squares: Tensor; labels: number; learningRate: number }[] = [];
  #clock = performance.now();
  #before = "";

  constructor({ batch, seqLen, accumulate }: Recipe, out: string) {
    this.#tokensPerStep = batch * seqLen * accumulate;
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

/** Parameters, moments and carried states, for a checkpoint. */
async function readBack(
  parameters: Parameters,
  carried: CarriedStates,
): Promise<Pick<TrainingState, "weights" | "optimizer">> {
  const weights = [], optimizer = [];
  for (const { name, shape, value, first, second } of parameters.list) {
    weights.push({ name, shape, data: await value.data() });
    optimizer.push({ name: `first.${name}`, shape, data: await first.data() });
    optimizer.push({ name: `second.${name}`, shape, data: await second.data() });
  }
  return { weights, optimizer: [...optimizer, ...await carried.read()] };
}
