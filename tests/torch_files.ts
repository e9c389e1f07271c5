/**
 * PyTorch files for tests, with tensors that lie in their storages in any order, and a server of files.
 *
 * @module
 */
import { Checksum } from "../model/checksum.ts";
import { concat } from "./reference_model.ts";

/** A tensor of a file: a view of a storage. */
export interface TorchTensor {
  storage: string;
  shape: number[];
  strides: number[];
  offset: number;
}

/** A storage: its class without `torch.` and `Storage`, and its content. */
export interface TorchStorage {
  type: string;
  bytes: Uint8Array;
  /** Number of elements that the pickle claims. */
  length: number;
}

const text = (value: string) => new TextEncoder().encode(value);
const string = (value: string) => concat([uint("X", text(value).length), text(value)]);

function uint(code: string, value: number): Uint8Array<ArrayBuffer> {
  const bytes = new Uint8Array(5);
  bytes[0] = code.charCodeAt(0);
  new DataView(bytes.buffer).setInt32(1, value, true);
  return bytes;
}

const named = (module: string, name: string) => text(`c${module}\n${name}\n`);
const tuple = (...items: Uint8Array[]) => concat([text("("), ...items, text("t")]);
const numbers = (values: number[]) => tuple(...values.map((value) => uint("J", value)));

/** The pickle of tensors by name, as `torch.save` writes it but without memory. */
export function torchPickle(
  tensors: ReadonlyMap<string, TorchTensor>,
  storages: ReadonlyMap<string, TorchStorage>,
): Uint8Array<ArrayBuffer> {
  const items = [...tensors].flatMap(([name, { storage, shape, strides, offset }]) => {
    const { type, length } = storages.get(storage)!;
    const kind = named("torch", `${type}Storage`);
    const id = tuple(string("storage"), kind, string(storage), string("cpu"), uint("J", length));
    const hooks = concat([named("collections", "OrderedDict"), text(")R")]);
    const rebuild = tuple(
      concat([id, text("Q")]),
      uint("J", offset),
      numbers(shape),
      numbers(strides),
      Uint8Array.of(0x89),
      hooks,
    );
    return [string(name), named("torch._utils", "_rebuild_tensor_v2"), rebuild, text("R")];
  });
  return concat([
    Uint8Array.of(0x80, 2),
    named("collections", "OrderedDict"),
    text(")R("),
    ...items,
    text("u."),
  ]);
}

/** A zip archive of stored records. */
export function zipFile(records: ReadonlyMap<string, Uint8Array>): Uint8Array<ArrayBuffer> {
  const parts: Uint8Array[] = [], directory: Uint8Array[] = [];
  let offset = 0;
  for (const [name, content] of records) {
    const file = text(name);
    const common = new DataView(new ArrayBuffer(26));
    common.setUint16(0, 20, true);
    common.setUint32(10, new Checksum().bytes(content).value(), true);
    common.setUint32(14, content.length, true);
    common.setUint32(18, content.length, true);
    common.setUint16(22, file.length, true);
    const local = concat([text("PK\x03\x04"), new Uint8Array(common.buffer), file, content]);
    const rest = new DataView(new ArrayBuffer(14));
    rest.setUint32(10, offset, true);
    directory.push(
      concat([
        text("PK\x01\x02"),
        Uint8Array.of(20, 0),
        new Uint8Array(common.buffer),
        new Uint8Array(rest.buffer),
        file,
      ]),
    );
    parts.push(local);
    offset += local.length;
  }
  const central = concat(directory), end = new DataView(new ArrayBuffer(18));
  end.setUint16(4, records.size, true);
  end.setUint16(6, records.size, true);
  end.setUint32(8, central.length, true);
  end.setUint32(12, offset, true);
  return concat([...parts, central, text("PK\x05\x06"), new Uint8Array(end.buffer)]);
}

/** A file of PyTorch. */
export function torchFile(
  tensors: ReadonlyMap<string, TorchTensor>,
  storages: ReadonlyMap<string, TorchStorage>,
): Uint8Array<ArrayBuffer> {
  return zipFile(
    new Map([
      ["model/data.pkl", torchPickle(tensors, storages)],
      ["model/byteorder", text("little")],
      ...Array.from(storages, ([key, { bytes }]) => [`model/data/${key}`, bytes] as const),
    ]),
  );
}

/** A server of the files in a folder; it counts what it answers, by file and status. */
export interface FileServer extends AsyncDisposable {
  readonly url: string;
  /** Requests by `"<file> <status>"`. */
  readonly answers: ReadonlyMap<string, number>;
}

/** Serves a folder, with range requests or without. */
export function serveFolder(folder: string | URL, { ranges }: { ranges: boolean }): FileServer {
  const answers = new Map<string, number>();
  const root = new URL(folder instanceof URL ? `${folder.href}/` : `file://${folder}/`);
  const server = Deno.serve({ hostname: "127.0.0.1", port: 0, onListen() {} }, async (request) => {
    const name = new URL(request.url).pathname.slice(1);
    const bytes = await Deno.readFile(new URL(name, root)).catch(() => undefined);
    const [, from] = /^bytes=(\d+)-$/.exec(request.headers.get("range") ?? "") ?? [];
    const isPart = ranges && bytes !== undefined && from !== undefined;
    const status = bytes === undefined ? 404 : isPart ? 206 : 200;
    answers.set(`${name} ${status}`, (answers.get(`${name} ${status}`) ?? 0) + 1);
    if (bytes === undefined) return new Response("none", { status });
    const headers = new Headers(ranges ? { "accept-ranges": "bytes" } : {});
    if (!isPart) return new Response(bytes, { status, headers });
    headers.set("content-range", `bytes ${from}-${bytes.length - 1}/${bytes.length}`);
    return new Response(bytes.subarray(Number(from)), { status, headers });
  });
  return {
    url: `http://127.0.0.1:${server.addr.port}/`,
    answers,
    [Symbol.asyncDispose]: () => server.shutdown(),
  };
}
