/**
 * Answers as server-sent events.
 *
 * @module
 */
import type { Context } from "hono";
import { streamSSE } from "hono/streaming";
import type { Part, PartSink } from "./answer.ts";
import type { Outcome } from "./completion.ts";
import { publicError } from "./errors.ts";
import type { Json, Shape } from "./openai.ts";

/** Parts that wait for a client at most, or few more: beyond that its answers pause. */
const CAPACITY = 64;

/** Parts of answers on their way to a client, which reads them at its own speed. */
export class PartQueue implements PartSink, AsyncIterable<Part> {
  readonly #onRoom: () => void;
  readonly #onStall: () => void;
  readonly #stall: number;
  #timer: ReturnType<typeof setTimeout> | undefined;
  #parts: Part[] = [];
  /** Number of parts that were pushed and not yet read. */
  #unread = 0;
  #ended = false;
  #wake: () => void = () => {};

  /**
   * @param onRoom called when the queue was full and is no more
   * @param onStall called when it has been full, and nothing was read, for `seconds`
   */
  constructor(onRoom: () => void, onStall: () => void, seconds: number) {
    this.#onRoom = onRoom;
    this.#onStall = onStall;
    this.#stall = 1000 * seconds;
  }

  /** Whether the client lags behind. */
  get isFull(): boolean {
    return this.#unread >= CAPACITY;
  }

  /** Adds a part. */
  push(part: Part): void {
    this.#parts.push(part);
    this.#unread++;
    if (this.isFull) this.#timer ??= setTimeout(this.#onStall, this.#stall);
    this.#wake();
  }

  /** Says that no more parts come. */
  end(): void {
    this.#ended = true;
    this.#forgetStall();
    this.#wake();
  }

  #forgetStall(): void {
    clearTimeout(this.#timer);
    this.#timer = undefined;
  }

  /** The parts, each as soon as it is there. */
  async *[Symbol.asyncIterator](): AsyncGenerator<Part, void, void> {
    for (;;) {
      const parts = this.#parts;
      this.#parts = [];
      for (const part of parts) {
        yield part;
        const wasFull = this.isFull;
        this.#unread--;
        this.#forgetStall();
        if (this.isFull && !this.#ended) this.#timer = setTimeout(this.#onStall, this.#stall);
        if (wasFull && !this.isFull) this.#onRoom();
      }
      if (this.#parts.length > 0) continue;
      if (this.#ended) return;
      await new Promise<void>((resolve) => this.#wake = resolve);
    }
  }
}

/**
 * A response that streams answers: their chunks, then `[DONE]`, or the error that ended them.
 *
 * @param parts of all choices; it has to end when `outcome` settles
 * @param gone called when the client stops reading
 */
export function eventStream(
  c: Context,
  shape: Shape,
  parts: PartQueue,
  outcome: Promise<Outcome>,
  { choices, gone }: { choices: number; gone: () => void },
): Response {
  const response = streamSSE(c, async (stream) => {
    stream.onAbort(gone);
    const send = (data: Json) => stream.writeSSE({ data: JSON.stringify(data) });
    try {
      for (let index = 0; index < choices; index++) {
        for (const chunk of shape.opening(index)) await send(chunk);
      }
      for await (const part of parts) {
        if (part.text !== "" || part.entries.length > 0 || part.finish !== undefined) {
          await send(shape.chunk(part));
        }
      }
      for (const chunk of shape.closing(await outcome)) await send(chunk);
      await stream.writeSSE({ data: "[DONE]" });
    } catch (error) {
      await send({ ...publicError(error).toJSON() });
    }
  });
  // The host frames the body: these two are forbidden in HTTP/2.
  response.headers.delete("transfer-encoding");
  response.headers.delete("connection");
  response.headers.delete("cache-control"); // as of all answers
  return response;
}
