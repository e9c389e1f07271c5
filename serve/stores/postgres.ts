/**
 * Sessions in PostgreSQL, in the table `levin_sessions`, which is made if it is absent. Each write is one statement, and
 * so a transaction; a row has a version, which a sequence gives.
 *
 * @module
 */
import type { Sql } from "postgres";
import { PATIENCE, type SessionStore } from "./store.ts";
import { postgres } from "./packages.ts";

/** Number of connections of one server. */
const CONNECTIONS = 8;
/** What another server, which starts together with this one, may have made meanwhile. */
const MADE_BY_OTHERS = new Set(["23505", "42P07", "42710"]);

/**
 * Opens connections, which are made again when they break.
 *
 * @param url such as `postgres://user:password@localhost:5432/database`; the user may make a table, or has it
 * @throws {Error} when PostgreSQL cannot be reached, or refuses
 */
export async function openPostgresStore(url: string): Promise<SessionStore> {
  const connect = await postgres();
  const open = () =>
    connect(url, {
      max: CONNECTIONS,
      connect_timeout: PATIENCE / 1000,
      backoff: false, // a request that waits is better off with an answer
      onnotice: () => {},
    });
  let current = open();
  /** Asks, and gives connections up that do not answer: those of a network that fell silent never would. */
  const ask = async <T>(query: (sql: Sql) => Promise<T>): Promise<T> => {
    const sql = current;
    const giveUp = () => {
      if (current === sql) current = open();
      sql.end({ timeout: 0 }).catch(() => {});
    };
    const timer = setTimeout(giveUp, PATIENCE);
    try {
      return await query(sql);
    } finally {
      clearTimeout(timer);
    }
  };
  const until = (ttl: number) => new Date(Date.now() + 1000 * ttl);
  try {
    await ask((sql) =>
      sql`CREATE TABLE IF NOT EXISTS levin_sessions (
        key text COLLATE "C" PRIMARY KEY, version bigserial, value bytea NOT NULL, expires timestamptz NOT NULL)`
        .then(() => {}, (error: { code?: string }) => {
          if (!MADE_BY_OTHERS.has(error.code ?? "")) throw error;
        })
    );
  } catch (error) {
    await current.end({ timeout: 0 });
    throw error;
  }
  return {
    valueBytes: 2 ** 24,
    async read(key) {
      const [row] = await ask((sql) => sql`SELECT version, value FROM levin_sessions WHERE key = ${key}`);
      return row && { value: row.value, version: String(row.version) };
    },
    async write(key, value, expectedVersion, { ttl }) {
      const { count } = await ask((sql) => {
        if (value === undefined) {
          return expectedVersion === undefined
            // Nothing is to be removed, and there must be nothing.
            ? sql`SELECT WHERE NOT EXISTS (SELECT FROM levin_sessions WHERE key = ${key})`
            : sql`DELETE FROM levin_sessions WHERE key = ${key} AND version = ${expectedVersion}`;
        }
        return expectedVersion === undefined
          ? sql`INSERT INTO levin_sessions (key, value, expires) VALUES (${key}, ${value}, ${until(ttl)})
              ON CONFLICT DO NOTHING`
          : sql`UPDATE levin_sessions SET value = ${value}, expires = ${until(ttl)}, version = DEFAULT
              WHERE key = ${key} AND version = ${expectedVersion}`;
      });
      return count === 1;
    },
    remove: (key) => ask(async (sql) => void await sql`DELETE FROM levin_sessions WHERE key = ${key}`),
    async list(prefix) {
      const rows = await ask((sql) =>
        sql`SELECT key FROM levin_sessions WHERE starts_with(key, ${prefix + ":"})`
      );
      return rows.map(({ key }) => key);
    },
    close: () => current.end({ timeout: 1 }),
  };
}
