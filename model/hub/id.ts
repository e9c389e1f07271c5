/**
 * How models on the hub are named, and how a name is told from a folder.
 *
 * @module
 */
import { rangeError } from "../../core/errors.ts";

const OPERATION = "TransNormerLLM.load";

/** A model on the hub. */
export interface HubId {
  /** `owner/name`; models from the hub's early days have a name alone. */
  readonly repo: string;
  /** A branch, a tag or a commit; undefined where the name has none. */
  readonly revision: string | undefined;
}

/** One part of a name: the hub allows neither `--` nor `..`, which folders of the cache would confuse. */
const PART = String.raw`(?!\w*(?:--|\.\.))[A-Za-z0-9_](?:(?!--|\.\.)[\w.-])*`;
const REVISION = String.raw`[\w](?:(?!\.\.)[\w./+-])*`;
const BARE = new RegExp(`^(${PART}/${PART})(?:@(${REVISION}))?$`);
const PREFIXED = new RegExp(`^hf:(${PART}(?:/${PART})?)(?:@(${REVISION}))?$`);

/** Whether a location may be a model on the hub by its form, `owner/name` or `owner/name@revision`. */
export function looksLikeId(location: string): boolean {
  return BARE.test(location);
}

/**
 * The model that a location names, as `hf:owner/name@revision` or without the prefix or the revision; undefined where
 * it can only be a path or a URL.
 *
 * @param revision what the caller asks for in addition
 * @throws {RangeError} when the location begins with `hf:` and names no model, or the revisions differ or are none
 */
export function parseId(location: string, revision?: string): HubId | undefined {
  const isPrefixed = location.startsWith("hf:");
  const found = (isPrefixed ? PREFIXED : BARE).exec(location);
  if (found === null) {
    if (isPrefixed) rangeError(OPERATION, "an id must be hf:owner/name or hf:owner/name@revision", location);
    return undefined;
  }
  const [, repo, named] = found;
  if (revision === undefined) return { repo, revision: named };
  if (typeof revision !== "string" || !new RegExp(`^${REVISION}$`).test(revision)) {
    rangeError(OPERATION, "options.revision must be a branch, a tag or a commit", revision);
  }
  if (named !== undefined && named !== revision) {
    rangeError(OPERATION, `options.revision must be that of the location, "${named}"`, revision);
  }
  return { repo, revision };
}
