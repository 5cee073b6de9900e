import assert from "node:assert/strict";
import { beforeEach, mock, test } from "node:test";
import { Connection } from "../src/connection";
import type { Manager } from "../src/commands";

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
    this.slots.forEach((slot) => slot(null, value));
  }
}

function kernelOf(id: string) {
  return { id, interrupt: async () => undefined, statusChanged: new FakeSignal<string>(), disposed: new FakeSignal<void>() };
}

function begun(comm_live: boolean | undefined = true) {
  const kernel = kernelOf("k1");
  const manager: Manager = { get_model: async () => ({ send: () => undefined, comm_live }), kernel };
  const changed = mock.fn();
  return { kernel, manager, changed, connection: new Connection(manager, changed) };
}

beforeEach(() => {
  mock.timers.reset();
  mock.timers.enable({ apis: ["setTimeout"] });
});

test("a search is there after its first message, and as long as messages come", () => {
  const { connection } = begun();
  assert.equal(connection.isConfirmed, false);
  for (let i = 0; i < 10; i++) {
    connection.receive();
    mock.timers.tick(9_000);
    assert.ok(connection.isConfirmed);
  }
  mock.timers.tick(10_000);
  assert.equal(connection.isConfirmed, false);
  assert.match(connection.lostReason ?? "", /has sent no message/);
  connection.receive();
  assert.ok(connection.isConfirmed, "it was only slow");
  connection.dispose();
});

test("a panel that was saved has no search", async () => {
  const { connection, changed } = begun(false);
  await connection.checkControls("id");
  assert.match(connection.lostReason ?? "", /has no search/);
  assert.equal(changed.mock.callCount(), 1);
  connection.dispose();
  const onTimeout = begun(undefined);
  await onTimeout.connection.checkControls("id");
  assert.equal(onTimeout.connection.lostReason, null, "front ends need not tell");
  mock.timers.tick(10_001);
  assert.match(onTimeout.connection.lostReason ?? "", /has no search/);
  onTimeout.connection.dispose();
});

test("a search ends with its kernel, whatever arrives later", () => {
  for (const status of ["restarting", "autorestarting", "starting", "terminating", "dead"]) {
    const { connection, kernel } = begun();
    connection.receive();
    kernel.statusChanged.emit("busy");
    kernel.statusChanged.emit("unknown");
    assert.ok(connection.isConfirmed);
    kernel.statusChanged.emit(status);
    connection.receive();
    assert.equal(connection.isConfirmed, false, status);
    assert.match(connection.lostReason ?? "", /kernel that ran this search has ended/);
    connection.dispose();
    assert.equal(kernel.statusChanged.slots.size + kernel.disposed.slots.size, 0);
  }
});

test("a search is lost if the notebook changes its kernel", () => {
  const { connection, kernel, manager } = begun();
  connection.receive();
  manager.kernel = kernelOf("k2");
  assert.equal(connection.isConfirmed, false);
  kernel.disposed.emit();
  assert.match(connection.lostReason ?? "", /no longer connected/);
  connection.dispose();
});

test("a page that connects late follows the kernel that sends messages", () => {
  const kernel = kernelOf("k1");
  const manager: Manager = { get_model: async () => ({ send: () => undefined }), kernel: null };
  const connection = new Connection(manager, () => undefined);
  manager.kernel = kernel;
  connection.receive();
  assert.ok(connection.isConfirmed);
  kernel.statusChanged.emit("restarting");
  assert.equal(connection.isConfirmed, false);
  connection.dispose();
});
