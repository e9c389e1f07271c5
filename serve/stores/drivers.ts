/**
 * Drivers that only some stores need. Deno fetches every package that a program names, before it runs; so no literal names
 * these. In the package for npm they are optional: whoever uses such a store installs its driver.
 *
 * @module
 */

/** Versions are those of `imports.json`; `tests/stores_test.ts` compares. */
const IOREDIS = "ioredis@6.0.0", POSTGRES = "postgres@3.4.9";

// What stands before a name tells publishing that no import map of ours is needed.
const load = (driver: string) =>
  "Deno" in globalThis
    ? import(`npm:${driver}`)
    : import(/* webpackIgnore: true */ /* @vite-ignore */ driver.replace(/@.*$/, ""));

/** The driver of Redis. */
export async function ioredis(): Promise<typeof import("ioredis")> {
  return await load(IOREDIS);
}

/** The driver of PostgreSQL. */
export async function postgres(): Promise<typeof import("postgres")> {
  return (await load(POSTGRES)).default;
}
