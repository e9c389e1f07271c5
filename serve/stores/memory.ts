/**
 * Sessions in the memory of one process.
 *
 * @module
 */
import type { SessionStore, Versioned } from "./store.ts";

/** A store that ends with the process; several handlers of one process can share it. */
export function memoryStore(): SessionStore {
  const values = new Map<string, Versioned>();
  let writes = 0;
  return {
    valueBytes: 2 ** 30,
    read: (key) => Promise.resolve(values.get(key)),
    write(key, value, expectedVersion) {
      if (values.get(key)?.version !== expectedVersion) return Promise.resolve(false);
      if (value === undefined) values.delete(key);
      else values.set(key, { value, version: String(++writes) });
      return Promise.resolve(true);
    },
    remove: (key) => Promise.resolve(void values.delete(key)),
    list: (prefix) => Promise.resolve([...values.keys()].filter((key) => key.startsWith(`${prefix}:`))),
    close: () => Promise.resolve(),
  };
}
