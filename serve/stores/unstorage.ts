/**
 * Sessions in a store of unstorage, which has no compare-and-set.
 *
 * @module
 */
import type { SessionStore } from "./store.ts";

/** Bytes of one value; they may grow by a third on their way, and Deno KV takes 65536. */
const VALUE_BYTES = 45_000;

/**
 * A store without compare-and-set: any `Storage` of unstorage is one. Keys are words with colons between them. Two
 * processes that store one session within a round trip can both succeed, and one of the two turns is lost.
 */
export interface SessionStorage {
  /** The bytes under a key, or null. */
  getItemRaw(key: string): Promise<unknown>;
  /** Writes bytes; `ttl`: seconds after which the store may forget them. */
  setItemRaw(key: string, value: Uint8Array, options: { ttl: number }): Promise<void>;
  /** Removes a key. */
  removeItem(key: string): Promise<void>;
  /** The keys that begin with `base`. */
  getKeys(base: string): Promise<string[]>;
}

/**
 * A store of unstorage, as far as it can be one that compares and sets: each write takes place, whatever version is
 * expected. So the caller keeps two heads.
 */
export function plainStore(storage: SessionStorage): SessionStore {
  return {
    valueBytes: VALUE_BYTES,
    async read(key) {
      const value = toBytes(key, await storage.getItemRaw(key));
      return value && { value, version: "" };
    },
    async write(key, value, _, options) {
      if (value === undefined) await storage.removeItem(key);
      else await storage.setItemRaw(key, value, options);
      return true;
    },
    remove: (key) => storage.removeItem(key),
    list: (prefix) => storage.getKeys(prefix),
    close: () => Promise.resolve(), // who made it ends it
  };
}

function toBytes(key: string, value: unknown): Uint8Array | undefined {
  if (value === null || value === undefined) return undefined;
  if (value instanceof Uint8Array) return value;
  if (value instanceof ArrayBuffer) return new Uint8Array(value);
  if (typeof value === "string") return new TextEncoder().encode(value);
  throw new TypeError(`Cannot read the session store as it gave no bytes for ${key}`);
}
