/**
 * Spans of OpenTelemetry: one per answer, with its token counts and without any text.
 *
 * @module
 */
import { SpanStatusCode, trace } from "@opentelemetry/api";
import type { Outcome } from "./completion.ts";
import { publicError } from "./errors.ts";

const tracer = trace.getTracer("@levin/attention/serve");

/** The span of one answer. */
export interface AnswerSpan {
  /** Marks the first token; later calls do nothing. */
  token(): void;
  /** Ends the span with what was read and written. */
  end(outcome: Outcome): void;
  /** Ends the span with what a client may know of the error. */
  fail(error: unknown): void;
}

/** Starts a span. @param path of the request @param model what clients call the model */
export function startSpan(path: string, model: string): AnswerSpan {
  const span = tracer.startSpan(path, {
    attributes: { "gen_ai.operation.name": "text_completion", "gen_ai.request.model": model },
  });
  let isFirst = true;
  return {
    token() {
      if (isFirst) span.addEvent("first token");
      isFirst = false;
    },
    end({ promptTokens, completionTokens }) {
      span.setAttributes({
        "gen_ai.usage.input_tokens": promptTokens,
        "gen_ai.usage.output_tokens": completionTokens,
      });
      span.end();
    },
    fail(error) {
      span.setStatus({ code: SpanStatusCode.ERROR, message: publicError(error).message });
      span.end();
    },
  };
}
