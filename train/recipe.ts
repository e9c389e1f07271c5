/**
 * The settings of a training run.
 *
 * @module
 */
import { rangeError } from "../core/errors.ts";

/** Every setting that the losses depend on: a checkpoint holds them, and resuming keeps them. */
export interface Recipe {
  /** `"tiny"`, `"small"`, `"base"`, `"medium"`, `"large"`, or the path of a `config.json` whose vocabulary holds the byte-level one. */
  config: string;
  /** Tokens per sequence. */
  seqLen: number;
  /** Sequences per batch. */
  batch: number;
  /** Batches whose gradients add up to one step. */
  accumulate: number;
  /** Steps in all; the learning rate falls until the last one. */
  steps: number;
  /** Highest learning rate. */
  learningRate: number;
  /** Steps over which the learning rate rises to it. */
  warmup: number;
  /** Decoupled decay of the matrices. */
  weightDecay: number;
  /** Clips the global norm of the gradients; 0: no clipping. */
  clip: number;
  /** AdamW's β1. */
  beta1: number;
  /** AdamW's β2. */
  beta2: number;
  /** Seed of the first weights and of the order of the data. */
  seed: number;
  /**
   * Walk through the text in order, documents packed one after another, the states carried from step to step (truncated
   * backpropagation), instead of random windows that begin with a state of zero. θ then stays as it is: its gradient
   * needs the positions of keys that were truncated away.
   */
  packed: boolean;
  /** Processes that train together. Not an option: there are as many as were started. */
  processes: number;
  /**
   * What several processes share: `"batch"`, each has `batch` sequences of its own, so that a batch holds `processes ·
   * batch`; or `"sequence"`, each has a part of all `batch` sequences.
   */
  split: "batch" | "sequence";
}

/** The default recipe: 4096 tokens per step, for a CPU; a GPU wants a larger `batch`. */
export const DEFAULT_RECIPE: Readonly<Recipe> = {
  config: "small",
  seqLen: 512,
  batch: 8,
  accumulate: 1,
  steps: 1000,
  learningRate: 1e-3,
  warmup: 100,
  weightDecay: 0.1,
  clip: 1,
  beta1: 0.9,
  beta2: 0.95,
  seed: 1,
  packed: false,
  processes: 1,
  split: "batch",
};

/**
 * The recipe: what is given, else what the checkpoint says, else the defaults.
 *
 * @throws {RangeError} when a value is out of range, or contradicts the checkpoint
 */
export function completeRecipe(given: Partial<Recipe>, before: Partial<Recipe> | undefined): Recipe {
  const recipe: Record<string, unknown> = { ...DEFAULT_RECIPE, ...before };
  for (const name of Object.keys(DEFAULT_RECIPE) as (keyof Recipe)[]) {
    const value = given[name];
    if (value === undefined) continue;
    if (before !== undefined && value !== recipe[name]) {
      rangeError("train", `${name} must be as in the checkpoint to resume, ${recipe[name]}`, value);
    }
    recipe[name] = value;
  }
  const checked = recipe as unknown as Recipe;
  for (const name of ["seqLen", "batch", "accumulate", "steps"] as const) checkCount(name, checked[name]);
  for (const name of ["learningRate", "warmup", "weightDecay", "clip"] as const) {
    if (!(checked[name] >= 0 && checked[name] < Infinity)) {
      rangeError("train", `${name} must be finite and >= 0`, checked[name]);
    }
  }
  if (!Number.isInteger(checked.seed) || checked.seed < 0 || checked.seed >= 2 ** 32) {
    rangeError("train", "seed must be an integer from 0 to 2^32 - 1", checked.seed);
  }
  return checked;
}

/** Checks a number of things. */
export function checkCount(name: string, value: number): void {
  if (!Number.isInteger(value) || value < 1) rangeError("train", `${name} must be an integer >= 1`, value);
}
