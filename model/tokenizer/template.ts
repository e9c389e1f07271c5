/**
 * Chat templates, which come with a model and may be anybody's: they are rendered under a budget of steps and size.
 *
 * @module
 */
/** What rendering may cost. A chat of a thousand messages takes some ten thousand steps. */
const STEPS = 1_000_000, ELEMENTS = 65_536, CHARACTERS = 2 ** 22, SOURCE = 2 ** 20;

/** What is used of the package that reads templates; its declarations stop strict users of ours. */
export interface Jinja {
  /** A template. */
  readonly Template: new (source: string) => Template;
  /** What renders one. */
  readonly Interpreter: { readonly prototype: Evaluator };
}

/** A template that was read. */
export interface Template {
  /** The text that it makes of some variables, without a budget. */
  render(variables: Record<string, unknown>): string;
}

interface Evaluator {
  // deno-lint-ignore no-explicit-any -- nodes, environments and values of the package
  evaluate(node: any, environment: any): any;
}

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
  /** What it asks for, such as `"more than 1000000 steps"`. */
  readonly excess: string;

  constructor(excess: string) {
    super(`The chat template takes ${excess}: it is not rendered`);
    this.excess = excess;
  }
}

/**
 * Reads a template.
 *
 * @throws {TemplateBudgetError} when it is too long @throws {Error} when it is no template
 */
export function readTemplate({ Template }: Jinja, source: string): Template {
  if (source.length > SOURCE) throw new TemplateBudgetError(`more than ${SOURCE} characters`);
  return new Template(source);
}

/**
 * Renders a template.
 *
 * @throws {TemplateBudgetError} when it takes too many steps, or makes a text or array that is too large
 * @throws {Error} when it raises an error itself
 */
export function renderTemplate(
  { Interpreter }: Jinja,
  template: Template,
  variables: Record<string, unknown>,
): string {
  // The package makes its interpreter itself. Rendering does not wait for anything, so no other can come in between.
  const { evaluate } = Interpreter.prototype;
  let steps = 0;
  const iterables = new Set<unknown>();
  Interpreter.prototype.evaluate = function (this: Evaluator, node, environment) {
    if (++steps > STEPS) throw new TemplateBudgetError(`more than ${STEPS} steps`);
    const { type, callee, args, iterable } = (node ?? {}) as Node;
    if (type === "For") iterables.add(iterable!).add(iterable!.lhs);
    if (type === "CallExpression" && callee?.value === "range") {
      const numbers = args!.map((argument) => Number(evaluate.call(this, argument, environment).value));
      const [first, second = 0] = numbers;
      if (Math.abs(second - first) > ELEMENTS) {
        throw new TemplateBudgetError(`an array of more than ${ELEMENTS} elements`);
      }
    }
    const result = evaluate.call(this, node, environment);
    const value: unknown = result?.value;
    if (typeof value === "string" && value.length > CHARACTERS) {
      throw new TemplateBudgetError(`a text of more than ${CHARACTERS} characters`);
    }
    if (Array.isArray(value)) {
      if (value.length > ELEMENTS) {
        throw new TemplateBudgetError(`an array of more than ${ELEMENTS} elements`);
      }
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
