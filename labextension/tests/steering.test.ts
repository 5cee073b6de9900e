import assert from "node:assert/strict";
import { mock, test } from "node:test";
import type { Controls } from "../src/header";
import type { PanelState, Press } from "../src/messages";
import { Steering, type Manager } from "../src/steering";
import { sample } from "./samples";

const flush = () => new Promise<void>((done) => setImmediate(done));

function prepared(kernel: Manager["kernel"], more: { interrupts?: boolean; isThere?: boolean } = {}, study = sample("running")) {
  mock.timers.reset();
  mock.timers.enable({ apis: ["setTimeout"] });
  const sent: unknown[] = [];
  let controls: Controls | null = null;
  const state: PanelState = { seq: 1, run: "r1", study };
  const send = (content: unknown): void => {
    const { page, ...rest } = content as Press;
    assert.match(page, /^\w+$/);
    sent.push(rest);
  };
  const manager: Manager = { get_model: async () => ({ send }), kernel: kernel ?? null };
  const steering = new Steering(manager, "id", more.interrupts ?? true, () => more.isThere ?? true, () => state, (now) => (controls = now));
  return { sent, state, steering, controls: () => controls as unknown as Controls };
}

function busyKernel() {
  const interrupt = mock.fn(async () => undefined);
  return { interrupt };
}

test("controls appear when Python answers", async () => {
  const { steering, controls, sent } = prepared(null);
  steering.start();
  await flush();
  assert.deepEqual(sent, [{ kind: "press", control: "hello", run: "r1" }]);
  assert.equal(controls().stop, null);
  steering.heard({ kind: "ack", control: "hello", run: "r1", paused: false });
  assert.ok(controls().stop && controls().pause && controls().skip);
});

test("where nothing can reach the kernel, nothing is offered and a sentence says what works", () => {
  const { steering, controls } = prepared(null);
  steering.start();
  for (let i = 0; i < 40; i++) {
    mock.timers.tick(250);
  }
  assert.equal(controls().stop, null);
  assert.match(controls().note, /Interrupt the kernel to stop/);
});

test("a greeting that was lost is sent again until it is answered", async () => {
  const { steering, sent, controls } = prepared(null);
  steering.start();
  mock.timers.tick(250);
  await flush();
  assert.equal(sent.length, 2);
  steering.heard({ kind: "ack", control: "hello", run: "r1", paused: false });
  mock.timers.tick(60_000);
  await flush();
  assert.equal(sent.length, 2);
  assert.equal(controls().note, "");
});

test("an unanswered Stop interrupts after 300 ms", () => {
  const kernel = busyKernel();
  const { steering, controls } = prepared(kernel);
  steering.start();
  controls().stop?.();
  mock.timers.tick(299);
  assert.equal(kernel.interrupt.mock.callCount(), 0);
  mock.timers.tick(2);
  assert.equal(kernel.interrupt.mock.callCount(), 1);
});

test("an answered Stop does not interrupt", () => {
  const kernel = busyKernel();
  const { steering, controls } = prepared(kernel);
  steering.start();
  controls().stop?.();
  steering.heard({ kind: "ack", control: "stop", run: "r1", paused: false });
  mock.timers.tick(1000);
  assert.equal(kernel.interrupt.mock.callCount(), 0);
});

test("where the search is not, or is in the background, nothing is interrupted", () => {
  for (const more of [{ isThere: false }, { interrupts: false }]) {
    const kernel = busyKernel();
    const { steering, controls } = prepared(kernel, more);
    steering.start();
    assert.equal(controls().stop, null, "not offered without an answer");
    steering.heard({ kind: "ack", control: "hello", run: "r1", paused: false });
    controls().stop?.();
    mock.timers.tick(1000);
    assert.equal(kernel.interrupt.mock.callCount(), 0);
    assert.match(controls().note, /not answered Stop yet/);
  }
});

test("a late Stop spares the next cell", () => {
  for (const late of ["ended", "closed"]) {
    const kernel = busyKernel();
    const { steering, controls, state } = prepared(kernel);
    steering.start();
    controls().stop?.();
    if (late === "ended") {
      state.study = { ...state.study, state: "ended" };
    } else {
      steering.dispose();
    }
    mock.timers.tick(1000);
    assert.equal(kernel.interrupt.mock.callCount(), 0, late);
  }
});

test("Pause becomes resume once Python has paused", async () => {
  const { steering, controls, sent } = prepared(null);
  steering.start();
  steering.heard({ kind: "ack", control: "hello", run: "r1", paused: false });
  controls().pause?.();
  steering.heard({ kind: "ack", control: "pause", run: "r1", paused: true });
  assert.ok(controls().isPaused);
  controls().pause?.();
  await flush();
  assert.deepEqual(sent.slice(1), [
    { kind: "press", control: "pause", run: "r1" },
    { kind: "press", control: "resume", run: "r1" },
  ]);
});

test("an answer to another run is not ours", () => {
  const { steering, controls } = prepared(null);
  steering.start();
  steering.heard({ kind: "ack", control: "hello", run: "r0", paused: false });
  assert.equal(controls().stop, null);
});

test("Skip is answered by a sentence that passes", () => {
  const { steering, controls } = prepared(null);
  steering.start();
  steering.heard({ kind: "ack", control: "hello", run: "r1", paused: false });
  controls().skip?.();
  steering.heard({ kind: "ack", control: "skip", run: "r1", paused: false });
  assert.match(controls().note, /Skipped/);
  mock.timers.tick(3001);
  assert.equal(controls().note, "");
});

test("a point is sent by its values, and what became of it is told beside it", async () => {
  const kernel = busyKernel();
  const { steering, controls, sent } = prepared(kernel);
  steering.start();
  assert.equal(controls().run, null, "nobody would hear it");
  steering.heard({ kind: "ack", control: "hello", run: "r1", paused: false });
  controls().run?.([0.5, 1, null]);
  await flush();
  assert.deepEqual(sent.at(-1), { kind: "press", control: "next", run: "r1", values: [0.5, 1, null] });
  steering.heard({ kind: "ack", control: "next", run: "r1", paused: false, note: "Queued." });
  assert.equal(controls().answer, "Queued.");
  controls().run?.([0.5, 1, null]);
  mock.timers.tick(301);
  assert.match(controls().answer, /not answered Run this next yet/);
  assert.equal(kernel.interrupt.mock.callCount(), 0, "only Stop interrupts");
});
