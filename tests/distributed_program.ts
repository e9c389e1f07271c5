/**
 * What one rank of the tests in `distributed_test.ts` does: `mpiexec` starts this file, and each rank checks what it has
 * computed. The first argument names the case, the second the backend.
 *
 * @module
 */
import assert from "node:assert/strict";
import { type Backend, createBackend, type Tensor } from "../mod.ts";
import {
  inRanks,
  prefill,
  type RankError,
  type Ranks,
  sharedAttention,
  sharedAttentionBackward,
  trainingRanks,
} from "../distributed/mod.ts";
import { parseConfig } from "../model/config.ts";
import { type Session, TransNormerLLM } from "../model/mod.ts";
import { decodeSafetensors, toFloat32 } from "../model/safetensors.ts";
import { lossAndGradients, lossOf } from "../train/backward.ts";
import { Parameters } from "../train/optimizer.ts";
import { columnsOf, GradientSums } from "../train/ranks.ts";
import { assertClose, assertSameBits, randomArray, relativeError, seeded } from "./numbers.ts";
import * as reference from "./reference.ts";
import {
  checkpoint,
  type ConfigJson,
  randomTensors,
  referenceLogits,
  SERVED,
  serving,
  SMALL,
} from "./reference_model.ts";

/** As `tests/attention.ts` holds one process to the oracle. */
const LIMIT = 2e-6;

/** Orders tensors as they are in a list. */
function byPlace(list: readonly Tensor[]): (a: Tensor, b: Tensor) => number {
  return (a, b) => list.indexOf(a) - list.indexOf(b);
}

/** The message of the error that something ends with, on every rank. */
async function refused(work: Promise<unknown>, reason?: RankError["reason"]): Promise<string> {
  const error = await work.then(() => undefined, (error) => error);
  assert(error instanceof Error, "an error");
  if (reason !== undefined) assert.equal((error as RankError).reason, reason, error.message);
  return error.message;
}

async function messages(ranks: Ranks): Promise<void> {
  const { rank, size } = ranks;
  // Sums: any length, the fixed order of float64, the same bits everywhere and again.
  for (const length of [0, 1, 2, 3, 1000, 2_500_001]) {
    const given = Array.from({ length: size }, (_, r) => randomArray([length], 1 + r));
    const expected = Float32Array.from({ length }, (_, i) => given.reduce((sum, one) => sum + one[i], 0));
    for (let again = 0; again < 2; again++) {
      const sum = Float32Array.from(given[rank]);
      await ranks.allReduce(sum);
      assertSameBits(sum, expected, `sum of ${length}`);
    }
  }
  // A part of a larger memory, in float64, where the order of the sum is visible: 1e16 + 1 - 1e16 is 0, not 1.
  const parts = new Float64Array(3).fill(7);
  parts[1] = [1e16, 1, -1e16, 0][rank];
  await ranks.allReduce(parts.subarray(1, 2));
  assert.deepEqual([...parts], [7, size === 2 ? 1e16 : 0, 7]);
  // Everything from everyone.
  const all = await ranks.allGather(Uint32Array.of(rank, rank * rank));
  assert.deepEqual(all, Array.from({ length: size }, (_, r) => Uint32Array.of(r, r * r)));
  // From one to all, each in turn.
  for (let root = 0; root < size; root++) {
    const data = Int32Array.from({ length: 1000 }, (_, i) => rank === root ? root - i : 1);
    await ranks.broadcast(data, root);
    assert(data.every((value, i) => value === root - i), `broadcast from ${root}`);
  }
  // Around a ring, longer than any buffer on the way: everyone sends and receives together.
  const next = (rank + 1) % size, before = (rank + size - 1) % size;
  const received = new Float32Array(3_000_000);
  const sent = ranks.send(new Float32Array(received.length).fill(rank), next);
  await ranks.receive(received, before);
  await sent;
  assert(received.every((value) => value === before), "the whole message");
  // Tags keep messages apart.
  if (rank === 0) {
    await ranks.send(Uint8Array.of(5), 1, 5);
    await ranks.send(Uint8Array.of(6), 1, 6);
  } else if (rank === 1) {
    const five = new Uint8Array(1), six = new Uint8Array(1);
    const first = ranks.receive(six, 0, 6);
    await ranks.receive(five, 0, 5);
    await first;
    assert.deepEqual([five[0], six[0]], [5, 6]);
  }
  // Calls of one rank that overlap keep their order.
  const sums = [Float32Array.of(1), Float32Array.of(10)];
  await Promise.all(sums.map((sum) => ranks.allReduce(sum)));
  assert.deepEqual(sums.map((sum) => sum[0]), [size, 10 * size]);
  // Without bytes, and the count of those that were sent.
  assert(ranks.bytesSent > 4 * received.length && Number.isSafeInteger(ranks.bytesSent));

  // Bad input: the same error on every rank, and all can continue.
  let text = await refused(ranks.allReduce(new Float32Array(3 + Number(rank === 1))), "different");
  assert.match(text, /^Cannot run allReduce .* rank 0: allReduce of Float32Array\(3\); rank 1: .*\(4\)/);
  text = await refused(ranks.allGather(rank === 0 ? new Float32Array(2) : new Int32Array(2)), "different");
  assert.match(text, /Float32Array\(2\); rank 1: allGather of Int32Array\(2\)/);
  const mixed = rank === 1 ? ranks.broadcast(new Float32Array(2)) : ranks.allReduce(new Float32Array(2));
  assert.match(await refused(mixed, "different"), /rank 1: broadcast of Float32Array\(2\) from 0/);
  text = await refused(ranks.agree("train", { seed: 1, data: rank === 1 ? "b" : "a" }), "different");
  assert.match(
    text,
    /^Cannot run train as all ranks must have the same data: .*"a" on rank 0, "b" on rank 1/,
  );
  const work = ranks.together("load", () => {
    if (rank === 1) throw new RangeError("Cannot run load as there is no such file");
    return rank;
  });
  text = await refused(work, "elsewhere");
  assert.match(text, /^Cannot run load on all ranks, as rank 1 failed: Cannot run load as there is no such/);
  assert.equal(await ranks.together("load", () => rank), rank);
  for (const to of [rank, -1, size, 0.5]) {
    assert.match(await refused(ranks.send(new Uint8Array(1), to)), /^Cannot run send as to must be another/);
    assert.match(await refused(ranks.receive(new Uint8Array(1), to)), /from must be another rank/);
  }
  assert.match(await refused(ranks.broadcast(new Uint8Array(1), size)), /root must be a rank/);
  // A message of another length than expected.
  if (rank === 0) {
    await ranks.send(new Float32Array(2), 1);
    await ranks.send(new Float32Array(4), 1);
  } else if (rank === 1) {
    assert.match(await refused(ranks.receive(new Float32Array(3), 0), "failed"), /12 bytes: .* 8/);
    await refused(ranks.receive(new Float32Array(3), 0), "failed");
  }
  await ranks.agree("messages", { end: true });
}

async function attention(ranks: Ranks, backend: Backend): Promise<void> {
  const { rank, size } = ranks;
  const [heads, d, e] = [3, 10, 7], slopes = [0, 0.02, 1.5], scale = 0.5;
  // Parts of any length, also none.
  const lengths = [[130, 261], [0, 77], [64, 0, 25, 1], [51, 200, 1, 333]].filter((one) =>
    one.length === size
  );
  for (const parts of lengths) {
    const seqLen = parts.reduce((sum, length) => sum + length, 0);
    const start = parts.slice(0, rank).reduce((sum, length) => sum + length, 0);
    const sizes = { batch: 1, heads, seqLen, headDim: d, valueDim: e };
    const [q, k, v, dOutput] = [d, d, e, e].map((dim, i) => randomArray([1, heads, seqLen, dim], 1 + i));
    const [initialState, dState] = [5, 6].map((seed) => randomArray([1, heads, d, e], seed));
    const options = { slopes, scale, initialState };
    const forward = reference.lightningAttention(q, k, v, sizes, options);
    const backward = reference.lightningAttentionBackward(q, k, v, dOutput, sizes, { ...options, dState });
    const ours = <T extends Float32Array | Float64Array>(data: T, dim: number) => {
      const bnhd = reference.toBnhd(data, [1, heads, seqLen, dim]), row = heads * dim;
      return bnhd.slice(start * row, (start + parts[rank]) * row);
    };
    const results: Float32Array[][] = [];
    for (let again = 0; again < 2; again++) {
      using held = new DisposableStack();
      const tensor = (data: Float32Array, dim: number) =>
        held.use(backend.tensor(ours(data, dim), [1, parts[rank], heads, dim]));
      const [tq, tk, tv, dO] = [tensor(q, d), tensor(k, d), tensor(v, e), tensor(dOutput, e)];
      const state = held.use(backend.tensor(initialState, [1, heads, d, e]));
      const shared = { slopes, scale, layout: "bnhd" as const, initialState: state };
      const there = await sharedAttention(ranks, tq, tk, tv, shared);
      const dLast = held.use(backend.tensor(dState, [1, heads, d, e]));
      const back = await sharedAttentionBackward(ranks, tq, tk, tv, dO, {
        ...shared,
        initialState: there.initialState,
        dState: dLast,
      });
      for (const one of [there.output, there.state, ...Object.values(back)]) held.use(one);
      if (there.initialState !== state) held.use(there.initialState!);
      assertClose(await there.output.data(), ours(forward.output, e), LIMIT, `output, parts ${parts}`);
      if (rank === size - 1) assertClose(await there.state.data(), forward.state, LIMIT, "state");
      for (const [name, dim] of [["dq", d], ["dk", d], ["dv", e]] as const) {
        assertClose(await back[name].data(), ours(backward[name], dim), LIMIT, `${name}, parts ${parts}`);
      }
      if (rank === 0) assertClose(await back.dInitialState.data(), backward.dInitialState, LIMIT, "dState");
      results.push(await Promise.all([there.output, back.dq, back.dk, back.dv].map((one) => one.data())));
    }
    results[0].forEach((data, i) => assertSameBits(results[1][i], data, "a repeated run"));
  }
  using x = backend.tensor(new Float32Array(20), [1, 1, 2, 10]);
  const shared = sharedAttention(ranks, x, x, x, { slopes: [0, rank], layout: "bnhd" });
  assert.match(await refused(shared, "different"), /the same slopes: .*"0 0" on rank 0, "0 1" on rank 1/);
}

async function prompts(ranks: Ranks, backend: Backend): Promise<void> {
  const config: ConfigJson = { ...SMALL, decoder_layers: 3, linear_use_lrpe_list: [1, 0, 0] };
  const tensors = randomTensors(config, 1);
  const load = (tensors: ReturnType<typeof randomTensors>) =>
    TransNormerLLM.load(SERVED, { backend, fetch: serving(checkpoint(config, tensors)) });
  using model = await load(tensors);
  const random = seeded(5);
  const ids = Array.from({ length: 1013 }, () => Math.floor(23 * random()));
  for (const passTokens of [undefined, 100]) {
    for (const cut of [0, 1, 60, 1000]) {
      using alone = model.session(), session = model.session();
      if (cut > 0) {
        alone.prefill(ids.slice(0, cut)).dispose();
        (await prefill(ranks, session, ids.slice(0, cut), { passTokens })).dispose();
      }
      using expected = alone.prefill(ids.slice(cut));
      using found = await prefill(ranks, session, ids.slice(cut), { passTokens });
      assert.equal(session.position, ids.length);
      const of = async (tensors: typeof session.states) =>
        await Promise.all([found, ...tensors].map((one) => one.data()));
      const [logits, ...states] = await of(session.states);
      assertClose(logits, await expected.data(), LIMIT, "logits compared with one process");
      for (const [l, state] of alone.states.entries()) {
        const what = `state ${l}, passes of ${passTokens}, after ${cut}`;
        // Parts of few tokens are added up in another order.
        if (backend.name === "wasm" && passTokens === undefined && cut === 0) {
          assertSameBits(states[l], await state.data(), what);
          assertSameBits(logits, await expected.data(), what);
        } else assertClose(states[l], await state.data(), LIMIT, what);
      }
      // All ranks continue alike.
      using step = session.step(3), other = alone.step(3);
      assertClose(await step.data(), await other.data(), LIMIT, "the next token");
      if (cut > 0) continue;
      const oracle = referenceLogits(config, tensors, [ids]).slice(-23);
      assertClose(logits, oracle, LIMIT, "logits compared with float64");
    }
  }
  // What ranks exchange does not depend on the length.
  using session = model.session();
  const sent: number[] = [];
  for (const length of [200, 1000]) {
    const before = ranks.bytesSent;
    (await prefill(ranks, session, ids.slice(0, length))).dispose();
    sent.push(ranks.bytesSent - before);
  }
  assert.equal(sent[0], sent[1]);
  // With bounded passes each rank sends the states once per pass, and the last ones go to all.
  const bytes = model.session().stateBytes, parts = Math.ceil(1000 / 100);
  const before = ranks.bytesSent;
  (await prefill(ranks, session, ids.slice(0, 1000), { passTokens: 100 })).dispose();
  const exchanged = await ranks.allGather(Float64Array.of(ranks.bytesSent - before));
  const total = exchanged.reduce((sum, [one]) => sum + one, 0);
  assert.equal(total, (parts - 1) * bytes + (ranks.size - 1) * (bytes + 4 * model.config.vocabSize));
  if (backend.name === "webgpu") await waits(ranks, session, ids.slice(0, 1000));

  // Bad input: the same sentence on every rank, sessions unchanged.
  const { rank } = ranks, { position } = session;
  const one = (ids: number[], options = {}) => refused(prefill(ranks, session, ids, options));
  assert.match(
    await one(rank === 1 ? [1, 2, 3] : [1, 2]),
    /^Cannot run prefill .* same number of ids: .* 2 on rank 0, 3/,
  );
  assert.match(await one(rank === 1 ? [1, 3] : [1, 2]), /the same ids/);
  assert.match(
    await one(rank === 1 ? [1, 99] : [1, 2]),
    /as rank 1 failed: .*ids must be integers from 0 to 22/,
  );
  assert.match(await one([]), /at least one token/);
  assert.match(await one([1, 2], { passTokens: 3 }), /passTokens must be an integer >= 25/);
  assert.match(await one([1, 2], { passTokens: 100 + 25 * rank }), /the same passTokens/);
  assert.equal(session.position, position);
  if (rank === 1) session.step(1).dispose();
  assert.match(await one([1, 2]), /the same position/);
  using different = await load(randomTensors(config, 1 + rank));
  using elsewhere = different.session();
  assert.match(await refused(prefill(ranks, elsewhere, [1, 2]), "different"), /the same model/);
  (await prefill(ranks, model.session(), [1, 2])).dispose(); // all can continue
}

/** What a prompt asks of the device: once per layer and part it is waited for, and nothing is made again. */
async function waits(ranks: Ranks, session: Session, ids: number[]): Promise<void> {
  const { rank, size } = ranks, { layers } = session.model.config;
  const parts = Math.ceil(ids.length / 100);
  const read = async () => (await prefill(ranks, session, ids, { passTokens: 100 })).dispose();
  await read();
  const calls = { mapAsync: 0, submit: 0, createBuffer: 0, createComputePipeline: 0 };
  const counted = (prototype: object, name: keyof typeof calls) => {
    const methods = prototype as Record<string, (...args: unknown[]) => unknown>, method = methods[name];
    methods[name] = function (...args) {
      calls[name]++;
      return method.apply(this, args);
    };
  };
  counted(GPUBuffer.prototype, "mapAsync");
  counted(GPUQueue.prototype, "submit");
  counted(GPUDevice.prototype, "createBuffer");
  counted(GPUDevice.prototype, "createComputePipeline");
  await read();
  const own = Math.ceil((parts - rank) / size), isLast = (parts - 1) % size === rank;
  const maps = isLast ? layers * (own - 1) + layers + 1 : layers * own; // the last part: states and logits, for all
  assert.deepEqual([calls.mapAsync, calls.createComputePipeline, calls.createBuffer], [maps, 0, 0]);
  // Before each wait, and what was recorded meanwhile after it.
  assert(calls.submit <= 4 * layers * own + 2 * layers, `${calls.submit} submits`);
}

/** Loss and gradients of sequences in parts, against the authors' code and one process. */
async function gradients(ranks: Ranks, backend: Backend): Promise<void> {
  const golden = async (name: string) => {
    const file = new URL(`golden/tnl/${name}`, import.meta.url);
    return decodeSafetensors(await Deno.readFile(file), name).tensors;
  };
  const config = parseConfig(
    JSON.parse(await Deno.readTextFile(new URL("golden/tnl/config.json", import.meta.url))),
  );
  const weights = await golden("model.safetensors"), expected = await golden("expected.safetensors");
  const floats = (tensors: typeof weights, name: string) => {
    const { dtype, bytes } = tensors.get(name)!;
    return toFloat32(dtype, bytes, name);
  };
  using parameters = new Parameters(backend, config, (name) => ({ value: floats(weights, name) }));
  const ids = Uint32Array.from(new Int32Array(expected.get("input_ids")!.bytes.slice().buffer));
  const seqLen = ids.length / 2;
  const labels = Int32Array.from(ids, (_, i) => i % seqLen === seqLen - 1 ? -100 : ids[i + 1]);
  const whole = { ids, labels, batch: 2, seqLen, positions: [0, 0] };
  const count = labels.filter((label) => label >= 0).length;
  const shared = await trainingRanks(ranks, backend, "sequence");
  const run = async (shares: boolean, recompute = false) => {
    using gradients = parameters.gradients();
    using total = backend.zeros([1]);
    const segment = shares ? columnsOf(whole, ranks.rank, ranks.size) : whole;
    const sums = new GradientSums(shared, backend), handed = new Set<Tensor>();
    const onFinal = async (final: readonly Tensor[]) => {
      for (const gradient of final) handed.add(gradient);
      await sums.add(final);
    };
    const options = { recompute, ...shares && { chain: shared.chain, onFinal } };
    const states = await lossAndGradients(parameters, gradients.tree, segment, 1 / count, total, options);
    for (const state of states) state.dispose();
    const tensors = [total, ...gradients.list];
    if (shares) {
      // All but the embedding's, which comes last, travel while the pass goes on.
      assert.deepEqual([...handed].toSorted(byPlace(tensors)), tensors.slice(2));
      assert.equal(await sums.finish(tensors, 1), ranks.size);
    }
    return await Promise.all(tensors.map((tensor) => tensor.data()));
  };
  const found = await run(true), alone = await run(false);
  const names = ["loss", ...parameters.list.map(({ name }) => name)];
  for (const [i, name] of names.entries()) {
    // Terms of θ's gradient cancel: on WebGPU one process is off as much.
    const limit = backend.name === "wasm" ? LIMIT : 5e-6;
    assertClose(found[i], alone[i], limit, `${name}, compared with one process`);
    if (i === 0) assertClose([found[0][0] / count], floats(expected, "loss"), 1e-6, "loss");
    else {
      const error = relativeError(found[i], floats(expected, `grad.${name}`)); // as in backward_test.ts
      assert(error <= 1e-5, `gradient of ${name} is off by ${error}`);
    }
  }
  for (const again of [await run(true), await run(true, true)]) {
    for (const [i, name] of names.entries()) assertSameBits(again[i], found[i], `${name}, once more`);
  }
  // The loss alone.
  using total = backend.zeros([1]);
  const segment = columnsOf(whole, ranks.rank, ranks.size);
  for (const state of await lossOf(parameters, segment, total, { chain: shared.chain })) state.dispose();
  await new GradientSums(shared, backend).finish([total], 0);
  assertSameBits(await total.data(), found[0], "the loss alone");
}

/** One rank fails where the others wait for it. */
async function failure(ranks: Ranks): Promise<void> {
  if (ranks.rank === 1) throw new RangeError("Cannot run failure as rank 1 must fail: current value is 1");
  await ranks.agree("failure", { never: true });
}

/**
 * A rank blocks its thread, as a wait for a GPU does, until another one has what it has sent, says so, and is heard: by a
 * file, since nothing else is heard then.
 */
async function blocked(ranks: Ranks): Promise<void> {
  const file = `${Deno.env.get("RECEIVED")}`, floats = 5_000_000, end = performance.now() + 60_000;
  if (ranks.rank === 0) {
    const sent = ranks.send(new Float32Array(floats).fill(7), 1);
    const nobody = new Int32Array(new SharedArrayBuffer(4));
    for (; Deno.statSync(file).size === 0; Atomics.wait(nobody, 0, 0, 1)) {
      assert(performance.now() < end, "the message arrives while its sender is blocked");
    }
    await sent;
  } else {
    const received = new Float32Array(floats);
    await ranks.receive(received, 0);
    assert(received.every((value) => value === 7));
    Deno.writeTextFileSync(file, "received");
  }
}

/** All ranks fail together. */
async function disagreement(ranks: Ranks): Promise<void> {
  await ranks.agree("disagreement", { rank: ranks.rank });
}

const CASES: Record<string, (ranks: Ranks, backend: Backend) => Promise<void>> = {
  messages,
  attention,
  prompts,
  gradients,
  blocked,
  failure,
  disagreement,
};

if (import.meta.main) {
  const [name, prefer] = Deno.args as [string, "wasm" | "webgpu"];
  await inRanks(async (ranks) => {
    using backend = await createBackend({ prefer });
    await CASES[name](ranks, backend);
    assert.equal(backend.bytesInUse, 0, "tensors undisposed");
    console.log(`rank ${ranks.rank} of ${ranks.size}: ${name} passed`);
  });
}
