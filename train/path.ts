/**
 * Paths as people give them on the command line.
 *
 * @module
 */
import { fileURLToPath } from "node:url";

/** A path as it is; a `file:` URL as the path that it names, where `%20` is a space. */
export function localPath(location: string): string {
  return /^file:/i.test(location) ? fileURLToPath(location) : location;
}
