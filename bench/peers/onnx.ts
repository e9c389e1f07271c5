/**
 * ONNX models of one node, as bytes: the fields of onnx.proto3 that such a model needs, and no more.
 *
 * @module
 */

/** A tensor by name: elements are f32. */
export interface Operand {
  readonly name: string;
  readonly shape: readonly number[];
  /** Part of the model, which the runtime may prepare once; default: passed with each run. */
  readonly constant?: Float32Array;
}

/** One operator with its operands. */
export interface Node {
  readonly operator: string;
  /** Set of operators; default: ONNX's. */
  readonly domain?: string;
  readonly operands: readonly Operand[];
  readonly output: Operand;
  readonly integers?: Readonly<Record<string, number>>;
  readonly floats?: Readonly<Record<string, number>>;
}

/** Field numbers of the messages, and the values of their enums. */
const MODEL = { irVersion: 1, graph: 7, opsetImport: 8 };
const OPSET = { domain: 1, version: 2 };
const GRAPH = { node: 1, name: 2, initializer: 5, input: 11, output: 12 };
const NODE = { input: 1, output: 2, opType: 4, attribute: 5, domain: 7 };
const ATTRIBUTE = { name: 1, float: 2, integer: 3, type: 20 };
const ATTRIBUTE_TYPE = { float: 1, integer: 2 };
const TENSOR = { dims: 1, dataType: 2, name: 8, rawData: 9 };
const VALUE = { name: 1, type: 2 };
const TYPE = { tensor: 1 },
  TENSOR_TYPE = { elementType: 1, shape: 2 },
  SHAPE = { dim: 1 },
  DIM = { value: 1 };
const FLOAT = 1;

const OPSETS = { "": 17, "com.microsoft": 1 };
const IR_VERSION = 8;

type Bytes = Uint8Array<ArrayBuffer>;

/** A model that computes one node. */
export function onnxModel(
  { operator, domain = "", operands, output, integers = {}, floats = {} }: Node,
): Bytes {
  const attributes = [
    ...Object.entries(integers).map(([name, value]) =>
      join(text(ATTRIBUTE.name, name), integer(ATTRIBUTE.integer, value), type(ATTRIBUTE_TYPE.integer))
    ),
    ...Object.entries(floats).map(([name, value]) =>
      join(text(ATTRIBUTE.name, name), float(ATTRIBUTE.float, value), type(ATTRIBUTE_TYPE.float))
    ),
  ];
  const node = join(
    ...operands.map(({ name }) => text(NODE.input, name)),
    text(NODE.output, output.name),
    text(NODE.opType, operator),
    ...attributes.map((attribute) => field(NODE.attribute, attribute)),
    text(NODE.domain, domain),
  );
  const graph = join(
    field(GRAPH.node, node),
    text(GRAPH.name, operator),
    ...operands.flatMap((operand) =>
      operand.constant === undefined
        ? field(GRAPH.input, value(operand))
        : field(GRAPH.initializer, tensor(operand, operand.constant))
    ),
    field(GRAPH.output, value(output)),
  );
  return join(
    integer(MODEL.irVersion, IR_VERSION),
    field(MODEL.graph, graph),
    ...Object.entries(OPSETS).map(([domain, version]) =>
      field(MODEL.opsetImport, join(text(OPSET.domain, domain), integer(OPSET.version, version)))
    ),
  );
}

function type(value: number): Bytes {
  return integer(ATTRIBUTE.type, value);
}

function value({ name, shape }: Operand): Bytes {
  const dims = shape.map((n) => field(SHAPE.dim, integer(DIM.value, n)));
  const tensor = join(integer(TENSOR_TYPE.elementType, FLOAT), field(TENSOR_TYPE.shape, join(...dims)));
  return join(text(VALUE.name, name), field(VALUE.type, field(TYPE.tensor, tensor)));
}

function tensor({ name, shape }: Operand, data: Float32Array): Bytes {
  const bytes = new Uint8Array(data.buffer as ArrayBuffer, data.byteOffset, data.byteLength);
  return join(
    ...shape.map((n) => integer(TENSOR.dims, n)),
    integer(TENSOR.dataType, FLOAT),
    text(TENSOR.name, name),
    field(TENSOR.rawData, bytes),
  );
}

/** Seven bits per byte, the lowest first; the top bit says that more follow. Negative numbers are of 64 bits. */
function varint(n: number): Bytes {
  const bytes = [];
  let rest = BigInt.asUintN(64, BigInt(n));
  for (; rest > 127n; rest >>= 7n) bytes.push(Number(rest & 127n) + 128);
  return Uint8Array.of(...bytes, Number(rest));
}

/** Field number and wire type in one. */
function tag(number: number, wireType: 0 | 2 | 5): Bytes {
  return varint(8 * number + wireType);
}

function integer(number: number, n: number): Bytes {
  return join(tag(number, 0), varint(n));
}

function float(number: number, x: number): Bytes {
  return join(tag(number, 5), new Uint8Array(Float32Array.of(x).buffer));
}

function field(number: number, bytes: Bytes): Bytes {
  return join(tag(number, 2), varint(bytes.length), bytes);
}

function text(number: number, characters: string): Bytes {
  return field(number, new TextEncoder().encode(characters));
}

function join(...parts: Bytes[]): Bytes {
  const bytes = new Uint8Array(parts.reduce((sum, { length }) => sum + length, 0));
  let at = 0;
  for (const part of parts) {
    bytes.set(part, at);
    at += part.length;
  }
  return bytes;
}
