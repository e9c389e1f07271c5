/**
 * How much each key may ask for in a minute.
 *
 * @module
 */
import { ApiError, invalid } from "./errors.ts";

const MINUTE = 60_000;

/** What owners may use per minute: a full minute's worth to begin with, and as much as time brings from then on. */
export class Allowance {
  readonly #perMinute: number;
  readonly #what: string;
  readonly #now: () => number;
  /** What each owner has left, and when that was counted. */
  readonly #left = new Map<string, { amount: number; at: number }>();

  /** @param perMinute what an owner may use; `Infinity`: there is no limit @param what in messages, such as `"tokens"` */
  constructor(perMinute: number, what: string, now: () => number = () => performance.now()) {
    this.#perMinute = perMinute;
    this.#what = what;
    this.#now = now;
  }

  /**
   * Uses some of it.
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
    const left = this.#count(owner);
    if (left.amount < amount) {
      const seconds = (amount - left.amount) / this.#perMinute * MINUTE / 1000;
      throw new ApiError(429, `The key has used its ${this.#perMinute} ${this.#what} per minute`, {
        code: "rate_limit_exceeded",
        retryAfter: Math.max(1, Math.ceil(seconds)),
      });
    }
    left.amount -= amount;
  }

  /** Gives back what was not used after all. */
  giveBack(owner: string, amount: number): void {
    if (this.#perMinute === Infinity) return;
    const left = this.#count(owner);
    left.amount = Math.min(this.#perMinute, left.amount + amount);
  }

  #count(owner: string): { amount: number; at: number } {
    const now = this.#now();
    const before = this.#left.get(owner) ?? { amount: this.#perMinute, at: now };
    const amount = Math.min(
      this.#perMinute,
      before.amount + (now - before.at) / MINUTE * this.#perMinute,
    );
    const left = { amount, at: now };
    this.#left.set(owner, left);
    return left;
  }
}
