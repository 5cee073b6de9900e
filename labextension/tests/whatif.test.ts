import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { beforeEach, test } from "node:test";
import type { Study } from "../src/data";
import type { Controls } from "../src/header";
import { StudyView } from "../src/view";
import { byText, click, openPage, press } from "./page";

beforeEach(openPage);

const FILE = new URL("../../../tests/samples/surrogate/hypervolume.json", import.meta.url);
const study = (more: Partial<Study> = {}): Study => ({ ...(JSON.parse(readFileSync(FILE, "utf8")) as { study: Study }).study, state: "running", ...more });

function shown(data: Study, controls: Partial<Controls> = {}) {
  const view = new StudyView();
  view.update(data);
  view.setControls({ stop: null, pause: null, skip: null, run: null, narrow: null, answer: "", isPaused: false, note: "", ...controls });
  click(byText(view.element, "[role=tab]", "What if"));
  return { view, root: view.element };
}

function slide(root: Element, i: number, value: string): void {
  const slider = root.querySelectorAll<HTMLInputElement>(".nbc-slider input")[i];
  assert.ok(slider);
  slider.value = value;
  slider.dispatchEvent(new Event("input", { bubbles: true }));
}

const expected = (root: Element): string | null | undefined => root.querySelector(".nbc-predicted td")?.textContent;

test("a slider is answered at once", () => {
  const { root } = shown(study());
  const before = expected(root);
  assert.ok(before);
  slide(root, 0, "1000");
  assert.notEqual(expected(root), before);
  assert.equal(root.querySelector(".nbc-slider output")?.textContent, "0.98");
  assert.equal(root.querySelector<HTMLInputElement>(".nbc-slider input")?.getAttribute("aria-valuetext"), "0.98");
  assert.match(root.querySelector(".nbc-chance")?.textContent ?? "", /^Probability/);
});

test("the point is queued by indices, only if Python can be reached", () => {
  const asked: (number | null)[][] = [];
  const { root } = shown(study(), { run: (values) => void asked.push(values) });
  click(byText(root, "button", "Run this next"));
  const best = study().trials.find((trial) => trial.number === study().best);
  assert.ok(best);
  assert.deepEqual(asked, [
    [
      best.params["amount"],
      [2, 4, 8].indexOf(Number(best.params["bits"])),
      best.params["lr"],
      ["plain", "cluster"].indexOf(String(best.params["method"])),
      best.params["clusters"] ?? null,
    ],
  ]);
  const hidden = (data: Study, controls: Partial<Controls>) => byText(shown(data, controls).root, "button", "Run this next")?.hidden;
  assert.equal(hidden(study(), {}), true);
  assert.equal(hidden(study({ state: "ended" }), { run: () => undefined }), true);
});

test("new limits are added to the present ones, and a limit that spans all is left out", () => {
  const asked: (number[] | null)[][] = [];
  const rounded = (values: number[]): number[] => values.map((value) => Number(value.toPrecision(12)));
  const narrow = (limits: (number[] | null)[]): void => void asked.push(limits.map((entry) => entry && rounded(entry)));
  const { root, view } = shown(study({ narrowed: { method: ["plain"] } }), { narrow });
  slide(root, 0, "500");
  click(byText(root, ".nbc-narrow button", "at least 0.59"));
  assert.deepEqual(asked.at(-1), [[0.59, 0.98], null, null, [0], null]);
  slide(root, 0, "0");
  click(byText(root, ".nbc-narrow button", "at least 0.2"));
  assert.deepEqual(asked.at(-1), [null, null, null, [0], null]);
  click(byText(root, ".nbc-chip", "method plain ✕"));
  assert.deepEqual(asked.at(-1), [null, null, null, null, null]);
  assert.match(root.querySelector(".nbc-notes")?.textContent ?? "", /The search is narrowed to method plain/);
  view.update(study({ state: "ended", narrowed: { method: ["plain"] } }));
  assert.equal(root.querySelector<HTMLElement>(".nbc-narrow")?.hidden, true);
});

test("the arrow keys change the tab", () => {
  const { root } = shown(study());
  press(root.querySelector("[role=tablist]"), "ArrowLeft");
  assert.equal(root.querySelector("[role=tab][aria-selected=true]")?.textContent, "Acquisition");
});

test("a map is drawn over two parameters, through the selected trial", () => {
  const { root } = shown(study());
  click(byText(root, "[role=tab]", "Acquisition"));
  const select = [...root.querySelectorAll("label")].find((label) => label.textContent?.startsWith("and"))?.querySelector("select");
  assert.ok(select);
  select.value = "1";
  select.dispatchEvent(new Event("change", { bubbles: true }));
  assert.match(root.querySelector(".nbc-caption")?.textContent ?? "", /The diamond marks the largest acquisition: /);
  // Prediction, acquisition and, because of the constraint, the probability of success.
  assert.equal(root.querySelectorAll(".nbc-mark-most").length, 3);
});

test("a live panel says what a reload does, a saved view does not", () => {
  const foot = (data: Study) => shown(data).root.querySelector<HTMLElement>(".nbc-foot");
  const { view, root } = shown(study());
  view.update({ ...study(), left: 3, trials: study().trials.slice(1) });
  assert.equal(root.querySelector<HTMLElement>(".nbc-foot")?.hidden, false);
  assert.match(root.querySelector(".nbc-foot")?.textContent ?? "", /%bo_study digits in another notebook follows the search/);
  assert.equal(foot(study({ state: "ended" }))?.hidden, true);
});

test("without a closed form slices of Python answer: one parameter moves, the others stay", () => {
  const best = study().trials.find((trial) => trial.number === study().best);
  assert.ok(best);
  const metric = (mean: number[]) => ({ metric: "accuracy", mean, low: mean.map((value) => value - 1), high: mean.map((value) => value + 1) });
  const slice = (parameter: string, values: number[], mean: number[]) => ({
    parameter,
    values,
    metrics: [metric(mean)],
    acquisition: values.map(() => null),
    at: best.params[parameter] ?? null,
    next: null,
  });
  const slices = [slice("amount", [0.2, 0.6, 0.98], [10, 20, 30]), slice("bits", [2, 4, 8], [40, 50, 60])];
  const asked: (number | null)[][] = [];
  const { root, view } = shown(study({ surrogate: null, slices }), { run: (values) => void asked.push(values) });
  const source = root.querySelector(".nbc-whatif > .nbc-caption");
  assert.match(source?.textContent ?? "", new RegExp(`computed in Python. One parameter moves at a time, and the others stay as in trial ${best.number}\\.`));
  assert.deepEqual(
    [...root.querySelectorAll<HTMLElement>(".nbc-slider")].map((row) => row.hidden),
    [false, false, true, true, true],
  );
  slide(root, 0, "1000");
  assert.equal(expected(root), "30");
  assert.equal(root.querySelector(".nbc-predicted td:nth-child(3)")?.textContent, "29 to 31");
  assert.equal(root.querySelector(".nbc-slider output")?.textContent, "0.98");
  click(byText(root, "button", "Run this next"));
  assert.equal(asked[0]?.[0], 0.98);
  const select = root.querySelector<HTMLSelectElement>(".nbc-slider select");
  assert.ok(select);
  select.value = "0";
  select.dispatchEvent(new Event("change", { bubbles: true }));
  assert.equal(expected(root), "40");
  click(byText(root, "button", "Run this next"));
  assert.deepEqual(asked[1]?.slice(0, 2), [best.params["amount"], 0]);
  // The slices of a new best trial move the point, and the parameter that was moved stays.
  view.update(study({ surrogate: null, slices: slices.map((known) => ({ ...known, metrics: [metric([1, 2, 3])] })) }));
  assert.equal(expected(root), "1");
});
