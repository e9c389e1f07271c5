/**
 * What a cache of models from the hub does; `folderCache.ts` and `originCache.ts` are the two that there are.
 *
 * @module
 */
import type { ByteReader } from "../safetensors.ts";
import type { HubFile } from "./client.ts";

/** The cache of one model: blobs by hash, and for each commit the names of its files. */
export interface Cache {
  /** Where it is, for messages. */
  readonly location: string;
  /** The commit that a branch or a tag named when it was last asked for. */
  commit(revision: string): Promise<string | undefined>;
  /** Remembers it. */
  setCommit(revision: string, commit: string): Promise<void>;
  /** A file of a commit, if all of it is here. */
  open(commit: string, name: string): Promise<ByteReader | undefined>;
  /** Whether the commit is known to lack a file. */
  lacks(commit: string, name: string): Promise<boolean>;
  /** Remembers it. */
  setLacking(commit: string, name: string): Promise<void>;
  /** Gives a blob that is here its name in a commit; false if there is no such blob. */
  link(commit: string, file: HubFile): Promise<boolean>;
  /** Runs `body` with what there is of a blob that is not whole. In browsers other pages wait for their turn. */
  withPartial(file: HubFile, body: (partial: Partial) => Promise<void>): Promise<void>;
}

/** A blob on its way into the cache. */
export interface Partial {
  /** Bytes that an earlier download left. */
  readonly size: number;
  /** These bytes. */
  read(): AsyncIterable<Uint8Array>;
  /** Adds bytes behind them. */
  write(bytes: Uint8Array<ArrayBuffer>): Promise<void>;
  /** The bytes are all here and right: from now on it is a blob. */
  finish(): Promise<void>;
  /** The bytes are wrong: nothing stays. */
  discard(): Promise<void>;
}
