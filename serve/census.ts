/**
 * How much is stored, of whom, and what goes first when it is too much.
 *
 * @module
 */
import { type Limits, shareOf } from "./limits.ts";

/** A stored session. */
interface Resident {
  /** Whose it is. */
  readonly owner: string;
  /** Its size. */
  readonly bytes: number;
  /** Milliseconds since 1970. */
  readonly expires: number;
}

/** Numbers of sessions and bytes. */
interface Sum {
  sessions: number;
  bytes: number;
}

/** Counts sessions against limits. */
export class Census {
  readonly #most: Sum;
  readonly #mostOfOne: Sum;
  /** Those that were not used for longest come first. */
  readonly #residents = new Map<string, Resident>();
  /** Whether they are in order, and the last of them expires then: a sweep finds them in any order. */
  #isSorted = true;
  #latest = 0;
  readonly #all: Sum = { sessions: 0, bytes: 0 };
  readonly #sums = new Map<string, Sum>();

  /** For `limits.sessions` and `limits.sessionsBytes`, and a key's share of them. */
  constructor(limits: Limits) {
    const { sessions, sessionsBytes } = limits;
    this.#most = { sessions, bytes: sessionsBytes };
    this.#mostOfOne = { sessions: shareOf(sessions, limits), bytes: shareOf(sessionsBytes, limits) };
  }

  /** Number of sessions. */
  get size(): number {
    return this.#all.sessions;
  }

  /** Bytes of all of them. */
  get bytes(): number {
    return this.#all.bytes;
  }

  /** Counts a session, or its new size. It is the one that was used last, unless it expires before others. */
  add(key: string, resident: Resident): void {
    this.delete(key);
    this.#residents.set(key, resident);
    this.#count(resident, 1);
    this.#isSorted &&= resident.expires >= this.#latest;
    this.#latest = Math.max(this.#latest, resident.expires);
  }

  /** Counts a session no more. */
  delete(key: string): void {
    const resident = this.#residents.get(key);
    if (resident === undefined) return;
    this.#residents.delete(key);
    this.#count(resident, -1);
  }

  /** A session that has to go, if there is one: it has expired, or others need its room. */
  surplus(
    isBusy: (key: string) => boolean,
  ): { key: string; expires: number; isExpired: boolean } | undefined {
    if (!this.#isSorted) this.#sort();
    const isOver = exceeds(this.#all, this.#most);
    const greedy = new Set<string>();
    for (const [owner, sum] of this.#sums) if (exceeds(sum, this.#mostOfOne)) greedy.add(owner);
    const now = Date.now();
    for (const [key, { owner, expires }] of this.#residents) {
      const isExpired = expires <= now;
      if (!isExpired && !isOver && greedy.size === 0) return undefined; // the next ones expire later
      if (isBusy(key) || !(isExpired || isOver || greedy.has(owner))) continue;
      return { key, expires, isExpired };
    }
    return undefined;
  }

  #count({ owner, bytes }: Resident, sign: 1 | -1): void {
    const own = this.#sums.get(owner) ?? { sessions: 0, bytes: 0 };
    for (const sum of [this.#all, own]) {
      sum.sessions += sign;
      sum.bytes += sign * bytes;
    }
    if (own.sessions === 0) this.#sums.delete(owner);
    else this.#sums.set(owner, own);
  }

  #sort(): void {
    const sorted = [...this.#residents].sort(([, a], [, b]) => a.expires - b.expires);
    this.#isSorted = true;
    this.#residents.clear();
    for (const [key, resident] of sorted) this.#residents.set(key, resident);
  }
}

function exceeds(sum: Sum, most: Sum): boolean {
  return sum.sessions > most.sessions || sum.bytes > most.bytes;
}
