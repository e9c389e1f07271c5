/**
 * What the environment says about the hub, in the variables of Python's `huggingface_hub`.
 *
 * @module
 */
import { builtin } from "../../core/builtin.ts";
import { rangeError } from "../../core/errors.ts";

const OPERATION = "TransNormerLLM.load";

/** Where the hub is and what it may be asked. */
export interface HubSettings {
  /** `HF_ENDPOINT`; default: the public hub. Without a slash at its end. */
  readonly endpoint: string;
  /** `HF_TOKEN`, or what `hf auth login` left in `HF_TOKEN_PATH`, `$HF_HOME/token` by default. */
  readonly token: string | undefined;
  /** `HF_HUB_OFFLINE`: the cache alone is asked. */
  readonly offline: boolean;
  /** The cache's folder; undefined where the host has no environment, as browsers have none. */
  readonly cacheFolder: string | undefined;
}

/** Reads the environment, and the token's file where no variable has one. */
export async function readSettings(token: string | undefined): Promise<HubSettings> {
  const endpoint = variable("HF_ENDPOINT") ?? "https://huggingface.co";
  if (!/^https?:\/\/[^/]/.test(endpoint)) {
    rangeError(OPERATION, "HF_ENDPOINT must be an http(s) URL", endpoint);
  }
  const found = (token ?? variable("HF_TOKEN") ?? await storedToken())?.trim() || undefined;
  if (found !== undefined && !found.startsWith("hf_")) {
    // Not shown: it may be the key to something else.
    rangeError(OPERATION, "the hub's token must begin with hf_", undefined, "HF_TOKEN, or options.token");
  }
  return {
    endpoint: endpoint.replace(/\/+$/, ""),
    token: found,
    offline: /^(1|on|yes|true)$/i.test(variable("HF_HUB_OFFLINE") ?? ""),
    cacheFolder: cacheFolder(),
  };
}

/** `HF_HUB_CACHE`, or `hub` in the folder of everything that concerns the hub; undefined if nothing says where that is. */
export function cacheFolder(): string | undefined {
  return path("HF_HUB_CACHE") ?? within(hubHome(), "hub");
}

/** `HF_HOME`, or `huggingface` in the user's folder of caches. */
function hubHome(): string | undefined {
  return path("HF_HOME") ?? within(path("XDG_CACHE_HOME") ?? within(home(), ".cache"), "huggingface");
}

function home(): string | undefined {
  return variable("HOME") ?? variable("USERPROFILE"); // Windows has the second
}

/** A folder that a variable names; `~` is the user's. */
function path(name: string): string | undefined {
  const value = variable(name);
  return value !== undefined && /^~(?=$|[\\/])/.test(value) ? `${home()}${value.slice(1)}` : value;
}

function within(folder: string | undefined, name: string): string | undefined {
  return folder === undefined ? undefined : `${folder}/${name}`;
}

async function storedToken(): Promise<string | undefined> {
  const files = builtin("node:fs/promises") as typeof import("node:fs/promises") | undefined;
  const file = path("HF_TOKEN_PATH") ?? within(hubHome(), "token");
  if (files === undefined || file === undefined) return undefined;
  try {
    return await files.readFile(file, "utf8");
  } catch (error) {
    if ((error as { code?: string }).code === "ENOENT") return undefined;
    throw error;
  }
}

/**
 * A variable of the environment; undefined where it is empty or the host has none. Deno asks for the permission, or
 * says which is missing: a setting that was made and cannot be read is not passed over.
 */
function variable(name: string): string | undefined {
  const { process } = globalThis as { process?: { env?: Record<string, string | undefined> } };
  return process?.env?.[name] || undefined;
}
