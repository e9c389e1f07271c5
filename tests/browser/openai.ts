/**
 * The page of `serve_browser_test.ts`: the `openai` package, as an application bundles it.
 *
 * @module
 */
import OpenAI from "openai";

Object.assign(globalThis, { OpenAI });
