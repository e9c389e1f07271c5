/**
 * Bodies of requests: bounded, read, parsed and checked.
 *
 * @module
 */
import type { Context, MiddlewareHandler } from "hono";
import { bodyLimit } from "hono/body-limit";
import type { z } from "zod";
import { ApiError, invalid } from "./errors.ts";
import type { Limits } from "./limits.ts";
import { parseBody } from "./schema.ts";

/** Refuses bodies that are larger than the limit. */
export function boundedBody({ bodyBytes }: Limits): MiddlewareHandler {
  return bodyLimit({
    maxSize: bodyBytes,
    onError: () => {
      throw new ApiError(413, `The body must be at most ${bodyBytes} bytes`, { code: "body_too_large" });
    },
  });
}

/** The body of a request as its schema describes it. Throws an `ApiError` if it is anything else. */
export async function readJson<T>(c: Context, schema: z.ZodType<T>): Promise<T> {
  // Other clients may forget the type, as curl's -d does. A page could send a form to another origin unasked.
  const isFromPage = c.req.header("origin") !== undefined;
  if (isFromPage && !/^application\/json\s*(;|$)/i.test(c.req.header("content-type") ?? "")) {
    throw new ApiError(415, "The body must have the content type application/json", {
      code: "unsupported_media_type",
    });
  }
  return parseBody(schema, await readBody(c));
}

async function readBody(c: Context): Promise<Uint8Array> {
  try {
    return new Uint8Array(await c.req.arrayBuffer());
  } catch (error) {
    if (error instanceof ApiError) throw error;
    throw invalid(null, "The body could not be read", "invalid_body");
  }
}
