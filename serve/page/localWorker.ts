/**
 * The worker in which the page's own model runs, so that the page's thread computes nothing. `remote.ts` is the page's
 * half. Places are known by numbers.
 *
 * @module
 */
import { Local, type LocalPlace } from "./local.ts";
import { Server } from "./server.ts";
import type { Message, Piece, Settings } from "./side.ts";

/** What the page asks; `id` numbers the answers. The first call is `load`. */
export type Request =
  | {
    readonly id: number;
    readonly call: "load";
    readonly location: string;
    /** The access key, as the model's files may need it. */
    readonly key: string;
    readonly chatTemplate: string | null;
  }
  | { readonly id: number; readonly call: "fork"; readonly from: number | undefined }
  | { readonly id: number; readonly call: "read"; readonly place: number; readonly text: string }
  | {
    readonly id: number;
    readonly call: "answer";
    readonly place: number;
    readonly prompt: string | readonly Message[];
    readonly settings: Settings;
  }
  | { readonly id: number; readonly call: "finish"; readonly place: number }
  | { readonly id: number; readonly call: "forget"; readonly place: number }
  /** The piece that was told of the call with this number is shown. */
  | { readonly id: number; readonly call: "shown" }
  /** Gives up the call with this number. */
  | { readonly id: number; readonly call: "abort" };

/** Where a place stands now. */
export interface Standing {
  readonly tokens: number;
  readonly stateBytes: number;
}

/** What the worker tells of a call: how far it is, what came of it, or how it failed. */
export type Reply =
  | { readonly id: number; readonly progress: number }
  | { readonly id: number; readonly piece: Piece; readonly standing: Standing }
  | { readonly id: number; readonly value: unknown; readonly standing?: Standing }
  | { readonly id: number; readonly error: string };

/** The scope of a worker. */
const scope = globalThis as unknown as {
  onmessage: (event: MessageEvent<Request>) => void;
  postMessage(reply: Reply): void;
};

let side: Local | undefined;
const places = new Map<number, LocalPlace>();
/** Calls under way. */
const calls = new Map<number, AbortController>();
/** What waits for a piece to be shown, by call: a model may write faster than a page draws. */
const unshown = new Map<number, () => void>();
let made = 0;

const standingOf = ({ tokens, stateBytes }: LocalPlace): Standing => ({ tokens, stateBytes });

async function carryOut(
  request: Exclude<Request, { call: "abort" | "shown" }>,
  signal: AbortSignal,
): Promise<{ value: unknown; standing?: Standing }> {
  const { id } = request;
  switch (request.call) {
    case "load": {
      const server = new Server(() => request.key);
      side = await Local.load(new URL(request.location), {
        fetch: (input, init) => server.reach(input, init),
        signal,
        chatTemplate: request.chatTemplate,
        onProgress: (progress) => scope.postMessage({ id, progress }),
      });
      return { value: side.label };
    }
    case "fork": {
      const from = request.from === undefined ? undefined : places.get(request.from)!;
      const place = await side!.fork(from);
      places.set(++made, place);
      return { value: made, standing: standingOf(place) };
    }
    case "read": {
      const place = places.get(request.place)!;
      await side!.read(place, request.text, signal);
      return { value: undefined, standing: standingOf(place) };
    }
    case "answer": {
      const place = places.get(request.place)!;
      const value = await side!.answer(place, request.prompt, request.settings, {
        signal,
        onPiece(piece) {
          scope.postMessage({ id, piece, standing: standingOf(place) });
          return new Promise((resolve) => unshown.set(id, resolve));
        },
      });
      return { value, standing: standingOf(place) };
    }
    case "finish":
      return { value: await side!.finish(places.get(request.place)!) };
    case "forget":
      side!.forget(places.get(request.place)!);
      places.delete(request.place);
      return { value: undefined };
  }
}

scope.onmessage = async ({ data: request }) => {
  const { id } = request;
  if (request.call === "abort" || request.call === "shown") {
    if (request.call === "abort") calls.get(id)?.abort();
    unshown.get(id)?.();
    return;
  }
  const controller = new AbortController();
  calls.set(id, controller);
  try {
    scope.postMessage({ id, ...await carryOut(request, controller.signal) });
  } catch (error) {
    scope.postMessage({ id, error: error instanceof Error ? error.message : String(error) });
  } finally {
    calls.delete(id);
    unshown.delete(id);
  }
};
