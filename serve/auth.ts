/**
 * Keys: who may use the server, and whose sessions a request may use.
 *
 * Not hono's `bearerAuth`: it takes only keys of the characters of RFC 6750, and answers 400 where a key is malformed;
 * here a key may hold any characters, and whoever has none of them gets 401.
 *
 * @module
 */
import type { MiddlewareHandler } from "hono";
import { typeError } from "../core/errors.ts";
import { ApiError } from "./errors.ts";
import type { Env } from "./service.ts";
import { digest } from "./sessions.ts";

/** Whose requests those of a server without keys are. */
const EVERYBODY = "everybody";

/**
 * Lets requests with a key pass, and tells the routes whose they are.
 *
 * @param apiKeys omitted: everybody may pass, and all share one owner
 * @throws {TypeError} when there is no key, or one is not a string or empty
 */
export function authentication(apiKeys: readonly string[] | undefined): MiddlewareHandler<Env> {
  const owners = apiKeys === undefined ? undefined : Promise.all(checkKeys(apiKeys).map(digest));
  return async (c, next) => {
    const owner = owners === undefined ? EVERYBODY : ownerOf(c.req.header("authorization"), await owners);
    c.set("owner", await owner);
    await next();
  };
}

function checkKeys(apiKeys: readonly string[]): readonly string[] {
  if (!Array.isArray(apiKeys) || apiKeys.length === 0) {
    typeError("createHandler", "apiKeys must be omitted, or hold at least one key", apiKeys);
  }
  for (const key of apiKeys) {
    if (typeof key !== "string" || key === "" || key !== key.trim()) {
      // Not shown: a key never appears in a message.
      typeError(
        "createHandler",
        "apiKeys must be strings, not empty and without spaces around them",
        typeof key,
      );
    }
  }
  return apiKeys;
}

/**
 * The owner that a request's key stands for: the digest of the key. Digests are compared with all owners and to their
 * last character, so that the time it takes says nothing about the keys.
 */
async function ownerOf(header: string | undefined, owners: readonly string[]): Promise<string> {
  const given = await digest(/^Bearer +(.+)$/i.exec(header ?? "")?.[1] ?? "");
  let found: string | undefined;
  for (const owner of owners) {
    let difference = 0;
    for (let i = 0; i < owner.length; i++) difference |= owner.charCodeAt(i) ^ given.charCodeAt(i);
    if (difference === 0) found = owner;
  }
  if (found === undefined) {
    throw new ApiError(401, "The key is missing or wrong", {
      type: "authentication_error",
      code: "invalid_api_key",
    });
  }
  return found;
}
