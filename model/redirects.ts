/**
 * Requests for files of a model, and where they may be redirected to.
 *
 * @module
 */
import { rangeError } from "../core/errors.ts";

const OPERATION = "TransNormerLLM.load";

/** Hosts that store large files under other names of theirs. */
const OWN_HOSTS: Readonly<Record<string, readonly string[]>> = {
  "huggingface.co": [".huggingface.co", ".hf.co"],
};

/** Redirects of one request. */
const REDIRECTS = 5;

/**
 * Asks for a file. Redirects are followed within its host, and to `hosts`: one from elsewhere to a name of this machine
 * would read what only this machine may. A key in the headers stays with the first host. Pages cannot look at redirects;
 * there the browser's own rules hold.
 *
 * @throws {RangeError} when the file is redirected to another host, or too often
 */
export async function follow(
  from: URL,
  get: typeof fetch,
  options: { hosts: readonly string[]; headers?: HeadersInit; signal?: AbortSignal },
): Promise<Response> {
  const { hosts, signal } = options, headers = new Headers(options.headers);
  const allowed = [...OWN_HOSTS[from.hostname] ?? [], ...hosts];
  let url = from;
  for (let left = REDIRECTS; left >= 0; left--) {
    const response = await silently(url, () => get(url, { headers, signal, redirect: "manual" }), signal);
    if (response.type === "opaqueredirect") {
      return await silently(url, () => get(url, { headers, signal }), signal);
    }
    const target = response.headers.get("location");
    if (response.status < 300 || response.status > 399 || target === null) return response;
    await response.body?.cancel();
    const next = new URL(target, url), { hostname } = next;
    const isAllowed = next.host === from.host ||
      allowed.some((host) => host.startsWith(".") ? hostname.endsWith(host) : hostname === host);
    const keepsSecrecy = next.protocol === from.protocol || next.protocol === "https:";
    if (!isAllowed || !keepsSecrecy) {
      rangeError(
        OPERATION,
        `${withoutQuery(from)} must redirect within its host, or to a host of options.redirects`,
        `${next.protocol}//${next.host}`,
      );
    }
    if (next.host !== from.host) headers.delete("authorization");
    url = next;
  }
  return rangeError(OPERATION, `${withoutQuery(from)} must redirect at most ${REDIRECTS} times`, "more");
}

/** Errors of a host name the URL with its query: it is taken out. */
async function silently(
  url: URL,
  ask: () => Promise<Response>,
  signal: AbortSignal | undefined,
): Promise<Response> {
  try {
    return await ask();
  } catch (error) {
    if (signal?.aborted || url.search === "") throw error;
    const { name, message, cause } = error as Error;
    const said = [message, (cause as Error | undefined)?.message].filter((text) => text !== undefined).join(
      ": ",
    );
    const safe = new Error(said.replaceAll(url.href, withoutQuery(url)).replaceAll(url.search, ""));
    safe.name = name;
    throw safe;
  }
}

/** A query may carry a key: it stays out of messages. */
export function withoutQuery(url: URL): string {
  return url.origin === "null" ? url.href : url.origin + url.pathname;
}
