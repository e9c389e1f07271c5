/**
 * Drivers that only some stores need. Deno fetches every package that a program names, before it runs; so no literal names
 * these. In the package for npm they are optional: whoever uses such a store installs its driver.
 *
 * @module
 */

import type postgresDriver from "postgres";
import type * as redisDriver from "@redis/client";

/** Versions are those of `imports.json`; `tests/stores_test.ts` compares. */
const REDIS = "client@6.3.1", POSTGRES = "postgres@3.4.9";

const isDeno = "Deno" in globalThis;
const bare = (versioned: string) => versioned.replace(/@.*$/, "");

// What stands before a name tells publishing that no import map of ours is needed, and bundlers need not look for it.

/** The driver of Redis. */
export async function redisClient(): Promise<typeof redisDriver> {
  if (isDeno) return await import(`npm:@redis/${REDIS}`);
  return await import(/* webpackIgnore: true */ /* @vite-ignore */ `@redis/${bare(REDIS)}`);
}

/** The driver of PostgreSQL. */
export async function postgres(): Promise<typeof postgresDriver> {
  if (isDeno) return (await import(`npm:${POSTGRES}`)).default;
  return (await import(/* webpackIgnore: true */ /* @vite-ignore */ bare(POSTGRES))).default;
}
