import assert from "node:assert/strict";
import { beforeEach, test } from "node:test";
import { bestSoFar, Comparison } from "../src/compare";
import { pythonText, SearchForm, type Choices } from "../src/insert";
import type { Application } from "../src/lab";
import type { Translation } from "../src/words";
import { modelView } from "../src/model_view";
import { relativePath } from "../src/plugins";
import { RequestFailed, StudyServer, type Line } from "../src/server";
import { Settings } from "../src/settings";
import { StudyList } from "../src/studies";
import { byText, click, openPage, press } from "./page";
import { sample } from "./samples";

beforeEach(openPage);

const filled = (text: string, values: readonly (string | number)[]): string => text.replace(/%(\d)/g, (_, i: string) => String(values[Number(i) - 1]));
const trans: Translation = {
  __: (text, ...values) => filled(text, values),
  _n: (one, many, count, ...values) => filled(count === 1 ? one : many, values),
};

function line(name: string, more: Partial<Line> = {}): Line {
  const best = { number: 1, values: { accuracy: 0.9 } };
  return {
    name,
    label: name,
    path: "a.journal",
    kernel: null,
    kernels: [],
    state: "ended",
    trials: 3,
    done: 3,
    wanted: 3,
    counts: {},
    best,
    ending: null,
    ours: true,
    ...more,
  };
}

function listOf(...lines: Line[]): { list: StudyList; told: [string, unknown][] } {
  const told: [string, unknown][] = [];
  const note = (name: string) => (value: unknown) => void told.push([name, value]);
  const list = new StudyList(trans, { open: note("open"), compare: note("compare"), copy: note("copy"), report: note("report"), remove: note("remove") });
  list.show({ studies: lines, problems: [], complete: true });
  document.body.append(list.element);
  return { list, told };
}

test("names are shown as text", () => {
  const name = `<img src=x onerror="alert(1)"> \u202eabc ${"x".repeat(1000)}`;
  const { list } = listOf(line(name));
  assert.equal(list.element.querySelector("img"), null);
  assert.equal(list.element.querySelector(".nbc-side-name bdi")?.textContent, name);
});

test("only studies of ours that are below the root can be deleted", () => {
  const { list, told } = listOf(line("ours"), line("theirs", { ours: false }), line("elsewhere", { kernel: "k" }), line("remote", { state: "unknown" }));
  const items = [...list.element.querySelectorAll("li")];
  assert.deepEqual(
    items.map((item) => item.querySelector('[data-role="delete"]') !== null),
    [true, false, false, false],
  );
  click(items[0]?.querySelector('[data-role="delete"]'));
  assert.equal(told[0]?.[0], "remove");
  assert.match(items[3]?.textContent ?? "", /%bo_study remote/);
});

test("two or more studies are compared", () => {
  const { list, told } = listOf(line("a"), line("b"), line("c"));
  const compare = byText(list.element, "button", "Compare") as HTMLButtonElement;
  assert.equal(compare.disabled, true);
  for (const box of [...list.element.querySelectorAll<HTMLInputElement>("li input")].slice(1)) {
    box.checked = true;
    box.dispatchEvent(new Event("change"));
  }
  assert.equal(compare.disabled, false);
  click(compare);
  assert.deepEqual(
    (told[0]?.[1] as Line[]).map(({ name }) => name),
    ["b", "c"],
  );
});

test("what has not changed is not drawn again, and the focus stays", () => {
  const { list } = listOf(line("a"), line("b"));
  const [first, second] = [...list.element.querySelectorAll("li")];
  second?.querySelector<HTMLElement>('[data-role="open"]')?.focus();
  list.show({ studies: [line("a"), line("b", { state: "running", done: 1, wanted: 9 })], problems: [], complete: true });
  const after = [...list.element.querySelectorAll("li")];
  assert.equal(after[0], first);
  assert.equal(document.activeElement, after[1]?.querySelector('[data-role="open"]'));
  assert.match(after[1]?.textContent ?? "", /running, 1\/9/);
});

test("files that cannot be read, and an empty list, are named", () => {
  const { list } = listOf();
  assert.match(list.element.textContent ?? "", /No study yet/);
  list.show({ studies: [], problems: [{ path: "b.journal", problem: "This file cannot be read." }], complete: false });
  assert.match(list.element.textContent ?? "", /b\.journal: This file cannot be read\..*more files/);
});

const choices: Choices = {
  models: [
    { name: "model", kind: "Net", kilobytes: 525.4 },
    { name: "other", kind: "Net", kilobytes: 10 },
  ],
  data: [{ name: "train", kind: "tuple" }],
  metrics: [{ name: "evaluate", kind: "function" }],
  tries: ["weights", "bits"],
};

test("the form needs no typing", () => {
  const form = new SearchForm(choices, trans, new Settings().values);
  const expected = { model: "model", data: "train", evaluate: "evaluate", example: null, budget: ["53kB"], trials: 30, tries: null };
  assert.deepEqual(form.request(), expected);
  const box = form.element.querySelector<HTMLInputElement>("input[value=bits]");
  if (box) {
    box.checked = false;
  }
  assert.deepEqual((form.request() as { tries: string[] }).tries, ["weights"]);
});

test("the form says that there is no model", () => {
  const form = new SearchForm({ ...choices, models: [] }, trans, new Settings().values);
  assert.match(form.element.querySelector("[role=alert]")?.textContent ?? "", /holds no model yet/);
});

test("a request is a text of Python whatever it holds", () => {
  assert.equal(pythonText('a"b\\\n\u2028é'), '"a\\"b\\\\\\n\\u2028\\u00e9"');
});

test("paths are relative to the notebook", () => {
  assert.equal(relativePath("a.journal", ""), "a.journal");
  assert.equal(relativePath("x/a.journal", "x"), "a.journal");
  assert.equal(relativePath("x/a.journal", "x/y"), "../a.journal");
  assert.equal(relativePath("a.journal", "x/y"), "../../a.journal");
});

test("the best so far counts complete trials in the direction of the goal", () => {
  const study = sample("digits");
  const { metric, direction } = study.goal.objectives[0] ?? { metric: "", direction: "maximize" };
  const points = bestSoFar(study, metric);
  const values = study.trials
    .filter((trial) => trial.state === "complete")
    .map((trial) => trial.metrics[metric])
    .filter((value) => typeof value === "number");
  const best = direction === "maximize" ? Math.max(...values) : Math.min(...values);
  assert.equal(points.at(-1)?.[1], best);
  assert.equal(points.at(-1)?.[0], (study.trials.at(-1)?.number ?? 0) + 1);
});

test("a comparison draws a line for each study", () => {
  const view = new Comparison(trans);
  const studies = ["digits", "running"].map((name) => ({ label: `<b>${name}`, study: sample(name), problem: null }));
  view.update([...studies, { label: "gone", study: null, problem: "not there" }], "colorblind");
  assert.equal(view.element.querySelectorAll(".nbc-legend li").length, 3);
  assert.equal(view.element.querySelectorAll("tbody tr").length, 2);
  assert.equal(view.element.querySelector("b"), null);
  assert.equal(view.element.querySelectorAll(".nbc-plot path[stroke-width]").length, 6, "fronts, best so far and distribution");
  press(view.element.querySelector(".nbc-plot svg"), "ArrowRight");
  assert.equal(view.element.querySelectorAll(".nbc-plot path[stroke-width='4']").length, 3, "the chosen study stands out in every chart");
});

test("a model file is text, and anything else is refused", () => {
  const data = { title: "<b>x", facts: [["class", "<i>Net"]], columns: ["tensor"], rows: [["0"]], notes: ["a note"] };
  assert.equal(modelView(data, trans).querySelector("b, i"), null);
  for (const wrong of [null, [], { title: 1 }, { ...data, rows: [[1]] }]) {
    assert.match(modelView(wrong, trans).textContent ?? "", /no model that can be read/);
  }
});

test("a study that is as it was is not sent again, and errors carry the server's words", async () => {
  const asked: (string | undefined)[] = [];
  const app = { serviceManager: { serverSettings: { baseUrl: "/base/" } } } as unknown as Application;
  const makeRequest = async (url: string, init: RequestInit): Promise<Response> => {
    const given = (init.headers as Record<string, string> | undefined)?.["If-None-Match"];
    asked.push(given);
    assert.match(url, /^\/base\/nbcompress\/studies\?path=a\+b%26c/);
    if (url.includes("study=gone")) {
      return new Response(JSON.stringify({ message: "not here" }), { status: 404 });
    }
    return given ? new Response(null, { status: 304 }) : new Response(JSON.stringify(sample("digits")), { headers: { Etag: "tag" } });
  };
  const server = new StudyServer(app, { makeRequest });
  const source = { path: "a b&c", kernel: null, study: "digits" };
  assert.ok("study" in ((await server.study(source, "me")) ?? {}));
  assert.equal(await server.study(source, "me"), null);
  assert.ok(await server.study(source, "another view"));
  server.forget("me");
  assert.ok(await server.study(source, "me"));
  assert.deepEqual(asked, [undefined, "tag", undefined, undefined]);
  await assert.rejects(server.study({ ...source, study: "gone" }, "me"), (error) => error instanceof RequestFailed && error.message === "not here");
});
