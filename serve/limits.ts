/**
 * What a server lets its clients use.
 *
 * @module
 */
import { rangeError } from "../core/errors.ts";

/** Limits of a server. All are integers ≥ 1. */
export interface Limits {
  /** Answers that are decoded at once, in one pass; each holds a state. Default 64. */
  batch: number;
  /** Prompts that may wait; beyond it 429. Default 256. */
  queue: number;
  /** Tokens of a prompt that are read between two decode steps. A multiple of 48 is fastest. Default 96. */
  prefill: number;
  /** Prompts times `n` of one request. Default 128. */
  choices: number;
  /** `max_tokens` at most. Default 4096. */
  maxTokens: number;
  /**
   * Characters of a request's texts at most, all together. Tokenizing does not pause: this bounds how long the others
   * wait for it. Longer texts come as token ids, or in several requests of a session. Default 2^17.
   */
  characters: number;
  /** Tokens of one request at most, all prompts and answers together. Default 2^20. */
  requestTokens: number;
  /** Tokens of all requests under way at most, likewise; beyond it 429. Default 2^22. */
  totalTokens: number;
  /** `logprobs` and `top_logprobs` at most. Default 20. */
  logprobs: number;
  /** Bytes of a request's body. Default 2^22. */
  bodyBytes: number;
  /** Seconds that a request may take, from its arrival. Default 300. */
  seconds: number;
  /** Seconds after its last use that a session is kept. Default one day. */
  sessionSeconds: number;
  /** Bytes of one value in the session store; bytes may grow by a third on their way there. Default 45000. */
  valueBytes: number;
}

const DEFAULTS: Limits = {
  batch: 64,
  queue: 256,
  prefill: 96,
  choices: 128,
  maxTokens: 4096,
  characters: 2 ** 17,
  requestTokens: 2 ** 20,
  totalTokens: 2 ** 22,
  logprobs: 20,
  bodyBytes: 2 ** 22,
  seconds: 300,
  sessionSeconds: 86400,
  valueBytes: 45000, // Deno KV takes 65536
};

/** Fills in the defaults. Throws a `RangeError` for a limit that is no integer ≥ 1, or that does not exist. */
export function checkLimits(limits: Partial<Limits> = {}): Limits {
  for (const [name, value] of Object.entries(limits)) {
    if (!Object.hasOwn(DEFAULTS, name)) {
      rangeError("createHandler", `limits must be some of ${Object.keys(DEFAULTS).join(", ")}`, name);
    }
    if (value !== undefined && !(Number.isSafeInteger(value) && value >= 1)) {
      rangeError("createHandler", `limits.${name} must be an integer >= 1`, value);
    }
  }
  return { ...DEFAULTS, ...limits };
}
