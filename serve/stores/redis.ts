/**
 * Sessions in Redis. A value is a hash of bytes and version; a script compares and sets, so that nothing comes between.
 * Redis must not evict: `maxmemory-policy noeviction`.
 *
 * @module
 */
import { builtin } from "../../core/builtin.ts";
import { PATIENCE, type SessionStore } from "./store.ts";
import { redisClient } from "./packages.ts";

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
  const { createClient, RESP_TYPES } = await redisClient();
  const { Buffer } = builtin("node:buffer") as typeof import("node:buffer");
  const redis = createClient({
    url,
    disableOfflineQueue: true, // a request that waits is better off with an answer
    maintNotifications: "disabled", // they are of Redis Enterprise, and read the environment
    pingInterval: PATIENCE / 2, // a socket without traffic counts as dead
    socket: {
      connectTimeout: PATIENCE,
      socketTimeout: PATIENCE,
      reconnectStrategy: (attempt) => Math.min(50 * attempt, 1000),
    },
    commandOptions: { typeMapping: { [RESP_TYPES.BLOB_STRING]: Buffer } },
  });
  const refused = new Promise<never>((_, reject) => void redis.on("error", reject)); // later commands reject, too
  refused.catch(() => {});
  try {
    await Promise.race([redis.connect(), refused]);
  } catch (error) {
    redis.destroy();
    throw error;
  }
  return {
    valueBytes: 2 ** 26,
    async read(key) {
      const [version, value] = await redis.hmGet(OURS + key, ["version", "value"]);
      return version && value ? { value, version: String(version) } : undefined;
    },
    async write(key, value = NOTHING, expectedVersion = "", { ttl }) {
      const version = value === NOTHING ? "" : crypto.randomUUID();
      const bytes = Buffer.from(value.buffer as ArrayBuffer, value.byteOffset, value.length); // no copy
      const args = [expectedVersion, version, bytes, String(ttl)];
      return await redis.eval(WRITE, { keys: [OURS + key], arguments: args }) === 1;
    },
    remove: async (key) => void await redis.unlink(OURS + key),
    async list(prefix) {
      const keys = new Set<string>(); // a scan may give one twice
      for await (const some of redis.scanIterator({ MATCH: `${OURS}${prefix}:*`, COUNT: 1000 })) {
        for (const key of some) keys.add(String(key).slice(OURS.length));
      }
      return [...keys];
    },
    close: () => Promise.resolve(redis.destroy()),
  };
}

const NOTHING = new Uint8Array();
