/**
 * What is used of `@wllama/wllama`. Its own declarations bring those of Node.js with them, which would change the types of
 * all files.
 *
 * @module
 */

/** A model in a worker. */
export declare class Wllama {
  /** @param paths where the kernels are served */
  constructor(paths: { default: string }, options?: { suppressNativeLog?: boolean });
  static getLibllamaVersion(): string;
  loadModel(files: Blob[], options: {
    n_threads: number;
    n_gpu_layers: number;
    n_ctx: number;
    n_parallel: number;
    flash_attn?: boolean;
    cache_type_k?: "f32";
    cache_type_v?: "f32";
  }): Promise<void>;
  getNumThreads(): number;
  createCompletion(
    options: { prompt: string; max_tokens: number; temperature: number; stream: false; logprobs?: number },
  ): Promise<Completion>;
  exit(): Promise<void>;
}

/** An answer. */
export interface Completion {
  readonly choices: readonly {
    readonly text: string;
    readonly logprobs: { readonly content: readonly { readonly token: string; readonly logprob: number }[] };
  }[];
  readonly usage: { readonly prompt_tokens: number; readonly completion_tokens: number };
  /** Milliseconds; those of the answer begin with its first token. */
  readonly timings?: {
    readonly prompt_n: number;
    readonly prompt_ms: number;
    readonly predicted_ms: number;
  };
}
