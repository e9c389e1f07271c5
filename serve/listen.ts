/**
 * HTTP on a port, for clients that mean harm: connections are counted and given up before the process has too many, and
 * no client may keep one for nothing.
 *
 * Not `Deno.serve`: it takes every connection, waits for ever for what a client sends or reads, and ends the process when
 * file descriptors run out.
 *
 * @module
 */
import { once } from "node:events";
import { createServer as createHttpServer, type IncomingMessage, type ServerResponse } from "node:http";
import { type AddressInfo, connect, createServer, type Server as NetServer, type Socket } from "node:net";
import { yieldToEventLoop } from "../core/eventLoop.ts";
import { exchange } from "./exchange.ts";

/** How long clients may take; all in milliseconds. */
export interface Patience {
  /** From the start of a connection or request to the end of its headers. Default 15 s. */
  readonly headers: number;
  /** From the start of a request to the end of its body. Default 60 s. */
  readonly body: number;
  /** Between two requests of a connection: longer than proxies wait, which must not ask what is being closed. Default 75 s. */
  readonly idle: number;
  /** Without reading anything of an answer that waits for it. Default 30 s. */
  readonly reading: number;
  /** Between two looks at all of this, and at whether the port still takes connections. Default 1 s. */
  readonly interval: number;
}

const PATIENCE: Patience = { headers: 15_000, body: 60_000, idle: 75_000, reading: 30_000, interval: 1000 };

/** Options of {@linkcode listen}. */
export interface ListenOptions {
  /** Where to listen. */
  readonly hostname: string;
  /** 0: any free port. */
  readonly port: number;
  /** Maximum number of connections. See {@linkcode affordable}. */
  readonly connections: number;
  /** See {@linkcode Patience}. */
  readonly patience?: Partial<Patience>;
}

/** A port that is listened on. */
export interface Listener {
  /** The address, without a slash at the end. */
  readonly url: string;
  /** The number of connections now. */
  readonly connections: () => number;
  /** Takes no more connections; resolves when the last one has ended, or after `milliseconds`, when the others are cut. */
  readonly close: (milliseconds: number) => Promise<void>;
}

/** What is known of a connection; times in milliseconds. */
interface Client {
  /** Requests that are not answered yet, and when each began. */
  readonly requests: Map<IncomingMessage, number>;
  /** When it connected, or its last answer ended. */
  quiet: number;
  /** Whether it has had an answer. */
  wasAnswered: boolean;
  /** Bytes that were sent when it was last looked at, and since when it has not read all of them. */
  sent: number;
  stuck: number;
}

/**
 * Keeps what a client does to its connection from ending the process: Deno's `node:http` (2.9.6) rejects a promise, which
 * nobody else can reach, when a request is cut off or cannot be parsed.
 */
function tolerate(event: PromiseRejectionEvent): void {
  const code = String((event.reason as { code?: unknown } | undefined)?.code);
  if (code === "ECONNRESET" || code.startsWith("HPE_")) event.preventDefault();
}

/**
 * Listens on a port. When all connections are taken, a new one takes the place of the one whose client has been silent
 * for longest; if all clients wait for answers, it is refused with 503.
 *
 * @throws what the host says, such as that the port is taken
 */
export async function listen(
  fetch: (request: Request) => Promise<Response>,
  options: ListenOptions,
): Promise<Listener> {
  const patience = { ...PATIENCE, ...options.patience };
  const clients = new Clients(options.connections);
  const http = createHttpServer({ keepAliveTimeout: patience.idle }, (request, response) => {
    for (const stream of [request, response]) stream.on("error", () => {}); // of a client that is gone
    if (!clients.asks(request, response)) return void request.socket.destroy();
    void exchange(fetch, request, response);
  });

  // A server that does not listen keeps no connection after an answer. This one gets its connections from `port`.
  Object.defineProperty(http, "listening", { get: () => !clients.isClosing });

  globalThis.addEventListener("unhandledrejection", tolerate);
  let accepted = 0;
  const accept = (socket: Socket) => {
    accepted++;
    socket.setMaxListeners(0); // a request adds some, and several may come together
    socket.on("error", () => {}); // of a client that is gone; the request's signal says so
    if (!clients.admit(socket)) return refuse(socket);
    http.emit("connection", socket);
    parseInSlices(socket);
  };
  // Those that are being refused or given up are connections of the host still; beyond them it drops without a word.
  const most = options.connections + LEAVING;
  let port = await open(options.hostname, options.port, most, accept);
  const address = port.address() as AddressInfo;

  let before = -1;
  let isLooking = false;
  const look = async () => {
    clients.endSilent(patience);
    // Where descriptors ran out, the host stops to take connections and does not say so.
    const isQuiet = accepted === before;
    before = accepted;
    if (!isQuiet || isLooking) return;
    isLooking = true;
    try {
      const hasArrived = () => accepted !== before;
      if (await isAnswered(address, hasArrived, patience.interval).catch(() => false)) return;
      await closed(port);
      port = await open(options.hostname, address.port, most, accept);
    } catch {
      before = -1; // descriptors may be free at the next look
    } finally {
      isLooking = false;
    }
  };
  const looking = setInterval(() => void look(), patience.interval);

  const { hostname } = options;
  return {
    url: `http://${hostname.includes(":") ? `[${hostname}]` : hostname}:${address.port}`,
    connections: () => clients.count,
    async close(milliseconds) {
      clearInterval(looking);
      await Promise.all([closed(port), clients.close(milliseconds)]);
      http.close();
      globalThis.removeEventListener("unhandledrejection", tolerate);
    },
  };
}

/** Requests that a connection may bring before it has its answers. */
const PIPELINED = 8;

/** All connections of a port. */
class Clients {
  readonly #most: number;
  /** Those that were silent for longest come first. */
  readonly #clients = new Map<Socket, Client>();
  isClosing = false;

  constructor(most: number) {
    this.#most = most;
  }

  get count(): number {
    return this.#clients.size;
  }

  /** Takes a connection, or says that there is no room for it. */
  admit(socket: Socket): boolean {
    if (this.#clients.size >= this.#most && !this.#giveUpOne()) return false;
    this.#clients.set(socket, {
      requests: new Map(),
      quiet: performance.now(),
      wasAnswered: false,
      sent: 0,
      stuck: performance.now(),
    });
    socket.once("close", () => this.#clients.delete(socket));
    return true;
  }

  /**
   * Ends the connection of the client that has been silent for longest, unless all wait for answers. Clients that have
   * not asked for anything yet go before those that have.
   */
  #giveUpOne(): boolean {
    for (const hasAsked of [false, true]) {
      for (const [socket, client] of this.#clients) {
        if (client.wasAnswered !== hasAsked || isWaiting(client)) continue;
        this.#clients.delete(socket);
        socket.destroy();
        return true;
      }
    }
    return false;
  }

  /** Follows a request to its end; false if it is not to be answered, as too many wait in its connection. */
  asks(request: IncomingMessage, response: ServerResponse): boolean {
    const { socket } = request;
    const client = this.#clients.get(socket);
    if (client === undefined || client.requests.size >= PIPELINED) return false;
    client.requests.set(request, performance.now());
    response.once("close", () => {
      client.requests.delete(request);
      client.quiet = performance.now();
      client.wasAnswered = true;
      if (this.#clients.delete(socket) && !socket.destroyed) this.#clients.set(socket, client); // heard of last
      if (this.isClosing && client.requests.size === 0) socket.end();
    });
    if (this.isClosing) response.setHeader("connection", "close");
    return true;
  }

  /** Ends connections whose clients have neither sent nor read for too long what is waited for. */
  endSilent(patience: Patience): void {
    const now = performance.now();
    for (const [socket, client] of this.#clients) {
      const isStuck = socket.writableLength > 0 && socket.bytesWritten === client.sent;
      if (!isStuck) client.stuck = now;
      client.sent = socket.bytesWritten;
      const idle = client.wasAnswered ? patience.idle : patience.headers;
      const isLate = client.requests.size === 0
        ? now - client.quiet >= idle
        : Array.from(client.requests).some(([{ complete }, begun]) =>
          !complete && now - begun >= patience.body
        );
      if (isLate || now - client.stuck >= patience.reading) socket.destroy();
    }
  }

  async close(milliseconds: number): Promise<void> {
    this.isClosing = true;
    const ends = Array.from(this.#clients, ([socket, { requests }]) => {
      const end = once(socket, "close");
      if (requests.size === 0 && socket.writableLength === 0) socket.end();
      return end;
    });
    const timer = setTimeout(() => {
      for (const socket of this.#clients.keys()) socket.destroy();
    }, milliseconds);
    await Promise.all(ends);
    clearTimeout(timer);
  }
}

/** Bytes that are parsed of what came together, before it is looked whether the connection still stands. */
const SLICE = 1024;

/**
 * Lets `node:http` parse what comes slice by slice, each twice as long as the one before: it would go through hundreds of
 * requests that came together, 64 KB of them, after the connection was ended at the ninth.
 */
function parseInSlices(socket: Socket): void {
  const [parse, ...others] = socket.listeners("data") as ((bytes: Uint8Array) => void)[];
  if (parse === undefined || others.length > 0) throw new Error("node:http must read by one listener");
  // Deno hands bytes to the parser past all listeners; Node.js ends that when a listener is added.
  (socket as { parser?: { unconsume?(): void } }).parser?.unconsume?.();
  socket.off("data", parse);
  socket.on("data", (bytes: Uint8Array) => {
    for (let at = 0, length = SLICE; at < bytes.length && !socket.destroyed; at += length, length *= 2) {
      parse.call(socket, bytes.subarray(at, at + length));
    }
  });
}

/** Whether a client has sent all of a request: it waits for the server, not the server for it. */
function isWaiting({ requests }: Client): boolean {
  return [...requests.keys()].some(({ complete }) => complete);
}

/** Seconds after which whoever was refused may try again. */
const RETRY = 1;
const REFUSAL = JSON.stringify({
  error: {
    message: "The server has too many connections",
    type: "server_error",
    param: null,
    code: "too_many_connections",
  },
});

/** Says that there is no room, without reading what is asked. */
function refuse(socket: Socket): void {
  socket.end(
    `HTTP/1.1 503 Service Unavailable\r\nRetry-After: ${RETRY}\r\nConnection: close\r\n` +
      `Content-Type: application/json\r\nContent-Length: ${REFUSAL.length}\r\n\r\n${REFUSAL}`,
    () => socket.destroy(),
  );
}

/**
 * Connections that wait until the event loop takes them, one in a turn; the host may allow fewer. Beyond these a client
 * hears nothing, and tries again a second later.
 */
const BACKLOG = 4096;

async function open(
  hostname: string,
  port: number,
  most: number,
  accept: (socket: Socket) => void,
): Promise<NetServer> {
  const server = createServer({ noDelay: true }, accept);
  server.maxConnections = most;
  server.listen({ port, host: hostname, backlog: BACKLOG });
  await once(server, "listening");
  return server;
}

/** Closes a port; its connections stay. */
function closed(port: NetServer): Promise<void> {
  port.close(); // its own callback waits for all connections
  return yieldToEventLoop();
}

/** Whether the port takes a connection within some time. */
async function isAnswered(
  { address, port }: AddressInfo,
  hasArrived: () => boolean,
  milliseconds: number,
): Promise<boolean> {
  const host = address === "0.0.0.0" ? "127.0.0.1" : address === "::" ? "::1" : address;
  const socket = connect(port, host);
  try {
    await once(socket, "connect");
    const until = performance.now() + milliseconds;
    while (!hasArrived() && performance.now() < until) {
      await new Promise((resolve) => setTimeout(resolve, 10));
    }
    return hasArrived();
  } finally {
    socket.destroy();
  }
}

/** Connections that are on their way out. */
const LEAVING = 32;

/** Descriptors that are left to others: files of the model and of sessions, connections on their way out, the host. */
const RESERVE = 160;

/**
 * How many of the connections that are asked for the process has descriptors for. It is tried out with `/dev/null`; where the process may not open that, all of them.
 */
export function affordable(connections: number): number {
  const wanted = connections + RESERVE;
  const files: Deno.FsFile[] = [];
  try {
    while (files.length < wanted) files.push(Deno.openSync("/dev/null"));
  } catch (error) {
    if (files.length === 0) return connections;
    if (!(error instanceof Error)) throw error;
  } finally {
    for (const file of files) file.close();
  }
  return Math.max(1, Math.min(connections, files.length - RESERVE));
}
