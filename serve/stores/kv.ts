/**
 * Sessions in Deno KV, which needs `--unstable-kv`. Values are checked and set in one atomic commit; they stay below
 * 64 KiB, and sessions that are larger come in several behind one head.
 *
 * @module
 */
import { PATIENCE, type SessionStore } from "./store.ts";

/**
 * Opens Deno KV.
 *
 * @param path as of `Deno.openKv`; empty: the default
 * @throws {Error} when the host has no Deno KV, or it cannot be opened
 */
export async function openKvStore(path: string): Promise<SessionStore> {
  const { openKv } = (globalThis as { Deno?: { openKv?: (path?: string) => Promise<Kv> } }).Deno ?? {};
  if (openKv === undefined) throw new Error("Sessions in Deno KV need Deno with --unstable-kv");
  return kvStore(await patiently(() => openKv(path === "" ? undefined : path)));
}

/** What is used of `Deno.Kv`, whose types are unstable. */
interface Kv {
  get(
    key: string[],
    options: { consistency: "strong" },
  ): Promise<{ value: Uint8Array | null; versionstamp: string | null }>;
  delete(key: string[]): Promise<void>;
  list(selector: { prefix: string[] }): AsyncIterable<{ key: string[] }>;
  atomic(): Commit;
  close(): void;
}

interface Commit {
  check(entry: { key: string[]; versionstamp: string | null }): Commit;
  set(key: string[], value: Uint8Array, options: { expireIn: number }): Commit;
  delete(key: string[]): Commit;
  commit(): Promise<{ ok: boolean }>;
}

function kvStore(kv: Kv): SessionStore {
  return {
    valueBytes: 60_000,
    async read(key) {
      const { value, versionstamp } = await patiently(() => kv.get(placeOf(key), { consistency: "strong" }));
      return value === null ? undefined : { value, version: versionstamp! };
    },
    async write(key, value, expectedVersion, { ttl }) {
      const place = placeOf(key);
      const { ok } = await patiently(() => {
        const commit = kv.atomic().check({ key: place, versionstamp: expectedVersion ?? null });
        if (value === undefined) commit.delete(place);
        else commit.set(place, value, { expireIn: 1000 * ttl });
        return commit.commit();
      });
      return ok;
    },
    remove: (key) => patiently(() => kv.delete(placeOf(key))),
    list: (prefix) =>
      patiently(async () => {
        // A listing brings the values with it: it is one of heads alone.
        const keys: string[] = [];
        for await (const { key } of kv.list({ prefix: ["levin", prefix] })) keys.push(key.slice(1).join(":"));
        return keys;
      }),
    close: () => Promise.resolve(kv.close()),
  };
}

/** Processes that share a file of Deno KV lock it for each write, and do not wait for one another. */
async function patiently<T>(work: () => Promise<T>): Promise<T> {
  for (const end = performance.now() + PATIENCE;;) {
    try {
      return await work();
    } catch (error) {
      const isLocked = error instanceof TypeError && error.message === "database is locked"; // nothing was written
      if (!isLocked || performance.now() > end) throw error;
      await new Promise((resolve) => setTimeout(resolve, 5 + 20 * Math.random()));
    }
  }
}

/** Chunks, whose keys have four words, stand apart: KV removes them when they have expired. */
function placeOf(key: string): string[] {
  const words = key.split(":");
  return [words.length > 3 ? "levin-chunks" : "levin", ...words];
}
