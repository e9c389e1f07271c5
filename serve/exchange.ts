/**
 * One request and its response: from Node's objects to those of `fetch`, and back. Bodies go both ways piece by piece,
 * none faster than it is read.
 *
 * @module
 */
import type { IncomingMessage, ServerResponse } from "node:http";
import { inTurn } from "./gate.ts";

/** Milliseconds that a client gets to send the rest of a body that nobody wants, and to read why. */
const REST = 1000;

/** Pieces of a body that may be of any size, and how many bytes the others must have, in the mean. */
const FREE_PIECES = 1024, PIECE = 32;

/**
 * Stops the reading of a body with each piece that comes: whoever wants the next one says so. And it ends the connection
 * of a client whose body comes in crumbs: each costs as much as a piece of 64 KB, and only chunks that were made so on
 * purpose are as small.
 */
function bound(incoming: IncomingMessage): void {
  let pieces = 0, bytes = 0;
  const { push } = incoming;
  // Where the parser leaves them, long before anybody reads them.
  incoming.push = (piece: Uint8Array | null, ...rest) => {
    pieces++;
    bytes += piece?.length ?? 0;
    if (pieces > FREE_PIECES && bytes < PIECE * pieces) incoming.socket.destroy();
    push.call(incoming, piece, ...rest);
    return false;
  };
}

/** Answers a request. Errors are the client's or a bug: the handler answers its own. */
export async function exchange(
  fetch: (request: Request) => Promise<Response>,
  incoming: IncomingMessage,
  outgoing: ServerResponse,
): Promise<void> {
  const gone = new AbortController();
  outgoing.once("close", () => {
    if (!outgoing.writableFinished) gone.abort();
  });
  outgoing.once("finish", () => giveUpRest(incoming));
  bound(incoming);
  let request: Request;
  try {
    request = toRequest(incoming, gone.signal);
  } catch {
    outgoing.writeHead(400).end();
    return;
  }
  try {
    await send(await fetch(request), outgoing, gone.signal);
  } catch (error) {
    if (!gone.signal.aborted) console.error(error);
    outgoing.destroy();
  }
}

/** @throws {TypeError} when there is no such URL or method */
function toRequest(incoming: IncomingMessage, signal: AbortSignal): Request {
  const { method, url = "/", headersDistinct } = incoming;
  const path = url.startsWith("/") ? url : new URL(url).pathname;
  const headers = new Headers();
  for (const [name, values] of Object.entries(headersDistinct)) {
    for (const value of values ?? []) headers.append(name, value);
  }
  const hasBody = method !== "GET" && method !== "HEAD";
  return new Request(`http://${headers.get("host") ?? "localhost"}${path}`, {
    method,
    headers,
    signal,
    ...(hasBody ? { body: bodyOf(incoming), duplex: "half" } : {}),
  });
}

/**
 * A body as a stream. What comes while nobody reads waits, and is read together. Bodies are read one after another, and
 * others are heard in between: the clients of many long ones could keep the event loop busy with nothing else.
 */
function bodyOf(incoming: IncomingMessage): ReadableStream<Uint8Array> {
  let waiting: Uint8Array[] = [], bytes = 0;
  let isOpen = true, isWanted = false, isFirst = true;
  const settle = (end: () => void) => {
    if (isOpen) end();
    isOpen = false;
  };
  const give = (controller: ReadableStreamDefaultController<Uint8Array>) => {
    if (waiting.length === 0) return;
    controller.enqueue(waiting.length === 1 ? waiting[0] : joined(waiting, bytes));
    waiting = [];
    bytes = 0;
    isWanted = false;
  };
  return new ReadableStream({
    start(controller) {
      incoming.on("data", (piece: Uint8Array) => {
        if (!isOpen) return;
        waiting.push(piece);
        bytes += piece.length;
        incoming.pause();
        if (isWanted) give(controller);
      });
      incoming.once("end", () =>
        settle(() => {
          give(controller);
          controller.close();
        }));
      const broken = () => settle(() => controller.error(new TypeError("The connection is gone")));
      incoming.once("error", broken);
      incoming.once("close", broken);
    },
    async pull(controller) {
      isWanted = true;
      give(controller);
      // What came with the headers is there. Nobody waits for more than that.
      if (!isFirst) await inTurn(() => {});
      isFirst = false;
      if (isOpen) incoming.resume();
    },
    cancel() {
      settle(() => incoming.resume());
      waiting = [];
    },
  }, { highWaterMark: 0 });
}

function joined(pieces: readonly Uint8Array[], length: number): Uint8Array {
  const whole = new Uint8Array(length);
  let filled = 0;
  for (const piece of pieces) {
    whole.set(piece, filled);
    filled += piece.length;
  }
  return whole;
}

async function send(response: Response, outgoing: ServerResponse, gone: AbortSignal): Promise<void> {
  outgoing.writeHead(response.status, Object.fromEntries(response.headers));
  const reader = response.body?.getReader();
  if (reader === undefined) return void outgoing.end();
  const cancel = () => void reader.cancel().catch(() => {});
  gone.addEventListener("abort", cancel);
  if (gone.aborted) return cancel();
  for (;;) {
    const { done, value } = await reader.read();
    if (done || gone.aborted) break;
    if (outgoing.write(value)) continue;
    await new Promise<void>((resolve) => {
      const settle = () => {
        outgoing.off("drain", settle);
        gone.removeEventListener("abort", settle);
        resolve();
      };
      outgoing.on("drain", settle);
      gone.addEventListener("abort", settle);
    });
  }
  gone.removeEventListener("abort", cancel);
  outgoing.end();
}

/** After its answer, a request's body that was not wanted is read for a while, since clients hear nothing before. */
function giveUpRest(incoming: IncomingMessage): void {
  if (incoming.complete) return;
  const { socket } = incoming;
  const timer = setTimeout(() => socket.destroy(), REST);
  incoming.once("end", () => clearTimeout(timer));
  socket.once("close", () => clearTimeout(timer));
  incoming.resume();
}
