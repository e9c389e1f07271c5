/**
 * One request and its response: from Node's objects to those of `fetch`, and back. Bodies go both ways piece by piece,
 * none faster than it is read.
 *
 * @module
 */
import type { IncomingMessage, ServerResponse } from "node:http";

/** Milliseconds that a client gets to send the rest of a body that nobody wants, and to read why. */
const REST = 1000;

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

function bodyOf(incoming: IncomingMessage): ReadableStream<Uint8Array> {
  let isOpen = true;
  const settle = (end: () => void) => {
    if (isOpen) end();
    isOpen = false;
  };
  return new ReadableStream({
    start(controller) {
      incoming.on("data", (piece: Uint8Array) => {
        if (!isOpen) return;
        incoming.pause();
        controller.enqueue(piece);
      });
      incoming.once("end", () => settle(() => controller.close()));
      const broken = () => settle(() => controller.error(new TypeError("The connection is gone")));
      incoming.once("error", broken);
      incoming.once("close", broken);
      incoming.pause();
    },
    pull: () => void incoming.resume(),
    cancel: () => settle(() => incoming.resume()),
  }, { highWaterMark: 0 });
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
