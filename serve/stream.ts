/**
 * Answers as server-sent events.
 *
 * @module
 */
import type { Context } from "hono";
import { streamSSE } from "hono/streaming";
import type { Part } from "./answer.ts";
import type { Outcome } from "./completion.ts";
import { publicError } from "./errors.ts";
import type { Json, Shape } from "./openai.ts";

/** Parts of answers on their way to a client. */
export class PartQueue implements AsyncIterable<Part> {
  #parts: Part[] = [];
  #ended = false;
  #wake: () => void = () => {};

  /** Adds a part. */
  push(part: Part): void {
    this.#parts.push(part);
    this.#wake();
  }

  /** Says that no part comes any more. */
  end(): void {
    this.#ended = true;
    this.#wake();
  }

  /** The parts, each when it is there. */
  async *[Symbol.asyncIterator](): AsyncGenerator<Part, void, void> {
    for (;;) {
      const parts = this.#parts;
      this.#parts = [];
      yield* parts;
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
