import assert from "node:assert/strict";
import { test } from "node:test";
import { applyDelta, isAck, isDelta, isGap, isPanelState, isFullState, type Delta, type PanelState } from "../src/messages";
import { sample } from "./samples";

const state = (): PanelState => ({ seq: 4, run: "r1", study: sample("running") });

function delta(more: Partial<Delta> = {}): Delta {
  return { kind: "delta", seq: 5, trials: [], progress: null, set: {}, ...more };
}

test("guards accept their message and no other", () => {
  assert.ok(isDelta(delta()));
  assert.ok(isAck({ kind: "ack", control: "stop", run: "r1", paused: false }));
  assert.ok(isFullState({ kind: "whole", state: state() }));
  assert.ok(isPanelState(state()));
  for (const wrong of [null, 1, "delta", {}, { kind: "delta" }, { kind: "ack" }, { kind: "whole", state: {} }]) {
    assert.ok(!isDelta(wrong) && !isAck(wrong) && !isFullState(wrong));
  }
  assert.ok(!isDelta({ ...delta(), trials: [{ number: "x" }] }));
  assert.ok(!isDelta({ ...delta(), set: { best: "first" } }));
  assert.ok(!isDelta({ ...delta(), set: { unknown: 1 } }));
});

test("a delta replaces trials of its numbers and adds the others in order", () => {
  const before = state();
  const numbers = before.study.trials.map((trial) => trial.number);
  const ended = { number: 14, state: "complete" as const, params: {}, metrics: { accuracy: 0.9 }, seconds: 1 };
  const begun = { number: 15, state: "running" as const, params: {}, metrics: {}, seconds: null };
  const after = applyDelta(before, delta({ trials: [begun, ended], set: { best: 14 } }));
  assert.equal(after.seq, 5);
  assert.equal(after.study.best, 14);
  assert.deepEqual(
    after.study.trials.map((trial) => trial.number),
    [...numbers, 15],
  );
  assert.equal(after.study.trials.find((trial) => trial.number === 14)?.state, "complete");
  assert.equal(before.study.trials.length, numbers.length, "the state before is untouched");
});

test("what a delta does not change stays the same object", () => {
  const before = state();
  const after = applyDelta(before, delta({ set: { elapsed: 50 } }));
  assert.equal(after.study.trials, before.study.trials);
  assert.equal(after.study.slices, before.study.slices);
});

test("progress is continued from where it changed", () => {
  const before = state();
  const values = before.study.progress?.values ?? [];
  const after = applyDelta(before, delta({ progress: { label: "hypervolume", from: values.length, values: [9, 10] } }));
  assert.deepEqual(after.study.progress?.values, [...values, 9, 10]);
  const again = applyDelta(after, delta({ seq: 6, progress: { label: "hypervolume", from: 2, values: [7] } }));
  assert.deepEqual(again.study.progress?.values, [...values.slice(0, 2), 7]);
});

test("an old delta changes nothing, and a gap is noticed", () => {
  const before = state();
  assert.equal(applyDelta(before, delta({ seq: 4 })), before);
  assert.ok(!isGap(before, delta()));
  assert.ok(isGap(before, delta({ seq: 7 })));
});
