/**
 * Where a training run begins: from nothing, or from a checkpoint.
 *
 * @module
 */
import { rangeError } from "../core/errors.ts";
import { parseConfig } from "../model/config.ts";
import { lightningMixer } from "./backward.ts";
import { findCheckpoints, loadCheckpointState, type TrainingState } from "./checkpoint.ts";
import { initialWeights, readConfig, VOCAB_SIZE } from "./configs.ts";
import { Corpus, readCorpus } from "./data.ts";
import type { Parameters } from "./optimizer.ts";
import { checkShares, recipeOf } from "./ranks.ts";
import { completeRecipe, type Recipe } from "./recipe.ts";
import type { TrainingOptions } from "./train.ts";

/** Where a run begins. */
export interface StartingPoint {
  /** Steps that were taken. */
  readonly step: number;
  /** All settings. */
  readonly recipe: Recipe;
  /** `config.json`. */
  readonly config: Record<string, unknown>;
  /** The data. */
  readonly corpus: Corpus;
  /** First values of the parameters and their moments. */
  readonly initial: ConstructorParameters<typeof Parameters>[2];
  /** States that the first step carries on. */
  readonly states: TrainingState["optimizer"];
}

/**
 * Reads data, configuration and, to resume, the checkpoint.
 *
 * @throws {RangeError} as `train()`
 */
export async function startingPoint(options: TrainingOptions): Promise<StartingPoint> {
  const { ranks } = options;
  return ranks === undefined ? await read(options) : await ranks.together("train", () => read(options));
}

async function read(options: TrainingOptions): Promise<StartingPoint> {
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
  const given = { ...options, ...recipeOf(options.ranks) };
  const recipe = completeRecipe(given, checkpoint?.recipe as Partial<Recipe> | undefined);
  checkShares(recipe);
  if (options.ranks?.chain !== undefined && mixer !== lightningMixer) {
    rangeError("train", "mixer must be that of Lightning Attention to share sequences", mixer.name);
  }
  const config = checkpoint?.config ?? await readConfig(recipe.config);
  const network = parseConfig(config);
  if (network.vocabSize < VOCAB_SIZE) {
    rangeError(
      "train",
      `vocab_size must be at least ${VOCAB_SIZE}, bytes and special tokens`,
      network.vocabSize,
    );
  }
  const corpus = data instanceof Corpus ? data : await readCorpus(data);
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
