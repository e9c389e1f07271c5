/**
 * What workers save in one kind of job, and whether they take part in it.
 *
 * Waking workers costs time before they can save any, and on a busy machine a worker may wait for a core while the calling
 * thread waits for it. So jobs of a kind are made by all threads only as long as that has saved time compared with the
 * calling thread alone. What the calling thread takes alone is known from jobs that it made alone: the first few of a
 * kind, unless they are large, and those while workers rest. Parts that it makes in company tell as well, but too much,
 * as workers may share its core; of both, the lesser counts.
 *
 * If workers cost more than they save, they rest from this kind, and are tried again later. A trial loses half a
 * millisecond or a little more. The rest lasts 64 times as long as what was lost, twice as long after each trial that
 * fails, and that times the number of kinds that rest. So all trials together take less than 1/64 of the time.
 *
 * All times are in milliseconds, and counted in jobs: a clock that stands still while there is nothing to do.
 *
 * @module
 */

/** Milliseconds that are remembered of what workers saved. */
const MOST_SAVED = 10;

/** Milliseconds that are remembered of what they cost: a clock may jump. */
const MOST_LOST = 100;

/** Milliseconds that a new trial may lose, and four times that when a kind is new: code is compiled at first. */
const TRIAL = 0.5, FIRST_TRIAL = 2;

/** How many times what a trial lost workers rest. */
const REST = 64;

/** How often the rest doubles at most. */
const MOST_FAILURES = 5;

/** Jobs of a new kind that the calling thread makes alone. */
const FIRST_ALONE = 5;

/** Milliseconds over which a time is averaged: several slices that a system gives to its processes. */
const AVERAGED = 100;

/** The time of a job, averaged over those of late. */
class Average {
  #time = 0;
  #jobs = 0;

  /** Adds some milliseconds that were a share of a job. */
  add(time: number, share: number): void {
    const kept = Math.max(0, 1 - time / AVERAGED);
    this.#time = kept * this.#time + time;
    this.#jobs = kept * this.#jobs + share;
  }

  /** Infinity before the first. */
  get value(): number {
    return this.#jobs === 0 ? Infinity : this.#time / this.#jobs;
  }
}

/** See the module. */
export class Account {
  #saved = FIRST_TRIAL;
  #failures = 0;
  #resting: boolean;
  #restsUntil = 0;
  /** Jobs that are made alone before the first trial. */
  #first: number;
  readonly #alone = new Average();
  readonly #inCompany = new Average();

  /** @param isLarge whether jobs are so large that workers pay, and one alone would be noticed */
  constructor(isLarge: boolean) {
    this.#first = isLarge ? 0 : FIRST_ALONE;
    this.#resting = this.#first > 0;
  }

  /** Whether the calling thread makes the next job alone. */
  get resting(): boolean {
    return this.#resting;
  }

  /** A job that the calling thread made alone in `taken`, at time `now`. */
  addAlone(taken: number, now: number): void {
    this.#alone.add(taken, 1);
    if (this.#first > 0 ? --this.#first > 0 : now < this.#restsUntil) return;
    this.#resting = false;
    this.#saved = Math.max(this.#saved, TRIAL);
  }

  /**
   * A job that all threads made in `taken`, at time `now`; the calling thread made a share of it in `own`.
   *
   * @param kinds how many kinds rest, apart from this
   */
  addTogether(taken: number, own: number, share: number, now: number, kinds: number): void {
    this.#inCompany.add(own, share);
    const alone = Math.min(this.#alone.value, this.#inCompany.value);
    this.#saved = Math.min(MOST_SAVED, this.#saved + alone - taken);
    if (this.#saved > 2 * TRIAL) this.#failures = 0;
    if (this.#saved >= 0) return;
    const lost = Math.min(MOST_LOST, TRIAL - this.#saved);
    this.#resting = true;
    this.#restsUntil = now + REST * lost * 2 ** this.#failures * (kinds + 1);
    this.#failures = Math.min(MOST_FAILURES, this.#failures + 1);
    this.#saved = 0;
  }
}
