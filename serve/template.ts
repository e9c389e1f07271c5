/**
 * Chat templates, which come with a model and may be anybody's: they are rendered under a budget of steps and size.
 *
 * @module
 */
import { Interpreter, Template } from "@huggingface/jinja";

/** What rendering may cost. A chat of a thousand messages takes some ten thousand steps. */
const STEPS = 1_000_000, ELEMENTS = 65_536, CHARACTERS = 2 ** 22, SOURCE = 2 ** 20;

/** What is looked at of the package's syntax tree. */
interface Node {
  readonly type?: string;
  readonly callee?: { readonly value?: unknown };
  readonly args?: readonly unknown[];
  readonly iterable?: { readonly lhs?: unknown };
}

/** A template asks for more than its budget. */
export class TemplateBudgetError extends Error {
  override readonly name = "TemplateBudgetError";
}

/** @throws {Error} when it is no template */
export function checkSyntax(source: string): void {
  new Template(source);
}

/**
 * Renders a template.
 *
 * @throws {TemplateBudgetError} when it takes too many steps, or makes a text or array that is too large
 * @throws {Error} when it is no template, or raises an error itself
 */
export function renderTemplate(source: string, variables: Record<string, unknown>): string {
  if (source.length > SOURCE) throw over(`more than ${SOURCE} characters`);
  const template = new Template(source);
  // The package makes its interpreter itself. Rendering does not wait for anything, so no other can come in between.
  const { evaluate } = Interpreter.prototype;
  let steps = 0;
  const iterables = new Set<unknown>();
  Interpreter.prototype.evaluate = function (node, environment) {
    if (++steps > STEPS) throw over(`more than ${STEPS} steps`);
    const { type, callee, args, iterable } = (node ?? {}) as Node;
    if (type === "For") iterables.add(iterable!).add(iterable!.lhs);
    if (type === "CallExpression" && callee?.value === "range") {
      const numbers = args!.map((argument) =>
        Number(evaluate.call(this, argument as never, environment).value)
      );
      const [first, second = 0] = numbers;
      if (Math.abs(second - first) > ELEMENTS) throw over(`an array of more than ${ELEMENTS} elements`);
    }
    const result = evaluate.call(this, node, environment);
    const value: unknown = result?.value;
    if (typeof value === "string" && value.length > CHARACTERS) {
      throw over(`a text of more than ${CHARACTERS} characters`);
    }
    if (Array.isArray(value)) {
      if (value.length > ELEMENTS) throw over(`an array of more than ${ELEMENTS} elements`);
      if (iterables.has(node)) steps += value.length; // turns of a loop, whose body may be empty
    }
    return result;
  };
  try {
    return template.render(variables);
  } finally {
    Interpreter.prototype.evaluate = evaluate;
  }
}

function over(what: string): TemplateBudgetError {
  return new TemplateBudgetError(`The chat template takes ${what}: it is not rendered`);
}
