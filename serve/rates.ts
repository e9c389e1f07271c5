/**
 * How much each key may ask for in a minute.
 *
 * @module
 */
import { ApiError, invalid } from "./errors.ts";

const MINUTE = 60_000;

/**
 * What owners may use per minute: a full minute's worth to begin with, and as much as time brings from then on.
 *
 * Counted in units × milliseconds, over whole milliseconds: integers, exact for limits up to 10^11. Fractions of a unit
 * would be rounded, and a client that waited the time it was told would find a hair too little.
 */
export class Allowance {
  readonly #perMinute: number;
  readonly #what: string;
  readonly #now: () => number;
  /** What each owner has left, and the millisecond at which that was counted. */
  readonly #left = new Map<string, { amount: number; at: number }>();

  /** @param perMinute what an owner may use; `Infinity`: there is no limit @param what in messages, such as `"tokens"` */
  constructor(perMinute: number, what: string, now: () => number = () => performance.now()) {
    this.#perMinute = perMinute;
    this.#what = what;
    this.#now = now;
  }

  /**
   * Uses some of it, an integer.
   *
   * @throws {ApiError} 429 that says after how many seconds there is enough; 400 when there never will be
   */
  take(owner: string, amount: number): void {
    if (this.#perMinute === Infinity) return;
    if (amount > this.#perMinute) {
      throw invalid(
        null,
        `A request may use at most ${this.#perMinute} ${this.#what}, as much as a key has per minute, not ${amount}`,
        "rate_limit_too_small",
      );
    }
    const left = this.#count(owner), missing = amount * MINUTE - left.amount;
    if (missing > 0) {
      throw new ApiError(429, `The key has used its ${this.#perMinute} ${this.#what} per minute`, {
        code: "rate_limit_exceeded",
        retryAfter: Math.ceil(missing / (this.#perMinute * 1000)),
      });
    }
    left.amount -= amount * MINUTE;
  }

  /** Gives back what was not used after all. */
  giveBack(owner: string, amount: number): void {
    if (this.#perMinute === Infinity) return;
    const left = this.#count(owner);
    left.amount = Math.min(this.#perMinute * MINUTE, left.amount + amount * MINUTE);
  }

  #count(owner: string): { amount: number; at: number } {
    const at = Math.floor(this.#now());
    const before = this.#left.get(owner) ?? { amount: this.#perMinute * MINUTE, at };
    const amount = Math.min(this.#perMinute * MINUTE, before.amount + (at - before.at) * this.#perMinute);
    const left = { amount, at };
    this.#left.set(owner, left);
    return left;
  }
}
