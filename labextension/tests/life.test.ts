import assert from "node:assert/strict";
import { beforeEach, mock, test } from "node:test";
import { Life } from "../src/life";
import type { Manager } from "../src/steering";

type Slot<T> = (sender: unknown, value: T) => void;

class FakeSignal<T> {
  readonly slots = new Set<Slot<T>>();
  connect(slot: Slot<T>): void {
    this.slots.add(slot);
  }
  disconnect(slot: Slot<T>): void {
    this.slots.delete(slot);
  }
  emit(value: T): void {
    this.slots.forEach((one) => one(null, value));
  }
}

function kernelOf(id: string) {
  return { id, interrupt: async () => undefined, statusChanged: new FakeSignal<string>(), disposed: new FakeSignal<void>() };
}

function begun(comm_live: boolean | undefined = true) {
  const kernel = kernelOf("k1");
  const manager: Manager = { get_model: async () => ({ send: () => undefined, comm_live }), kernel };
  const changed = mock.fn();
  return { kernel, manager, changed, life: new Life(manager, changed) };
}

beforeEach(() => {
  mock.timers.reset();
  mock.timers.enable({ apis: ["setTimeout"] });
});

test("a search is there once it was heard, and while it is heard", () => {
  const { life } = begun();
  assert.equal(life.isCertain, false);
  for (let i = 0; i < 10; i++) {
    life.heard();
    mock.timers.tick(9_000);
    assert.ok(life.isCertain);
  }
  mock.timers.tick(10_000);
  assert.equal(life.isCertain, false);
  assert.match(life.lost ?? "", /Nothing has been heard/);
  life.heard();
  assert.ok(life.isCertain, "it was only slow");
  life.dispose();
});

test("a panel that was saved has no search", async () => {
  const { life, changed } = begun(false);
  await life.look("id");
  assert.match(life.lost ?? "", /No search answers/);
  assert.equal(changed.mock.callCount(), 1);
  life.dispose();
  const unanswered = begun(undefined);
  await unanswered.life.look("id");
  assert.equal(unanswered.life.lost, null, "front ends need not tell");
  mock.timers.tick(10_001);
  assert.match(unanswered.life.lost ?? "", /No search answers/);
  unanswered.life.dispose();
});

test("a search ends with its kernel, whatever arrives later", () => {
  for (const status of ["restarting", "autorestarting", "starting", "terminating", "dead"]) {
    const { life, kernel } = begun();
    life.heard();
    kernel.statusChanged.emit("busy");
    kernel.statusChanged.emit("unknown");
    assert.ok(life.isCertain);
    kernel.statusChanged.emit(status);
    life.heard();
    assert.equal(life.isCertain, false, status);
    assert.match(life.lost ?? "", /kernel that ran this search has ended/);
    life.dispose();
    assert.equal(kernel.statusChanged.slots.size + kernel.disposed.slots.size, 0);
  }
});

test("in another kernel the search is not", () => {
  const { life, kernel, manager } = begun();
  life.heard();
  manager.kernel = kernelOf("k2");
  assert.equal(life.isCertain, false);
  kernel.disposed.emit();
  assert.match(life.lost ?? "", /no longer connected/);
  life.dispose();
});

test("a page that connects late follows the kernel that it hears", () => {
  const kernel = kernelOf("k1");
  const manager: Manager = { get_model: async () => ({ send: () => undefined }), kernel: null };
  const life = new Life(manager, () => undefined);
  manager.kernel = kernel;
  life.heard();
  assert.ok(life.isCertain);
  kernel.statusChanged.emit("restarting");
  assert.equal(life.isCertain, false);
  life.dispose();
});
