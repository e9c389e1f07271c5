/**
 * Stores of sessions that several servers can share: a write counts only if nobody has written since the read, so that no
 * acknowledged turn is lost.
 *
 * | URL | store |
 * |---|---|
 * | `memory:` | the memory of this process |
 * | `file:///path` | a folder, for the processes of one machine; in Deno |
 * | `kv:`, `kv:/path`, `kv:https://...` | Deno KV: what follows `kv:` is handed to `Deno.openKv` |
 * | `redis://...`, `rediss://...` | Redis, by `@redis/client` |
 * | `postgres://...`, `postgresql://...` | PostgreSQL, by `postgres.js` |
 *
 * @module
 */
import { typeError } from "../../core/errors.ts";
import { memoryStore } from "./memory.ts";
import type { SessionStore } from "./store.ts";

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
