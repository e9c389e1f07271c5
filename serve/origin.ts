/**
 * Web pages as clients: whose pages may use a server.
 *
 * A browser sends what any page asks for, also to servers on its own machine. Keys keep such requests out; a server
 * without keys has to look at where they come from.
 *
 * @module
 */
import type { MiddlewareHandler } from "hono";
import { cors } from "hono/cors";
import { typeError } from "../core/errors.ts";
import { ApiError } from "./errors.ts";

/**
 * Lets pages of other origins in. Their preflight may ask for any header, since clients send their own, such as
 * `x-stainless-*` of the `openai` package; what a request may do depends on its key alone.
 */
export function crossOrigin(origins: readonly string[]): MiddlewareHandler {
  return cors({ origin: origins.includes("*") ? "*" : [...origins], exposeHeaders: ["Retry-After"] });
}

/**
 * Refuses requests of pages of other origins, and requests to other hosts: a page whose name resolves to this machine
 * has this server's origin for its browser, but it cannot change the host that it asks for.
 *
 * @param origins whose pages are let in all the same
 * @param hosts names that the server has, besides addresses and `localhost`; undefined: any
 * @throws {TypeError} when a host is not a name without port
 */
export function sameOrigin(
  origins: readonly string[],
  hosts: readonly string[] | undefined,
): MiddlewareHandler {
  for (const host of hosts ?? []) {
    if (typeof host !== "string" || !/^[^\s:/]+$|^\[[\da-f:.]+\]$/i.test(host)) {
      typeError("createHandler", "hosts must be names without port", host);
    }
  }
  const names = hosts?.map((host) => host.toLowerCase());
  return async (c, next) => {
    const { hostname, host } = new URL(c.req.url);
    if (names !== undefined && !names.includes(hostname) && !isLocal(hostname)) {
      throw new ApiError(403, "The server does not have this name: hosts (--host) must list it", {
        type: "permission_error",
        code: "host_not_allowed",
      });
    }
    const origin = c.req.header("origin");
    const isOwn = origin === undefined || c.req.header("sec-fetch-site") === "same-origin" ||
      hostOf(origin) === host;
    if (!isOwn && !origins.includes(origin) && !origins.includes("*")) {
      throw new ApiError(403, "Pages of this origin may not use the server: cors (--cors) must list it", {
        type: "permission_error",
        code: "origin_not_allowed",
      });
    }
    await next();
  };
}

/** Whether nobody else can give the name to this machine: addresses and `localhost`. */
function isLocal(hostname: string): boolean {
  return hostname === "localhost" || hostname.endsWith(".localhost") || hostname.startsWith("[") ||
    /^\d+\.\d+\.\d+\.\d+$/.test(hostname);
}

function hostOf(origin: string): string | undefined {
  return URL.canParse(origin) ? new URL(origin).host : undefined;
}
