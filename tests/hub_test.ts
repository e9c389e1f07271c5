/** Models from the hub: what is downloaded, what the cache holds, and what goes wrong, against a hub on loopback. */
import assert from "node:assert/strict";
import * as fileSystem from "node:fs/promises";
import { fileURLToPath } from "node:url";
import { createBackend } from "../mod.ts";
import { type LoadOptions, TransNormerLLM } from "../model/mod.ts";
import { looksLikeId, parseId } from "../model/hub/id.ts";
import { FolderCache } from "../model/hub/folderCache.ts";
import { openSource, readAll } from "../model/source.ts";
import { type Files, SMALL, textFile } from "./reference_model.ts";
import { textFiles } from "./serve_setup.ts";
import { cut, gitHash, Hub, type HubModel, isLarge, sha256, TOKEN } from "./hub_server.ts";

const ROOT = new URL("../", import.meta.url);
const COMMIT = "a".repeat(40), OTHER = "b".repeat(40);
const REPO = "OpenNLPLab/TNL-tiny";
/** A model, with files that it does not need. */
const FILES: Files = {
  ...textFiles(),
  "README.md": textFile("a model"),
  "pytorch_model.bin": new Uint8Array(5000),
  "tf_model.h5": new Uint8Array(5000),
};
const NEEDED = ["config.json", "tokenizer.json", "tokenizer_config.json", "model.safetensors"];
const WEIGHTS = "model.safetensors";
const model = (): HubModel => ({
  refs: { main: COMMIT, "v1.0": OTHER },
  commits: { [COMMIT]: FILES, [OTHER]: FILES },
});

const VARIABLES = [
  "HF_ENDPOINT",
  "HF_HOME",
  "HF_HUB_CACHE",
  "HF_HUB_OFFLINE",
  "HF_TOKEN",
  "HF_TOKEN_PATH",
  "XDG_CACHE_HOME",
] as const;

interface Surroundings {
  readonly hub: Hub;
  /** `HF_HOME`. */
  readonly home: string;
  /** The model's folder in the cache. */
  readonly cached: string;
}

/** Registers a test with a hub, and an empty cache; the environment points to them. */
function withHub(name: string, body: (around: Surroundings) => Promise<void>): void {
  Deno.test(name, async () => {
    const before = VARIABLES.map((name) => [name, Deno.env.get(name)] as const);
    for (const name of VARIABLES) Deno.env.delete(name);
    const home = await Deno.realPath(await Deno.makeTempDir({ prefix: "levin hub " }));
    await using hub = new Hub({ [REPO]: model() });
    try {
      Deno.env.set("HF_ENDPOINT", `${hub.endpoint}/`);
      Deno.env.set("HF_HOME", home);
      await body({ hub, home, cached: `${home}/hub/models--OpenNLPLab--TNL-tiny` });
    } finally {
      for (const [name, value] of before) {
        if (value === undefined) Deno.env.delete(name);
        else Deno.env.set(name, value);
      }
      await Deno.remove(home, { recursive: true });
    }
  });
}

/** Loads a model and lets it say something. */
async function load(location: string, options: LoadOptions = {}): Promise<number[]> {
  using backend = await createBackend({ prefer: "wasm" });
  const tokens: number[] = [];
  {
    using model = await TransNormerLLM.load(location, { backend, ...options });
    for await (const { token } of model.generate("hello", { maxTokens: 4, temperature: 0 })) {
      tokens.push(token);
    }
  }
  assert.equal(backend.bytesInUse, 0);
  return tokens;
}

const fails = (location: string, message: RegExp, options: LoadOptions = {}) =>
  assert.rejects(load(location, options), (error: Error) => {
    assert(error instanceof RangeError, error.stack ?? String(error));
    assert.match(error.message, message);
    assert.match(error.message, /^Cannot run TransNormerLLM\.load as /);
    return true;
  });

/** The names in a folder; none if it does not exist. */
async function namesIn(folder: string): Promise<string[]> {
  try {
    return (await Array.fromAsync(Deno.readDir(folder), ({ name }) => name)).sort();
  } catch (error) {
    if (error instanceof Deno.errors.NotFound) return [];
    throw error;
  }
}

const blobOf = (bytes: Uint8Array) => isLarge(bytes) ? sha256(bytes) : gitHash(bytes);

withHub("a model is downloaded once, without the files that it does not need", async ({ hub, cached }) => {
  const tokens = await load(REPO);
  assert.deepEqual(hub.downloads, NEEDED);
  assert.deepEqual(await namesIn(`${cached}/snapshots/${COMMIT}`), [...NEEDED].sort());
  hub.requests.length = 0;
  assert.deepEqual(await load(`hf:${REPO}`), tokens);
  assert.deepEqual(hub.requests.map(({ path }) => path), [`/api/models/${REPO}/revision/main`]);
});

withHub("the cache has the layout that Python's huggingface_hub documents", async ({ cached }) => {
  await load(REPO);
  assert.equal(await Deno.readTextFile(`${cached}/refs/main`), COMMIT);
  for (const name of NEEDED) {
    const path = `${cached}/snapshots/${COMMIT}/${name}`;
    assert.equal(await Deno.readLink(path), `../../blobs/${blobOf(FILES[name])}`);
    assert.deepEqual(await Deno.readFile(path), FILES[name]);
  }
  assert.deepEqual(await namesIn(`${cached}/blobs`), NEEDED.map((name) => blobOf(FILES[name])).sort());
  assert.deepEqual(
    await namesIn(`${cached}/.no_exist/${COMMIT}`),
    ["added_tokens.json", "chat_template.jinja", "generation_config.json", "special_tokens_map.json"],
  );
  assert.equal((await Deno.stat(`${cached}/.no_exist/${COMMIT}/chat_template.jinja`)).size, 0);
});

withHub(
  "with the permission to write to the cache alone, blobs get second names in place of links",
  async ({ home, cached }) => {
    const program = `
    import { TransNormerLLM } from "./model/mod.ts";
    import { createBackend } from "./wasm/mod.ts";
    using backend = await createBackend();
    using model = await TransNormerLLM.load("${REPO}", { backend });
  `;
    const file = `${home}/program.ts`;
    await Deno.writeTextFile(file, program.replaceAll("./", ROOT.href));
    for (let run = 0; run < 2; run++) {
      const { success, stderr } = await new Deno.Command(Deno.execPath(), {
        args: [
          ...[
            "run",
            "--no-prompt",
            "--no-check",
            `--lock=${fileURLToPath(new URL("deno.run.lock", ROOT))}`,
            "--frozen",
          ],
          ...[
            "--config",
            fileURLToPath(new URL("deno.json", ROOT)),
            "--allow-read",
            "--allow-net",
            "--allow-env",
          ],
          ...[`--allow-write=${home}/hub`, file],
        ],
      }).output();
      assert(success, new TextDecoder().decode(stderr));
    }
    for (const name of NEEDED) {
      const path = `${cached}/snapshots/${COMMIT}/${name}`;
      const [{ isSymlink, ino }, blob] = [
        await Deno.lstat(path),
        await Deno.lstat(`${cached}/blobs/${blobOf(FILES[name])}`),
      ];
      assert(!isSymlink && ino === blob.ino, name);
    }
    assert.deepEqual(await namesIn(`${cached}/snapshots/${COMMIT}`), [...NEEDED].sort());
  },
);

/** Writes a cache as Python does. */
async function writeCache(cached: string, files: Files, { links = true } = {}): Promise<void> {
  for (const folder of ["refs", "blobs", `snapshots/${COMMIT}`]) {
    await Deno.mkdir(`${cached}/${folder}`, { recursive: true });
  }
  await Deno.writeTextFile(`${cached}/refs/main`, COMMIT);
  for (const [name, bytes] of Object.entries(files)) {
    const path = `${cached}/snapshots/${COMMIT}/${name}`;
    if (!links) await Deno.writeFile(path, bytes);
    else {
      await Deno.writeFile(`${cached}/blobs/${blobOf(bytes)}`, bytes);
      await Deno.symlink(`../../blobs/${blobOf(bytes)}`, path);
    }
  }
}

for (const links of [true, false]) {
  withHub(
    `a model that Python downloaded is found, ${links ? "by links" : "as files"}`,
    async ({ hub, cached }) => {
      await writeCache(cached, FILES, { links });
      await load(REPO);
      assert.deepEqual(hub.downloads, []);
      Deno.env.set("HF_HUB_OFFLINE", "1");
      hub.requests.length = 0;
      await load(REPO);
      await load(REPO, { revision: COMMIT });
      assert.deepEqual(hub.requests, []);
    },
  );
}

withHub(
  "what Python has of a model is not downloaded again, also under another commit",
  async ({ hub, cached }) => {
    const { [WEIGHTS]: weights } = FILES;
    await writeCache(cached, { [WEIGHTS]: weights });
    await load(`${REPO}@v1.0`);
    assert.deepEqual(hub.downloads, NEEDED.filter((name) => name !== WEIGHTS));
    assert.equal(await Deno.readTextFile(`${cached}/refs/v1.0`), OTHER);
    assert.equal(
      await Deno.readLink(`${cached}/snapshots/${OTHER}/${WEIGHTS}`),
      `../../blobs/${sha256(weights)}`,
    );
  },
);

withHub("a link to a blob that is gone is mended", async ({ hub, cached }) => {
  await load(REPO);
  await Deno.remove(`${cached}/blobs/${sha256(FILES[WEIGHTS])}`);
  hub.requests.length = 0;
  await load(REPO);
  assert.deepEqual(hub.downloads, [WEIGHTS]);
});

withHub(
  "revisions: in the id, as an option, as a commit; a branch that moves is followed",
  async ({ hub, cached }) => {
    await load(`hf:${REPO}@v1.0`);
    await load(REPO, { revision: "v1.0" });
    assert.deepEqual(await namesIn(`${cached}/snapshots`), [OTHER]);
    hub.requests.length = 0;
    await load(REPO, { revision: OTHER });
    assert.deepEqual(hub.requests, [], "a commit that is here needs no question");
    hub.models[REPO].refs["v1.0"] = COMMIT;
    await load(REPO, { revision: "v1.0" });
    assert.deepEqual(await namesIn(`${cached}/snapshots`), [COMMIT, OTHER]);
    assert.equal(await Deno.readTextFile(`${cached}/refs/v1.0`), COMMIT);
    await fails(`${REPO}@v1.0`, /must be that of the location, "v1\.0": current value is "main"/, {
      revision: "main",
    });
    await fails(REPO, /revision must be a branch, a tag or a commit/, { revision: "../../x" });
    await fails(
      `${REPO}@none`,
      /must be a branch, a tag or a commit of OpenNLPLab\/TNL-tiny: current value is "none"/,
    );
  },
);

withHub("a folder of that name wins", async ({ hub }) => {
  const folder = "tests/golden";
  await using other = new Hub({ [`${folder}/tnl`]: model() });
  using backend = await createBackend({ prefer: "wasm" });
  {
    using model = await TransNormerLLM.load("models/sotu", { backend });
    assert(model.tokenizer !== undefined);
  }
  assert.deepEqual([...hub.requests, ...other.requests], []);
  await fails("models/sotu", /options\.revision must be absent unless/, { revision: "main" });
  await fails(folder + "/tnl", /options\.revision must be absent unless/, { revision: "main" });
  await fails("models/sotx", /models\/sotx must be a model on http:\/\/127/);
});

withHub("bytes are reported, and those of an earlier download count", async ({ hub }) => {
  const size = FILES[WEIGHTS].length, half = size >> 1;
  hub.interfere = ({ host, range }, right) =>
    host === "cdn" && range === null ? cut(right(), half) : undefined;
  const seen: number[] = [];
  await load(REPO, {
    onDownload({ file, bytes, totalBytes }) {
      assert(bytes <= totalBytes);
      assert.equal(totalBytes, FILES[file].length);
      if (file === WEIGHTS) seen.push(bytes);
    },
  });
  assert.equal(seen[0], 0);
  assert.equal(seen.at(-1), size);
  assert.deepEqual(seen, seen.toSorted((a, b) => a - b));
});

withHub("a cut connection is continued where it broke, by the bytes that are missing", async ({ hub }) => {
  const size = FILES[WEIGHTS].length, third = Math.floor(size / 3);
  hub.interfere = ({ host }, right) => host === "cdn" ? cut(right(), third) : undefined;
  await load(REPO);
  const ranges = hub.requests.filter(({ host, file }) => host === "cdn" && file === WEIGHTS).map((
    { range },
  ) => range);
  assert(ranges.length >= 3, String(ranges));
  assert.equal(ranges[0], null);
  const begins = ranges.slice(1).map((range) => Number(/^bytes=(\d+)-\d+$/.exec(range!)![1]));
  assert(begins.every((begin, i) => begin > (begins[i - 1] ?? 0)), String(begins));
});

withHub(
  "without a length and without ranges: the listing says when a file is whole",
  async ({ hub, cached }) => {
    const expected = await load(REPO);
    await Deno.remove(cached, { recursive: true });
    let isCut = false;
    hub.interfere = (request) => {
      if (request.host !== "cdn" || request.file !== WEIGHTS) return undefined;
      const all = new Response(FILES[request.file!].slice().buffer).body; // a stream has no length; nor are ranges heard
      if (isCut) return new Response(all);
      isCut = true;
      return cut(new Response(all), 1000);
    };
    assert.deepEqual(await load(REPO), expected);
    assert.equal(hub.downloads.filter((name) => name === WEIGHTS).length, 3);
  },
);

withHub("a download that was given up is continued by the next load", async ({ hub, cached }) => {
  const controller = new AbortController(), reason = new Error("enough");
  hub.interfere = ({ host }, right) => host === "cdn" ? cut(right(), 1500) : undefined;
  await assert.rejects(
    load(REPO, {
      signal: controller.signal,
      onDownload({ file, bytes }) {
        if (file === WEIGHTS && bytes > 0) controller.abort(reason);
      },
    }),
    reason,
  );
  const left = (await namesIn(`${cached}/blobs`)).filter((name) => name.includes("."));
  assert.equal(left.length, 1);
  assert.match(left[0], new RegExp(`^${sha256(FILES[WEIGHTS])}\\.[0-9a-f-]+\\.incomplete$`));
  const { size } = await Deno.stat(`${cached}/blobs/${left[0]}`);
  assert(size > 0 && size < FILES[WEIGHTS].length);
  assert(!(await namesIn(`${cached}/snapshots/${COMMIT}`)).includes(WEIGHTS));

  Deno.env.set("HF_HUB_OFFLINE", "1");
  await fails(REPO, /model\.safetensors or .* must be readable: current value is "nothing, as .* lacks it/);
  Deno.env.delete("HF_HUB_OFFLINE");
  hub.interfere = undefined;
  hub.requests.length = 0;
  await load(REPO);
  assert.deepEqual(
    hub.requests.filter(({ host }) => host === "cdn").map(({ range }) => range),
    [`bytes=${size}-${FILES[WEIGHTS].length - 1}`],
  );
  assert.deepEqual((await namesIn(`${cached}/blobs`)).filter((name) => name.includes(".")), []);
});

withHub("what an earlier download left and was damaged comes anew", async ({ hub, cached }) => {
  const oid = sha256(FILES[WEIGHTS]);
  for (const left of [new Uint8Array(100), new Uint8Array(FILES[WEIGHTS].length + 1)]) {
    await Deno.mkdir(`${cached}/blobs`, { recursive: true });
    await Deno.writeFile(`${cached}/blobs/${oid}.1.incomplete`, left);
    await load(REPO);
    assert.deepEqual(await Deno.readFile(`${cached}/blobs/${oid}`), FILES[WEIGHTS]);
    await Deno.remove(cached, { recursive: true });
  }
  assert.equal(hub.downloads.filter((name) => name === WEIGHTS).length, 3);
});

withHub("wrong bytes are refused, and nothing of them stays", async ({ hub, cached }) => {
  for (const name of ["config.json", WEIGHTS]) {
    hub.interfere = ({ file, host }) => {
      if (file !== name || (host === "hub" && name === WEIGHTS)) return undefined;
      const bytes = FILES[name].slice();
      bytes[bytes.length >> 1] ^= 1;
      return new Response(bytes);
    };
    const kind = name === WEIGHTS ? "SHA-256" : "git's SHA-1";
    await fails(
      REPO,
      new RegExp(
        `${name} must have the bytes .*, ${kind} ${blobOf(FILES[name])}: current value is "[0-9a-f]+"`,
      ),
    );
    assert(!(await namesIn(`${cached}/blobs`)).some((blob) => blob.startsWith(blobOf(FILES[name]))));
  }
  hub.interfere = ({ host }) =>
    host === "cdn" ? new Response(new Uint8Array(FILES[WEIGHTS].length + 7)) : undefined;
  await fails(REPO, /model\.safetensors must have \d+ bytes/);
  hub.interfere = undefined;
  await load(REPO);
});

withHub("a hub that gives up says so after some attempts", async ({ hub }) => {
  hub.interfere = ({ file }) => file === WEIGHTS ? new Response(null, { status: 503 }) : undefined;
  await fails(
    REPO,
    /must give model\.safetensors: current value is "HTTP status 503", in hf:OpenNLPLab\/TNL-tiny@main/,
  );
  assert.equal(hub.requests.filter(({ file }) => file === WEIGHTS).length, 4);
});

withHub("names and hashes of a hostile hub do not leave the cache", async ({ hub, home }) => {
  hub.interfere = ({ path }) =>
    path.includes("/revision/") ? Response.json({ id: REPO, sha: "../../../../x" }) : undefined;
  await fails(REPO, /must answer with a commit: current value is "\.\./);
  for (
    const entry of [{ oid: "../../x", size: 5 }, { lfs: { oid: "../../x", size: 5 } }, {
      oid: COMMIT,
      size: -1.5,
    }]
  ) {
    hub.interfere = ({ path }) =>
      path.includes("/tree/") ? Response.json([{ type: "file", path: "config.json", ...entry }]) : undefined;
    await fails(REPO, /must give hash and size of config\.json/);
  }
  assert.deepEqual(await namesIn(home), ["hub"]);
});

withHub(
  "a hub sends nobody elsewhere than to its stores, and this machine only to this machine",
  async ({ hub }) => {
    const { endpoint } = hub, asked: string[] = [];
    Deno.env.set("HF_ENDPOINT", "http://hub.example");
    Deno.env.set("HF_TOKEN", TOKEN);
    /** The network, as if the hub had a public name. */
    const network: typeof fetch = async (input, init) => {
      const url = new URL(String(input));
      asked.push(url.host);
      if (url.host !== "hub.example") assert.equal(new Headers(init?.headers).get("authorization"), null);
      return await fetch(url.href.replace("http://hub.example", endpoint), init);
    };
    const options = { fetch: network };
    await fails(REPO, /must redirect within its host.*: current value is "http:\/\/localhost:/, options);
    assert.deepEqual(new Set(asked), new Set(["hub.example"]));
    await load(REPO, { ...options, redirects: ["localhost"] });
    assert(new Set(asked).size === 2, `${asked}`);
  },
);

withHub("what a hub says of a model is bounded, and the token stays with it", async ({ hub, home }) => {
  Deno.env.set("HF_TOKEN", TOKEN);
  const listing = (headers: HeadersInit, entries: unknown[] = []) => {
    hub.interfere = ({ path }) => path.includes("/tree/") ? Response.json(entries, { headers }) : undefined;
  };
  const asked = () => hub.requests.filter(({ path }) => path.includes("/tree/")).length;
  listing({ link: `<http://localhost:${new URL(hub.endpoint).port}/tree/>; rel="next"` });
  await fails(
    REPO,
    /must list the files of OpenNLPLab\/TNL-tiny itself: current value is "http:\/\/localhost/,
  );
  assert.equal(asked(), 1);
  listing({ link: `<${hub.endpoint}/tree/>; rel="next"` });
  await fails(REPO, /must have at most 1024 lists of files/);
  assert.equal(asked(), 1 + 1024);
  listing({}, [{ type: "file", path: "config.json", oid: COMMIT, size: 2 ** 40 }]);
  await fails(REPO, /config\.json must have at most 67108864 bytes: current value is 1099511627776/);
  hub.interfere = ({ path }) =>
    path.includes("/revision/") ? new Response(`"${"x".repeat(2 ** 24)}"`) : undefined;
  await fails(REPO, /an answer of .* must have at most 16777216 bytes/);
  assert.deepEqual(hub.downloads, []);
  assert.deepEqual(await namesIn(`${home}/hub/models--OpenNLPLab--TNL-tiny/blobs`), []);
});

withHub("who may not read a model is told what to do", async ({ hub }) => {
  await fails(
    "OpenNLPLab/none",
    /OpenNLPLab\/none must be a model on http:.*, or HF_TOKEN hold a token if it is private: .*401/,
  );
  hub.models[REPO].access = "private";
  await fails(REPO, /or HF_TOKEN hold a token if it is private/);
  Deno.env.set("HF_TOKEN", "hf_wrong");
  await fails(REPO, /HF_TOKEN must hold a token that http:.* accepts: current value is "HTTP status 401"/);
  Deno.env.set("HF_TOKEN", ` ${TOKEN}\n`);
  await load(REPO);
  await fails("OpenNLPLab/none", /must be a model on http:.* that the token's owner may read: .*404/);
  Deno.env.set("HF_TOKEN", "secret");
  await assert.rejects(load(REPO), (error: Error) => {
    assert.match(error.message, /the hub's token must begin with hf_/);
    assert(!error.message.includes("secret"));
    return true;
  });
});

withHub("a gated model, and where tokens come from", async ({ hub, home }) => {
  hub.models[REPO].access = "gated";
  await fails(
    REPO,
    /HF_TOKEN must hold a token for .*, which is gated: ask for access at http:.*\/OpenNLPLab\/TNL-tiny: /,
  );
  await fails(REPO, /the token's owner must have access to .*: ask for it at http:.*: .*403/, {
    token: "hf_other",
  });
  await Deno.writeTextFile(`${home}/token`, `${TOKEN}\n`); // as a login leaves it
  await load(REPO);
  const cdn = hub.requests.filter(({ host }) => host === "cdn");
  assert(
    cdn.length > 0 && cdn.every(({ authorization }) => authorization === null),
    "the token stays with the hub",
  );
});

withHub("no network: the cache serves, else a sentence", async ({ hub, home }) => {
  await load(REPO);
  Deno.env.set("HF_ENDPOINT", "http://127.0.0.1:9");
  await load(REPO);
  await load(`${REPO}@${COMMIT}`);
  await fails(
    `${REPO}@v1.0`,
    /hf:OpenNLPLab\/TNL-tiny@v1\.0 must be in the cache, .*hub, or be on http:.*, which must be reachable: /,
  );
  Deno.env.set("HF_ENDPOINT", hub.endpoint);
  for (const broken of [() => new Response(null, { status: 502 }), () => new Response("<html>password?")]) {
    hub.interfere = broken;
    await load(REPO);
  }
  Deno.env.set("HF_HUB_OFFLINE", "true");
  hub.requests.length = 0;
  await load(REPO);
  await fails(
    "OpenNLPLab/none",
    /must be in the cache, .*: current value is "HF_HUB_OFFLINE is set"/,
  );
  assert.deepEqual(hub.requests, []);
  Deno.env.delete("HF_HUB_OFFLINE");
  Deno.env.set("HF_HUB_CACHE", `${home}/elsewhere`);
  hub.interfere = undefined;
  await load(REPO);
  assert.deepEqual(await namesIn(`${home}/elsewhere`), ["models--OpenNLPLab--TNL-tiny"]);
  Deno.env.set("HF_ENDPOINT", "huggingface.co");
  await fails(REPO, /HF_ENDPOINT must be an http\(s\) URL/);
});

withHub("a repository that is no TNL", async ({ hub }) => {
  hub.models["owner/llama"] = {
    refs: { main: COMMIT },
    commits: { [COMMIT]: { "config.json": textFile({ model_type: "llama" }) } },
  };
  hub.models["owner/data"] = { refs: { main: COMMIT }, commits: { [COMMIT]: { "data.csv": textFile("1") } } };
  hub.models["owner/weightless"] = {
    refs: { main: COMMIT },
    commits: { [COMMIT]: { "config.json": textFile(SMALL) } },
  };
  await fails(
    "owner/llama",
    /model_type must be "transnormer": current value is "llama" .*in hf:owner\/llama@main/,
  );
  await fails("owner/data", /the checkpoint must have config\.json: .*in hf:owner\/data@main/);
  await fails(
    "owner/weightless",
    /the checkpoint must have model\.safetensors or .*in hf:owner\/weightless@main/,
  );
});

/** The cache of the model in a folder, with a file system some of whose functions fail. */
function folderCache(location: string, failing: Record<string, unknown> = {}): FolderCache {
  return new FolderCache(location, REPO, {
    openFolder: (folder) => openSource(folder, {}),
    files: { ...fileSystem, ...failing } as typeof fileSystem,
  });
}

const failure = (code: string) => Object.assign(new Error(`${code}: refused`), { code });
const BYTES = FILES[WEIGHTS];
const FILE = { name: WEIGHTS, size: BYTES.length, oid: sha256(BYTES), algorithm: "sha256" } as const;

withHub("a cache that others own serves, though nothing is remembered in it", async ({ home, cached }) => {
  await load(REPO);
  for (const code of ["EROFS", "EACCES"]) {
    const cache = folderCache(`${home}/hub`, { writeFile: () => Promise.reject(failure(code)) });
    await cache.setCommit("other", COMMIT);
    await cache.setLacking(COMMIT, "other.json");
    assert.equal(await cache.commit("other"), undefined);
    assert.equal(await cache.lacks(COMMIT, "other.json"), false);
    assert.equal(
      (await cache.open(COMMIT, WEIGHTS).then((file) => readAll(file!, WEIGHTS))).length,
      BYTES.length,
    );
  }
  const broken = folderCache(`${home}/hub`, { writeFile: () => Promise.reject(failure("EIO")) });
  await assert.rejects(broken.setCommit("other", COMMIT), /EIO/);
  assert.deepEqual(await namesIn(`${cached}/refs`), ["main"]);
});

withHub("a full disk leaves no half file, but what is continued", async ({ home }) => {
  let room = 1000;
  const cache = folderCache(`${home}/hub`, {
    async open(...args: Parameters<typeof fileSystem.open>) {
      const handle = await fileSystem.open(...args), write = handle.write.bind(handle);
      const limited = async (bytes: Uint8Array, offset: number, length: number, position: number) => {
        if (room === 0) throw failure("ENOSPC");
        const result = await write(bytes, offset, Math.min(length, room), position);
        room -= result.bytesWritten;
        return result;
      };
      return Object.assign(handle, { write: limited });
    },
  });
  const download = () =>
    cache.withPartial(FILE, async (partial) => {
      await partial.write(BYTES.slice(partial.size));
      await partial.finish();
    });
  await assert.rejects(
    download(),
    /the cache must have room for model\.safetensors, \d+ bytes: current value is "ENOSPC/,
  );
  assert.equal(await cache.link(COMMIT, FILE), false);
  assert.equal(await cache.open(COMMIT, WEIGHTS), undefined);
  await cache.withPartial(FILE, (partial) => Promise.resolve(assert.equal(partial.size, 1000)));
  room = Infinity;
  await download();
  assert(await cache.link(COMMIT, FILE));
  assert.deepEqual(await readAll((await cache.open(COMMIT, WEIGHTS))!, WEIGHTS), BYTES);
});

withHub("a download that another takes over while it lives", async ({ home, cached }) => {
  const one = folderCache(`${home}/hub`), other = folderCache(`${home}/hub`);
  const half = BYTES.length >> 1;
  await one.withPartial(FILE, async (partial) => {
    await partial.write(BYTES.slice(0, half));
    await other.withPartial(FILE, async (taken) => {
      assert.equal(taken.size, half);
      await partial.write(BYTES.slice(half));
      await taken.write(BYTES.slice(half));
      await taken.finish();
    });
    await partial.finish(); // its file is gone, and the blob is there
  });
  assert.deepEqual(await namesIn(`${cached}/blobs`), [FILE.oid]);
  assert.deepEqual(await Deno.readFile(`${cached}/blobs/${FILE.oid}`), BYTES);
});

withHub("two loads together", async ({ cached }) => {
  const [a, b] = await Promise.all([load(REPO), load(REPO)]);
  assert.deepEqual(a, b);
  assert.deepEqual(await namesIn(`${cached}/blobs`), NEEDED.map((name) => blobOf(FILES[name])).sort());
});

withHub("any file of a model is read from any position", async () => {
  const source = openSource(REPO, {});
  const bytes = await readAll((await source.open("pytorch_model.bin"))!, "pytorch_model.bin");
  assert.deepEqual(bytes, FILES["pytorch_model.bin"]);
  assert.equal(source.location, `hf:${REPO}@main`);
});

Deno.test("ids", () => {
  const id = (repo: string, revision?: string) => ({ repo, revision });
  assert.deepEqual(parseId("owner/name"), id("owner/name"));
  assert.deepEqual(parseId("owner/na.me-2_b@v1.0"), id("owner/na.me-2_b", "v1.0"));
  assert.deepEqual(parseId("hf:owner/name@refs/pr/1"), id("owner/name", "refs/pr/1"));
  assert.deepEqual(parseId("hf:gpt2"), id("gpt2"));
  assert.deepEqual(parseId("hf:gpt2", "main"), id("gpt2", "main"));
  for (
    const path of [
      "./owner/name",
      "../name",
      "/owner/name",
      "a/b/c",
      "name",
      "owner/name/",
      "https://a/b",
      "a\\b",
      "C:/x",
      "a/..",
      "a--b/c",
      "a/b--c",
      "",
    ]
  ) {
    assert.equal(parseId(path), undefined, path);
    assert(!looksLikeId(path), path);
  }
  for (const wrong of ["hf:", "hf:a/b/c", "hf:a/b@", "hf:a/b@../x", "hf:../x", "hf:a/b@x/../y"]) {
    assert.throws(() => parseId(wrong), /an id must be hf:owner\/name/, wrong);
  }
});

Deno.test("packages that no literal names have the versions of imports.json", async () => {
  const { imports } = JSON.parse(await Deno.readTextFile(new URL("../imports.json", import.meta.url)));
  const text = await Deno.readTextFile(new URL("../model/hub/packages.ts", import.meta.url));
  for (const name of ["@huggingface/hub", "@noble/hashes"]) {
    assert.match(imports[name], new RegExp(`^npm:${name}@`));
    assert(text.includes(`"${imports[name].slice(`npm:${name.split("/")[0]}/`.length)}"`), name);
  }
});

Deno.test("a program with a folder or a URL fetches no package of the hub", async () => {
  for (const entry of ["examples/generate.ts", "examples/edge/main.ts", "serve/main.ts"]) {
    const { stdout } = await new Deno.Command(Deno.execPath(), {
      args: ["info", "--json", "--no-lock", entry],
      cwd: fileURLToPath(new URL("../", import.meta.url)),
    }).output();
    const text = new TextDecoder().decode(stdout);
    assert(text.includes("model/hub/mod.ts"), entry);
    for (const name of ["npm:@huggingface/hub", "npm:/@huggingface/hub", "@noble/hashes"]) {
      const { modules } = JSON.parse(text) as {
        modules: { specifier: string; dependencies?: { code?: unknown }[] }[];
      };
      const code = modules.flatMap(({ dependencies = [] }) =>
        dependencies.map(({ code }) => JSON.stringify(code ?? ""))
      );
      assert(!code.some((one) => one.includes(name)), `${entry} names ${name}`);
    }
  }
});
