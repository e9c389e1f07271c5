/**
 * What ends a request early: its client, which goes or does not read, or the time that it may take.
 *
 * @module
 */
import { ApiError } from "./errors.ts";

/** Aborts its signal when the client goes or the time is over, until it is disposed. */
export class Deadline implements Disposable {
  readonly #abort = new AbortController();
  readonly #client: AbortSignal;
  readonly #timer: ReturnType<typeof setTimeout>;

  /** @param client aborted when the client goes @param seconds that the request may take */
  constructor(client: AbortSignal, seconds: number) {
    this.#client = client;
    this.#timer = setTimeout(() => {
      this.#abort.abort(new ApiError(504, `The request took more than ${seconds} s`, { code: "timeout" }));
    }, 1000 * seconds);
    client.addEventListener("abort", this.clientGone);
    if (client.aborted) this.clientGone();
  }

  /** Ends the work; its reason is an {@linkcode ApiError}. */
  get signal(): AbortSignal {
    return this.#abort.signal;
  }

  /** Says that the client has read nothing for `seconds` of what waits for it. */
  clientStalled(seconds: number): void {
    this.#abort.abort(
      new ApiError(408, `The client read nothing for ${seconds} s: the answer was ended`, {
        code: "client_stalled",
      }),
    );
  }

  /** Says that the client is gone. */
  readonly clientGone = (): void => {
    this.#abort.abort(new ApiError(499, "The client is gone", { code: "client_gone" }));
  };

  [Symbol.dispose](): void {
    clearTimeout(this.#timer);
    this.#client.removeEventListener("abort", this.clientGone);
  }
}
