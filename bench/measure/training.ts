/**
 * Whole training steps against the length of sequences.
 *
 * @module
 */
import { BackendError } from "../../core/errors.ts";
import { elementCount } from "../../core/shape.ts";
import type { WebgpuMachine } from "../../gpu/machine.ts";
import type { Backend, Tensor } from "../../mod.ts";
import { parseConfig } from "../../model/config.ts";
import { randomNumbers } from "../../model/sampling.ts";
import { lossAndGradients, type PassOptions } from "../../train/backward.ts";
import { type StepMemory, stepMemory } from "../../train/memory.ts";
import { Parameters } from "../../train/optimizer.ts";
import { repeat } from "../baselines/mod.ts";
import { median, seconds } from "./timing.ts";

/** Speed at one length. */
export interface Speed {
  /** Tokens per sequence. */
  readonly length: number;
  /** Median over the repeats. */
  readonly tokensPerSecond: number;
  /** What a step's tensors and scratch take at most, on a GPU with a clock. */
  readonly bytes?: number;
}

/** A model with random weights, and steps that train it. */
export class TrainingSteps implements Disposable {
  /** Tokens of a step. */
  readonly tokens: number;
  readonly #backend: Backend;
  readonly #parameters: Parameters;
  readonly #pass: PassOptions;
  readonly #ids: Uint32Array;
  readonly #labels: Int32Array;
  #count = 0;

  /** @param tokens of a step, a multiple of every length */
  constructor(backend: Backend, config: Record<string, unknown>, tokens: number, pass: PassOptions = {}) {
    const network = parseConfig(config), random = randomNumbers(1);
    this.tokens = tokens;
    this.#backend = backend;
    this.#pass = pass;
    // Noise again and again: normal numbers for each of 385 M parameters would take half a minute.
    const noise = Float32Array.from({ length: 2 ** 20 - 3 }, () => 0.07 * (random() - 0.5));
    this.#parameters = new Parameters(backend, network, (name, shape) => {
      const value = new Float32Array(elementCount(shape));
      return { value: name.endsWith("norm.weight") ? value.fill(1) : repeat(noise, value) };
    });
    this.#ids = Uint32Array.from({ length: tokens }, () => Math.floor(network.vocabSize * random()));
    this.#labels = Int32Array.from(this.#ids, (_, i) => this.#ids[(i + 1) % tokens]);
  }

  /** Number of parameters. */
  get parameters(): number {
    return this.#parameters.count;
  }

  /** What a step of sequences of `seqLen` tokens holds, by Lightning Attention. */
  memory(seqLen: number): StepMemory {
    const { config, count } = this.#parameters;
    return stepMemory(config, count, { batch: this.tokens / seqLen, seqLen }, this.#pass.recompute ?? false);
  }

  /** Enqueues a step of sequences of `seqLen` tokens; the squares of its gradients are known near its end. */
  async enqueue(seqLen: number): Promise<Tensor> {
    using gradients = this.#parameters.gradients();
    using total = this.#backend.zeros([1]);
    const batch = this.tokens / seqLen, ids = this.#ids, labels = this.#labels;
    const segment = { ids, labels, batch, seqLen, positions: new Array(batch).fill(0) };
    const scale = 1 / this.tokens;
    const states = await lossAndGradients(
      this.#parameters,
      gradients.tree,
      segment,
      scale,
      total,
      this.#pass,
    );
    for (const state of states) state.dispose();
    const options = { learningRate: 1e-4, beta1: 0.9, beta2: 0.95, weightDecay: 0.1, clip: 1 };
    return this.#parameters.step(gradients, { ...options, count: ++this.#count }, () => false);
  }

  /** A step, until all of it is done but AdamW's last writes, which the next step waits for. */
  async take(seqLen: number): Promise<void> {
    using squares = await this.enqueue(seqLen);
    await squares.data();
  }

  /** What a step holds at most, measured; undefined on a device that cannot tell. */
  async bytes(seqLen: number): Promise<number | undefined> {
    if (this.#backend.name !== "webgpu") return undefined;
    const { device } = this.#backend.machine as WebgpuMachine;
    try {
      const dispatches = await device.profile(async () => (await this.enqueue(seqLen)).dispose());
      return Math.max(...dispatches.map(({ bytesInUse }) => bytesInUse));
    } catch (error) {
      if (error instanceof BackendError && error.reason === "unavailable") return undefined; // it has no clock
      throw error;
    }
  }

  /** Steps for this long: GPUs raise their clock under load. */
  async warmUp(seqLen: number, milliseconds = 2000): Promise<void> {
    for (const end = performance.now() + milliseconds; performance.now() < end;) await this.take(seqLen);
  }

  [Symbol.dispose](): void {
    this.#parameters[Symbol.dispose]();
  }
}

/**
 * Measures whole training steps.
 *
 * @param options `tokens` per step, a multiple of every length; `repeats`: steps per length, after two seconds of steps
 * and one per length that are not counted; `onStep`: called after each; `signal`: ends it, and what has been measured
 * by then counts
 */
export async function trainingSpeed(
  backend: Backend,
  config: Record<string, unknown>,
  { tokens, lengths, repeats, onStep, signal, ...pass }: {
    tokens: number;
    lengths: readonly number[];
    repeats: number;
    onStep?: (length: number, seconds: number) => void;
    signal?: AbortSignal;
  } & PassOptions,
): Promise<Speed[]> {
  using steps = new TrainingSteps(backend, config, tokens, pass);
  const times = new Map(lengths.map((length) => [length, [] as number[]]));
  const memory = new Map<number, number>();
  await steps.warmUp(lengths[0]);
  for (let i = 0; i <= repeats; i++) {
    for (const [length, found] of times) {
      if (signal?.aborted) break;
      const time = await seconds(() => steps.take(length));
      if (i > 0) found.push(time);
      else memory.set(length, await steps.bytes(length) ?? NaN);
      onStep?.(length, time);
    }
  }
  return [...times].filter(([, found]) => found.length > 0).map(([length, found]) => {
    const bytes = memory.get(length)!;
    return { length, tokensPerSecond: tokens / median(found), ...bytes > 0 && { bytes } };
  });
}
