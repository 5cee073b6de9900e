import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { beforeEach, test } from "node:test";
import { startOption } from "../src/code";
import type { Trial } from "../src/data";
import { StudyView } from "../src/view";
import { byText, click, openPage } from "./page";
import { sample } from "./samples";

beforeEach(openPage);

const trial = (params: Trial["params"]): Trial => ({ number: 0, state: "complete", params, metrics: {}, seconds: null });

// The Python tests give the same lines to the parser of the magic.
const CASES = JSON.parse(readFileSync(new URL("../../../tests/samples/code/points.json", import.meta.url), "utf8")) as [Trial["params"], string][];

for (const [params, code] of CASES) {
  test(`${JSON.stringify(params)} as code`, () => assert.equal(startOption(trial(params)), code));
}

test("a point with a shortened text has no code", () => {
  assert.equal(startOption(trial({ a: "long…" })), null);
  assert.equal(startOption(trial({ "name…": 1 })), null);
  assert.equal(startOption(trial({})), null);
});

test("the button copies the point and says so", async () => {
  const view = new StudyView();
  document.body.append(view.element);
  view.update(sample("digits"));
  const texts: string[] = [];
  Object.defineProperty(globalThis, "navigator", { value: { clipboard: { writeText: async (text: string) => void texts.push(text) } }, configurable: true });
  click(view.element.querySelector("[aria-label='Details of trial 8']"));
  click(byText(view.element, "button", "Copy as code"));
  await new Promise((done) => setTimeout(done));
  assert.match(texts[0] ?? "", /^--start \[\{"amount": [\d.]+, "bits": \d, "lr": [\d.]+, "method": "\w+".*\}\]$/);
  assert.match(view.element.querySelector(".nbc-code")?.textContent ?? "", /Copied\./);
  Object.defineProperty(globalThis, "navigator", { value: {}, configurable: true });
  click(byText(view.element, "button", "Copy as code"));
  await new Promise((done) => setTimeout(done));
  assert.match(view.element.querySelector(".nbc-code")?.textContent ?? "", /select the text/);
});
