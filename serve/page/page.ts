/// <reference lib="dom" />
/**
 * The page to try a model: asks the server, or runs the same model here.
 *
 * @module
 */
import { canContinue, continues, type Mode, newTurn, type Turn } from "./conversation.ts";
import { copyText, element, field } from "./dom.ts";
import { bytes, showMemory } from "./memory.ts";
import { Remote, type RemotePlace } from "./remote.ts";
import { Run } from "./run.ts";
import { type Card, Server, type ServerPlace } from "./server.ts";
import { keepSettings, readSettings } from "./settings.ts";
import type { Side, SideName } from "./side.ts";
import { keep, keepConversations, kept, keptConversations } from "./storage.ts";
import { plainText, Transcript } from "./transcript.ts";

/** Turns at the end of a conversation whose sessions are kept: each takes as much memory as a state. */
const KEPT_PLACES = 8;
/** Prompts where the model brings none. */
const EXAMPLES = {
  text: ["Once upon a time", "The most important thing is", "In the year 1900,"],
  chat: ["Who are you?", "Tell me a story.", "What is a state of fixed size good for?"],
};

const form = element<HTMLFormElement>("form"), settingsForm = element<HTMLFormElement>("settings");
const prompt = element<HTMLTextAreaElement>("prompt"), message = element("message");
const button = (id: string) => element<HTMLButtonElement>(id);
const generate = button("generate"), stop = button("stop"), restart = button("new"), retry = button("retry");
const local = field("local"), chat = field("chat"), key = field("key");
const progress = element<HTMLProgressElement>("progress"), dialog = element<HTMLDialogElement>("long-dialog");
const transcript = new Transcript(element("transcript"), element("empty"));

const server = new Server(() => key.value);
let card: Card | undefined;
let here: Remote | undefined;
let running: Run | undefined;
/** A text and a chat: changing the mode drops neither. */
const conversations: Record<Mode, Turn[]> = keptConversations();
/** What "New session" put away, until the next turn. */
const putAway: Record<Mode, Turn[]> = { text: [], chat: [] };
/** The prompt of the turn on its way: if that fails, it goes back to its place. */
let asked = "";
/** What the retry button does. */
let again: () => void = () => {};

const mode = (): Mode => chat.checked ? "chat" : "text";
const sideName = (): SideName => local.checked ? "browser" : "server";
/** Phones have no Shift for a new line, and a button at hand. */
const hasKeyboard = () => !matchMedia("(hover: none) and (pointer: coarse)").matches;

/** Tells the person something; with `tryAgain` it went wrong. */
function say(text: string, tryAgain?: () => void): void {
  if (message.textContent !== text) message.textContent = text; // assistive technology reads every change
  message.classList.toggle("error", tryAgain !== undefined);
  retry.hidden = tryAgain === undefined;
  if (tryAgain !== undefined) again = tryAgain;
}

const words = (error: unknown) => error instanceof Error ? error.message : String(error);

/** Asks the server about its model. Throws when it does not say. */
async function introduce(): Promise<Card> {
  const found = await server.introduce();
  card = found;
  const millions = (found.parameters / 1e6).toFixed(found.parameters < 1e6 ? 2 : 1);
  element("about").textContent = `${found.id}: ${millions} million parameters, and a memory of ${
    bytes(found.state_bytes)
  } for any length of text.`;
  local.disabled = !found.files;
  if (!found.files) {
    local.checked = false;
    element("local-hint").textContent = "This server does not hand its model out.";
  }
  element("chat-choice").hidden = found.chat_template === null;
  if (found.chat_template === null) chat.checked = false;
  field("max-tokens").max = String(found.max_tokens);
  show();
  return found;
}

/** Introduces the model, or says why not. */
async function greet(): Promise<void> {
  try {
    await introduce();
    say("");
  } catch (error) {
    say(words(error), greet);
  }
}

/** Shows the conversation as it stands: the text, the memory, and what can be done. */
function show(): void {
  const turns = conversations[mode()];
  transcript.show(turns, mode());
  showEmpty();
  showSize(turns);
  enable();
}

function showEmpty(): void {
  const isChat = mode() === "chat";
  element("text-title").textContent = isChat ? "Chat" : "Text";
  element("introduction").textContent = card?.about ??
    (isChat
      ? "This model answers messages. Write one, or begin with one of these:"
      : "This model continues the text that you write. Write something, or begin with one of these:");
  const examples = (isChat ? undefined : card?.examples) ?? EXAMPLES[mode()];
  element("examples").replaceChildren(...examples.map((text) => {
    const example = document.createElement("button");
    example.type = "button";
    example.textContent = text;
    example.disabled = running !== undefined;
    example.addEventListener("click", () => begin(newTurn(text)));
    return example;
  }));
  prompt.placeholder = isChat ? "A message" : "A text to be continued";
  element("hint").textContent =
    (hasKeyboard() ? "Enter generates, Shift and Enter begins a new line. " : "") +
    "Only what is new is read: the session remembers the rest.";
}

function showSize(turns: readonly Turn[]): void {
  const measured = turns.flatMap(({ measured }) => measured);
  if (card !== undefined) {
    showMemory(card, running?.place === undefined ? measured : [...measured, running.place]);
  }
}

/** Enables the buttons that do something now. */
function enable(): void {
  const turns = conversations[mode()], isIdle = running === undefined;
  const last = turns.at(-1);
  generate.disabled = restart.disabled = !isIdle;
  button("long").disabled = !isIdle;
  button("long").hidden = mode() === "chat";
  stop.disabled = isIdle;
  button("continue").disabled = !isIdle || !canContinue(turns, mode(), sideName());
  button("regenerate").disabled = !isIdle || last === undefined || last.title !== undefined;
  button("undo").disabled = !isIdle || last === undefined && putAway[mode()].length === 0;
  button("copy").disabled = !isIdle || last === undefined;
  local.disabled = !isIdle || !(card?.files ?? false);
  chat.disabled = key.disabled = !isIdle;
}

/** Where the next turn runs. */
async function chosenSide(signal: AbortSignal): Promise<Side> {
  card ??= await introduce();
  if (!local.checked) return server;
  if (here !== undefined) return here;
  say("Loading the model …");
  here = await Remote.load(new URL("model/", document.baseURI), {
    key: key.value,
    signal,
    chatTemplate: card.chat_template,
    onProgress: (share) => say(`Loading the model: ${Math.round(100 * share)} %`),
  });
  say("Reading …");
  return here;
}

/** Runs a turn after the others, or in place of the last one, which stays if the new one fails. */
async function begin(turn: Turn, replaced?: Turn): Promise<void> {
  if (running !== undefined || !settingsForm.reportValidity()) return;
  const turns = conversations[mode()], settings = readSettings();
  const history = replaced === undefined ? turns : turns.slice(0, -1), all = [...history, turn];
  const isPrompt = replaced === undefined && turn.title === undefined && !continues(turn);
  const meter = newMeter();
  const run = running = new Run({
    side: chosenSide,
    mode: mode(),
    history,
    turn,
    settings,
    onRead(share) {
      progress.hidden = false;
      progress.value = share;
      meter(run.place!.tokens);
      showSize(all);
    },
    onPiece(piece) {
      progress.hidden = true;
      transcript.append(piece);
      meter(run.place!.tokens);
      say("Writing …");
      showSize(all);
    },
  });
  asked = isPrompt ? turn.prompt! : "";
  keepDraft();
  transcript.show(all, mode());
  showEmpty();
  enable();
  say(turn.title === undefined ? "Reading …" : `Reading ${turn.title} …`);
  try {
    const side = await run.complete();
    conversations[mode()] = all;
    forget([...replaced === undefined ? [] : [replaced], ...putAway[mode()], ...all.slice(0, -KEPT_PLACES)]);
    putAway[mode()] = [];
    const end = endOf(turn, settings.max_tokens) + (side.name === "browser" ? `, ${side.label}.` : ".");
    if (run.broken === undefined) say(end);
    else {
      const { error, rest } = run.broken;
      say(`${end} ${words(error)}.`, () => begin(newTurn(rest, turn.title)));
    }
  } catch (error) {
    if (isPrompt) prompt.value = [asked, prompt.value].filter((text) => text !== "").join("\n");
    if (run.signal.aborted) say("Stopped before there was an answer.");
    else if (isPrompt) say(words(error), () => form.requestSubmit());
    else say(words(error), () => begin(newTurn(turn.prompt!, turn.title), replaced));
  } finally {
    running = undefined;
    progress.hidden = true;
    asked = "";
    keepDraft();
    keepConversations(conversations);
    show();
    prompt.focus();
  }
}

/** How a turn ended, in words. */
function endOf(turn: Turn, maxTokens: number): string {
  const { tokens, stateBytes } = turn.measured.at(-1)!;
  if (turn.title !== undefined) {
    const verb = turn.finish === "asked" ? "Stopped within" : "Read";
    return `${verb} ${turn.title}: after ${tokens.toLocaleString("en")} tokens the state has ${
      bytes(stateBytes)
    }`;
  }
  if (turn.finish === "length") return `Stopped at ${maxTokens.toLocaleString("en")} tokens`;
  return turn.finish === "asked" ? "Stopped" : "The model ended the text";
}

/** Shows tokens per second, from the first call on. */
function newMeter(): (tokens: number) => void {
  let start: { time: number; tokens: number } | undefined;
  return (tokens) => {
    const time = performance.now();
    if (start === undefined) start = { time, tokens };
    else if (tokens > start.tokens) {
      const rate = 1000 * (tokens - start.tokens) / (time - start.time);
      element("speed").textContent = `${Math.round(rate).toLocaleString("en")} tokens/s`;
    }
  };
}

/** Gives up the sessions of turns. */
function forget(turns: readonly Turn[]): void {
  for (const { places } of turns) {
    if (places.server !== undefined) server.forget(places.server as ServerPlace);
    if (places.browser !== undefined) here?.forget(places.browser as RemotePlace);
    delete places.server;
    delete places.browser;
  }
}

function keepDraft(): void {
  keep("sessionStorage", "draft", [asked, prompt.value].filter((text) => text !== "").join("\n"));
}

/** Takes the last turn back, or brings back what "New session" put away. */
function undo(): void {
  const turns = conversations[mode()], last = turns.at(-1);
  if (last === undefined) {
    conversations[mode()] = putAway[mode()];
    putAway[mode()] = [];
    say("The session is back.");
  } else {
    conversations[mode()] = turns.slice(0, -1);
    forget([last]);
    if (last.title === undefined && prompt.value === "") prompt.value = last.prompt!;
    say("The last turn is taken back.");
  }
  changed();
}

function newSession(): void {
  forget(putAway[mode()]);
  putAway[mode()] = conversations[mode()];
  conversations[mode()] = [];
  element("speed").textContent = "–";
  say(putAway[mode()].length === 0 ? "A new session." : "A new session. Undo brings the last one back.");
  changed();
}

function changed(): void {
  keepDraft();
  keepConversations(conversations);
  show();
  prompt.focus();
}

async function copy(): Promise<void> {
  const text = plainText(conversations[mode()], mode());
  try {
    await copyText(text);
    say("Copied.");
  } catch {
    say("The browser does not let the page copy: select the text instead.");
  }
}

/** The text that the dialog for long texts has, and its name. */
async function longText(): Promise<{ text: string; title: string }> {
  const file = field("long-file").files?.[0];
  const pasted = element<HTMLTextAreaElement>("long-text").value;
  if (file === undefined && pasted === "") throw new Error("Choose a file or paste a text.");
  if (file === undefined) return { text: pasted, title: "the pasted text" };
  const text = decodeText(await file.arrayBuffer());
  if (text === "" || text.includes("\0")) throw new Error(`${file.name} holds no text.`);
  return { text, title: file.name };
}

/** UTF-8, or what old texts are in. */
function decodeText(data: ArrayBuffer): string {
  try {
    return new TextDecoder("utf-8", { fatal: true }).decode(data);
  } catch {
    return new TextDecoder("windows-1252").decode(data);
  }
}

form.addEventListener("submit", (event) => {
  event.preventDefault();
  if (running !== undefined || !settingsForm.reportValidity()) return;
  const text = prompt.value;
  if (text === "" && !canContinue(conversations[mode()], mode(), sideName())) {
    return say("Write a prompt first.");
  }
  prompt.value = "";
  begin(newTurn(text));
});
// Escape hides what a field says of itself, until the next visit.
for (const box of settingsForm.querySelectorAll(".field")) {
  box.addEventListener("keydown", (event) => {
    if ((event as KeyboardEvent).key === "Escape") box.classList.add("dismissed");
  });
  for (const come of ["focusin", "mouseenter"]) {
    box.addEventListener(come, () => box.classList.remove("dismissed"));
  }
}
settingsForm.addEventListener("submit", (event) => event.preventDefault());
prompt.addEventListener("input", keepDraft);
prompt.addEventListener("keydown", (event) => {
  const isSent = event.key === "Enter" && !event.shiftKey && !event.isComposing;
  if (!isSent || !(hasKeyboard() || event.ctrlKey || event.metaKey)) return;
  event.preventDefault();
  form.requestSubmit();
});
stop.addEventListener("click", () => running?.stop());
restart.addEventListener("click", newSession);
retry.addEventListener("click", () => again());
button("continue").addEventListener("click", () => begin(newTurn("")));
button("regenerate").addEventListener("click", () => {
  const last = conversations[mode()].at(-1)!;
  begin(newTurn(last.prompt!), last);
});
button("undo").addEventListener("click", undo);
button("copy").addEventListener("click", copy);
button("long").addEventListener("click", () => {
  element("long-problem").textContent = "";
  dialog.showModal();
});
button("long-cancel").addEventListener("click", () => dialog.close());
element("long-form").addEventListener("submit", async (event) => {
  event.preventDefault();
  try {
    const { text, title } = await longText();
    dialog.close();
    begin(newTurn(text, title));
  } catch (error) {
    element("long-problem").textContent = words(error);
  }
});
// What one side has read the other one reads when it is asked: the text stays.
local.addEventListener("change", enable);
chat.addEventListener("change", show);
field("shading").addEventListener("change", showShading);
key.addEventListener("change", () => {
  keep("sessionStorage", "key", key.value);
  greet();
});

function showShading(): void {
  element("transcript").classList.toggle("shaded", field("shading").checked);
  element("legend").hidden = !field("shading").checked;
}

keepSettings();
key.value = kept<string>("sessionStorage", "key") ?? "";
prompt.value = kept<string>("sessionStorage", "draft") ?? "";
showShading();
show();
greet();
