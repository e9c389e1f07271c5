/**
 * Drivers that only some stores need. Deno fetches every package that a program names, before it runs; so no literal names
 * these. `package/build.ts` puts `packages.npm.ts` in this module's place.
 *
 * @module
 */
import type postgresDriver from "postgres";
import type * as redisDriver from "@redis/client";

/** Versions are those of `imports.json`; `tests/stores_test.ts` compares. */
const REDIS = "client@6.3.1", POSTGRES = "postgres@3.4.9";

// What stands before a name tells publishing that no import map of ours is needed.

/** The driver of Redis. */
export async function redisClient(): Promise<typeof redisDriver> {
  return await import(`npm:@redis/${REDIS}`);
}

/** The driver of PostgreSQL. */
export async function postgres(): Promise<typeof postgresDriver> {
  return (await import(`npm:/${POSTGRES}`)).default;
}
