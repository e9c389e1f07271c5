/**
 * The model that brings its backend along where it is given none. A bundle of it holds both backends; see `bare.ts`.
 *
 * @module
 */
import { loadCheckpoint, type LoadOptions } from "./load.ts";
import { checkBackend, TransNormerLLM as Bare } from "./model.ts";

/**
 * A language model of linear attention with decay ("Scaling TransNormer to 175 Billion Parameters"): what it
 * has read is kept in a state of fixed size.
 *
 * @example
 * ```ts
 * import { TransNormerLLM } from "@levin/attention/tnl";
 * import assert from "node:assert/strict";
 *
 * using model = await TransNormerLLM.load("tests/golden/tnl"); // on the best backend that there is
 * const tokens: number[] = [];
 * for await (const { token, logprob } of model.generate([205, 7, 19], { maxTokens: 8, temperature: 0 })) {
 *   assert(logprob <= 0);
 *   tokens.push(token);
 * }
 * assert.equal(tokens.length, 8);
 * ```
 */
export class TransNormerLLM extends Bare {
  /**
   * Loads a checkpoint, as {@linkcode Bare.load} says in full. Without `options.backend` the model has one that
   * `createBackend()` makes, and disposes it with itself.
   */
  static override async load(location: string | URL, options: LoadOptions = {}): Promise<TransNormerLLM> {
    if (options.backend !== undefined) {
      const backend = checkBackend(options.backend);
      return new TransNormerLLM(backend, await loadCheckpoint(backend, location, options));
    }
    const { createBackend } = await import("../backend.ts");
    const owned = await createBackend({ signal: options.signal });
    try {
      return new TransNormerLLM(owned, await loadCheckpoint(owned, location, options), { ownsBackend: true });
    } catch (error) {
      owned.dispose();
      throw error;
    }
  }
}
