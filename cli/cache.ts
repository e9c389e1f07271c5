/**
 * Prints the folder that models from the hub are kept in: tasks may write to it, and to nothing else.
 *
 * @module
 */
import { resolve } from "node:path";
import { cacheFolder } from "../model/hub/settings.ts";

// Without a home no cache is used: then no folder is named that exists.
console.log(resolve(cacheFolder() ?? "no-cache"));
