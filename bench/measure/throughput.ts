/**
 * Tokens that a model writes per second in a batch that fits the device, by the length of the context: Lightning Attention
 * with its states of fixed size, and softmax attention with its cache, the same weights in both.
 *
 * @module
 */
import { yieldToEventLoop } from "../../core/eventLoop.ts";
import type { Backend, Tensor } from "../../core/tensor.ts";
import { readLogits, type TransNormerLLM } from "../../model/mod.ts";
import { PREFILL_TOKENS } from "../../model/session.ts";
import { configByName } from "../../train/configs.ts";
import type { ConfigJson } from "../../tests/reference_model.ts";
import { SoftmaxSession } from "../baselines/generation.ts";
import { PUBLISHED } from "./checkpoints.ts";
import { noiseModel } from "./models.ts";
import { median } from "./timing.ts";

/** Models by name. */
export const MODELS: Readonly<Record<string, ConfigJson>> = {
  "0.1M": configByName("tiny") as unknown as ConfigJson,
  "125M": configByName("large") as unknown as ConfigJson,
  "1B": PUBLISHED["1B"],
};
/** Steps of a turn, those before the first one, and turns. */
const STEPS = 16, WARM_UP = 4, TURNS = 3;
/** Bytes that one buffer of a cache may have; devices differ, and all have this. */
const MOST_BYTES = 2 ** 31 - 2 ** 20;

/** A model and a length of context. */
export interface ThroughputRun {
  /** `<model> <length>` */
  readonly name: string;
  readonly model: string;
  readonly length: number;
}

/** How fast a batch writes. */
export interface Throughput {
  /** Sequences. */
  readonly batch: number;
  /** All sequences together: the median of the turns. */
  readonly tokensPerSecond: number;
  readonly turns: readonly number[];
}

/** Both, measured in turns. */
export interface ThroughputResult {
  readonly parameters: number;
  readonly length: number;
  readonly lightning: Throughput;
  readonly softmax: Throughput;
}

/** What all runs of a file share. */
export interface ThroughputRecipe {
  /** Most sequences of a batch. */
  readonly batch: number;
  /** Bytes that caches may take, in all. */
  readonly memory: number;
  /** How matrices are stored. */
  readonly weights: "f32" | "bf16";
}

/** Results as they are kept. */
export interface ThroughputResults extends ThroughputRecipe {
  readonly format: "levin throughput 1";
  readonly device: string;
  readonly date: string;
  readonly commit: string;
  /** By {@linkcode ThroughputRun.name}. */
  readonly runs: Readonly<Record<string, ThroughputResult>>;
}

/** Bytes of a sequence's keys and values: of all layers, and of one tensor. */
export function cacheBytes(
  { decoder_layers, hidden_dim }: ConfigJson,
  length: number,
): { all: number; tensor: number } {
  const tensor = 4 * hidden_dim * length;
  return { all: 2 * decoder_layers * tensor, tensor };
}

/** Sequences whose caches fit: a power of two. 0 if there is not room for one. */
export function fittingBatch(
  config: ConfigJson,
  length: number,
  { batch, memory }: ThroughputRecipe,
): number {
  const { all, tensor } = cacheBytes(config, length + STEPS + WARM_UP);
  for (let fits = batch; fits >= 1; fits = Math.floor(fits / 2)) {
    if (fits * all <= memory && fits * tensor <= MOST_BYTES) return fits;
  }
  return 0;
}

/** Measures at one length. */
export async function throughput(
  model: TransNormerLLM,
  config: ConfigJson,
  length: number,
  recipe: ThroughputRecipe,
): Promise<ThroughputResult> {
  const fits = fittingBatch(config, length, recipe);
  if (fits === 0) {
    throw new RangeError(`The cache of one sequence of ${length} tokens does not fit into --memory`);
  }
  using own = await lightningWriter(model, length, recipe.batch);
  using other = softmaxWriter(model, length, fits);
  const writers = [own, other], found = writers.map(() => [] as number[]);
  for (let turn = -1; turn < TURNS; turn++) {
    for (const i of turn % 2 === 0 ? [0, 1] : [1, 0]) {
      const speed = await write(writers[i], turn < 0 ? WARM_UP : STEPS);
      if (turn >= 0) found[i].push(speed);
    }
  }
  const [lightning, softmax] = writers.map(({ batch }, i) => ({
    batch,
    tokensPerSecond: median(found[i]),
    turns: found[i],
  }));
  return { parameters: model.parameterCount, length, lightning, softmax };
}

/** Sequences that write together. */
interface Writer extends Disposable {
  readonly batch: number;
  /** Reads a token of each: logits of the next. Not after `begin` has been called more than `STEPS` tokens ago. */
  step(ids: number[]): Tensor | Promise<Tensor>;
  /** Goes back to the end of the context, where that matters. */
  begin(): void;
}

async function lightningWriter(model: TransNormerLLM, length: number, size: number): Promise<Writer> {
  using session = model.session();
  const piece = PREFILL_TOKENS[model.backend.name];
  for (let start = 0; start < length; start += piece) {
    const count = Math.min(piece, length - start);
    const ids = Uint32Array.from({ length: count }, (_, i) => (start + i) * 7919 % model.config.vocabSize);
    session.prefill(ids).dispose();
    await yieldToEventLoop();
  }
  const batch = model.batch(size), slots = Array.from({ length: size }, () => batch.join(session));
  return {
    batch: size,
    begin() {},
    step: (ids) => batch.step(slots, ids),
    [Symbol.dispose]: () => batch.dispose(),
  };
}

/** What the cache holds does not matter to what a step costs: it is left as it comes. */
function softmaxWriter(model: TransNormerLLM, length: number, batch: number): Writer {
  const session = new SoftmaxSession(model, length + STEPS + WARM_UP, batch);
  return {
    batch,
    begin: () => session.position = length,
    step: (ids) => session.step(...ids),
    [Symbol.dispose]: () => session[Symbol.dispose](),
  };
}

/** Takes steps; each waits for the likeliest tokens, as a generation does. @returns tokens per second */
async function write(writer: Writer, steps: number): Promise<number> {
  const ids = Array.from({ length: writer.batch }, (_, i) => i), greedy = ids.map(() => 1);
  writer.begin();
  const begin = performance.now();
  for (let i = 0; i < steps; i++) {
    using logits = await writer.step(ids);
    await readLogits(logits, greedy);
  }
  return 1000 * steps * writer.batch / (performance.now() - begin);
}

/** Models of {@linkcode MODELS}, of which it holds the one that was asked for last. */
export class LastModel implements Disposable {
  readonly #backend: Backend;
  readonly #weights: "f32" | "bf16";
  #name: string | undefined;
  #model: TransNormerLLM | undefined;

  constructor(backend: Backend, weights: "f32" | "bf16") {
    this.#backend = backend;
    this.#weights = weights;
  }

  get(name: string): TransNormerLLM {
    if (this.#model !== undefined && this.#name === name) return this.#model;
    this[Symbol.dispose]();
    this.#name = name;
    return this.#model = noiseModel(this.#backend, MODELS[name], this.#weights);
  }

  [Symbol.dispose](): void {
    this.#model?.dispose();
    this.#model = undefined;
  }
}
