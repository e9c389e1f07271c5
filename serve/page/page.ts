/// <reference lib="dom" />
/**
 * The page to try a model: asks the server, or runs the same model here.
 *
 * @module
 */
import type { Local } from "./local.ts";

/** What the server says of its model. */
interface Card {
  id: string;
  parameters: number;
  state_bytes: number;
  /** Bytes that softmax attention of the same size would keep per token. */
  cache_bytes_per_token: number;
  /** Whether the page may load the model. */
  files: boolean;
}

/** Sampling settings, with OpenAI's names. */
export interface Settings {
  max_tokens: number;
  temperature: number;
  top_p: number;
  top_k: number | undefined;
  min_p: number;
  seed: number | undefined;
  stop: string[];
}

/** A piece of an answer: text, and tokens that it took. */
export interface Piece {
  text: string;
  tokens: number;
}

const find = <T extends Element = HTMLInputElement>(id: string) =>
  document.getElementById(id) as unknown as T;
const form = find<HTMLFormElement>("form"), prompt = find<HTMLTextAreaElement>("prompt");
const transcript = find<HTMLElement>("transcript"), status = find<HTMLElement>("status");
const generate = find<HTMLButtonElement>("generate"), stop = find<HTMLButtonElement>("stop");
const restart = find<HTMLButtonElement>("new"), local = find("local"), key = find("key");

let card: Card | undefined;
let session = newId();
let here: Local | undefined;
let running: AbortController | undefined;
let tokens = 0;

function newId(): string {
  return `page-${
    Array.from(crypto.getRandomValues(new Uint8Array(16)), (byte) => byte.toString(16)).join("")
  }`;
}

function say(text: string, isError = false): void {
  status.textContent = text;
  status.classList.toggle("error", isError);
}

function headers(): Record<string, string> {
  return key.value === "" ? {} : { authorization: `Bearer ${key.value}` };
}

async function ask(path: string, init: RequestInit = {}): Promise<Response> {
  const response = await fetch(path, { ...init, headers: { ...headers(), ...init.headers } });
  if (response.ok) return response;
  const body = await response.json().catch(() => undefined);
  throw new Error(body?.error?.message ?? `The server answered ${response.status}`);
}

async function introduce(): Promise<Card> {
  const { data: [found] } = await (await ask("v1/models")).json() as { data: [Card] };
  card = found;
  const millions = (found.parameters / 1e6).toFixed(found.parameters < 1e6 ? 2 : 1);
  find("about").textContent = `${found.id}: ${millions} million parameters, and a memory of ${
    bytes(found.state_bytes)
  } for any length of text.`;
  local.disabled = !found.files;
  if (!found.files) find("local-hint").textContent = "This server does not hand its model out.";
  draw();
  return found;
}

function settings(): Settings {
  const number = (id: string) => Number(find(id).value);
  const optional = (id: string) => find(id).value === "" ? undefined : number(id);
  return {
    max_tokens: number("max-tokens"),
    temperature: number("temperature"),
    top_p: number("top-p"),
    top_k: optional("top-k"),
    min_p: number("min-p"),
    seed: optional("seed"),
    stop: find("stop-text").value === "" ? [] : [find("stop-text").value],
  };
}

/** The server's answer, piece by piece. */
async function* remote(text: string, signal: AbortSignal): AsyncGenerator<Piece> {
  const response = await ask("v1/completions", {
    method: "POST",
    headers: { "content-type": "application/json" },
    body: JSON.stringify({ prompt: text, session, stream: true, logprobs: 0, ...settings() }),
    signal,
  });
  let rest = "";
  const reader = response.body!.pipeThrough(new TextDecoderStream()).getReader();
  for (let next; !(next = await reader.read()).done;) {
    const parts = (rest + next.value).split("\n\n");
    rest = parts.pop()!;
    for (const part of parts) {
      const data = part.slice("data: ".length);
      if (data === "[DONE]") return;
      const chunk = JSON.parse(data);
      if (chunk.error) throw new Error(chunk.error.message);
      if (chunk.session) tokens = chunk.session.tokens;
      for (const { text, logprobs } of chunk.choices) yield { text, tokens: logprobs?.tokens.length ?? 0 };
    }
  }
}

async function load(): Promise<Local> {
  say("Loading the model …");
  const { load } = await import("./local.ts");
  return await load(new URL("model/", document.baseURI), headers(), (share) => {
    say(`Loading the model: ${Math.round(100 * share)} %`);
  });
}

async function run(): Promise<void> {
  const abort = running = new AbortController();
  const text = prompt.value;
  generate.disabled = restart.disabled = local.disabled = true;
  stop.disabled = false;
  say("Reading …");
  let count = 0, first = 0;
  try {
    await (card ?? introduce());
    if (local.checked) here ??= await load();
    const append = (text: string, kind: string) => {
      const span = document.createElement("span");
      span.className = kind;
      span.textContent = text;
      return transcript.appendChild(span);
    };
    append(text, "prompt");
    const answer = append("", "answer").appendChild(document.createTextNode(""));
    prompt.value = "";
    const pieces = local.checked
      ? here!.generate(text, settings(), abort.signal)
      : remote(text, abort.signal);
    for await (const piece of pieces) {
      if (count === 0) {
        first = performance.now();
        if (local.checked) tokens = here!.tokens;
        else tokens += new TextEncoder().encode(text).length; // the server says how many they are in the end
      }
      count += piece.tokens;
      tokens += piece.tokens;
      const follow = transcript.scrollTop + transcript.clientHeight >= transcript.scrollHeight - 8;
      answer.appendData(piece.text);
      if (follow) transcript.scrollTop = transcript.scrollHeight;
      const seconds = (performance.now() - first) / 1000;
      if (count > 1) find("speed").textContent = `${((count - 1) / seconds).toFixed(0)} tokens/s`;
      say("Writing …");
      draw();
    }
    if (local.checked) tokens = here!.tokens;
    stop.disabled = true;
    say(local.checked ? `Done, in this browser, on ${here!.backend}.` : "Done.");
  } catch (error) {
    if (abort.signal.aborted) say("Stopped.");
    else say((error as Error).message, true);
  } finally {
    running = undefined;
    generate.disabled = restart.disabled = false;
    local.disabled = !card?.files;
    stop.disabled = true;
    draw();
    prompt.focus();
  }
}

function bytes(n: number): string {
  return n < 1e6 ? `${(n / 1024).toFixed(0)} KiB` : `${(n / 2 ** 20).toFixed(1)} MiB`;
}

/** The state against the tokens read, a flat line, and the cache of softmax attention, which grows. */
function draw(): void {
  find("tokens").textContent = tokens.toLocaleString("en");
  if (card === undefined) return;
  const { state_bytes: state, cache_bytes_per_token: perToken } = card;
  find("state").textContent = bytes(state);
  const reach = Math.max(64, tokens), top = Math.max(2 * state, perToken * reach);
  const x = (n: number) => 8 + 304 * n / reach, y = (size: number) => 120 - 108 * size / top;
  find("line").setAttribute("points", `${x(0)},${y(state)} ${x(tokens)},${y(state)}`);
  find("cache").setAttribute("points", `${x(0)},${y(0)} ${x(tokens)},${y(perToken * tokens)}`);
  find("line-label").setAttribute("y", String(y(state) - 5));
  find("line-label").textContent = `state, ${bytes(state)}`;
  find("tick").textContent = `${reach.toLocaleString("en")} tokens`;
  const label = `After ${tokens} tokens the state has ${bytes(state)}, as after none`;
  find("chart").setAttribute("aria-label", label);
}

function begin(): void {
  session = newId();
  here?.restart();
  tokens = 0;
  transcript.replaceChildren();
  find("speed").textContent = "–";
  say("A new session.");
  draw();
}

form.addEventListener("submit", (event) => {
  event.preventDefault();
  if (running === undefined) run();
});
prompt.addEventListener("keydown", (event) => {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) form.requestSubmit();
});
stop.addEventListener("click", () => {
  // The server is asked to end the answer, so that the session keeps what is on the page. A broken request would leave
  // the session as it was before.
  if (local.checked) running?.abort();
  else ask(`v1/sessions/${session}/stop`, { method: "POST" }).catch((error) => say(error.message, true));
});
restart.addEventListener("click", begin);
// Server and page do not share a state: changing sides begins a new session.
local.addEventListener("change", begin);
key.addEventListener("change", () => introduce().catch((error) => say(error.message, true)));
introduce().catch((error) => say(error.message, true));
