/**
 * Post-processors: the special tokens that a tokenizer adds to a prompt. The package adds them as text, which need not
 * be that of the ids that the file names.
 *
 * @module
 */
import { flatten, type Part, refuse } from "./json.ts";

/** Token ids of a text to those of a prompt. */
export type PostProcessor = (ids: readonly number[]) => number[];

/** The post-processor of a file. */
export function createPostProcessor(part: Part | null): PostProcessor {
  const steps = flatten(part, "processors").map(createStep);
  return (ids) => steps.reduce((result, step) => step(result), [...ids]);
}

function createStep(part: Part): PostProcessor {
  switch (part.type) {
    case "ByteLevel":
      return (ids) => [...ids];
    case "BertProcessing":
    case "RobertaProcessing": {
      const [before, after] = [part.cls, part.sep].map((token) =>
        (token as [string, number] | undefined)?.[1]
      );
      if (!Number.isInteger(before) || !Number.isInteger(after)) {
        refuse(`${part.type} with cls and sep`, part.cls);
      }
      return (ids) => [before!, ...ids, after!];
    }
    case "TemplateProcessing":
      return template(part);
    default:
      return refuse("without this post_processor", part.type);
  }
}

type TemplateItem = { SpecialToken?: { id?: string }; Sequence?: { id?: string } };

function template({ single, special_tokens }: Part): PostProcessor {
  if (!Array.isArray(single)) refuse("TemplateProcessing with a template", single);
  const special = special_tokens as Record<string, { ids?: number[] }> | undefined;
  const items = single.map((item: TemplateItem): number[] | undefined => {
    if (item?.Sequence !== undefined) return undefined;
    const name = item?.SpecialToken?.id ?? "";
    const ids = special !== undefined && Object.hasOwn(special, name) ? special[name].ids : undefined;
    return Array.isArray(ids) ? ids : refuse("TemplateProcessing with ids of its special tokens", name);
  });
  return (ids) => items.flatMap((item) => item ?? ids);
}
