/**
 * What a store of sessions is, if several servers are to share it.
 *
 * @module
 */

/** A value in a store. */
export interface Versioned {
  /** Its bytes. */
  readonly value: Uint8Array;
  /** Tells it from all other values that the key had or will have; two of the same bytes may share one. */
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

/** Milliseconds that a store is waited for; then its connection is given up. */
export const PATIENCE = 5000;
