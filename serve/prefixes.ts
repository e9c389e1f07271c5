/**
 * Beginnings that prompts share, such as a system prompt: read once, they are a state, and the next prompt begins from it.
 *
 * @module
 */
import type { Session } from "../model/mod.ts";
import { type Limits, shareOf } from "./limits.ts";

/** How many beginnings are remembered by their hashes alone, to notice when one comes again. */
const SEEN = 2 ** 14;

/** A state and what it has read. */
interface Kept {
  readonly owner: string;
  readonly ids: Uint32Array;
  readonly session: Session;
  readonly bytes: number;
}

/** What is known of a prompt before it is read. */
export interface Known {
  /** A session that has read the first tokens, for the caller; none if nothing is kept. */
  readonly session: Session | undefined;
  /** The number of tokens after which the state is worth keeping: an earlier prompt had the same ones; 0: none. */
  readonly keepAt: number;
}

/**
 * States after the beginnings of prompts, by a hash of their owner and tokens. A beginning is kept when it comes for the
 * second time, so that prompts that nobody repeats take no memory. Nobody gets a state of another owner's: how fast an
 * answer comes would tell what the other one has asked.
 *
 * Beginnings end where the scheduler's pieces do. So an answer has the same bits, whether its prompt was read or not.
 */
export class Prefixes implements Disposable {
  readonly #limits: Limits;
  readonly #stateBytes: number;
  /** Those that were not used for longest come first. */
  readonly #kept = new Map<string, Kept>();
  readonly #seen = new Set<string>();
  #bytes = 0;
  readonly #bytesOf = new Map<string, number>();

  /** @param limits `prefill`: tokens of a piece; `prefixBytes` and a key's share of it @param stateBytes of a session */
  constructor(limits: Limits, stateBytes: number) {
    this.#limits = limits;
    this.#stateBytes = stateBytes;
  }

  /** Bytes of states and tokens that are kept. */
  get bytes(): number {
    return this.#bytes;
  }

  /** Looks a prompt up, which counts as seen then. At least its last token is left to read. */
  find(owner: string, prompt: Uint32Array): Known {
    let session: Session | undefined, keepAt = 0;
    const keys = this.#keysOf(owner, prompt);
    for (let n = keys.length - 1; n >= 0; n--) {
      const key = keys[n], length = (n + 1) * this.#limits.prefill;
      const kept = this.#kept.get(key);
      if (kept !== undefined && sameIds(kept.ids, prompt)) {
        this.#kept.delete(key);
        this.#kept.set(key, kept); // used last
        session = kept.session.fork();
        break;
      }
      if (keepAt === 0 && this.#seen.has(key)) keepAt = length;
    }
    for (const key of keys) {
      this.#seen.delete(key);
      this.#seen.add(key);
    }
    for (const key of this.#seen) {
      if (this.#seen.size <= SEEN) break;
      this.#seen.delete(key);
    }
    return { session, keepAt };
  }

  /** Keeps a copy of a session that has read the given tokens of a prompt, in the place of others if need be. */
  keep(owner: string, ids: Uint32Array, session: Session): void {
    const most = this.#limits.prefixBytes, mostOfOne = shareOf(most, this.#limits);
    const bytes = this.#stateBytes + ids.byteLength;
    const key = this.#keysOf(owner, ids, ids.length).at(-1)!;
    if (bytes > mostOfOne || this.#kept.has(key)) return;
    for (const [other, one] of this.#kept) {
      const isOver = this.#bytes + bytes > most;
      const isGreedy = one.owner === owner && (this.#bytesOf.get(owner) ?? 0) + bytes > mostOfOne;
      if (isOver || isGreedy) this.#drop(other, one);
    }
    this.#kept.set(key, { owner, ids: ids.slice(), session: session.fork(), bytes });
    this.#count(owner, bytes);
  }

  /** Frees all that is kept. */
  [Symbol.dispose](): void {
    for (const [key, kept] of this.#kept) this.#drop(key, kept);
  }

  #drop(key: string, { owner, session, bytes }: Kept): void {
    this.#kept.delete(key);
    this.#count(owner, -bytes);
    session.dispose();
  }

  #count(owner: string, bytes: number): void {
    this.#bytes += bytes;
    const own = (this.#bytesOf.get(owner) ?? 0) + bytes;
    if (own === 0) this.#bytesOf.delete(owner);
    else this.#bytesOf.set(owner, own);
  }

  /**
   * The keys of all beginnings of at most `most` tokens, the shortest first: two hashes of 32 bits that run along, FNV-1a
   * and one of another prime. They need not be secure, as ids are compared and owners apart.
   */
  #keysOf(owner: string, prompt: Uint32Array, most = prompt.length - 1): string[] {
    const keys: string[] = [];
    let a = 0x811c9dc5, b = 0x9747b28c;
    for (let n = 0; n < most; n++) {
      a = Math.imul(a ^ prompt[n], 0x01000193);
      b = Math.imul((b ^ prompt[n]) + 0x7f4a7c15 | 0, 0x85ebca6b);
      b ^= b >>> 15;
      if ((n + 1) % this.#limits.prefill === 0) keys.push(`${n + 1}:${a}:${b}:${owner}`);
    }
    return keys;
  }
}

function sameIds(beginning: Uint32Array, prompt: Uint32Array): boolean {
  return beginning.every((id, n) => id === prompt[n]);
}
