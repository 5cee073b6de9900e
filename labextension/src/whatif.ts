// A point put together by hand: what the surrogate expects there, at once, and a button that queues it.

import { copied, startOption } from "./code";
import type { Parameter, Scalar, Study, Trial } from "./data";
import { button, choice, el, svg, user } from "./dom";
import { boundText, cut, spell } from "./format";
import type { Controls } from "./header";
import { Narrow } from "./narrow";
import type { Part } from "./part";
import { extent, linear } from "./scales";
import type { Selection } from "./selection";
import { completed, countOf, fromUnit, isActive, optionsOf, toUnit, type Point } from "./space";
import { Surrogate, type Prediction } from "./surrogate";

const WAITING = "The surrogate answers here once it has enough trials to learn from.";
const NOTHING = "The surrogate was not kept with this study, so it cannot be asked.";
const FINE = 1000;
const STRIP = { width: 220, height: 22 };

interface Row {
  parameter: Parameter;
  element: HTMLElement;
  show(point: Point): void;
}

export class WhatIf implements Part {
  readonly element = el("div", { class: "nbc-whatif" });
  private readonly empty = el("p", { class: "nbc-empty" });
  private readonly sliders = el("div", { class: "nbc-sliders", role: "group", "aria-label": "The point" });
  private readonly results = el("div", { class: "nbc-results", "aria-live": "polite" });
  private readonly tools = el("div", { class: "nbc-tools" });
  private readonly run: HTMLButtonElement;
  private readonly note = el("span", { class: "nbc-answer", role: "status" });
  private readonly narrow = new Narrow((limits) => this.limit(limits));
  private rows: Row[] = [];
  private touched: string | null = null;
  private drawn = "";
  private answered = "";
  private point: Point | null = null;
  private followed: number | null = null;
  private study: Study | null = null;
  private controls: Controls | null = null;

  constructor(private readonly selection: Selection) {
    const title = "Let the search run this point after the trial that runs now";
    this.run = button("Run this next", { class: "nbc-button nbc-run", title, hidden: true }, () => this.queue());
    const best = button("Best", { class: "nbc-button", title: "Go to the best trial's point" }, () => this.goTo(this.best()));
    const copy = button("Copy as code", { class: "nbc-button", title: "Copy the option of %%bo_search that runs this point first" }, () => void this.copy());
    this.tools.append(this.run, best, copy, this.note);
    this.element.append(this.empty, this.sliders, this.results, this.tools, this.narrow.element);
  }

  draw(study: Study): void {
    this.study = study;
    const surrogate = Surrogate.of(study);
    this.empty.textContent = surrogate ? "" : study.state === "running" ? WAITING : NOTHING;
    this.empty.hidden = Boolean(surrogate);
    [this.sliders, this.results, this.tools, this.narrow.element].forEach((element) => (element.hidden = !surrogate));
    if (surrogate) {
      this.drawSliders(study);
      this.follow(study);
      this.answer();
    }
  }

  // Takes what the live panel can ask of Python; without it, there is nobody to run a point.
  steer(controls: Controls | null): void {
    this.controls = controls;
    this.note.textContent = controls?.answer ?? "";
    this.mark();
  }

  private drawSliders(study: Study): void {
    const key = JSON.stringify(study.parameters);
    if (key !== this.drawn) {
      this.drawn = key;
      this.rows = study.parameters.map((parameter) => rowOf(parameter, (value) => this.move(parameter, value)));
      this.sliders.replaceChildren(...this.rows.map((row) => row.element));
    }
  }

  // A trial that is newly selected brings its point here; at the start the best one does.
  private follow(study: Study): void {
    const { number } = this.selection;
    const chosen = number === this.followed ? undefined : study.trials.find((trial) => trial.number === number);
    this.followed = number;
    if (chosen || !this.point) {
      this.goTo(chosen ?? this.best());
    }
  }

  private best(): Trial | undefined {
    return this.study?.trials.find((trial) => trial.number === this.study?.best);
  }

  private goTo(trial: Trial | undefined): void {
    this.setPoint(trial?.params ?? {});
  }

  private move(parameter: Parameter, value: Point[string]): void {
    this.touched = parameter.name;
    this.setPoint({ ...this.point, [parameter.name]: value });
  }

  private setPoint(point: Point): void {
    this.point = completed(this.study?.parameters ?? [], point);
    this.note.textContent = "";
    this.answer();
  }

  private answer(): void {
    const { study, point } = this;
    const surrogate = study && Surrogate.of(study);
    if (!study || !surrogate || !point) {
      return;
    }
    for (const row of this.rows) {
      row.element.hidden = !isActive(row.parameter, point);
      row.show(point);
    }
    this.mark();
    const predicted = surrogate.predict(point);
    const key = JSON.stringify([predicted, study.trials.length, point]);
    // Rewriting what is unchanged would make a screen reader say it again.
    if (key !== this.answered) {
      this.answered = key;
      this.drawResults(study, predicted, surrogate.chance(point));
    }
  }

  private drawResults(study: Study, predicted: readonly Prediction[], chance: number | null): void {
    const lines = predicted.map((prediction) => resultOf(study, prediction));
    const head = el("tr", {}, ...["metric", "expected", "95 % interval", "beside the trials"].map((title) => el("th", { scope: "col" }, title)));
    this.results.replaceChildren(el("table", { class: "nbc-predicted" }, el("thead", {}, head), el("tbody", {}, ...lines)));
    if (chance !== null) {
      this.results.append(el("p", { class: "nbc-caption nbc-chance" }, `Within every bound, and without failing, with probability ${percent(chance)}.`));
    }
  }

  private mark(): void {
    const isOver = this.study?.state !== "running";
    this.run.hidden = isOver || !this.controls?.run;
    this.narrow.element.hidden = isOver || !this.controls?.narrow;
    if (this.study && this.point) {
      const { parameters } = this.study;
      this.narrow.draw(this.study, parameters.find((known) => known.name === this.touched) ?? parameters[0], this.point);
    }
  }

  private queue(): void {
    const { study, point } = this;
    if (study && point) {
      this.note.textContent = "…";
      // By place, since names and options may have been cut for the page.
      this.controls?.run?.(study.parameters.map((parameter) => coded(parameter, point)));
    }
  }

  private limit(limits: Record<string, Scalar[]>): void {
    this.note.textContent = "…";
    const entries = (this.study?.parameters ?? []).map((parameter) => limits[parameter.name]?.map((value) => coded(parameter, { [parameter.name]: value }) ?? 0) ?? null);
    this.controls?.narrow?.(entries);
  }

  private async copy(): Promise<void> {
    const code = this.point && startOption({ params: this.point });
    if (code) {
      this.note.textContent = (await copied(code)) ? "Copied." : code;
    }
  }
}

// A choice's option by its place among the options, a number as it is; null where the parameter is not active.
function coded(parameter: Parameter, point: Point): number | null {
  const value = point[parameter.name];
  if (value === undefined) {
    return null;
  }
  return parameter.kind === "choice" ? (parameter.options ?? []).indexOf(value) : Number(value);
}

function percent(chance: number): string {
  return chance > 0.995 ? "over 99 %" : chance < 0.005 ? "under 1 %" : `${Math.round(100 * chance)} %`;
}

function rowOf(parameter: Parameter, change: (value: Point[string]) => void): Row {
  if (parameter.kind === "choice") {
    const options = optionsOf(parameter);
    // Options may be spelt alike, such as 1 and "1", so they are chosen by place.
    const label = choice(cut(parameter.name, 40), options.map(spell), "", (_, i) => change(options[i] ?? null));
    label.className = "nbc-slider";
    const [select] = label.getElementsByTagName("select");
    return { parameter, element: label, show: (point) => select && (select.value = String(options.indexOf(point[parameter.name] ?? null))) };
  }
  const count = countOf(parameter);
  // A slider runs along the axis as the search sees it; one step of it is one value, where these can be told apart.
  const last = count !== null && count <= FINE ? count - 1 : FINE;
  const slider = el("input", { type: "range", min: 0, max: last, step: 1 });
  const value = el("output", {});
  slider.addEventListener("input", () => change(fromUnit(parameter, Number(slider.value) / Math.max(1, last))));
  const show = (point: Point): void => {
    const now = point[parameter.name];
    if (now !== undefined) {
      slider.value = String(Math.round(toUnit(parameter, now) * last));
      slider.setAttribute("aria-valuetext", spell(now));
      value.textContent = spell(now);
    }
  };
  const element = el("label", { class: "nbc-slider" }, user(cut(parameter.name, 40)), slider, value);
  return { parameter, element, show };
}

function resultOf(study: Study, { metric, mean, low, high }: Prediction): HTMLTableRowElement {
  const round = (value: number): string => spell(Number(value.toPrecision(4)));
  return el(
    "tr",
    {},
    el("th", { scope: "row" }, user(cut(metric, 40))),
    el("td", {}, round(mean)),
    el("td", {}, `${round(low)} to ${round(high)}`),
    el("td", {}, strip(study, metric, mean, low, high)),
  );
}

// The expected value with its interval above a line that has a stroke for every trial.
function strip(study: Study, metric: string, mean: number, low: number, high: number): SVGSVGElement {
  const { width, height } = STRIP;
  const known = study.trials.flatMap((trial) => trial.metrics[metric] ?? []);
  const bounds = study.goal.constraints.filter((constraint) => constraint.metric === metric);
  const x = linear(extent([...known, mean, low, high, ...bounds.map((bound) => bound.bound)]) ?? [0, 1], [3, width - 3]);
  const label = `Among the trials, which range ${range(known)}`;
  const root = svg("svg", { class: "nbc-strip", width, height, viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": label });
  known.slice(-400).forEach((value) => root.append(svg("line", { class: "nbc-rug", x1: x(value), x2: x(value), y1: height - 7, y2: height - 1 })));
  bounds.forEach((bound) => {
    root.append(svg("line", { class: "nbc-bound", x1: x(bound.bound), x2: x(bound.bound), y1: 0, y2: height }, svg("title", {}, boundText(bound))));
  });
  root.append(
    svg("line", { class: "nbc-whisker", x1: x(low), x2: x(high), y1: 7, y2: 7 }),
    svg("circle", { class: "nbc-mark nbc-complete", cx: x(mean), cy: 7, r: 4.5 }),
  );
  return root;
}

function range(known: readonly number[]): string {
  const ends = extent(known);
  return ends ? `from ${spell(ends[0])} to ${spell(ends[1])}` : "nowhere yet";
}
