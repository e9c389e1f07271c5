/**
 * Training: from text to a model folder. The same seed gives the same losses on the same backend, bit for bit, also
 * when the run is stopped, or killed, and resumed.
 *
 * @module
 */
import type { Backend } from "../core/tensor.ts";
import { yieldToEventLoop } from "../core/eventLoop.ts";
import { parseConfig } from "../model/config.ts";
import { lightningMixer, lossAndGradients, type Mixer } from "./backward.ts";
import type { Corpus } from "./data.ts";
import { checkpointPath, saveCheckpoint, type TrainingState } from "./checkpoint.ts";
import { countLabels, evaluate, type EvaluationReport } from "./evaluate.ts";
import { openLog } from "./log.ts";
import { type StepMemory, stepMemory } from "./memory.ts";
import { learningRateAt, Parameters } from "./optimizer.ts";
import { PendingSteps, type StepReport } from "./pending.ts";
import { GradientSums, type Shared, sharedBatch, type TrainingRanks } from "./ranks.ts";
import { checkCount, type Recipe } from "./recipe.ts";
import { type StartingPoint, startingPoint } from "./start.ts";
import { CarriedStates } from "./states.ts";

export { evaluate };
export type { EvaluationReport, StepMemory, StepReport, TrainingRanks };

/** Options of {@linkcode train}. Omitted parts of the recipe come from the checkpoint, or the defaults. */
export interface TrainingOptions extends Partial<Omit<Recipe, "processes" | "split">> {
  /** See {@linkcode readCorpus}; or the corpus itself. */
  data: readonly string[] | Corpus;
  /** Folder of the checkpoints and of `log.jsonl`. */
  out: string;
  /** Where to compute. It stays the caller's. */
  backend: Backend;
  /** Continue from the last checkpoint in `out`. Default false: `out` must hold none. */
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
  /** The processes that train together, each of which calls this with the same options. Default: this one alone. */
  ranks?: TrainingRanks;
  /** Stops after the current step, with a checkpoint. */
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
  /** What a step holds. */
  readonly memory: StepMemory;
}

/** How a run ended. */
export interface TrainingResult {
  /** Steps that were taken. */
  readonly step: number;
  /** Whether that is all of them. */
  readonly finished: boolean;
  /** The checkpoint. */
  readonly checkpoint: string;
  /** The last evaluation, if the run finished. */
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
  const { keep = 2, logEvery = 10, saveEvery = 250, evaluateEvery = 250 } = options;
  for (const [name, value] of Object.entries({ logEvery, saveEvery, evaluateEvery, keep })) {
    checkCount(name, value);
  }
  const start = await startingPoint(options);
  const { steps } = start.recipe;
  using run = new Run(options, start, keep, await logOf(options, start.step));
  await run.agree({ logEvery, saveEvery, evaluateEvery });
  run.announce();
  while (run.step < steps && !run.stopped) {
    await run.takeStep();
    await yieldToEventLoop(); // timers, signals and the terminal are heard
    const isLast = run.step === steps || run.stopped;
    const isDue = (every: number) => isLast || run.step % every === 0;
    if (isDue(logEvery) || isDue(saveEvery) || isDue(evaluateEvery)) await run.settle();
    if (isDue(saveEvery)) await run.save();
    const evaluates = run.step === steps || run.step % evaluateEvery === 0;
    if (evaluates && !await run.evaluate()) break;
  }
  if (run.saved !== run.step) await run.save();
  return {
    step: run.step,
    finished: run.step === steps,
    checkpoint: checkpointPath(options.out, run.step),
    evaluation: run.evaluation,
  };
}

/** The log, which the first process writes. */
function logOf({ out, ranks }: TrainingOptions, step: number) {
  return ranks === undefined || ranks.rank === 0 ? openLog(out, step) : Promise.resolve(async () => {});
}

/** A run: what it holds on the device, and its progress. */
class Run implements Disposable {
  /** Steps that were taken. */
  step: number;
  /** Step of the last checkpoint; −1 without one. */
  saved: number;
  /** The last evaluation. */
  evaluation: EvaluationReport | undefined;
  readonly #options: TrainingOptions;
  readonly #start: StartingPoint;
  readonly #keep: number;
  readonly #log: (lines: readonly object[]) => Promise<void>;
  readonly #mixer: Mixer;
  readonly #held = new DisposableStack();
  readonly #parameters: Parameters;
  readonly #carried: CarriedStates;
  readonly #pending: PendingSteps;
  /** Over several processes. */
  readonly #sums: GradientSums | undefined;
  /** Whether one of the processes was asked to stop, as all of them have heard. */
  #stopped = false;

  constructor(
    options: TrainingOptions,
    start: StartingPoint,
    keep: number,
    log: (lines: readonly object[]) => Promise<void>,
  ) {
    const { backend, mixer = lightningMixer, ranks, resume, out } = options;
    this.step = start.step;
    this.saved = resume ? start.step : -1;
    this.#options = options;
    this.#start = start;
    this.#keep = keep;
    this.#log = log;
    this.#mixer = mixer;
    this.#sums = ranks && new GradientSums(ranks, backend);
    try {
      this.#parameters = this.#held.use(new Parameters(backend, parseConfig(start.config), start.initial));
      this.#carried = this.#held.use(new CarriedStates(backend, start.states));
      this.#pending = this.#held.use(new PendingSteps(start.recipe, out));
    } catch (error) {
      this.#held.dispose();
      throw error;
    }
  }

  /** Whether to stop after this step: all processes stop after the same one. */
  get stopped(): boolean {
    return this.#options.ranks === undefined ? this.#options.signal?.aborted === true : this.#stopped;
  }

  /** Throws on every process unless all begin with the same. */
  async agree(intervals: Record<string, number>): Promise<void> {
    const { ranks, recompute } = this.#options;
    if (ranks === undefined) return;
    const { recipe, config, corpus } = this.#start;
    await ranks.agree("train", {
      ...recipe,
      ...intervals,
      recompute: recompute === true,
      mixer: this.#mixer.name,
      model: JSON.stringify(config),
      data: corpus.fingerprint,
      step: this.step,
      weights: await this.#fingerprint(),
    });
  }

  /** SHA-256 of parameters and moments. */
  async #fingerprint(): Promise<string> {
    let digest = "";
    for (const { value, first, second } of this.#parameters.list) {
      for (const tensor of [value, first, second]) {
        const bytes = new Uint8Array((await tensor.data()).buffer as ArrayBuffer);
        digest += new Uint8Array(await crypto.subtle.digest("SHA-256", bytes)).toHex();
      }
    }
    const all = await crypto.subtle.digest("SHA-256", new TextEncoder().encode(digest));
    return new Uint8Array(all).toHex();
  }

  /** Says what the run begins with. */
  announce(): void {
    const { recipe, corpus } = this.#start, { config, count } = this.#parameters;
    this.#options.onStart?.({
      recipe,
      step: this.step,
      parameters: count,
      memory: stepMemory(config, count, recipe, this.#options.recompute ?? false),
      trainTokens: corpus.train.length,
      heldOutTokens: corpus.heldOut.length,
    });
  }

  /** Enqueues a step: losses and gradients of its batches, their sum over all processes, then the optimiser. */
  async takeStep(): Promise<void> {
    const { recipe } = this.#start, step = ++this.step;
    const { backend, ranks, signal } = this.#options;
    using gradients = this.#parameters.gradients();
    using held = new DisposableStack();
    const total = held.use(backend.zeros([1]));
    const batches = this.#batches(step);
    const labels = batches.reduce((sum, { whole }) => sum + countLabels(whole), 0);
    const pass = { mixer: this.#mixer, recompute: this.#options.recompute, chain: ranks?.chain };
    const sums = this.#sums;
    for (const [i, { share }] of batches.entries()) {
      const isLast = i === batches.length - 1; // gradients are final after it
      const options = { ...pass, ...isLast && sums && { onFinal: sums.add.bind(sums) } };
      await this.#carried.take(
        share,
        (segment) => lossAndGradients(this.#parameters, gradients.tree, segment, 1 / labels, total, options),
      );
    }
    if (sums !== undefined) {
      this.#stopped = await sums.finish([...gradients.list, total], Number(signal?.aborted === true)) > 0;
    }
    const learningRate = learningRateAt(step, recipe.learningRate, recipe.warmup, recipe.steps);
    const frozen = (name: string) => recipe.packed && name.endsWith("theta");
    const squares = this.#parameters.step(gradients, { ...recipe, count: step, learningRate }, frozen);
    held.move();
    this.#pending.add({ step, total, squares, labels, learningRate });
  }

  /** The batches of a step. */
  #batches(step: number): Shared[] {
    const { corpus, recipe } = this.#start, { accumulate } = recipe, { rank = 0 } = this.#options.ranks ?? {};
    return Array.from(
      { length: accumulate },
      (_, i) => sharedBatch(corpus, (step - 1) * accumulate + i, recipe, rank),
    );
  }

  /** Waits for the steps under way, and reports them. */
  async settle(): Promise<void> {
    const reports = await this.#pending.settle();
    for (const report of reports) this.#options.onStep?.(report);
    await this.#log(reports);
  }

  /** Writes a checkpoint; of several processes the first does. */
  async save(): Promise<void> {
    this.saved = this.step;
    if (this.#options.ranks !== undefined && this.#options.ranks.rank > 0) return;
    const { recipe, config, corpus } = this.#start;
    const state: TrainingState = {
      step: this.step,
      recipe: { ...recipe, mixer: this.#mixer.name },
      config,
      data: corpus.fingerprint,
      ...await readBack(this.#parameters, this.#carried),
    };
    const path = await saveCheckpoint(this.#options.out, state, this.#keep);
    this.#options.onSave?.(path);
  }

  /** Evaluates and reports; false where `signal` ended it early. */
  async evaluate(): Promise<boolean> {
    const { recipe, corpus } = this.#start, { signal, ranks } = this.#options;
    const options = { step: this.step, mixer: this.#mixer, signal, ranks };
    this.evaluation = await evaluate(this.#parameters, corpus, recipe, options);
    if (this.evaluation === undefined) return false;
    this.#options.onEvaluation?.(this.evaluation);
    await this.#log([this.evaluation]);
    this.#pending.restartClock();
    return true;
  }

  [Symbol.dispose](): void {
    this.#held.dispose();
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
