/**
 * Stores of sessions to test with: real servers of Redis and PostgreSQL, each behind a proxy that delays and cuts.
 *
 * @module
 */
import assert from "node:assert/strict";
import { findPostgres, findRedis } from "./setup.ts";

/** A store that several processes can open, for as long as a test lasts. */
export interface TestStore extends AsyncDisposable {
  /** For `openStore`. */
  readonly url: string;
  /** Between the store and its clients, if there is a network. */
  readonly proxy: Proxy | undefined;
}

/** What a test of a store needs, and how it is started. */
export interface StoreKind {
  readonly name: string;
  /** Whether this machine has it; `tests/setup.ts` says so if not. */
  readonly present: boolean;
  start(): Promise<TestStore>;
}

/** All stores that processes of one machine can share. */
export const SHARED_STORES: readonly StoreKind[] = [
  { name: "folder", present: true, start: () => local((folder) => `file://${folder}/sessions`) },
  { name: "kv", present: "openKv" in Deno, start: () => local((folder) => `kv:${folder}/kv.sqlite`) },
  { name: "redis", present: findRedis() !== undefined, start: redis },
  { name: "postgres", present: findPostgres() !== undefined, start: postgres },
];

async function local(urlOf: (folder: string) => string): Promise<TestStore> {
  const folder = await Deno.makeTempDir();
  return {
    url: urlOf(folder),
    proxy: undefined,
    [Symbol.asyncDispose]: () => Deno.remove(folder, { recursive: true }),
  };
}

async function redis(): Promise<TestStore> {
  const folder = await Deno.makeTempDir();
  const socket = `${folder}/socket`;
  const args = ["--port", "0", "--unixsocket", socket, "--save", "", "--dir", folder];
  const server = await started(
    new Deno.Command(findRedis()!, { args, stdout: "piped", stderr: "piped" }),
    "ready to accept connections",
  );
  const proxy = storeProxy(socket);
  return {
    url: `redis://127.0.0.1:${proxy.port}`,
    proxy,
    async [Symbol.asyncDispose]() {
      await proxy[Symbol.asyncDispose]();
      await server[Symbol.asyncDispose]();
      await Deno.remove(folder, { recursive: true });
    },
  };
}

async function postgres(): Promise<TestStore> {
  const bin = findPostgres()!;
  const folder = await Deno.makeTempDir(), data = `${folder}/data`;
  // It refuses to run as root: then it runs as nobody.
  const user = Deno.uid() === 0 ? { uid: 65534, gid: 65534 } : {};
  if ("uid" in user) await Deno.chown(folder, user.uid!, user.gid!);
  const init = await new Deno.Command(`${bin}/initdb`, {
    args: ["-D", data, "-U", "levin", "--auth=trust", "--encoding=UTF8", "--no-sync"],
    cwd: folder,
    ...user,
  }).output();
  assert(init.success, new TextDecoder().decode(init.stderr));
  const server = await started(
    new Deno.Command(`${bin}/postgres`, {
      args: ["-D", data, "-k", folder, "-c", "listen_addresses=", "-c", "fsync=off"],
      cwd: folder,
      stdout: "piped",
      stderr: "piped",
      ...user,
    }),
    "database system is ready to accept connections",
  );
  const proxy = storeProxy(`${folder}/.s.PGSQL.5432`);
  return {
    url: `postgres://levin@127.0.0.1:${proxy.port}/postgres`,
    proxy,
    async [Symbol.asyncDispose]() {
      await proxy[Symbol.asyncDispose]();
      await server[Symbol.asyncDispose]();
      await Deno.remove(folder, { recursive: true });
    },
  };
}

/** Starts a server; resolves when it prints a text. */
async function started(command: Deno.Command, text: string): Promise<AsyncDisposable> {
  const process = command.spawn();
  const ready = Promise.withResolvers<void>();
  let log = "";
  const read = async (stream: ReadableStream<Uint8Array<ArrayBuffer>>) => {
    for await (const part of stream.pipeThrough(new TextDecoderStream())) {
      log += part;
      if (log.toLowerCase().includes(text)) ready.resolve();
    }
  };
  const done = Promise.all([read(process.stdout), read(process.stderr)]);
  done.then(() => ready.reject(new Error(`The server did not start: ${log}`)));
  await ready.promise;
  return {
    async [Symbol.asyncDispose]() {
      process.kill("SIGKILL");
      await process.status;
      await done;
    },
  };
}

/** A network that a test disturbs. */
export interface Proxy extends AsyncDisposable {
  readonly port: number;
  /** What happens to the next piece of bytes, in either direction. Default: it passes. */
  disturb: () => Disturbance;
  /** Cuts all connections. */
  cut(): void;
}

/** A piece passes after so many milliseconds; or its connection is cut in its place; or it never arrives. */
export type Disturbance = number | "cut" | "silence";

/** A port of this machine that leads to a socket. */
function storeProxy(socket: string): Proxy {
  const listener = Deno.listen({ port: 0, hostname: "127.0.0.1" });
  const open = new Set<() => void>();
  const pumps = new Set<Promise<void>>();
  const proxy: Proxy = {
    port: listener.addr.port,
    disturb: () => 0,
    cut() {
      for (const close of open) close();
    },
    async [Symbol.asyncDispose]() {
      listener.close();
      proxy.cut();
      await Promise.all(pumps);
    },
  };
  const pump = async (from: Deno.Conn, to: Deno.Conn, close: () => void) => {
    const buffer = new Uint8Array(2 ** 16);
    try {
      for (let size; (size = await from.read(buffer)) !== null;) {
        const what = proxy.disturb();
        if (what === "cut") break;
        if (what === "silence") continue;
        if (what > 0) await new Promise((resolve) => setTimeout(resolve, what));
        for (let sent = 0; sent < size;) sent += await to.write(buffer.subarray(sent, size));
      }
    } catch {
      // One of the two sides is gone, and so is the other one now.
    } finally {
      close();
    }
  };
  const serve = async () => {
    for await (const client of listener) {
      let server: Deno.Conn;
      try {
        server = await Deno.connect({ transport: "unix", path: socket });
      } catch {
        client.close();
        continue;
      }
      const close = () => {
        if (open.delete(close)) { for (const side of [client, server]) side.close(); }
      };
      open.add(close);
      for (const [from, to] of [[client, server], [server, client]]) {
        const running = pump(from, to, close);
        pumps.add(running);
        running.finally(() => pumps.delete(running));
      }
    }
  };
  pumps.add(serve());
  return proxy;
}
