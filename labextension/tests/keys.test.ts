import assert from "node:assert/strict";
import { beforeEach, test } from "node:test";
import { StudyView } from "../src/view";
import { openPage } from "./page";
import { sample } from "./samples";

beforeEach(openPage);

const MARK = "data-lm-suppress-shortcuts";

// Presses a key on the first select, and says what a page would see that listens first and one that listens last.
function pressed(more: KeyboardEventInit): { early: boolean; late: boolean } {
  const view = new StudyView();
  document.body.append(view.element);
  view.update(sample("digits"));
  const seen = { early: false, late: false };
  const target = view.element.querySelector("select");
  assert.ok(target);
  const early = (event: Event): void => void (seen.early = !(event.target as Element).hasAttribute(MARK));
  const late = (): void => void (seen.late = true);
  document.addEventListener("keydown", early, true);
  document.addEventListener("keydown", late);
  target.dispatchEvent(new KeyboardEvent("keydown", { bubbles: true, ...more }));
  document.removeEventListener("keydown", early, true);
  document.removeEventListener("keydown", late);
  assert.ok(!target.hasAttribute(MARK), "the mark is gone again");
  view.dispose();
  return seen;
}

test("keys that the panel may act on stay in it", () => {
  for (const key of ["x", "d", "ArrowUp", "Home", "PageDown", " ", "Enter", "Escape"]) {
    assert.deepEqual(pressed({ key }), { early: false, late: false }, key);
  }
  assert.deepEqual(pressed({ key: "ArrowDown", altKey: true }), { early: false, late: false }, "opens a select");
  assert.deepEqual(pressed({ key: "M", shiftKey: true }), { early: false, late: false });
});

test("other shortcuts are the front end's", () => {
  assert.deepEqual(pressed({ key: "s", ctrlKey: true }), { early: true, late: true });
  assert.deepEqual(pressed({ key: "c", metaKey: true }), { early: true, late: true });
});
