/**
 * The parameters of a model in training: values, moments, gradients, and the step that changes them.
 *
 * @module
 */
import type { Backend } from "../core/tensor.ts";
import { adamw, sumSquares } from "../core/gradients.ts";
import type { Tensor } from "../core/tensor.ts";
import type { TransNormerConfig } from "../model/config.ts";
import { mapWeights, type Weights } from "../model/weights.ts";

/** One parameter. */
export interface Parameter {
  /** Its name in the published layout. */
  readonly name: string;
  /** Its published shape. */
  readonly shape: readonly number[];
  /** The parameter itself. */
  readonly value: Tensor;
  /** AdamW's first moment. */
  readonly first: Tensor;
  /** AdamW's second moment. */
  readonly second: Tensor;
  /** Whether decay shrinks it: matrices, but neither θ nor norms nor biases. */
  readonly decays: boolean;
}

/** Gradients of all parameters, as a tree and as a list in the order of {@linkcode Parameters.list}. */
export interface Gradients extends Disposable {
  /** As the backward pass writes them. */
  readonly tree: Weights<Tensor>;
  /** As the optimiser reads them. */
  readonly list: readonly Tensor[];
}

/** Settings of a step; see {@linkcode adamw}. */
export interface StepOptions {
  /** Number of the step, from 1. */
  readonly count: number;
  /** Learning rate of this step. */
  readonly learningRate: number;
  /** AdamW's β1. */
  readonly beta1: number;
  /** AdamW's β2. */
  readonly beta2: number;
  /** Decoupled decay of the parameters that decay. */
  readonly weightDecay: number;
  /** Clips the global norm of the gradients; 0: no clipping. */
  readonly clip: number;
}

/** All parameters of a model, on a backend. */
export class Parameters implements Disposable {
  /** Configuration. */
  readonly config: TransNormerConfig;
  /** As the forward pass reads them. */
  readonly weights: Weights<Tensor>;
  /** In the order of the published layout. */
  readonly list: readonly Parameter[];
  readonly #backend: Backend;
  readonly #held = new DisposableStack();

  /**
   * @param initial elements of a parameter and its moments; absent moments are zero
   */
  constructor(
    backend: Backend,
    config: TransNormerConfig,
    initial: (
      name: string,
      shape: readonly number[],
    ) => { value: Float32Array; first?: Float32Array; second?: Float32Array },
  ) {
    this.#backend = backend;
    this.config = config;
    const list: Parameter[] = [];
    try {
      this.weights = mapWeights(config, config.tieWordEmbeddings ?? false, (name, shape) => {
        const { value, first, second } = initial(name, shape);
        const used = usedShape(shape);
        const hold = (data: Float32Array | undefined) =>
          this.#held.use(data === undefined ? backend.zeros(used) : backend.tensor(data, used));
        const parameter = {
          name,
          shape,
          value: hold(value),
          first: hold(first),
          second: hold(second),
          decays: shape.length === 2,
        };
        list.push(parameter);
        return parameter.value;
      });
    } catch (error) {
      this.#held.dispose();
      throw error;
    }
    this.list = list;
  }

  /** Number of parameters. */
  get count(): number {
    return this.list.reduce((sum, { value }) => sum + value.size, 0);
  }

  /** Gradients, zero at first. */
  gradients(): Gradients {
    using held = new DisposableStack();
    const list: Tensor[] = [];
    const tree = mapWeights(this.config, this.config.tieWordEmbeddings ?? false, (_, shape) => {
      const gradient = held.use(this.#backend.zeros(usedShape(shape)));
      list.push(gradient);
      return gradient;
    });
    const stack = held.move();
    return { tree, list, [Symbol.dispose]: () => stack.dispose() };
  }

  /**
   * One step of AdamW, enqueued without a wait.
   *
   * @param frozen names of parameters that stay as they are; their gradients do not count
   * @returns `[1]`: the sum of squares of all gradients before clipping; the caller disposes it
   */
  step(gradients: Gradients, options: StepOptions, frozen: (name: string) => boolean): Tensor {
    const { count, learningRate, beta1, beta2, weightDecay, clip } = options;
    const squares = this.#backend.zeros([1]);
    this.list.forEach(({ name }, i) => {
      if (!frozen(name)) sumSquares(gradients.list[i], squares);
    });
    this.list.forEach(({ name, value, first, second, decays }, i) => {
      if (frozen(name)) return;
      adamw(value, gradients.list[i], { first, second }, squares, {
        count,
        learningRate,
        beta1,
        beta2,
        weightDecay: decays ? weightDecay : 0,
        ...clip > 0 && { maxNorm: clip },
      });
    });
    return squares;
  }

  /** Gives everything back. */
  [Symbol.dispose](): void {
    this.#held.dispose();
  }
}

/** θ is published as [heads, 1, headDim] and used as [heads, headDim]. */
function usedShape(shape: readonly number[]): readonly number[] {
  return shape.length === 3 ? [shape[0], shape[2]] : shape;
}

/**
 * Learning rate of a step: it rises linearly over `warmup` steps to its peak, and falls along a cosine to a tenth of it
 * at the last step.
 *
 * @param step from 1 to `steps`
 */
export function learningRateAt(step: number, peak: number, warmup: number, steps: number): number {
  if (step <= warmup) return peak * step / warmup;
  const progress = (step - warmup) / Math.max(1, steps - warmup);
  const floor = peak / 10;
  return floor + (peak - floor) * (1 + Math.cos(Math.PI * Math.min(1, progress))) / 2;
}
