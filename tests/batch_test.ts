import assert from "node:assert/strict";
import { scatterRows } from "../core/ops.ts";
import { FEW_ROWS } from "../core/sizes.ts";
import { type Backend, lightningAttentionStep, type Tensor } from "../mod.ts";
import { TransNormerLLM } from "../model/mod.ts";
import { assertSameBits, eachBackend, randomArray, Scope, seeded } from "./harness.ts";
import { checkpoint, type ConfigJson, randomTensors, SERVED, serving, SMALL } from "./reference_model.ts";

const load = (backend: Backend, config: ConfigJson = SMALL, seed = 1) =>
  TransNormerLLM.load(SERVED, {
    backend,
    fetch: serving(checkpoint(config, randomTensors(config, seed))),
  });

async function row(tensor: Tensor): Promise<Float32Array> {
  using logits = tensor;
  return await logits.data();
}

eachBackend(
  "a step on chosen rows of the states changes these as a separate step, and no other",
  async (backend) => {
    for (const [headDim, valueDim] of [[8, 16], [6, 5]]) {
      using scope = new Scope();
      const [slots, heads, rows] = [5, 3, [4, 0, 2]];
      const make = (shape: number[], seed: number) =>
        scope.keep(backend.tensor(randomArray(shape, seed), shape));
      const states = make([slots, heads, headDim, valueDim], 1);
      const before = await states.data();
      const [q, k] = [2, 3].map((seed) => make([rows.length, heads, headDim], seed));
      const v = make([rows.length, heads, valueDim], 4);
      const size = heads * headDim * valueDim;
      const own = scope.keep(backend.tensor(
        Float32Array.from(rows.flatMap((row) => [...before.subarray(row * size, (row + 1) * size)])),
        [rows.length, heads, headDim, valueDim],
      ));
      const slopes = [0.1, 0, 2];
      const expected = await scope.keep(lightningAttentionStep(q, k, v, own, { slopes })).data();
      const actual = await scope.keep(lightningAttentionStep(q, k, v, states, { slopes, rows })).data();
      assertSameBits(actual, expected, "output");
      const after = await states.data(), changed = await own.data();
      for (let slot = 0; slot < slots; slot++) {
        const place = rows.indexOf(slot);
        assertSameBits(
          after.slice(slot * size, (slot + 1) * size),
          place < 0
            ? before.slice(slot * size, (slot + 1) * size)
            : changed.slice(place * size, (place + 1) * size),
          `state ${slot}`,
        );
      }
      const refuse = (rows: unknown, message: RegExp) =>
        assert.throws(
          () => lightningAttentionStep(q, k, v, states, { slopes, rows: rows as number[] }),
          message,
        );
      refuse([0, 1, 5], /rows must be integers from 0 to 4: current value is 5/);
      refuse([0, 1, 1], /rows must differ from one another/);
      refuse([0, 1], /rows must have one value per batch element, 3: current value is 2/);
      refuse(7, /rows must be an array of integers/);
    }
  },
);

eachBackend("scatterRows puts rows in their places and leaves the others", async (backend) => {
  using scope = new Scope();
  const target = scope.keep(backend.tensor(Float32Array.from({ length: 24 }, (_, i) => i), [4, 2, 3]));
  const x = scope.keep(backend.tensor(new Float32Array(12).map((_, i) => -i - 1), [2, 2, 3]));
  scatterRows(x, [3, 1], target);
  assert.deepEqual([...await target.data()], [
    ...[0, 1, 2, 3, 4, 5],
    ...[-7, -8, -9, -10, -11, -12],
    ...[12, 13, 14, 15, 16, 17],
    ...[-1, -2, -3, -4, -5, -6],
  ]);
  assert.throws(() => scatterRows(x, [0, 0], target), /rows must differ/);
  assert.throws(() => scatterRows(x, [0, 4], target), /rows must be integers from 0 to 3/);
  assert.throws(() => scatterRows(x, [0], target), /x must have shape \[rows.length, \.\.\.\] of target/);
});

eachBackend("sessions in a batch of more than one pass get the bits that they get alone", async (backend) => {
  using model = await load(backend);
  using session = model.session();
  session.prefill([3, 1, 4]).dispose();
  const size = FEW_ROWS + 7, vocab = SMALL.vocab_size;
  const expected: Float32Array[] = [];
  for (const id of [5, 9]) {
    using copy = model.restore(await session.snapshot());
    expected.push(await row(copy.step(id)));
  }
  using batch = model.batch(size);
  const slots = Array.from({ length: size }, () => batch.join(session));
  const logits = await row(batch.step(slots, slots.map((slot) => slot % 2 === 0 ? 5 : 9)));
  slots.forEach((slot) => {
    assertSameBits(logits.slice(slot * vocab, (slot + 1) * vocab), expected[slot % 2], `session ${slot}`);
  });
  using left = batch.leave(slots[FEW_ROWS]);
  assert.equal(left.position, 4);
});

eachBackend(
  "sessions in a batch get the bits that they get alone, whoever else is there",
  async (backend) => {
    for (
      const config of [SMALL, { ...SMALL, decoder_embed_dim: 64, hidden_dim: 96, glu_dim: 100, bias: true }]
    ) {
      using model = await load(backend, config);
      const random = seeded(5);
      const tokens = Array.from(
        { length: 12 },
        () => Array.from({ length: 10 }, () => Math.floor(random() * 23)),
      );
      const alone: Float32Array[][] = [];
      for (const ids of tokens) {
        using session = model.session();
        session.prefill(ids.slice(0, 3)).dispose();
        const rows = [];
        for (const id of ids.slice(3)) {
          rows.push(await row(session.step(id)));
        }
        alone.push(rows);
      }
      using batch = model.batch(12);
      // Session s joins at turn s and leaves after its last token: every turn has another company, in other slots.
      const running = new Map<number, { slot: number; read: number }>();
      for (let turn = 0; turn < tokens.length + 6; turn++) {
        if (turn < tokens.length) {
          using session = model.session();
          session.prefill(tokens[turn].slice(0, 3)).dispose();
          running.set(turn, { slot: batch.join(session), read: 3 });
        }
        const members = [...running];
        if (turn % 2 === 1) members.reverse();
        const logits = await row(batch.step(
          members.map(([, { slot }]) => slot),
          members.map(([s, { read }]) => tokens[s][read]),
        ));
        members.forEach(([s, member], i) => {
          assertSameBits(
            logits.slice(i * 23, (i + 1) * 23),
            alone[s][member.read - 3],
            `session ${s} in turn ${turn}`,
          );
          if (++member.read < 10) return;
          running.delete(s);
          if (s % 2 === 0) batch.drop(member.slot);
          else {
            using left = batch.leave(member.slot);
            assert.equal(left.position, 10);
          }
        });
      }
      assert.equal(batch.free, 12);
    }
  },
);

eachBackend("a session goes through a batch as if it had stayed alone", async (backend) => {
  using model = await load(backend);
  using alone = model.session();
  alone.prefill([1, 2, 3]).dispose();
  using batch = model.batch(2);
  using other = model.session();
  other.prefill([9]).dispose();
  const slot = batch.join(alone), second = batch.join(other);
  batch.step([second, slot], [5, 7]).dispose();
  batch.step([slot], [8]).dispose();
  using back = batch.leave(slot);
  alone.step(7).dispose();
  alone.step(8).dispose();
  assert.deepEqual(await back.snapshot(), await alone.snapshot());
});

eachBackend("what a batch refuses leaves it as it was", async (backend) => {
  using model = await load(backend);
  using elsewhere = await load(backend);
  assert.throws(() => model.batch(0), /size must be an integer >= 1/);
  const batch = model.batch(2);
  using session = model.session();
  using foreign = elsewhere.session();
  session.prefill([1]).dispose();
  const slot = batch.join(session);
  const expected = await row(session.step(2));
  assert.throws(() => batch.join(foreign), {
    name: "TypeError",
    message: /living session of the batch's model/,
  });
  assert.throws(() => batch.step([slot, slot], [1, 2]), /slots must differ/);
  assert.throws(() => batch.step([1], [1]), /slot must hold a session: current value is 1/);
  assert.throws(() => batch.step([slot], [23]), /ids must be integers from 0 to 22/);
  assert.throws(() => batch.step([slot], [1, 2]), /one value per slot, 1/);
  assert.throws(() => batch.step([], []), /at least one token/);
  assert.throws(() => batch.leave(1), /slot must hold a session/);
  batch.join(session);
  assert.throws(() => batch.join(session), /a slot must be free: current value is "2 sessions"/);
  assertSameBits(await row(batch.step([slot], [2])), expected);
  batch.dispose();
  assert.throws(() => batch.step([slot], [2]), { name: "BackendError", reason: "disposed" });
});
