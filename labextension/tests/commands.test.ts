import assert from "node:assert/strict";
import { mock, test } from "node:test";
import type { Controls } from "../src/header";
import type { PanelState, Command } from "../src/messages";
import { CommandSender, type Manager } from "../src/commands";
import { sample } from "./samples";

const flush = () => new Promise<void>((done) => setImmediate(done));

function prepared(kernel: Manager["kernel"], more: { interrupts?: boolean; isThere?: boolean } = {}, study = sample("running")) {
  mock.timers.reset();
  mock.timers.enable({ apis: ["setTimeout"] });
  const sent: unknown[] = [];
  let controls: Controls | null = null;
  const state: PanelState = { seq: 1, run: "r1", study };
  const send = (content: unknown): void => {
    const { page, ...rest } = content as Command;
    assert.match(page, /^\w+$/);
    sent.push(rest);
  };
  const manager: Manager = { get_model: async () => ({ send }), kernel: kernel ?? null };
  const sender = new CommandSender(
    manager,
    "id",
    more.interrupts ?? true,
    () => more.isThere ?? true,
    () => state,
    (now) => (controls = now),
  );
  return { sent, state, sender, controls: () => controls as unknown as Controls };
}

function busyKernel() {
  const interrupt = mock.fn(async () => undefined);
  return { interrupt };
}

test("controls appear when Python answers", async () => {
  const { sender, controls, sent } = prepared(null);
  sender.start();
  await flush();
  assert.deepEqual(sent, [{ kind: "press", control: "hello", run: "r1" }]);
  assert.equal(controls().stop, null);
  sender.handleAnswer({ kind: "ack", control: "hello", run: "r1", paused: false });
  assert.ok(controls().stop && controls().pause && controls().skip);
});

test("if the kernel cannot be reached, no button is shown and a sentence says what works", () => {
  const { sender, controls } = prepared(null);
  sender.start();
  for (let i = 0; i < 40; i++) {
    mock.timers.tick(250);
  }
  assert.equal(controls().stop, null);
  assert.match(controls().note, /Interrupt the kernel to stop/);
});

test("a lost hello is sent again until it is answered", async () => {
  const { sender, sent, controls } = prepared(null);
  sender.start();
  mock.timers.tick(250);
  await flush();
  assert.equal(sent.length, 2);
  sender.handleAnswer({ kind: "ack", control: "hello", run: "r1", paused: false });
  mock.timers.tick(60_000);
  await flush();
  assert.equal(sent.length, 2);
  assert.equal(controls().note, "");
});

test("an unanswered Stop interrupts after 300 ms", () => {
  const kernel = busyKernel();
  const { sender, controls } = prepared(kernel);
  sender.start();
  controls().stop?.();
  mock.timers.tick(299);
  assert.equal(kernel.interrupt.mock.callCount(), 0);
  mock.timers.tick(2);
  assert.equal(kernel.interrupt.mock.callCount(), 1);
});

test("an answered Stop does not interrupt", () => {
  const kernel = busyKernel();
  const { sender, controls } = prepared(kernel);
  sender.start();
  controls().stop?.();
  sender.handleAnswer({ kind: "ack", control: "stop", run: "r1", paused: false });
  mock.timers.tick(1000);
  assert.equal(kernel.interrupt.mock.callCount(), 0);
});

test("nothing is interrupted if the search is in another kernel or in the background", () => {
  for (const more of [{ isThere: false }, { interrupts: false }]) {
    const kernel = busyKernel();
    const { sender, controls } = prepared(kernel, more);
    sender.start();
    assert.equal(controls().stop, null, "not offered without an answer");
    sender.handleAnswer({ kind: "ack", control: "hello", run: "r1", paused: false });
    controls().stop?.();
    mock.timers.tick(1000);
    assert.equal(kernel.interrupt.mock.callCount(), 0);
    assert.match(controls().note, /not answered Stop yet/);
  }
});

test("a Stop that comes too late interrupts no other cell", () => {
  for (const onLate of ["ended", "closed"]) {
    const kernel = busyKernel();
    const { sender, controls, state } = prepared(kernel);
    sender.start();
    controls().stop?.();
    if (onLate === "ended") {
      state.study = { ...state.study, state: "ended" };
    } else {
      sender.dispose();
    }
    mock.timers.tick(1000);
    assert.equal(kernel.interrupt.mock.callCount(), 0, onLate);
  }
});

test("Pause becomes resume once Python has paused", async () => {
  const { sender, controls, sent } = prepared(null);
  sender.start();
  sender.handleAnswer({ kind: "ack", control: "hello", run: "r1", paused: false });
  controls().pause?.();
  sender.handleAnswer({ kind: "ack", control: "pause", run: "r1", paused: true });
  assert.ok(controls().isPaused);
  controls().pause?.();
  await flush();
  assert.deepEqual(sent.slice(1), [
    { kind: "press", control: "pause", run: "r1" },
    { kind: "press", control: "resume", run: "r1" },
  ]);
});

test("an answer to another run is ignored", () => {
  const { sender, controls } = prepared(null);
  sender.start();
  sender.handleAnswer({ kind: "ack", control: "hello", run: "r0", paused: false });
  assert.equal(controls().stop, null);
});

test("the note of Skip disappears after a while", () => {
  const { sender, controls } = prepared(null);
  sender.start();
  sender.handleAnswer({ kind: "ack", control: "hello", run: "r1", paused: false });
  controls().skip?.();
  sender.handleAnswer({ kind: "ack", control: "skip", run: "r1", paused: false });
  assert.match(controls().note, /Skipped/);
  mock.timers.tick(3001);
  assert.equal(controls().note, "");
});

test("a point is sent by its values, and the answer is shown beside it", async () => {
  const kernel = busyKernel();
  const { sender, controls, sent } = prepared(kernel);
  sender.start();
  assert.equal(controls().run, null, "nobody would hear it");
  sender.handleAnswer({ kind: "ack", control: "hello", run: "r1", paused: false });
  controls().run?.([0.5, 1, null]);
  await flush();
  assert.deepEqual(sent.at(-1), { kind: "press", control: "next", run: "r1", values: [0.5, 1, null] });
  sender.handleAnswer({ kind: "ack", control: "next", run: "r1", paused: false, note: "Queued." });
  assert.equal(controls().answer, "Queued.");
  controls().run?.([0.5, 1, null]);
  mock.timers.tick(301);
  assert.match(controls().answer, /not answered Run this next yet/);
  assert.equal(kernel.interrupt.mock.callCount(), 0, "only Stop interrupts");
});
