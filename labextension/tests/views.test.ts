import assert from "node:assert/strict";
import { beforeEach, test } from "node:test";
import { columnsOf, csvText } from "../src/columns";
import type { Study } from "../src/data";
import { shareSteps, sharesOf } from "../src/distribution";
import { limitWords } from "../src/parallel";
import { bandScale, linearScale, logScale, zoomedScale } from "../src/scales";
import { meets, metricKey, paramKey, Selection } from "../src/selection";
import { lanesOf, spansOf } from "../src/timeline";
import { StudyView } from "../src/view";
import { useTranslation } from "../src/words";
import { byText, click, openPage, press } from "./page";
import { NAMES, sample } from "./samples";

beforeEach(openPage);

const VIEWS = ["Parallel coordinates", "Slices", "Learning curves", "Distribution", "Timeline"];

function drawn(study: Study | string): { view: StudyView; root: HTMLElement; views: HTMLElement } {
  const view = new StudyView();
  document.body.append(view.element);
  view.update(typeof study === "string" ? sample(study) : study);
  return { view, root: view.element, views: view.element.querySelector<HTMLElement>("[aria-label='Views of all trials']")! };
}

const all = (root: Element, selector: string): HTMLElement[] => [...root.querySelectorAll<HTMLElement>(selector)];
const tab = (root: Element, name: string): void => click(byText(root, "[role=tab]", name));
const settled = () => new Promise((done) => setTimeout(done, 2));
const rows = (root: Element) => all(root, ".nbc-table tbody tr:not(.nbc-fold)").map((row) => Number(row.querySelector(".nbc-number")?.textContent));

async function drag(element: Element | null | undefined, from: [number, number], to: [number, number]): Promise<void> {
  const at = ([clientX, clientY]: [number, number]) => ({ clientX, clientY, button: 0, buttons: 1, bubbles: true });
  element?.dispatchEvent(new MouseEvent("pointerdown", at(from)));
  element?.dispatchEvent(new MouseEvent("pointermove", at(to)));
  element?.dispatchEvent(new MouseEvent("pointerup", at(to)));
  element?.dispatchEvent(new MouseEvent("click", at(to)));
  await settled();
}

function enter(element: Element | null | undefined, value: string, event: string): void {
  (element as HTMLInputElement).value = value;
  element?.dispatchEvent(new Event(event, { bubbles: true }));
}

for (const name of NAMES) {
  test(`every view draws the sample ${name}, as text`, () => {
    const { root, views } = drawn(name);
    for (const title of VIEWS) {
      tab(root, title);
      assert.doesNotMatch(views.innerHTML, /NaN|Infinity|undefined/, title);
      assert.equal(root.querySelectorAll("script, img, b, tags").length, 0);
    }
  });
}

test("a scale gives back the value of a position", () => {
  const scales = [linearScale([-3, 40], [300, 20]), linearScale([2, 2], [0, 90]), logScale([1e-4, 1e3], [10, 400], { padded: true })];
  for (const scale of scales) {
    for (const value of [2, 40]) {
      assert.ok(Math.abs(scale.invert(scale(value)) / value - 1) < 1e-9);
    }
  }
  assert.equal(bandScale(["a", "b", "c"], [0, 90]).invert(75), 2);
  const part = zoomedScale(logScale([1, 1000], [0, 90]), [10, 100]);
  assert.ok(part.isLog && Math.abs(part(10)) < 1e-9 && Math.abs(part(100) - 90) < 1e-9);
});

test("a trial is within a limit if it has the value", () => {
  assert.ok(
    meets(2, { low: 2, high: 3 }) && meets(3, { low: -Infinity, high: 3 }) && meets("a", { options: ["a", null] }) && meets(null, { options: ["a", null] }),
  );
  assert.ok(
    !meets(1.9, { low: 2, high: 3 }) &&
      !meets(undefined, { low: -Infinity, high: Infinity }) &&
      !meets("b", { options: ["a"] }) &&
      !meets("2", { low: 0, high: 9 }),
  );
  const selection = new Selection();
  let told = 0;
  selection.listen(() => told++);
  selection.limit(metricKey("accuracy"), { low: 0.95, high: 1 });
  selection.limit(paramKey("bits"), { options: [4] });
  const { trials } = sample("digits");
  const within = trials.filter((trial) => (trial.metrics["accuracy"] ?? 0) >= 0.95 && trial.params["bits"] === 4);
  assert.deepEqual(
    trials.filter((trial) => selection.has(trial)),
    within,
  );
  assert.ok(within.length > 0 && within.length < trials.length);
  selection.setLimits(new Map());
  assert.deepEqual([told, trials.every((trial) => selection.has(trial))], [3, true]);
});

test("limits are said in words", () => {
  assert.equal(limitWords("lr", { low: 0.001, high: 0.1 }), "lr from 0.001 to 0.1");
  assert.equal(limitWords("lr", { low: -Infinity, high: 0.1 }), "lr to 0.1");
  assert.equal(limitWords("method", { options: ["plain", null] }), "method plain or None");
});

test("a range that is dragged on an axis fades the other trials everywhere, and a click ends it", async () => {
  const { root, views } = drawn("digits");
  const study = sample("digits");
  const names = all(views, ".nbc-parallel .nbc-ticks .nbc-axis").map((axis) => axis.firstChild?.textContent);
  assert.deepEqual(names, [...study.parameters.map(({ name }) => name), ...study.metrics]);
  const hit = () => all(views, ".nbc-hit")[names.indexOf("accuracy")];
  await drag(hit(), [0, 44], [0, 156]);
  const chip = views.querySelector(".nbc-chip")?.textContent ?? "";
  const [, low, high] = /^accuracy from ([\d.]+) to ([\d.]+) ✕$/.exec(chip) ?? [];
  const within = study.trials.filter((trial) => (trial.metrics["accuracy"] ?? 0) >= Number(low));
  assert.ok(Number(high) >= 0.9657 && within.length > 3 && within.length < study.trials.length, chip);
  const isWithin = new Set(within.map((trial) => trial.number));
  const faded = all(root, "[aria-label='Trade-off'] [data-trial].nbc-out").map((mark) => Number(mark.getAttribute("data-trial")));
  assert.ok(faded.length > 0 && faded.every((number) => !isWithin.has(number)));
  assert.equal(all(root, "tr.nbc-dim").length, study.trials.length - within.length);
  assert.match(views.querySelector("[role=status]")?.textContent ?? "", new RegExp(`^${within.length} of 24 trials are within`));
  const within24 = root.querySelector<HTMLInputElement>(".nbc-filters input[type=checkbox]");
  assert.equal(within24?.closest("label")?.hidden, false);
  within24!.checked = true;
  within24!.dispatchEvent(new Event("change"));
  assert.deepEqual(rows(root), [...isWithin]);
  await drag(hit(), [0, 100], [0, 100]);
  assert.equal(root.querySelectorAll(".nbc-out:not(path[d='']), tr.nbc-dim, .nbc-chip").length, 0);
  assert.equal(rows(root).length, 24);
});

test("the same ranges without a pointer: by fields", () => {
  const { root, views } = drawn("digits");
  const study = sample("digits");
  const axis = () => views.querySelector("[aria-label='Range of an axis'] select");
  enter(axis(), String(study.parameters.findIndex(({ name }) => name === "lr")), "change");
  enter(views.querySelector("input[aria-label='Lowest lr']"), "0.01", "change");
  assert.equal(all(root, "tr.nbc-dim").length, study.trials.filter((trial) => Number(trial.params["lr"]) < 0.01).length);
  enter(axis(), String(study.parameters.findIndex(({ name }) => name === "method")), "change");
  const options = all(views, "[aria-label='Range of an axis'] select")[1];
  assert.deepEqual(
    [...options!.children].map((option) => option.textContent),
    ["any", "plain", "cluster"],
  );
  enter(options, "2", "change");
  const left = study.trials.filter((trial) => Number(trial.params["lr"]) >= 0.01 && trial.params["method"] === "cluster");
  assert.equal(all(root, "tr.nbc-dim").length, 24 - left.length);
  click(byText(views, "button", "End all ranges"));
  assert.equal(all(root, "tr.nbc-dim").length, 0);
});

test("a chart shows the part that is dragged over, and all of it after a double click", async () => {
  const { root } = drawn("digits");
  const part = root.querySelector<HTMLElement>("[aria-label='Trade-off']")!;
  const chart = () => part.querySelector(".nbc-plot > svg");
  const ticks = () => all(part, ".nbc-ticks text").map((text) => Number(text.textContent));
  const button = part.querySelector<HTMLElement>(".nbc-unzoom")!;
  const before = ticks();
  assert.equal(button.hidden, true);
  await drag(chart(), [200, 60], [300, 150]);
  assert.equal(button.hidden, false);
  assert.notDeepEqual(ticks(), before);
  assert.ok(Math.max(...ticks()) < Math.max(...before));
  assert.equal(root.querySelector("tr[aria-current]"), null, "the end of a drag chooses no trial");
  chart()?.dispatchEvent(new MouseEvent("dblclick", { bubbles: true }));
  assert.deepEqual(ticks(), before);
  press(chart(), "+");
  const once = ticks();
  assert.notDeepEqual(once, before);
  press(chart(), "+");
  press(chart(), "-");
  assert.deepEqual(ticks(), once);
  press(chart(), "0");
  assert.deepEqual(ticks(), before);
  await drag(chart(), [200, 60], [203, 62]);
  assert.deepEqual(ticks(), before, "a short drag is a click");
});

test("a tooltip follows mouse and keys", () => {
  const { root } = drawn("digits");
  const part = root.querySelector("[aria-label='Trade-off']")!;
  const tip = () => part.querySelector<HTMLElement>("[role=tooltip]")!;
  const mark = part.querySelector("[data-trial='8']")?.getAttribute("d") ?? "";
  const [x, y] = (/^M([\d.]+) ([\d.]+)/.exec(mark) ?? []).slice(1).map(Number);
  const chart = part.querySelector(".nbc-plot > svg");
  chart?.dispatchEvent(new MouseEvent("pointermove", { clientX: (x ?? 0) + 4, clientY: y ?? 0, bubbles: true }));
  assert.match(tip().textContent ?? "", /^Trial 8, complete\naccuracy 0\.9657|^Trial 8, complete\nkilobytes/);
  chart?.dispatchEvent(new MouseEvent("pointerleave"));
  assert.equal(tip().hidden, true);
  press(chart, "ArrowRight");
  assert.equal(tip().hidden, false);
  assert.equal(/\d+/.exec(tip().textContent ?? "")?.[0], root.querySelector("tr[aria-current] .nbc-number")?.textContent);
});

test("slices show each parameter against each metric", () => {
  const { root, views } = drawn("digits");
  tab(root, "Slices");
  const marks = () => all(views, "[data-trial]").map((mark) => Number(mark.getAttribute("data-trial")));
  const label = () => views.querySelector(".nbc-plot > svg")?.getAttribute("aria-label") ?? "";
  assert.match(label(), /accuracy against amount/);
  enter(views.querySelectorAll("select")[0], "4", "change");
  enter(views.querySelectorAll("select")[1], "1", "change");
  assert.match(label(), /kilobytes against clusters/);
  const both = sample("digits").trials.filter((trial) => "clusters" in trial.params && typeof trial.metrics["kilobytes"] === "number");
  assert.deepEqual(
    marks(),
    both.map((trial) => trial.number),
  );
});

test("learning curves show what trials reported", () => {
  const study = sample("digits");
  const { root, views } = drawn(study);
  tab(root, "Learning curves");
  const reported = study.trials.filter((trial) => trial.reports);
  assert.equal(views.querySelectorAll(".nbc-thread").length, reported.length);
  press(views.querySelector(".nbc-plot > svg"), "ArrowRight");
  assert.match(views.querySelector("[role=tooltip]")?.textContent ?? "", /^Trial 2, stopped\nstep 0: accuracy 0\.41/);
  const none = drawn({ ...study, trials: study.trials.map(({ reports: _, ...trial }) => trial) });
  tab(none.root, "Learning curves");
  assert.match(none.views.textContent ?? "", /No trial has reported/);
});

test("the distribution is the share of complete trials up to a value", () => {
  const { trials } = sample("digits");
  const of = (values: number[]) => values.map((value, number) => ({ ...trials[0]!, number, state: "complete" as const, metrics: { loss: value } }));
  const failed = { ...trials[0]!, state: "failed" as const, metrics: { loss: 0 } };
  const shares = sharesOf([...of([3, 1, 1, 2]), failed], "loss");
  assert.deepEqual(
    shares.map(({ value, share }) => [value, share]),
    [
      [1, 0.5],
      [1, 0.5],
      [2, 0.75],
      [3, 1],
    ],
  );
  assert.deepEqual(shareSteps(shares)[0], [1, 0]);
  assert.deepEqual(shareSteps([]), []);
});

test("the table searches, filters by state, hides and pins columns", () => {
  const { root } = drawn("digits");
  const study = sample("digits");
  const search = root.querySelector(".nbc-filters input[type=search]");
  enter(search, "METHOD = plain  complete", "input");
  const found = study.trials.filter((trial) => trial.params["method"] === "plain" && trial.state === "complete").map((trial) => trial.number);
  assert.deepEqual(rows(root), found);
  assert.equal(byText(root, ".nbc-filters [role=status]", `${found.length} of 24 trials`)?.tagName, "SPAN");
  enter(search, "mat1", "input");
  assert.ok(rows(root).includes(5), "the words of a failure are found");
  enter(search, "", "input");
  const states = root.querySelector<HTMLSelectElement>(".nbc-filters select");
  const index = [...states!.options].findIndex((option) => option.textContent === "infeasible");
  enter(states, String(index), "change");
  assert.deepEqual(
    rows(root),
    study.trials.filter((trial) => trial.state === "infeasible").map((trial) => trial.number),
  );
  enter(states, "1", "change");
  assert.deepEqual(
    rows(root),
    [...study.front].sort((a, b) => a - b),
  );
  const heads = () => all(root, ".nbc-sort bdi").map((head) => head.textContent);
  const box = byText(root, ".nbc-column-list label", "amount")?.querySelector("input");
  box?.dispatchEvent(new Event("change"));
  assert.ok(!heads().includes("amount"));
  click(root.querySelector("[aria-label='Pin method at the left']"));
  assert.deepEqual(heads().slice(0, 3), ["trial", "method", "state"]);
  assert.equal(all(root, "thead .nbc-pinned").length, 2);
  assert.equal(root.querySelector("[aria-label='Pin method at the left']")?.getAttribute("aria-pressed"), "true");
});

test("CSV has all digits, and quotes what needs it", () => {
  const study = sample("digits");
  const [first] = study.trials;
  const parameters = [
    { name: 'a "b", c', kind: "choice" as const, options: [null, true, "x\ny"] },
    { name: "n", kind: "float" as const, low: 0, high: 1 },
  ];
  const trial = (number: number, params: Record<string, string | number | boolean | null>, loss: number | null) => ({
    ...first!,
    number,
    state: "complete" as const,
    params,
    metrics: { loss },
    seconds: 0.125,
  });
  const trials = [trial(0, { 'a "b", c': null, n: 0.12345678901234 }, 1e-9), trial(1, { 'a "b", c': "x\ny" }, null), trial(2, { 'a "b", c': true, n: 3 }, -2)];
  const text = csvText(columnsOf({ ...study, parameters, metrics: ["loss"] }), trials);
  assert.equal(
    text,
    'trial,state,loss,"a ""b"", c",n,time\r\n' +
      "0,complete,1e-9,None,0.12345678901234,0.125\r\n" +
      '1,complete,,"x\ny",,0.125\r\n' +
      "2,complete,-2,True,3,0.125\r\n",
  );
});

test("the CSV file has the rows and columns that are shown", async () => {
  const saved: { name: string; text: Promise<string> }[] = [];
  const blobs: Blob[] = [];
  const before = URL.createObjectURL;
  URL.createObjectURL = (blob) => (blobs.push(blob as Blob), "blob:x");
  const press = HTMLElement.prototype.click;
  HTMLElement.prototype.click = function (this: HTMLElement) {
    saved.push({ name: this.getAttribute("download") ?? "", text: blobs[0]!.text() });
  };
  try {
    const { root } = drawn({ ...sample("digits"), name: "a/../b <c>" });
    enter(root.querySelector(".nbc-filters input[type=search]"), "failed", "input");
    click(byText(root, "button", "Download CSV"));
  } finally {
    URL.createObjectURL = before;
    HTMLElement.prototype.click = press;
  }
  assert.equal(saved[0]?.name, "a_.._b_c_.csv");
  assert.equal((await saved[0]!.text).split("\r\n").length, 2 + sample("digits").trials.filter((trial) => trial.state === "failed").length);
});

test("axes, hypervolume, importance and the best trial say of what they are", () => {
  const study = sample("digits");
  const { root } = drawn({ ...study, progress: { ...study.progress!, reference: { accuracy: 0.3125, kilobytes: 70 } } });
  const texts = all(root, ".nbc-axis").map((axis) => axis.textContent);
  assert.ok(
    texts.includes("accuracy (higher is better)") && texts.includes("kilobytes (lower is better)") && texts.includes("hypervolume (higher is better)"),
    String(texts),
  );
  assert.match(root.querySelector("[role=tabpanel]")?.textContent ?? "", /Reference point of the hypervolume: accuracy 0\.3125, kilobytes 70\./);
  assert.match(root.querySelector(".nbc-best")?.textContent ?? "", /^Best in accuracy: trial 8/);
  tab(root, "Importance");
  assert.match(root.querySelector("caption")?.textContent ?? "", /^Importance for accuracy/);
  tab(root, "Slices");
  enter(root.querySelector("[aria-label='Views of all trials'] select"), "2", "change");
  assert.ok(all(root, ".nbc-axis").some((axis) => axis.textContent === "lr (log scale)"));
  assert.match(drawn("single").root.querySelector(".nbc-best")?.textContent ?? "", /^Best: trial/);
});

test("importance is shown for each objective, which a select chooses", () => {
  const study = sample("digits");
  const insights = [
    { metric: "accuracy", importance: { lr: 0.9, bits: 0.1 }, calibration: null },
    { metric: "kilobytes", importance: { lr: 0.2, bits: 0.8 }, calibration: { ...study.calibration!, metric: "kilobytes", sentence: "Of kilobytes." } },
  ];
  const { root, view } = drawn({ ...study, insights });
  tab(root, "Importance");
  const rows = () => all(root, ".nbc-bars tr").map((row) => row.textContent);
  const select = () => root.querySelector("[role=tabpanel]:not([hidden]) .nbc-tools select");
  assert.deepEqual(rows(), ["lr90 %", "bits10 %"]);
  enter(select(), "1", "change");
  assert.match(root.querySelector("caption")?.textContent ?? "", /^Importance for kilobytes/);
  assert.deepEqual(rows(), ["bits80 %", "lr20 %"]);
  assert.equal(root.querySelector(".nbc-trust")?.textContent, "Of kilobytes.");
  const before = select();
  view.update({ ...study, insights: insights.map((insight) => ({ ...insight, importance: { lr: 0.5, bits: 0.5 } })) });
  assert.equal(select(), before, "an open select stays");
  assert.deepEqual(rows(), ["lr50 %", "bits50 %"]);
  assert.match(root.querySelector("caption")?.textContent ?? "", /^Importance for kilobytes/);
});

test("the finished panel keeps the ranges and the view of the live one", async () => {
  const { root } = drawn("running");
  const study = sample("running");
  tab(root, "Slices");
  tab(root, "Parallel coordinates");
  enter(root.querySelector(`input[aria-label^='Lowest']`), "0.5", "change");
  const chip = root.querySelector(".nbc-chip")?.textContent;
  assert.ok(chip);
  tab(root, "Distribution");
  const finished = drawn({ ...study, state: "ended" });
  assert.ok(finished.root.querySelectorAll("tr.nbc-dim").length > 0);
  assert.equal(byText(finished.views, "[role=tab]", "Distribution")?.getAttribute("aria-selected"), "true");
  tab(finished.root, "Parallel coordinates");
  assert.equal(finished.root.querySelector(".nbc-chip")?.textContent, chip);
});

// Returns the name that a screen reader says of an element, as far as this view uses the rules.
function nameOf(element: Element): string {
  const labelled = element.getAttribute("aria-labelledby");
  const label = element.closest("label");
  const words =
    element.getAttribute("aria-label") ?? (labelled ? document.getElementById(labelled)?.textContent : null) ?? label?.textContent ?? element.textContent;
  return (words ?? "").trim();
}

test("every control has a name and can be reached with the keyboard", () => {
  const { root } = drawn("digits");
  for (const title of [...VIEWS, "History", "Acquisition", "What if", "Importance"]) {
    tab(root, title);
    for (const element of all(
      root,
      "button, input, select, summary, svg[role=img], [role=region], [role=group], [role=tablist], [role=tab], [role=progressbar], section, article",
    )) {
      const isNamed = nameOf(element) !== "" || element.getAttribute("role") === "tablist";
      assert.ok(isNamed, `${title}: ${element.outerHTML.slice(0, 120)}`);
    }
    for (const element of all(root, "[tabindex]")) {
      assert.ok(Number(element.getAttribute("tabindex")) <= 0, element.outerHTML.slice(0, 120));
    }
    const ids = all(root, "[id]").map((element) => element.id);
    assert.equal(new Set(ids).size, ids.length);
    for (const element of all(root, ".nbc-plot > svg, .nbc-scroll, .nbc-sideways")) {
      assert.equal(element.getAttribute("tabindex"), "0");
    }
    for (const element of all(root, "svg:not([role=img])")) {
      assert.ok(element.closest("svg[role=img], [aria-hidden=true]"), "a picture is named or hidden");
    }
  }
});

test("the timeline has a row for each worker, and more rows for trials that ran at once in one", () => {
  const { trials } = sample("single");
  const ran = (number: number, worker: string, started: number, ended?: number) => {
    const { seconds: _, ...trial } = trials[number]!;
    return { ...trial, seconds: null, worker, started, ...(ended === undefined ? { state: "running" as const } : { ended }) };
  };
  const timed = [ran(0, "a:1", 100, 104), ran(1, "b:2", 101, 103), ran(2, "a:1", 102, 106), ran(3, "b:2", 103, 105), ran(4, "b:2", 105)];
  const spans = spansOf([...timed, trials[5]!]);
  assert.deepEqual(
    spans.map(({ trial, start, end }) => [trial.number, start, end]),
    [
      [0, 0, 4],
      [1, 1, 3],
      [2, 2, 6],
      [3, 3, 5],
      [4, 5, 6],
    ],
    "a running trial lasts until the latest known time; one without times is left out",
  );
  const lanes = lanesOf(spans).map(({ worker, isFirst, spans: own }) => [worker, isFirst, own.map(({ trial }) => trial.number)]);
  assert.deepEqual(lanes, [
    ["a:1", true, [0]],
    ["a:1", false, [2]],
    ["b:2", true, [1, 3, 4]],
  ]);
  const processes = spansOf([ran(0, "h:1", 0, 2), ran(1, "h:2", 1, 3), ran(2, "h:3", 2, 4)]);
  assert.deepEqual(
    lanesOf(processes).map(({ worker, spans: own }) => [worker, own.map(({ trial }) => trial.number)]),
    [
      ["h", [0, 2]],
      ["h", [1]],
    ],
    "where each trial has a process of its own, rows are places of the host",
  );
  // Older data say how long a trial took, but not when it ended.
  assert.equal(spansOf([{ ...trials[0]!, started: 7, seconds: 2 }])[0]?.end, 2);

  const { root, views } = drawn({ ...sample("single"), trials: timed });
  tab(root, "Timeline");
  assert.deepEqual(
    all(views, ".nbc-ticks text[text-anchor=end]").map((text) => text.textContent),
    ["a:1", "", "b:2"],
  );
  assert.equal(all(views, ".nbc-run.nbc-running").length, 1);
  const chart = () => views.querySelector(".nbc-plot > svg");
  press(chart(), "ArrowRight");
  const tip = views.querySelector("[role=tooltip]")?.textContent ?? "";
  assert.match(tip, /^Trial 1, complete\n.*\n.*\n1 s to 3 s\nb:2$/);
  assert.equal(root.querySelector("tr[aria-current] .nbc-number")?.textContent, "1");
  assert.equal(all(views, ".nbc-chosen").length, 1);
  // A click anywhere on a bar chooses its trial.
  const bar = /^M([\d.]+) ([\d.]+)h([\d.]+)/.exec(views.querySelector(".nbc-run.nbc-running")?.getAttribute("d") ?? "") ?? [];
  const [x, y, width] = bar.slice(1).map(Number);
  chart()?.dispatchEvent(new MouseEvent("click", { clientX: (x ?? 0) + (width ?? 0) / 3, clientY: (y ?? 0) + 4, bubbles: true }));
  assert.equal(root.querySelector("tr[aria-current] .nbc-number")?.textContent, "4");
  const none = drawn("single");
  tab(none.root, "Timeline");
  assert.match(none.views.textContent ?? "", /does not hold when its trials ran/);
});

test("the selected trial says where it ran, what it keeps and what it printed", () => {
  const study = sample("digits");
  const trials = study.trials.map((trial) => (trial.number === 8 ? { ...trial, worker: "node7:4711", seconds: 2, printed: "epoch 1\n<b>x</b>" } : trial));
  const { root } = drawn({ ...study, trials, kept: { 8: ["small"] } });
  const detail = root.querySelector<HTMLElement>(".nbc-detail")!;
  assert.equal(detail.hidden, true);
  click(root.querySelector("[aria-label='Trial 8']"));
  assert.equal(detail.hidden, false);
  assert.match(detail.textContent ?? "", /It ran for 2 s in node7:4711\. It keeps study\.all_trials\[8\]\.kept\["small"\]\./);
  assert.equal(detail.querySelector("pre")?.textContent, "epoch 1\n<b>x</b>");
  click(root.querySelector("[aria-label='Trial 9']"));
  assert.equal(detail.querySelector("details")?.hidden, true);
  assert.doesNotMatch(detail.textContent ?? "", /It keeps/);
});

test("every text of the view goes through the translator", () => {
  // Data of the study, Python's values, code, units, and signs.
  const study = sample("running");
  const ours = JSON.stringify(study).match(/[\p{L}_]+/gu) ?? [];
  const known = new Set([...ours, "None", "True", "False", "s", "min", "h", "study", "model", "kept", "all_trials", "bo_study", "background"]);
  const marked = (text: string, values: readonly (string | number)[]): string =>
    `⟦${text.replace(/%(%|\d+)/g, (_, at: string) => (at === "%" ? "%" : `⟧${values[Number(at) - 1]}⟦`))}⟧`;
  useTranslation({ __: (text, ...values) => marked(text, values), _n: (single, plural, count, ...values) => marked(count === 1 ? single : plural, values) });
  try {
    const trials = study.trials.map((trial, i) => ({ ...trial, started: i, ended: i + 1, worker: "a:1" }));
    const narrowed = Object.fromEntries(study.parameters.map(({ name, low, high, options }) => [name, options ?? [low ?? 0, high ?? 1]]));
    const { root, view } = drawn({ ...study, trials, narrowed, kept: { 1: ["model"] } });
    const press = () => undefined;
    view.setControls({ stop: press, pause: press, skip: press, run: press, narrow: press, answer: "", isPaused: false, note: "" });
    const missed = new Set<string>();
    const check = (text: string | null): void => {
      for (const word of text?.replace(/⟦[^⟦⟧]*(⟧|$)/gu, " ").match(/[\p{L}_]{2,}/gu) ?? []) {
        if (!known.has(word)) {
          missed.add(word);
        }
      }
    };
    const checkAll = (): void => {
      all(root, "*:not(style)").forEach((element) => {
        [...element.childNodes].filter((node) => node.nodeType === 3).forEach((node) => check(node.textContent));
        ["aria-label", "title", "placeholder", "alt", "aria-valuetext"].forEach((name) => check(element.getAttribute(name)));
      });
    };
    click(root.querySelectorAll(".nbc-number")[1]);
    const tabs = all(root, "[role=tab]");
    assert.equal(tabs.length, 9);
    tabs.forEach((_, i) => {
      click(all(root, "[role=tab]")[i]);
      checkAll();
    });
    assert.deepEqual([...missed], []);
  } finally {
    useTranslation(undefined);
  }
});

test("between the cells of a notebook the views of all trials are folded until one is chosen", () => {
  const view = new StudyView(true);
  document.body.append(view.element);
  view.update(sample("digits"));
  const views = view.element.querySelector<HTMLElement>("[aria-label='Views of all trials']")!;
  const panel = views.querySelector<HTMLElement>("[role=tabpanel]")!;
  const first = byText(views, "[role=tab]", "Parallel coordinates");
  assert.deepEqual([panel.hidden, first?.getAttribute("aria-expanded"), first?.tabIndex], [true, "false", 0]);
  click(first);
  assert.deepEqual([panel.hidden, first?.getAttribute("aria-expanded"), views.querySelectorAll(".nbc-parallel").length], [false, "true", 1]);
  click(first);
  assert.equal(panel.hidden, true);
});
