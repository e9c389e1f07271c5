/**
 * Errors of ranks.
 *
 * @module
 */

/**
 * Processes could not be joined, differ, or failed.
 *
 * `reason` says which: `"unavailable"` (MPI is missing: install it), `"different"` (what all ranks must share differs:
 * every rank gets this error), `"elsewhere"` (another rank failed within work that all do together: every rank gets this
 * error) or `"failed"` (MPI refused: the ranks cannot continue).
 */
export class RankError extends Error {
  /** What went wrong. */
  readonly reason: "unavailable" | "different" | "elsewhere" | "failed";

  /** An error with its reason, a sentence for people, and its cause if known. */
  constructor(reason: RankError["reason"], message: string, options?: ErrorOptions) {
    super(message, options);
    this.name = "RankError";
    this.reason = reason;
  }

  /** Whether every rank gets this error, so that all of them can end in good order. */
  get everywhere(): boolean {
    return this.reason === "different" || this.reason === "elsewhere";
  }
}
