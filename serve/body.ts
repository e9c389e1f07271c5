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
