import assert from "node:assert/strict";
import { beforeEach, mock, test } from "node:test";
import { mimeExtension } from "../src/mime";
import panel from "../src/panel";
import { MIME } from "../src/data";
import { byText, openPage } from "./page";
import { sample } from "./samples";

beforeEach(openPage);

// What anywidget hands to a module, with the kernel's side in the test's hands.
class FakeModel {
  private readonly values: Record<string, unknown> = {};
  private readonly listeners = new Map<string, Set<(...given: unknown[]) => void>>();
  widget_manager = { get_model: async () => ({ send: () => undefined }), kernel: null };

  constructor(values: Record<string, unknown>) {
    Object.assign(this.values, values);
  }
  get(name: string): unknown {
    return this.values[name];
  }
  set(name: string, value: unknown): void {
    this.values[name] = value;
    this.emit(`change:${name}`);
  }
  on(name: string, callback: (...given: unknown[]) => void): void {
    this.listeners.set(name, (this.listeners.get(name) ?? new Set()).add(callback));
  }
  off(name: string, callback: (...given: unknown[]) => void): void {
    this.listeners.get(name)?.delete(callback);
  }
  emit(name: string, ...given: unknown[]): void {
    [...(this.listeners.get(name) ?? [])].forEach((listener) => listener(...given));
  }
  get heard(): number {
    return [...this.listeners.values()].reduce((sum, listeners) => sum + listeners.size, 0);
  }
}

const ended = { number: 14, state: "complete", params: {}, metrics: { accuracy: 0.99, kilobytes: 9 }, seconds: 1 };
const delta = { kind: "delta", seq: 2, trials: [ended], progress: null, set: { best: 14, front: [14] } };

test("a delta reaches every view, also one that opens later", () => {
  const model = new FakeModel({ state: { seq: 1, run: "r1", study: sample("running") }, controls_id: "" });
  const forget = panel.initialize({ model });
  const first = document.createElement("div");
  const close = panel.render({ model, el: first });
  model.emit("msg:custom", delta);
  assert.match(first.textContent ?? "", /Best in accuracy: trial 14/);
  const second = document.createElement("div");
  panel.render({ model, el: second })();
  const third = document.createElement("div");
  const closeThird = panel.render({ model, el: third });
  assert.match(third.textContent ?? "", /Best in accuracy: trial 14/);
  close();
  closeThird();
  forget();
  assert.equal(model.heard, 0, "every listener is taken away again");
});

test("a panel whose search is gone says so and shows no buttons", async () => {
  const model = new FakeModel({ state: { seq: 1, run: "r1", study: sample("running") }, controls_id: "c", interrupts: true });
  const interrupt = mock.fn(async () => undefined);
  const statusChanged = {
    slots: [] as ((sender: unknown, value: string) => void)[],
    connect: (slot: never) => statusChanged.slots.push(slot),
    disconnect: () => undefined,
  };
  model.widget_manager = { get_model: async () => ({ send: () => undefined }), kernel: { id: "k", interrupt, statusChanged } } as never;
  panel.initialize({ model });
  const el = document.createElement("div");
  const close = panel.render({ model, el });
  assert.equal(byText(el, "button", "Stop"), undefined, "nothing was heard of it yet");
  model.emit("msg:custom", delta);
  assert.ok(byText(el, "button", "Stop"));
  model.emit("msg:custom", { kind: "ack", control: "hello", run: "r1", paused: false });
  assert.ok(byText(el, "button", "Pause"));
  statusChanged.slots.forEach((slot) => slot(null, "restarting"));
  model.emit("msg:custom", { ...delta, seq: 3 });
  assert.equal(el.querySelector(".nbc-buttons button"), null);
  assert.match(el.textContent ?? "", /has ended, and the search with it\. This is its last known state; %bo_study/);
  assert.doesNotMatch(el.querySelector(".nbc-counts")?.textContent ?? "", /left/);
  close();
});

test("messages of another shape are ignored", () => {
  const model = new FakeModel({ state: { seq: 1, run: "r1", study: sample("running") }, controls_id: "" });
  panel.initialize({ model });
  const before = model.get("state");
  model.emit("msg:custom", { ...delta, trials: [{ number: "<b>" }] });
  assert.equal(model.get("state"), before);
  model.emit("msg:custom", { kind: "whole", state: { seq: 9, run: "r1", study: sample("digits") } });
  assert.notEqual(model.get("state"), before);
});

test("a panel whose data is of a newer version says so", () => {
  const model = new FakeModel({ state: { seq: 1, run: "r1", study: { ...sample("running"), version: 9 } }, controls_id: "" });
  const el = document.createElement("div");
  panel.render({ model, el });
  assert.match(el.textContent ?? "", /newer nbcompress/);
  panel.render({ model: new FakeModel({ state: null, controls_id: "" }), el });
  assert.match(el.textContent ?? "", /holds no study/);
});

class FakeWidget {
  node = document.createElement("div");
  dispose(): void {
    this.node.remove();
  }
}

function rendered(data: Record<string, unknown>) {
  const extension = mimeExtension(FakeWidget as unknown as Parameters<typeof mimeExtension>[0]);
  const renderer = extension.rendererFactory.createRenderer({} as never);
  void renderer.renderModel({ data: data as never, metadata: {}, trusted: false, setData: () => undefined });
  return renderer;
}

test("the viewer draws a saved study in an untrusted notebook", () => {
  const renderer = rendered({ [MIME]: sample("digits") });
  assert.match(renderer.node.textContent ?? "", /Study digits/);
  renderer.dispose();
});

test("the viewer falls back to text and picture", () => {
  const renderer = rendered({ [MIME]: { version: 7 }, "text/plain": ["Study digits\n", "40 trials"], "image/png": "aGVsbG8=\n" });
  assert.match(renderer.node.textContent ?? "", /newer nbcompress/);
  assert.equal(renderer.node.querySelector("pre")?.textContent, "Study digits\n40 trials");
  assert.ok(renderer.node.querySelector("img"));
});
