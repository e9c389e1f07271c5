/// <reference lib="dom" />
/**
 * The page's elements, and the clipboard.
 *
 * @module
 */

/** The element of an id. */
export function element<T extends Element = HTMLElement>(id: string): T {
  return document.getElementById(id) as unknown as T;
}

/** The input of an id. */
export function field(id: string): HTMLInputElement {
  return element<HTMLInputElement>(id);
}

/**
 * Copies a text.
 *
 * @throws {Error} when the browser does not let the page
 */
export async function copyText(text: string): Promise<void> {
  // Pages that came over plain HTTP from another machine have no clipboard object, but may copy what is selected.
  if (navigator.clipboard !== undefined) return await navigator.clipboard.writeText(text);
  const area = document.createElement("textarea");
  area.value = text;
  document.body.append(area);
  area.select();
  const isCopied = document.execCommand("copy");
  area.remove();
  if (!isCopied) throw new Error("The browser does not let the page copy");
}
