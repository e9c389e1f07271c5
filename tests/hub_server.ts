/**
 * A hub on loopback that speaks the protocol of the Hugging Face hub as its documentation and client state it: revisions,
 * listings, `resolve` with a redirect of large files to another host, hashes, ranges, refusals. Tests say what goes wrong.
 *
 * @module
 */
import { createHash } from "node:crypto";
import type { Files } from "./reference_model.ts";

/** A model on the hub. */
export interface HubModel {
  /** Commits, 40 hexadecimal digits, by branch or tag. */
  refs: Record<string, string>;
  /** Files by commit. */
  commits: Record<string, Files>;
  /** Who may read it; default: all. */
  access?: "private" | "gated";
}

/** A request that came. */
export interface HubRequest {
  /** Which of the two hosts. */
  readonly host: "hub" | "cdn";
  readonly method: string;
  readonly path: string;
  readonly range: string | null;
  readonly authorization: string | null;
  /** The file that is asked for, if any. */
  readonly file: string | undefined;
}

/** The token that the hub accepts. */
export const TOKEN = "hf_test";

/** Files of more bytes are stored in LFS: their bytes come from the other host. */
const LFS = 2000;

/** A hub, and the host that large files come from. */
export class Hub {
  readonly models: Record<string, HubModel>;
  readonly requests: HubRequest[] = [];
  /** Answers in place of the hosts. `right()` is what they would say. */
  interfere: ((request: HubRequest, right: () => Response) => Response | undefined) | undefined;
  readonly #servers: readonly Deno.HttpServer<Deno.NetAddr>[];

  constructor(models: Record<string, HubModel>) {
    this.models = models;
    this.#servers = (["hub", "cdn"] as const).map((host) =>
      Deno.serve({
        hostname: "127.0.0.1",
        port: 0,
        onListen() {},
        onError: () => new Response(null, { status: 500 }),
      }, (request) => this.#answer(host, request))
    );
  }

  /** What `HF_ENDPOINT` says. */
  get endpoint(): string {
    return `http://127.0.0.1:${this.#servers[0].addr.port}`;
  }

  /** Files whose bytes were asked for, in order. */
  get downloads(): string[] {
    return this.requests.filter(({ host, file, path }) =>
      file !== undefined && (host === "cdn" || !this.#isLarge(path))
    )
      .map(({ file }) => file!);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await Promise.all(this.#servers.map((server) => server.shutdown()));
  }

  #answer(host: "hub" | "cdn", { method, url, headers }: Request): Response {
    const { pathname } = new URL(url), path = decodeURIComponent(pathname);
    const file = /^\/(?:[^/]+\/){1,2}resolve\/[^/]+\/(.+)$/.exec(path)?.[1] ??
      /^\/cdn\/.*\/(.+)$/.exec(path)?.[1];
    const request: HubRequest = {
      host,
      method,
      path,
      range: headers.get("range"),
      authorization: headers.get("authorization"),
      file,
    };
    this.requests.push(request);
    const right = () => host === "cdn" ? this.#stored(request) : this.#hub(request);
    const answer = this.interfere?.(request, right) ?? right();
    answer.headers.set("access-control-allow-origin", "*"); // pages ask as well
    answer.headers.set("access-control-expose-headers", "*");
    return answer;
  }

  #hub(request: HubRequest): Response {
    const { path } = request;
    const info = /^\/api\/models\/(.+)\/revision\/(.+)$/.exec(path);
    if (info !== null) {
      return this.#with(info[1], info[2], request, ({ access = false }, sha) =>
        Response.json({
          _id: "0123456789abcdef01234567",
          id: info[1],
          private: access === "private",
          gated: access === "gated" ? "manual" : false,
          downloads: 0,
          likes: 0,
          lastModified: "2024-01-01T00:00:00.000Z",
          sha,
        }));
    }
    const tree = /^\/api\/models\/(.+)\/tree\/([^/]+)$/.exec(path);
    if (tree !== null) {
      return this.#with(
        tree[1],
        tree[2],
        request,
        ({ commits }, sha) =>
          Response.json(
            Object.entries(commits[sha]).map(([name, bytes]) => ({
              type: "file",
              path: name,
              size: bytes.length,
              oid: gitHash(isLarge(bytes) ? new TextEncoder().encode(pointer(bytes)) : bytes),
              ...isLarge(bytes)
                ? { lfs: { oid: sha256(bytes), size: bytes.length, pointerSize: pointer(bytes).length } }
                : {},
            })),
          ),
      );
    }
    const resolve = /^\/(.+)\/resolve\/([^/]+)\/(.+)$/.exec(path);
    if (resolve === null) return refusal(404, "RepoNotFound");
    const [, repo, revision, name] = resolve;
    return this.#with(repo, revision, request, ({ access, commits }, sha) => {
      if (access === "gated" && request.authorization !== `Bearer ${TOKEN}`) {
        return refusal(request.authorization === null ? 401 : 403, "GatedRepo");
      }
      const bytes = commits[sha][name];
      if (bytes === undefined) return refusal(404, "EntryNotFound");
      const headers = { "x-repo-commit": sha };
      if (!isLarge(bytes)) return content(bytes, request.range, { ...headers, etag: `"${gitHash(bytes)}"` });
      const { port } = this.#servers[1].addr;
      return new Response(null, {
        status: 302,
        headers: {
          ...headers,
          location: `http://localhost:${port}/cdn/${repo}/${sha}/${name}`,
          "x-linked-size": String(bytes.length),
          "x-linked-etag": `"${sha256(bytes)}"`,
        },
      });
    });
  }

  /** The other host: it knows nothing of tokens, and its tags are its own. */
  #stored({ path, range }: HubRequest): Response {
    const [, repo, sha, name] = /^\/cdn\/(.+)\/([^/]+)\/([^/]+)$/.exec(path)!;
    return content(this.models[repo].commits[sha][name], range, { etag: '"of-the-cdn"' });
  }

  #isLarge(path: string): boolean {
    const [, repo, sha, name] = /^\/(.+)\/resolve\/([^/]+)\/(.+)$/.exec(path) ?? [];
    const bytes = this.models[repo]?.commits[sha]?.[name];
    return bytes !== undefined && isLarge(bytes);
  }

  #with(
    repo: string,
    revision: string,
    { authorization }: HubRequest,
    answer: (model: HubModel, sha: string) => Response,
  ): Response {
    const model = Object.hasOwn(this.models, repo) ? this.models[repo] : undefined;
    const isKnown = authorization === `Bearer ${TOKEN}`;
    if (authorization !== null && !isKnown && model?.access !== "gated") return refusal(401);
    // The hub does not tell strangers whether a model exists.
    if (model === undefined || (model.access === "private" && !isKnown)) {
      return refusal(isKnown ? 404 : 401, isKnown ? "RepoNotFound" : undefined);
    }
    const sha = Object.hasOwn(model.commits, revision) ? revision : model.refs[revision];
    return sha === undefined ? refusal(404, "RevisionNotFound") : answer(model, sha);
  }
}

/** An answer of which only some bytes come before the connection breaks. */
export function cut(response: Response, after: number): Response {
  let left = after;
  const { readable, writable } = new TransformStream<Uint8Array, Uint8Array>({
    transform(chunk, controller) {
      if (left > 0) controller.enqueue(chunk.subarray(0, left));
      left -= chunk.length;
      if (left <= 0) controller.error(new Error("cut"));
    },
  });
  response.body!.pipeTo(writable).catch(() => {});
  return new Response(readable, response);
}

/** git's hash of a file. */
export function gitHash(bytes: Uint8Array): string {
  return createHash("sha1").update(`blob ${bytes.length}\0`).update(bytes).digest("hex");
}

/** What LFS names a file by. */
export function sha256(bytes: Uint8Array): string {
  return createHash("sha256").update(bytes).digest("hex");
}

/** Whether a file is in LFS. */
export function isLarge(bytes: Uint8Array): boolean {
  return bytes.length > LFS;
}

/** What git holds in place of a file that is in LFS. */
function pointer(bytes: Uint8Array): string {
  return `version https://git-lfs.github.com/spec/v1\noid sha256:${sha256(bytes)}\nsize ${bytes.length}\n`;
}

function refusal(status: number, code?: string): Response {
  return Response.json({ error: "refused" }, {
    status,
    headers: code === undefined ? {} : { "x-error-code": code },
  });
}

function content(
  bytes: Uint8Array<ArrayBuffer>,
  range: string | null,
  headers: Record<string, string>,
): Response {
  const [, from, to = ""] = /^bytes=(\d+)-(\d*)$/.exec(range ?? "") ?? [];
  if (from === undefined) {
    return new Response(bytes, { headers: { ...headers, "content-length": String(bytes.length) } });
  }
  const begin = Number(from), end = Math.min(to === "" ? bytes.length : Number(to) + 1, bytes.length);
  if (begin >= end) return new Response(null, { status: 416 });
  return new Response(bytes.slice(begin, end), {
    status: 206,
    headers: {
      ...headers,
      "content-length": String(end - begin),
      "content-range": `bytes ${begin}-${end - 1}/${bytes.length}`,
    },
  });
}
