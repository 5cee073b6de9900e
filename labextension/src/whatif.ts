// The What if tab: a point set with sliders, what the surrogate predicts there, and a button that queues it.

import { copyText, startOption } from "./code";
import type { Parameter, Scalar, Study, Trial } from "./data";
import { button, choice, el, svg, userText } from "./dom";
import { boundText, shorten, formatValue } from "./format";
import type { Controls } from "./header";
import { Narrow } from "./narrow";
import type { Part } from "./part";
import { extent, linearScale } from "./scales";
import type { Selection } from "./selection";
import { completePoint, countValues, fromUnit, isActive, optionsOf, toUnit, type Point } from "./space";
import { SlicedPredictions, Surrogate, type Prediction } from "./surrogate";
import { trans } from "./words";

const FINE = 1000;
const STRIP = { width: 220, height: 22 };

interface Row {
  parameter: Parameter;
  element: HTMLElement;
  update(point: Point): void;
}

export class WhatIf implements Part {
  readonly element = el("div.nbc-whatif", {});
  readonly #empty = el("p.nbc-empty", {});
  readonly #source = el("p.nbc-caption", { hidden: true });
  readonly #sliders = el("div.nbc-sliders", { role: "group", "aria-label": trans.__("The point") });
  readonly #results = el("div.nbc-results", { "aria-live": "polite" });
  readonly #tools = el("div.nbc-tools", {});
  readonly #run: HTMLButtonElement;
  readonly #note = el("span.nbc-answer", { role: "status" });
  readonly #narrow = new Narrow((limits) => this.#limit(limits));
  #rows: Row[] = [];
  #touched: string | null = null;
  #drawn = "";
  #answered = "";
  #point: Point | null = null;
  #followed: number | null = null;
  #study: Study | null = null;
  #sliced: SlicedPredictions | null = null;
  #controls: Controls | null = null;

  constructor(private readonly selection: Selection) {
    const title = trans.__("Let the search run this point after the trial that runs now");
    this.#run = button(trans.__("Run this next"), { class: "nbc-button nbc-run", title, hidden: true }, () => this.#queue());
    const best = button(trans.__("Best"), { class: "nbc-button", title: trans.__("Go to the best trial's point") }, () => this.#goTo(this.#best()));
    const copy = button(
      trans.__("Copy as code"),
      { class: "nbc-button", title: trans.__("Copy the option of %1 that runs this point first", "%%bo_search") },
      () => void this.#copy(),
    );
    this.#tools.append(this.#run, best, copy, this.#note);
    this.element.append(this.#empty, this.#source, this.#sliders, this.#results, this.#tools, this.#narrow.element);
  }

  draw(study: Study): void {
    this.#study = study;
    const surrogate = Surrogate.of(study);
    this.#sliced = study.surrogate ? null : SlicedPredictions.of(study);
    const answers = Boolean(surrogate ?? this.#sliced);
    this.#empty.textContent = answers ? "" : missingText(study);
    this.#empty.hidden = answers;
    this.#source.textContent = this.#sliced ? byPython(this.#sliced.through.number) : "";
    this.#source.hidden = !this.#sliced;
    [this.#sliders, this.#results, this.#tools, this.#narrow.element].forEach((element) => (element.hidden = !answers));
    if (answers) {
      this.#drawSliders(study);
      this.#follow(study);
      this.#answer();
    }
  }

  // Sets the commands of a live panel; without them no point can be run.
  setControls(controls: Controls | null): void {
    this.#controls = controls;
    this.#note.textContent = controls?.answer ?? "";
    this.#mark();
  }

  #drawSliders(study: Study): void {
    const key = JSON.stringify(study.parameters);
    if (key !== this.#drawn) {
      this.#drawn = key;
      this.#rows = study.parameters.map((parameter) => makeRow(parameter, (value) => this.#move(parameter, value)));
      this.#sliders.replaceChildren(...this.#rows.map((row) => row.element));
    }
  }

  // Goes to the point of a newly selected trial; at the start to the best point. Slices stay at their own trial.
  #follow(study: Study): void {
    if (this.#sliced) {
      this.#point = this.#sliced.point(this.#touched, this.#point?.[this.#touched ?? ""]);
      return;
    }
    const { number } = this.selection;
    const chosen = number === this.#followed ? undefined : study.trials.find((trial) => trial.number === number);
    this.#followed = number;
    if (chosen || !this.#point) {
      this.#goTo(chosen ?? this.#best());
    }
  }

  #best(): Trial | undefined {
    return this.#study?.trials.find((trial) => trial.number === this.#study?.best);
  }

  #goTo(trial: Trial | undefined): void {
    this.#touched = this.#sliced ? null : this.#touched;
    this.#setPoint(trial?.params ?? {});
  }

  #move(parameter: Parameter, value: Point[string]): void {
    this.#touched = parameter.name;
    this.#setPoint(this.#sliced?.point(parameter.name, value) ?? { ...this.#point, [parameter.name]: value });
  }

  #setPoint(point: Point): void {
    this.#point = completePoint(this.#study?.parameters ?? [], point);
    this.#note.textContent = "";
    this.#answer();
  }

  #answer(): void {
    const [study, point, sliced] = [this.#study, this.#point, this.#sliced];
    const surrogate = study && Surrogate.of(study);
    const predicted = point && (surrogate?.predict(point) ?? sliced?.predict(point, this.#touched));
    if (!study || !point || !predicted) {
      return;
    }
    for (const row of this.#rows) {
      row.element.hidden = !isActive(row.parameter, point) || (sliced !== null && !sliced.has(row.parameter.name));
      row.update(point);
    }
    this.#mark();
    const key = JSON.stringify([predicted, study.trials.length, point]);
    // If an unchanged prediction were replaced, a screen reader would read it again.
    if (key !== this.#answered) {
      this.#answered = key;
      this.#drawResults(study, predicted, surrogate?.feasibility(point) ?? null);
    }
  }

  #drawResults(study: Study, predicted: readonly Prediction[], feasibility: number | null): void {
    const lines = predicted.map((prediction) => resultRow(study, prediction));
    const head = el(
      "tr",
      {},
      ...[trans.__("metric"), trans.__("predicted"), trans.__("95 %% interval"), trans.__("among the trials")].map((title) =>
        el("th", { scope: "col" }, title),
      ),
    );
    this.#results.replaceChildren(el("table.nbc-predicted", {}, el("thead", {}, head), el("tbody", {}, ...lines)));
    if (feasibility !== null) {
      this.#results.append(
        el("p", { class: "nbc-caption nbc-chance" }, trans.__("Probability of meeting every constraint without failing: %1.", percent(feasibility))),
      );
    }
  }

  #mark(): void {
    const isOver = this.#study?.state !== "running";
    this.#run.hidden = isOver || !this.#controls?.run;
    this.#narrow.element.hidden = isOver || !this.#controls?.narrow;
    if (this.#study && this.#point) {
      const { parameters } = this.#study;
      this.#narrow.draw(this.#study, parameters.find((known) => known.name === this.#touched) ?? parameters[0], this.#point);
    }
  }

  #queue(): void {
    const [study, point] = [this.#study, this.#point];
    if (study && point) {
      this.#note.textContent = "…";
      // Indices are sent, not labels, because labels may be truncated in the page.
      this.#controls?.run?.(study.parameters.map((parameter) => encoded(parameter, point)));
    }
  }

  #limit(limits: Record<string, Scalar[]>): void {
    this.#note.textContent = "…";
    const entries = (this.#study?.parameters ?? []).map(
      (parameter) => limits[parameter.name]?.map((value) => encoded(parameter, { [parameter.name]: value }) ?? 0) ?? null,
    );
    this.#controls?.narrow?.(entries);
  }

  async #copy(): Promise<void> {
    const code = this.#point && startOption({ params: this.#point });
    if (code) {
      this.#note.textContent = (await copyText(code)) ? trans.__("Copied.") : code;
    }
  }
}

// Returns the index of an option, or a number as it is; null if the parameter is not active.
function encoded(parameter: Parameter, point: Point): number | null {
  const value = point[parameter.name];
  if (value === undefined) {
    return null;
  }
  return parameter.kind === "choice" ? (parameter.options ?? []).indexOf(value) : Number(value);
}

function byPython(number: number): string {
  return trans.__(
    "This surrogate has no closed form on this page: the predictions are from slices that were computed in Python. One parameter moves at a time, and the others stay as in trial %1. study.predict([...]) answers for any point.",
    number,
  );
}

// Returns why there are no predictions.
function missingText(study: Study): string {
  if (study.slices.length && !study.surrogate) {
    return trans.__(
      "This surrogate has no closed form on this page, so it cannot predict a new point here. The Acquisition tab shows slices that were computed in Python; study.predict([...]) answers for any point.",
    );
  }
  return study.state === "running"
    ? trans.__("Predictions are shown here once the surrogate has enough trials.")
    : trans.__("This study was saved without its surrogate, so there are no predictions.");
}

function percent(feasibility: number): string {
  return feasibility > 0.995 ? trans.__("over 99 %%") : feasibility < 0.005 ? trans.__("under 1 %%") : `${Math.round(100 * feasibility)} %`;
}

function makeRow(parameter: Parameter, change: (value: Point[string]) => void): Row {
  if (parameter.kind === "choice") {
    const options = optionsOf(parameter);
    // Two options may have the same label, such as 1 and "1", so they are selected by index.
    const label = choice(shorten(parameter.name, 40), options.map(formatValue), "", (_, i) => change(options[i] ?? null));
    label.className = "nbc-slider";
    const [select] = label.getElementsByTagName("select");
    return { parameter, element: label, update: (point) => select && (select.value = String(options.indexOf(point[parameter.name] ?? null))) };
  }
  const count = countValues(parameter);
  // A slider moves in unit coordinates; if there are few values, each step is one value.
  const last = count !== null && count <= FINE ? count - 1 : FINE;
  const slider = el("input", { type: "range", min: 0, max: last, step: 1 });
  const value = el("output", {});
  slider.addEventListener("input", () => change(fromUnit(parameter, Number(slider.value) / Math.max(1, last))));
  const update = (point: Point): void => {
    const now = point[parameter.name];
    if (now !== undefined) {
      slider.value = String(Math.round(toUnit(parameter, now) * last));
      slider.setAttribute("aria-valuetext", formatValue(now));
      value.textContent = formatValue(now);
    }
  };
  const element = el("label.nbc-slider", {}, userText(shorten(parameter.name, 40)), slider, value);
  return { parameter, element, update };
}

function resultRow(study: Study, { metric, mean, low, high }: Prediction): HTMLTableRowElement {
  const round = (value: number): string => formatValue(Number(value.toPrecision(4)));
  return el(
    "tr",
    {},
    el("th", { scope: "row" }, userText(shorten(metric, 40))),
    el("td", {}, round(mean)),
    el("td", {}, trans.__("%1 to %2", round(low), round(high))),
    el("td", {}, strip(study, metric, mean, low, high)),
  );
}

// The prediction with its interval above a line with a stroke for each trial.
function strip(study: Study, metric: string, mean: number, low: number, high: number): SVGSVGElement {
  const { width, height } = STRIP;
  const known = study.trials.flatMap((trial) => trial.metrics[metric] ?? []);
  const bounds = study.goal.constraints.filter((constraint) => constraint.metric === metric);
  const x = linearScale(extent([...known, mean, low, high, ...bounds.map((bound) => bound.bound)]) ?? [0, 1], [3, width - 3]);
  const ends = extent(known);
  const label = ends
    ? trans.__("Among the trials, which range from %1 to %2", formatValue(ends[0]), formatValue(ends[1]))
    : trans.__("No trial has a value yet");
  const root = svg("svg.nbc-strip", { width, height, viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": label });
  known.slice(-400).forEach((value) => root.append(svg("line.nbc-rug", { x1: x(value), x2: x(value), y1: height - 7, y2: height - 1 })));
  bounds.forEach((bound) => {
    root.append(svg("line.nbc-bound", { x1: x(bound.bound), x2: x(bound.bound), y1: 0, y2: height }, svg("title", {}, boundText(bound))));
  });
  root.append(
    svg("line.nbc-whisker", { x1: x(low), x2: x(high), y1: 7, y2: 7 }),
    svg("circle", { class: "nbc-mark nbc-complete", cx: x(mean), cy: 7, r: 4.5 }),
  );
  return root;
}
