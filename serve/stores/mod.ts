/**
 * Stores of sessions that several servers can share: a write counts only if nobody has written since the read, so that no
 * acknowledged turn is lost.
 *
 * | URL | store |
 * |---|---|
 * | `memory:` | the memory of this process |
 * | `file:///path` | a folder, for the processes of one machine; in Deno |
 * | `kv:`, `kv:/path`, `kv:https://...` | Deno KV: what follows `kv:` is handed to `Deno.openKv` |
 * | `redis://...`, `rediss://...` | Redis, by `ioredis` |
 * | `postgres://...`, `postgresql://...` | PostgreSQL, by `postgres.js` |
 *
 * @module
 */
import { typeError } from "../../core/errors.ts";
import { memoryStore } from "./memory.ts";

/** A value in a store. */
export interface Versioned {
  /** Its bytes. */
  readonly value: Uint8Array;
  /** Tells it from all other values that the key had or will have. */
  readonly version: string;
}

/**
 * A store whose writes compare and set. Keys are words of lower-case letters, digits and `-` with colons between them. A
 * method that rejects leaves open whether it was carried out, and may yet be.
 */
export interface SessionStore {
  /** Maximum number of bytes of a value. */
  readonly valueBytes: number;
  /** What a key has now, in the order of all writes: never an older value. */
  read(key: string): Promise<Versioned | undefined>;
  /**
   * Writes, or removes where `value` is undefined, if the key has `expectedVersion`, or nothing where that is undefined.
   * Nothing may come between.
   *
   * @param options `ttl`: seconds after which the store may forget the value, an integer
   * @returns whether it did
   */
  write(
    key: string,
    value: Uint8Array | undefined,
    expectedVersion: string | undefined,
    options: { ttl: number },
  ): Promise<boolean>;
  /** Removes a key, whatever it has. */
  remove(key: string): Promise<void>;
  /** The keys that begin with `<prefix>:`. Those that the store removes by itself may be missing. */
  list(prefix: string): Promise<string[]>;
  /** Ends the connections. */
  close(): Promise<void>;
}

/** Milliseconds that a store over the network is waited for; then its connection is given up. */
export const PATIENCE = 5000;

/** How each store is opened. What it needs is loaded then and not before. */
const OPEN: Readonly<Record<string, (url: string) => Promise<SessionStore> | SessionStore>> = {
  memory: memoryStore,
  file: async (url) => (await import("./folder.ts")).folderStore(new URL(url)),
  kv: async (url) => (await import("./kv.ts")).openKvStore(url.slice("kv:".length)),
  redis: async (url) => (await import("./redis.ts")).openRedisStore(url),
  rediss: async (url) => (await import("./redis.ts")).openRedisStore(url),
  postgres: async (url) => (await import("./postgres.ts")).openPostgresStore(url),
  postgresql: async (url) => (await import("./postgres.ts")).openPostgresStore(url),
};

/**
 * Opens a store, see the table above.
 *
 * @throws {TypeError} when there is no store of such a URL @throws {Error} when it cannot be reached
 */
export async function openStore(url: string): Promise<SessionStore> {
  return await openerOf("openStore", url)(url);
}

/**
 * A store that is opened when it is first used, and again after a failure.
 *
 * @throws {TypeError} when there is no store of such a URL
 */
export function lazyStore(operation: string, url: string): SessionStore {
  const open = openerOf(operation, url);
  let opening: Promise<SessionStore> | undefined;
  let opened: SessionStore | undefined;
  const store = async () => {
    const current = opening ??= Promise.resolve(open(url));
    try {
      return opened = await current;
    } catch (error) {
      if (opening === current) opening = undefined;
      throw error;
    }
  };
  return {
    get valueBytes() {
      return opened?.valueBytes ?? 0; // whoever writes has read before
    },
    read: async (key) => await (await store()).read(key),
    write: async (...args) => await (await store()).write(...args),
    remove: async (key) => await (await store()).remove(key),
    list: async (prefix) => await (await store()).list(prefix),
    close: async () => await (await opening?.catch(() => undefined))?.close(),
  };
}

/** A URL without the password that it may hold, for messages. */
export function withoutPassword(url: string): string {
  return url.replace(/\/\/[^@/]*@/, "//...@");
}

function openerOf(operation: string, url: string): (url: string) => Promise<SessionStore> | SessionStore {
  const scheme = /^([a-z]+):/.exec(url)?.[1] ?? "";
  if (!Object.hasOwn(OPEN, scheme)) {
    typeError(
      operation,
      `storage must be a store, or a URL that begins with ${Object.keys(OPEN).join(":, ")}:`,
      withoutPassword(url),
    );
  }
  return OPEN[scheme];
}
