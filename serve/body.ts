/**
 * Bodies of requests: read in pieces, counted while they come, parsed and checked.
 *
 * @module
 */
import type { Context } from "hono";
import type { z } from "zod";
import { ApiError, invalid } from "./errors.ts";
import { inTurn } from "./gate.ts";
import type { Limits } from "./limits.ts";
import { checkBody } from "./schema.ts";
import type { Env } from "./service.ts";

/** The length of bodies that take no time. */
const SMALL = 2 ** 15;

const notJson = () => invalid(null, "The body must be JSON in UTF-8", "invalid_json");

/** Memory for the bodies of all requests that have not begun yet. */
export class BodyRoom {
  readonly #limits: Limits;
  #bytes = 0;
  readonly #bytesOf = new Map<string, number>();

  /** Room for `limits.bodiesBytes`. */
  constructor(limits: Limits) {
    this.#limits = limits;
  }

  /** Room for one body, until it is disposed. */
  open(owner: string): Disposable & { add(bytes: number): void } {
    let taken = 0;
    const count = (bytes: number) => {
      taken += bytes;
      this.#bytes += bytes;
      const own = (this.#bytesOf.get(owner) ?? 0) + bytes;
      if (own === 0) this.#bytesOf.delete(owner);
      else this.#bytesOf.set(owner, own);
      return own;
    };
    return {
      add: (bytes) => {
        const own = count(bytes), { bodiesBytes, keyShare } = this.#limits;
        if (this.#bytes <= bodiesBytes && own <= bodiesBytes * keyShare / 100) return;
        throw new ApiError(429, "The server reads too many bodies: try again later", {
          code: "too_many_bodies",
          retryAfter: 1,
        });
      },
      [Symbol.dispose]: () => void count(-taken),
    };
  }
}

/**
 * The body of a request as its schema describes it. Its room is kept until the request has ended, or `c.get("body")` is
 * disposed.
 *
 * @throws {ApiError} if it is anything else
 */
export async function readJson<T>(
  c: Context<Env>,
  schema: z.ZodType<T>,
  { limits, bodies }: { limits: Limits; bodies: BodyRoom },
): Promise<T> {
  // Other clients may forget the type, as curl's -d does. A page could send a form to another origin unasked.
  const isFromPage = c.req.header("origin") !== undefined;
  if (isFromPage && !/^application\/json\s*(;|$)/i.test(c.req.header("content-type") ?? "")) {
    throw new ApiError(415, "The body must have the content type application/json", {
      code: "unsupported_media_type",
    });
  }
  const room = bodies.open(c.get("owner"));
  c.set("body", room);
  const text = await readBody(c.req.raw, limits, room);
  // Each of the steps takes some milliseconds for the largest bodies.
  const step = text.length > SMALL ? inTurn : <R>(work: () => R) => work();
  let body: unknown;
  try {
    body = await step(() => JSON.parse(text));
  } catch {
    throw notJson();
  }
  return await step(() => checkBody(schema, body));
}

/** The text of a body. Memory follows what came, never a length that was announced. */
async function readBody(
  { body, headers }: Request,
  limits: Limits,
  room: { add(bytes: number): void },
): Promise<string> {
  const { bodyBytes } = limits;
  const tooLarge = () =>
    new ApiError(413, `The body must be at most ${bodyBytes} bytes`, { code: "body_too_large" });
  if (Number(headers.get("content-length") ?? 0) > bodyBytes) throw tooLarge();
  const reader = body?.getReader();
  const text = new BodyText();
  const count = new JsonCount(limits);
  let length = 0;
  let tooLate!: (reason: unknown) => void; // Node 20 has no Promise.withResolvers
  const late = new Promise<never>((_, reject) => tooLate = reject);
  const timer = setTimeout(() => {
    tooLate(
      new ApiError(408, `The body took more than ${limits.bodySeconds} s`, { code: "body_timeout" }),
    );
  }, 1000 * limits.bodySeconds);
  try {
    for (;;) {
      const next = await Promise.race([reader?.read(), late]);
      if (next === undefined || next.done) break;
      length += next.value.length;
      if (length > bodyBytes) throw tooLarge();
      room.add(next.value.length);
      count.push(next.value);
      text.push(next.value);
    }
    return text.end();
  } catch (error) {
    reader?.cancel().catch(() => {}); // of a client that is gone
    throw error instanceof ApiError ? error : invalid(null, "The body could not be read", "invalid_body");
  } finally {
    clearTimeout(timer);
  }
}

/** Makes a text of bytes as they come, so that none are kept, however small the pieces: some bytes each are gathered. */
class BodyText {
  readonly #decoder = new TextDecoder("utf-8", { fatal: true });
  readonly #gathered = new Uint8Array(2 ** 12);
  #filled = 0;
  #text = "";

  push(bytes: Uint8Array): void {
    if (this.#filled + bytes.length > this.#gathered.length) this.#flush();
    if (bytes.length > this.#gathered.length) return this.#decode(bytes, true);
    this.#gathered.set(bytes, this.#filled);
    this.#filled += bytes.length;
  }

  end(): string {
    this.#flush();
    this.#decode(undefined, false);
    return this.#text;
  }

  #flush(): void {
    this.#decode(this.#gathered.subarray(0, this.#filled), true);
    this.#filled = 0;
  }

  #decode(bytes: Uint8Array | undefined, stream: boolean): void {
    try {
      this.#text += this.#decoder.decode(bytes, { stream });
    } catch {
      throw notJson();
    }
  }
}

const QUOTE = 0x22, BACKSLASH = 0x5c, COMMA = 0x2c, BRACKET = 0x5b, BRACE = 0x7b;

/** Counts what a JSON text holds, piece by piece, before anybody makes objects of it. */
class JsonCount {
  readonly #limits: Limits;
  #isText = false;
  #isEscaped = false;
  /** Texts, names, arrays and objects. */
  #values = 0;
  /** Commas: there are few more elements than these. */
  #commas = 0;

  constructor(limits: Limits) {
    this.#limits = limits;
  }

  push(bytes: Uint8Array): void {
    let isText = this.#isText, isEscaped = this.#isEscaped, values = 0, commas = 0;
    for (let i = 0; i < bytes.length; i++) {
      const byte = bytes[i];
      if (isText) {
        if (isEscaped) isEscaped = false;
        else if (byte === BACKSLASH) isEscaped = true;
        else if (byte === QUOTE) isText = false;
      } else if (byte === QUOTE) {
        isText = true;
        values++;
      } else if (byte === BRACKET || byte === BRACE) values++;
      else if (byte === COMMA) commas++;
    }
    this.#isText = isText;
    this.#isEscaped = isEscaped;
    this.#values += values;
    this.#commas += commas;
    const { bodyValues, requestTokens } = this.#limits;
    if (this.#values > bodyValues) {
      throw tooMany(`The body must hold at most ${bodyValues} texts, names, arrays and objects`);
    }
    if (this.#commas > requestTokens + bodyValues) {
      throw tooMany(`The body must hold at most ${requestTokens} numbers`);
    }
  }
}

function tooMany(message: string): ApiError {
  return invalid(null, message, "too_many_values");
}
