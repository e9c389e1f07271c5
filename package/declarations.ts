/**
 * Declarations of the package, by TypeScript's compiler. Each file is transpiled by itself, which works as the public
 * API states all its types (JSR asks for the same); `deno check` is what checks them. Only what the entries' own
 * declarations import is written.
 *
 * @module
 */
import { mkdir, readFile, writeFile } from "node:fs/promises";
import { dirname, join } from "node:path";
import ts from "typescript";

/** The ending of relative specifiers in sources, and of the same in the package. */
const SOURCE = /\.ts$/, DECLARATION = ".d.ts", COMPILED = ".js";

const OPTIONS: ts.CompilerOptions = {
  target: ts.ScriptTarget.ES2022,
  module: ts.ModuleKind.ESNext,
  isolatedDeclarations: true,
  verbatimModuleSyntax: false, // imports that only bodies need are dropped
  removeComments: false,
};

/**
 * Writes the declarations of all that the entries' declarations reach.
 *
 * @param root folder of the sources, which `entries` are relative to
 * @param out folder that is written, in the same order as `root`
 * @throws {Error} when a public declaration does not state its type
 */
export async function declarations(root: string, entries: readonly string[], out: string): Promise<void> {
  const files = new Set(entries);
  for (const file of files) {
    const { outputText, diagnostics = [] } = ts.transpileDeclaration(
      await readFile(join(root, file), "utf8"),
      { fileName: file, compilerOptions: OPTIONS, reportDiagnostics: true },
    );
    if (diagnostics.length > 0) {
      const getCanonicalFileName = (name: string) => name;
      const host = { getCurrentDirectory: () => root, getCanonicalFileName, getNewLine: () => "\n" };
      throw new Error(ts.formatDiagnostics(diagnostics, host));
    }
    // Each such method comes a second time, as a property: by itself a file does not know what the symbol is.
    let text = outputText.replaceAll(/^ *\[Symbol\.dispose\]: \(\) => void;\n/gm, "");
    for (const { fileName: specifier, pos } of ts.preProcessFile(text).importedFiles.toReversed()) {
      if (!specifier.startsWith(".")) continue;
      files.add(join(dirname(file), specifier));
      text = text.slice(0, pos) + JSON.stringify(specifier.replace(SOURCE, COMPILED)) +
        text.slice(pos + JSON.stringify(specifier).length);
    }
    // `Disposable` and `Symbol.dispose` are not in the library of every target.
    if (/\bDisposable\b|Symbol\.dispose/.test(text)) {
      text = `/// <reference lib="esnext.disposable" />\n${text}`;
    }
    const path = join(out, file.replace(SOURCE, DECLARATION));
    await mkdir(dirname(path), { recursive: true });
    await writeFile(path, text);
  }
}
