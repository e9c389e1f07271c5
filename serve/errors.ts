/**
 * Errors as clients see them: OpenAI's shape and a status, and no internals.
 *
 * @module
 */

/** An error that a client may see. */
export class ApiError extends Error {
  /** HTTP status. */
  readonly status: number;
  /** OpenAI's kind of error, such as `"invalid_request_error"`. */
  readonly type: string;
  /** The field that it is about. */
  readonly param: string | null;
  /** For programs, such as `"session_busy"`. */
  readonly code: string | null;
  /** Seconds after which to try again. */
  readonly retryAfter: number | undefined;

  /** An error with its status and what OpenAI's shape holds. */
  constructor(
    status: number,
    message: string,
    { type, param = null, code = null, retryAfter }: {
      type?: string;
      param?: string | null;
      code?: string | null;
      retryAfter?: number;
    } = {},
  ) {
    super(message);
    this.name = "ApiError";
    this.status = status;
    this.type = type ??
      (status === 429 ? "rate_limit_error" : status < 500 ? "invalid_request_error" : "server_error");
    this.param = param;
    this.code = code;
    this.retryAfter = retryAfter;
  }

  /** The body of the response, or of an event in a stream. */
  toJSON(): { error: { message: string; type: string; param: string | null; code: string | null } } {
    return { error: { message: this.message, type: this.type, param: this.param, code: this.code } };
  }
}

/** A request that is wrong in a field. */
export function invalid(param: string | null, message: string, code: string | null = null): ApiError {
  return new ApiError(400, message, { param, code });
}

/** By raise_exception() the author of a template tells what messages a model takes. */
export function templateRefusal(reason: string): ApiError {
  return invalid("messages", `messages: the chat template refuses them: ${reason}`, "template_error");
}

/** What a client may know of an error: any that is not meant for it becomes "internal error". */
export function publicError(error: unknown): ApiError {
  return error instanceof ApiError
    ? error
    : new ApiError(500, "The server had an error", { code: "internal_error" });
}

/** The response to an error; the log of the host gets the error itself. */
export function respondError(error: unknown): Response {
  const visible = publicError(error);
  const { status, retryAfter } = visible;
  report(error);
  return Response.json(visible, {
    status,
    headers: {
      ...(retryAfter === undefined ? {} : { "retry-after": String(retryAfter) }),
      ...(status === 401 ? { "www-authenticate": "Bearer" } : {}),
    },
  });
}

/** The host's log gets what clients must not see: errors that nobody expected. */
export function report(error: unknown): void {
  if (!(error instanceof ApiError)) console.error(error);
}
