import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { beforeEach, test } from "node:test";
import type { Study } from "../src/data";
import { refusal, StudyView } from "../src/view";
import { byText, click, openPage, press } from "./page";
import { NAMES, sample } from "./samples";

beforeEach(openPage);

function drawn(name: string): { view: StudyView; root: HTMLElement } {
  const view = new StudyView();
  document.body.append(view.element);
  view.update(sample(name));
  return { view, root: view.element };
}

const rows = (root: Element) => [...root.querySelectorAll(".nbc-table tbody tr:not(.nbc-fold)")];
const firstCells = (root: Element) => rows(root).map((row) => Number(row.querySelector(".nbc-number")?.textContent));

for (const name of NAMES) {
  test(`draws the sample ${name}`, () => {
    const { view, root } = drawn(name);
    assert.equal(rows(root).length, sample(name).trials.length);
    assert.ok(root.querySelector(".nbc-title")?.textContent?.startsWith("Study "));
    for (const tab of ["Acquisition", "Importance", "History"]) {
      click(byText(root, "[role=tab]", tab));
    }
    view.dispose();
    assert.equal(document.querySelector(".nbc"), null);
  });
}

test("a parameter of the trials that the study has not is no axis of the surrogate", () => {
  const { study } = JSON.parse(readFileSync(new URL("../../../tests/samples/surrogate/damped.json", import.meta.url), "utf8")) as { study: Study };
  const trials = study.trials.map((trial) => ({ ...trial, params: { gone: 1, ...trial.params } }));
  const view = new StudyView();
  view.update({ ...study, trials });
  click(byText(view.element, "[role=tab]", "Acquisition"));
  const options = [...view.element.querySelectorAll("[aria-label='Surrogate and history'] option")].map((option) => option.textContent);
  assert.deepEqual(
    options.filter((name) => name === "gone"),
    [],
  );
  assert.ok(options.length);
});

test("counts are those of the whole study, also if the data hold a part", () => {
  const view = new StudyView();
  const study = sample("digits");
  view.update({ ...study, budget: { trials: 800, seconds: null }, counts: { complete: 550, failed: 50 } });
  const counts = () => view.element.querySelector(".nbc-counts")?.textContent ?? "";
  assert.match(counts(), /^600 of 800 trials 550 complete 50 failed24 shown/);
  const { counts: _, ...before } = study;
  view.update(before);
  assert.match(counts(), /^24 of 24 trials 16 complete/);
  assert.doesNotMatch(counts(), /shown/);
});

test("hostile strings are text", () => {
  const { root } = drawn("hostile");
  for (const toggle of root.querySelectorAll(".nbc-toggle")) {
    click(toggle);
  }
  assert.equal(root.querySelectorAll("script, img, b, tags").length, 0);
  assert.ok(root.textContent?.includes("<script>alert(1)</script>"));
  assert.ok(root.textContent?.includes("<img src=x onerror=alert(1)>"));
});

test("dots show the state as shape and as text", () => {
  const { root } = drawn("digits");
  const marks = [...root.querySelectorAll("[aria-label='Trade-off'] [data-trial]")];
  const measured = sample("digits").trials.filter((trial) => "kilobytes" in trial.metrics || "accuracy" in trial.metrics);
  assert.deepEqual(
    marks.map((mark) => Number(mark.getAttribute("data-trial"))),
    measured.map((trial) => trial.number),
  );
  click(marks[1]);
  assert.match(root.querySelector("[aria-label='Trade-off'] [role=tooltip]:not([hidden])")?.textContent ?? "", /^Trial \d+, (complete|stopped|infeasible)\n/);
  assert.equal(root.querySelectorAll(".nbc-star").length, 1);
  assert.ok(byText(root, "[aria-label='Trade-off'] .nbc-note", "baseline"), "what the star is can be read without a pointer");
  assert.equal(root.querySelectorAll(".nbc-bound").length, 1);
});

test("a failed trial in the history has the shape of its state", () => {
  const { view, root } = drawn("single");
  const study = sample("single");
  const trials = study.trials.map((trial) => (trial.number === 3 ? { ...trial, state: "failed" as const, metrics: { loss: -1 } } : trial));
  view.update({ ...study, trials });
  const path = (state: string) => root.querySelector(`[role=tabpanel] .nbc-faint.nbc-${state}`)?.getAttribute("d") ?? "";
  assert.ok(path("failed"));
  assert.equal(path("infeasible"), "");
});

test("a trial that lacks a metric stands at the edge", () => {
  const { root } = drawn("digits");
  const heights = (state: string) =>
    [...root.querySelectorAll(`[aria-label='Trade-off'] [data-trial].nbc-${state}`)].map(
      (mark) => (mark.getAttribute("d") ?? mark.getAttribute("cy"))?.split("L")[0]?.split(" ")[1] ?? "",
    );
  const infeasible = heights("infeasible");
  assert.equal(infeasible.length, sample("digits").trials.filter((trial) => trial.state === "infeasible").length);
  assert.equal(new Set(infeasible).size, 1);
  assert.match(root.querySelector("[aria-label='Trade-off'] svg")?.textContent ?? "", /without accuracy/);
});

test("calibration says whether the surrogate can be trusted, and shows it", () => {
  const { root } = drawn("digits");
  click(byText(root, "[role=tab]", "Importance"));
  const trust = sample("digits").calibration;
  assert.ok(trust);
  assert.equal(root.querySelector(".nbc-trust")?.textContent, trust.sentence);
  const columns = [...root.querySelectorAll("[role=tabpanel] .nbc-column, [role=tabpanel] .nbc-gain")];
  assert.equal(columns.filter((column) => Number(column.getAttribute("height")) > 0).length, 8);
  assert.equal(root.querySelectorAll("[role=tabpanel] .nbc-gain").length, 12, "those outside of the band stand out");
});

test("the acquisition marks the running trial and gives its reason", () => {
  const { root } = drawn("running");
  click(byText(root, "[role=tab]", "Acquisition"));
  const panel = root.querySelector("[role=tabpanel]");
  assert.match(panel?.querySelector("svg")?.textContent ?? "", /trial 14 runs here/);
  assert.match(panel?.textContent ?? "", /Why trial 14 runs: Most expected gain/);
});

test("the selection is shared", () => {
  const { root } = drawn("digits");
  click(root.querySelector("[data-trial='8']"));
  assert.equal(root.querySelector("tr[aria-current]")?.querySelector(".nbc-number")?.textContent, "8");
  assert.match(root.querySelector(".nbc-detail")?.textContent ?? "", /^ Trial 8, complete: accuracy.*\. Why this point: \w/);
  assert.ok(root.querySelector(".nbc-chosen"));
  assert.ok(root.querySelector(".nbc-cursor"));
  press(root.querySelector("[aria-label='Trade-off'] svg"), "ArrowRight");
  assert.notEqual(root.querySelector("tr[aria-current] .nbc-number")?.textContent, "8");
});

test("the table sorts both ways, what is missing last", () => {
  const { root } = drawn("digits");
  const accuracy = () => byText(root, ".nbc-sort bdi", "accuracy")?.closest("button");
  click(accuracy());
  const study = sample("digits");
  const value = (number: number) => study.trials.find((trial) => trial.number === number)?.metrics["accuracy"];
  const known = (numbers: number[]) => numbers.map(value).filter((value): value is number => typeof value === "number");
  const up = known(firstCells(root));
  assert.deepEqual(
    up,
    [...up].sort((a, b) => a - b),
  );
  assert.equal(value(firstCells(root).at(-1) ?? 0), undefined);
  click(accuracy());
  assert.equal(accuracy()?.closest("th")?.getAttribute("aria-sort"), "descending");
  const down = known(firstCells(root));
  assert.deepEqual(down, [...up].reverse());
});

test("a failed trial's traceback is folded in its row", () => {
  const { root } = drawn("digits");
  assert.equal(root.querySelectorAll(".nbc-fold").length, 0);
  const toggle = root.querySelector("[aria-label='Details of trial 5']");
  assert.equal(toggle?.getAttribute("aria-expanded"), "false");
  click(toggle);
  const fold = root.querySelector(".nbc-fold");
  assert.match(fold?.textContent ?? "", /RuntimeError: mat1 and mat2/);
  assert.match(fold?.querySelector("pre")?.textContent ?? "", /^Traceback/);
  click(root.querySelector("[aria-label='Details of trial 5']"));
  assert.equal(root.querySelectorAll(".nbc-fold").length, 0);
});

test("the buttons are shown while the search runs, with exactly their names", () => {
  const { view, root } = drawn("running");
  assert.equal(root.querySelectorAll(".nbc-buttons button").length, 0);
  const pressed: string[] = [];
  const control = (name: string) => () => void pressed.push(name);
  view.setControls({
    stop: control("stop"),
    pause: control("pause"),
    skip: control("skip"),
    run: null,
    narrow: null,
    answer: "",
    isPaused: true,
    note: "A note.",
  });
  const buttons = [...root.querySelectorAll<HTMLElement>(".nbc-buttons button")];
  assert.deepEqual(
    buttons.map((button) => button.textContent),
    ["Stop", "Resume", "Skip"],
  );
  buttons.forEach(click);
  assert.deepEqual(pressed, ["stop", "pause", "skip"]);
  assert.match(root.querySelector(".nbc-notes")?.textContent ?? "", /A note\./);
  view.update({ ...sample("running"), state: "ended" });
  assert.equal(root.querySelectorAll(".nbc-buttons button").length, 0);
});

test("if only the time has changed, only the header is drawn", () => {
  const { view, root } = drawn("running");
  const study = sample("running");
  view.update(study);
  const row = root.querySelector(".nbc-table tbody tr");
  view.update({ ...study, elapsed: 60, left: 20 });
  assert.equal(root.querySelector(".nbc-table tbody tr"), row);
  assert.match(root.querySelector(".nbc-counts")?.textContent ?? "", /1 min 0 s/);
});

test("nothing is drawn between press and release of a click", async () => {
  const { view, root } = drawn("running");
  const row = () => root.querySelector(".nbc-table tbody tr");
  const before = row();
  before?.dispatchEvent(new Event("pointerdown", { bubbles: true }));
  view.update(sample("digits"));
  assert.equal(row(), before);
  window.dispatchEvent(new Event("pointerup"));
  await new Promise((done) => setTimeout(done, 5));
  assert.notEqual(row(), before);
  assert.equal(rows(root).length, 24);
});

test("progress is accessible to screen readers", () => {
  const bar = drawn("running").root.querySelector("[role=progressbar]");
  assert.equal(bar?.getAttribute("aria-valuemax"), "40");
  assert.equal(bar?.getAttribute("aria-valuenow"), "14");
});

test("ten thousand trials open and sort in under a second", () => {
  const study = sample("digits");
  const first = study.trials.filter((trial) => trial.state === "complete");
  const trials = Array.from({ length: 10_000 }, (_, number) => ({ ...first[number % first.length]!, number, seconds: (number * 7919) % 10_007 }));
  const view = new StudyView();
  // Of this process: what else the machine does shall not count.
  const start = process.cpuUsage();
  view.update({ ...study, trials, progress: null, goal: { ...study.goal, objectives: [{ metric: "none", direction: "minimize" }] } });
  click(byText(view.element, ".nbc-sort bdi", "time")?.closest("button"));
  const { user, system } = process.cpuUsage(start);
  assert.ok(user + system < 1e6, `${(user + system) / 1000} ms`);
  assert.equal(rows(view.element).length, 200);
  assert.equal(firstCells(view.element)[0], 0);
});

test("a refusal shows the sentence and the fallback as text", () => {
  const shown = refusal("Too new.", "Study <b>digits</b>", "not base64 <>");
  assert.equal(shown.querySelector(".nbc-refusal")?.textContent, "Too new.");
  assert.equal(shown.querySelector("pre")?.textContent, "Study <b>digits</b>");
  assert.equal(shown.querySelector("img"), null);
  assert.equal(refusal("Too new.", null, "aGVsbG8=").querySelector("img")?.getAttribute("src"), "data:image/png;base64,aGVsbG8=");
});

test("the finished panel keeps the chosen tab and the selected trial of the live one", () => {
  const { view, root } = drawn("running");
  const study = sample("running");
  click(byText(root, "[role=tab]", "Importance"));
  click(rows(root)[2] as Element);
  const number = firstCells(root)[2];
  view.update({ ...study, state: "ended" });
  const chosen = (of: Element) => [
    of.querySelector("[role=tab][aria-selected=true]")?.textContent,
    of.querySelector(".nbc-detail strong")?.textContent?.match(/\d+/)?.[0],
  ];
  const finished = new StudyView();
  finished.update({ ...study, state: "ended" });
  assert.deepEqual(chosen(finished.element), ["Importance", String(number)]);
  const later = new StudyView();
  later.update({ ...study, state: "ended" });
  assert.deepEqual(chosen(later.element)[0], "History");
});

test("the largest numbers do not empty the charts", () => {
  const study = sample("single");
  const metric = study.goal.objectives[0]?.metric ?? "";
  for (const huge of [1.7e308, -1.7e308]) {
    const trials = study.trials.map((trial, i) => (i === 1 ? { ...trial, metrics: { ...trial.metrics, [metric]: huge } } : trial));
    const values = (study.progress?.values ?? []).map((value, i) => (i === 1 ? huge : i === 2 ? -huge : value));
    const view = new StudyView();
    view.update({ ...study, trials, progress: { label: `best ${metric}`, values } });
    const drawing = view.element.querySelector(".nbc-charts")?.innerHTML ?? "";
    assert.doesNotMatch(drawing, /NaN|Infinity/);
    assert.ok(view.element.querySelector(".nbc-line"));
  }
});
