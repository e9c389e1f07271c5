/**
 * Sessions in Redis. A value is a hash of bytes and version; a script compares and sets, so that nothing comes between.
 * Redis must not evict: `maxmemory-policy noeviction`.
 *
 * @module
 */
import { Buffer } from "node:buffer";
import { PATIENCE, type SessionStore } from "./mod.ts";
import { ioredis } from "./drivers.ts";

const WRITE = `
if (redis.call("HGET", KEYS[1], "version") or "") ~= ARGV[1] then return 0 end
if ARGV[2] == "" then redis.call("DEL", KEYS[1]) return 1 end
redis.call("HSET", KEYS[1], "version", ARGV[2], "value", ARGV[3])
redis.call("EXPIRE", KEYS[1], ARGV[4])
return 1`;

/** Keys of others may stand in the same database. */
const OURS = "levin:";

/**
 * Opens a connection, which is made again when it breaks.
 *
 * @param url such as `redis://user:password@localhost:6379/0`; `rediss:` is over TLS
 * @throws {Error} when Redis cannot be reached
 */
export async function openRedisStore(url: string): Promise<SessionStore> {
  const { Redis } = await ioredis();
  const redis = new Redis(url, {
    connectTimeout: PATIENCE,
    commandTimeout: PATIENCE,
    socketTimeout: PATIENCE,
    maxRetriesPerRequest: 0,
    autoResendUnfulfilledCommands: false, // the session finds out what came of a write, and never writes twice
    retryStrategy: (attempt) => Math.min(50 * attempt, 1000),
  });
  let last: Error | undefined;
  redis.on("error", (error: Error) => void (last = error)); // commands are rejected, too
  try {
    await redis.ping();
  } catch (error) {
    redis.disconnect();
    throw last ?? error;
  }
  return {
    valueBytes: 2 ** 26,
    async read(key) {
      const [version, value] = await redis.hmgetBuffer(OURS + key, "version", "value");
      return version && value ? { value, version: version.toString() } : undefined;
    },
    async write(key, value, expectedVersion, { ttl }) {
      const version = value === undefined ? "" : crypto.randomUUID();
      return await redis.eval(WRITE, 1, OURS + key, expectedVersion ?? "", version, view(value), ttl) === 1;
    },
    remove: async (key) => void await redis.unlink(OURS + key),
    async list(prefix) {
      const keys = new Set<string>(); // a scan may give one twice
      let cursor = "0";
      do {
        const [next, some] = await redis.scan(cursor, "MATCH", `${OURS}${prefix}:*`, "COUNT", 1000);
        for (const key of some) keys.add(key.slice(OURS.length));
        cursor = next;
      } while (cursor !== "0");
      return [...keys];
    },
    close: () => Promise.resolve(redis.disconnect()),
  };
}

function view({ buffer, byteOffset, length }: Uint8Array = new Uint8Array()): Buffer {
  return Buffer.from(buffer as ArrayBuffer, byteOffset, length);
}
