/**
 * What sessions need of a store of unstorage, which has no compare-and-set.
 *
 * @module
 */

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
