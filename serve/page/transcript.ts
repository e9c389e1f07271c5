/// <reference lib="dom" />
/**
 * The turns as people see them.
 *
 * @module
 */
import { answerOf, continues, type Mode, type Turn } from "./conversation.ts";
import type { Piece } from "./side.ts";

/** Characters of a long text that are shown of its beginning and of its end. */
const EXCERPT = 160;

/** Shows turns in an element. */
export class Transcript {
  readonly #element: HTMLElement;
  readonly #empty: HTMLElement;
  #answer: HTMLElement | undefined;

  /** @param element where turns go @param empty what stands there if there is none */
  constructor(element: HTMLElement, empty: HTMLElement) {
    this.#element = element;
    this.#empty = empty;
  }

  /** Shows turns, and the end of the last one. */
  show(turns: readonly Turn[], mode: Mode): void {
    this.#element.classList.toggle("chat", mode === "chat");
    this.#empty.hidden = turns.length > 0;
    for (const old of this.#element.querySelectorAll(":scope > .turn")) old.remove();
    let last: HTMLElement | undefined;
    for (const turn of turns) {
      const answer = this.#answer = span("answer", ...turn.answer.map(shaded));
      if (last !== undefined && continues(turn)) {
        last.append(answer);
        continue;
      }
      const who = (name: string) => mode === "chat" ? [span("who", name)] : [];
      last = span("turn", ...who("You"), span("prompt", ...promptOf(turn)));
      if (turn.title === undefined) last.append(...who("Model"), answer);
      this.#element.append(last);
    }
    this.#element.scrollTop = this.#element.scrollHeight;
  }

  /** Adds a piece to the last answer. */
  append(piece: Piece): void {
    const { scrollTop, clientHeight, scrollHeight } = this.#element;
    this.#answer?.append(shaded(piece));
    // Whoever looks at an earlier place stays there.
    if (scrollTop + clientHeight >= scrollHeight - 8) this.#element.scrollTop = this.#element.scrollHeight;
  }
}

/** The turns as text, to be copied. */
export function plainText(turns: readonly Turn[], mode: Mode): string {
  if (mode === "text") {
    return turns.map((turn) => (turn.prompt ?? `[${turn.title}]`) + answerOf(turn)).join("");
  }
  return turns.map((turn) => (continues(turn) ? "" : `\n\nYou: ${turn.prompt}\n\nModel: `) + answerOf(turn))
    .join("").trim();
}

function span(name: string, ...children: (Node | string)[]): HTMLElement {
  const element = document.createElement("span");
  element.className = name;
  element.append(...children);
  return element;
}

function promptOf({ prompt, title }: Turn): (Node | string)[] {
  if (title === undefined) return [prompt!];
  const note = span(
    "note",
    `[${title}${prompt === undefined ? "" : `, ${prompt.length.toLocaleString("en")} characters`}]`,
  );
  if (prompt === undefined) return [note];
  return prompt.length <= 2 * EXCERPT
    ? [note, ` ${prompt}`]
    : [note, ` ${prompt.slice(0, EXCERPT)} … `, prompt.slice(-EXCERPT)];
}

/** Least probabilities of the shades, the likeliest first. */
const SHADES = [0.5, 0.2, 0.05, 0.01];

/** A piece with its shade: 0 for likely to 4 for a surprise. */
function shaded({ text, logprob }: Piece): HTMLElement {
  const probability = Math.exp(logprob), piece = span("piece", text);
  const shade = SHADES.findIndex((least) => probability >= least);
  piece.dataset.shade = String(shade < 0 ? SHADES.length : shade);
  piece.title = `${(100 * probability).toPrecision(2)} % likely`;
  return piece;
}
