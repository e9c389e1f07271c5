/**
 * What a server lets its clients use.
 *
 * @module
 */
import { rangeError } from "../core/errors.ts";

/** Limits of a server. All are integers ≥ 1. */
export interface Limits {
  /** Maximum number of answers that are decoded together, in one pass; each holds a state. Default 64. */
  batch: number;
  /** Maximum number of prompts that wait; above it, 429. Default 256. */
  queue: number;
  /**
   * Tokens of a prompt that are read between two decode steps: fewer let the others wait less, more read a prompt
   * faster. Default 96.
   */
  prefill: number;
  /** Maximum of prompts times `n` of one request. Default 128. */
  choices: number;
  /** Maximum of `max_tokens`. Default 4096. */
  maxTokens: number;
  /**
   * Maximum number of characters of a request's texts together. Tokenizing does not pause: this bounds how long the
   * others wait for it. Send longer texts as token ids, or in several requests of a session. Default 2^17.
   */
  characters: number;
  /**
   * Maximum number of tokens of one request: its answers, and its prompts once for each of them. Default 2^20.
   */
  requestTokens: number;
  /** Maximum number of tokens of all requests in flight; above it, 429. Default 2^22. */
  totalTokens: number;
  /**
   * Maximum number of tokens with log-probabilities in one answer, each counted with its alternatives. Default 2^14.
   */
  scores: number;
  /** Maximum of `logprobs` and `top_logprobs`. Default 20. */
  logprobs: number;
  /** Maximum number of bytes of a request's body. Default 2^22. */
  bodyBytes: number;
  /** Maximum number of texts, names, arrays and objects in a body; numbers are counted as tokens. Default 2^15. */
  bodyValues: number;
  /** Seconds that a client may take to send a body. Default 30. */
  bodySeconds: number;
  /** Maximum number of bytes of the bodies of all requests that have not begun; above it, 429. Default 2^25. */
  bodiesBytes: number;
  /**
   * What part of `batch`, `queue`, `totalTokens`, `bodiesBytes`, `prefixBytes`, `sessions` and `sessionsBytes` one key
   * may use, in percent. Default 75, and 100 with one key or none.
   */
  keyShare: number;
  /** Maximum number of requests of a key in a minute; above it, 429. `Infinity`: no limit, the default. */
  keyRequestsPerMinute: number;
  /** Maximum number of tokens of a key in a minute, read and written; above it, 429. `Infinity`: no limit, the default. */
  keyTokensPerMinute: number;
  /** Seconds that an answer waits for its client to read what came before. Default 30. */
  stallSeconds: number;
  /** Seconds that a request may take, from its arrival. Default 300. */
  seconds: number;
  /** Seconds after its last use that a session is kept. Default one day. */
  sessionSeconds: number;
  /** Maximum number of sessions that are stored; beyond it those that were not used for longest go. Default 2^16. */
  sessions: number;
  /** Maximum number of bytes of the sessions that are stored. Default 2^27 in memory, 2^33 in a store that is given. */
  sessionsBytes: number;
  /**
   * Maximum number of bytes of one value in the session store; larger sessions come in several. `Infinity`: what the
   * store takes, the default; 45000 in a store of unstorage.
   */
  valueBytes: number;
  /**
   * Maximum number of bytes of states that are kept after the beginnings of prompts, for prompts that begin alike; 1: none.
   * Default 2^25.
   */
  prefixBytes: number;
  /** Seconds that the session store has for each thing that it is asked; then it counts as failed: 503. Default 10. */
  storeSeconds: number;
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
  scores: 2 ** 14,
  logprobs: 20,
  bodyBytes: 2 ** 22,
  bodyValues: 2 ** 15,
  bodySeconds: 30,
  bodiesBytes: 2 ** 25,
  keyShare: 75,
  keyRequestsPerMinute: Infinity,
  keyTokensPerMinute: Infinity,
  stallSeconds: 30,
  seconds: 300,
  sessionSeconds: 86400,
  sessions: 2 ** 16,
  sessionsBytes: 2 ** 33,
  valueBytes: Infinity,
  prefixBytes: 2 ** 25,
  storeSeconds: 10,
};

const UNLIMITED: ReadonlySet<string> = new Set(["keyRequestsPerMinute", "keyTokensPerMinute", "valueBytes"]);

/** Of sessions that are kept in memory. */
const MEMORY_BYTES = 2 ** 27;

/**
 * Fills in the defaults.
 *
 * @param keys how many keys share the server @param inMemory whether sessions are kept in memory
 * @throws {RangeError} for a limit that is not an integer ≥ 1, or that does not exist
 */
export function checkLimits(limits: Partial<Limits> = {}, keys = 1, inMemory = true): Limits {
  for (const [name, value] of Object.entries(limits)) {
    if (!Object.hasOwn(DEFAULTS, name)) {
      rangeError("createHandler", `limits must be some of ${Object.keys(DEFAULTS).join(", ")}`, name);
    }
    const isInteger = Number.isSafeInteger(value) || UNLIMITED.has(name) && value === Infinity;
    if (value !== undefined && !(isInteger && value >= 1)) {
      rangeError("createHandler", `limits.${name} must be an integer >= 1`, value);
    }
  }
  const keyShare = keys > 1 ? DEFAULTS.keyShare : 100;
  const sessionsBytes = limits.sessionsBytes ?? (inMemory ? MEMORY_BYTES : DEFAULTS.sessionsBytes);
  const given = Object.fromEntries(Object.entries(limits).filter(([, value]) => value !== undefined));
  return { ...DEFAULTS, ...given, sessionsBytes, keyShare: Math.min(100, limits.keyShare ?? keyShare) };
}

/** What one key may have of something that a server has `whole`; at least one. */
export function shareOf(whole: number, { keyShare }: Limits): number {
  return Math.max(1, Math.floor(whole * keyShare / 100));
}
