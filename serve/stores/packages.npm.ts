/**
 * {@linkcode redisClient} and {@linkcode postgres} in the package for npm, where they are optional: who uses such a store
 * installs its driver. Bundlers do not look for them. See `packages.ts`.
 *
 * @module
 */
import type postgresDriver from "postgres";
import type * as redisDriver from "@redis/client";

const installed = (name: string) => import(/* webpackIgnore: true */ /* @vite-ignore */ name);

/** The driver of Redis. */
export async function redisClient(): Promise<typeof redisDriver> {
  return await installed("@redis/client");
}

/** The driver of PostgreSQL. */
export async function postgres(): Promise<typeof postgresDriver> {
  return (await installed("postgres")).default;
}
