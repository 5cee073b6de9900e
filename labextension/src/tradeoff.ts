// The trade-off chart: trials as dots in any two metrics, or one metric against the trial number.

import { axes, axisNote, canvas, HEIGHT, isMaximized, leftOf, linePath, MARGIN, type Box } from "./chart";
import { el, svg } from "./dom";
import type { Study, Trial } from "./data";
import { boundText, shorten, formatValue } from "./format";
import { ChartPart } from "./part";
import { drawMarks, keyHelp, trialPlace, type TrialPlace } from "./plot";
import { extent, linearScale, valueScale, type Scale } from "./scales";
import type { Selection } from "./selection";
import { trans } from "./words";

// No name of a metric.
const BY_NUMBER = "\0";
// Width of the strip along an axis for trials that lack the other metric.
const RUG = 18;

// A trial in the chart; null where it lacks the metric, which puts it into the strip at the edge.
interface Dot {
  trial: Trial;
  x: number | null;
  y: number | null;
}

// A limit of the goal or the baseline, as a line.
interface Bound {
  bound: number;
  label: string;
  kind: string;
}

interface Bounds {
  x: Bound[];
  y: Bound[];
}

interface Spot extends TrialPlace {
  isFull: boolean;
}

export class Tradeoff extends ChartPart {
  #across: string | null = null;
  #up: string | null = null;

  constructor(selection: Selection) {
    super(selection, el("section.nbc-part", { "aria-label": trans.__("Trade-off") }, el("h3", {}, trans.__("Trade-off"))));
  }

  protected drawChart(study: Study): void {
    const objectives = study.goal.objectives.map((objective) => objective.metric);
    this.#up ??= objectives[0] ?? BY_NUMBER;
    this.#across ??= objectives[1] ?? BY_NUMBER;
    const byNumber = trans.__("(trial)");
    this.drawSelects(
      { label: trans.__("Up"), options: study.metrics, chosen: this.#up, change: (value) => (this.#up = value) },
      {
        label: trans.__("Across"),
        options: [byNumber, ...study.metrics],
        chosen: this.#across === BY_NUMBER ? byNumber : this.#across,
        change: (value) => (this.#across = value === byNumber ? BY_NUMBER : value),
      },
    );
    const dots = this.#dots(study);
    if (!dots.some((dot) => dot.x !== null && dot.y !== null)) {
      this.plot.message(trans.__("No trial has these metrics yet."));
      return;
    }
    const { root, width } = canvas(this.plot.element, HEIGHT, this.#describe(study, dots));
    const base = this.#baseline(study);
    const bounds = this.#bounds(study);
    const xs = [...known(dots.map((dot) => dot.x)), ...(base ? [base.x] : []), ...bounds.x.map(({ bound }) => bound)];
    const ys = [...known(dots.map((dot) => dot.y)), ...(base ? [base.y] : []), ...bounds.y.map(({ bound }) => bound)];
    const [lacksX, lacksY] = [dots.some((dot) => dot.x === null), dots.some((dot) => dot.y === null)];
    const [top, bottom] = [MARGIN.top, HEIGHT - MARGIN.bottom];
    const y = this.plot.zoomed("y", valueScale(ys, [bottom - (lacksY ? RUG : 0), top], isMaximized(study, this.#up)));
    const box = { left: leftOf(y), right: width - MARGIN.right, top, bottom };
    const range: [number, number] = [box.left + (lacksX ? RUG : 0), box.right];
    const count = Math.max(3, width / 90);
    const whole =
      this.#across === BY_NUMBER
        ? linearScale(extent(xs) ?? [0, 1], range, { count, whole: true })
        : valueScale(xs, range, isMaximized(study, this.#across), count);
    const x = this.plot.zoomed("x", whole);
    const notes = { xNote: axisNote(study, this.#across, x), yNote: axisNote(study, this.#up, y) };
    axes(root, box, x, y, { x: this.#across === BY_NUMBER ? trans.__("trial") : this.#across, y: this.#up, ...notes });
    const layer = this.plot.layer(root, box);
    this.#drawRugs(root, box, lacksX, lacksY);
    this.#drawBounds(layer, box, bounds, x, y);
    const places = dots.map((dot) => ({
      ...trialPlace(dot.trial, dot.x === null ? box.left + RUG / 2 : x(dot.x), dot.y === null ? box.bottom - RUG / 2 : y(dot.y)),
      isFull: dot.x !== null && dot.y !== null,
    }));
    this.#drawFront(layer, study, places);
    if (base) {
      layer.append(this.#star(x(base.x), y(base.y), box));
    }
    drawMarks(layer, places, this.selection);
    this.plot.show(root, box, x, y, places);
  }

  #position(numberOf: number, metrics: Trial["metrics"]): { x: number; y: number } | null {
    const x = this.#across === BY_NUMBER ? numberOf : metrics[this.#across ?? ""];
    const y = metrics[this.#up ?? ""];
    return typeof x === "number" && typeof y === "number" ? { x, y } : null;
  }

  #dots(study: Study): Dot[] {
    const value = (trial: Trial, name: string | null) => (name === null ? null : (trial.metrics[name] ?? null));
    return study.trials.flatMap((trial) => {
      const x = this.#across === BY_NUMBER ? trial.number : value(trial, this.#across);
      const y = value(trial, this.#up);
      // Against the trial number, a running trial without the metric is not shown: it may still measure it.
      const isBlank = (x === null || this.#across === BY_NUMBER) && y === null && (x === null || trial.state === "running");
      return isBlank ? [] : [{ trial, x, y }];
    });
  }

  #baseline(study: Study): { x: number; y: number } | null {
    return study.baseline && this.#across !== BY_NUMBER ? this.#position(0, study.baseline) : null;
  }

  #bounds(study: Study): Bounds {
    const flat = this.#across === BY_NUMBER ? study.baseline?.[this.#up ?? ""] : null;
    const lines = study.goal.constraints.map((constraint) => ({ ...constraint, label: boundText(constraint), kind: "nbc-bound" }));
    const baseline = typeof flat === "number" ? [{ metric: this.#up ?? "", bound: flat, label: trans.__("baseline"), kind: "nbc-base" }] : [];
    return { x: lines.filter((bound) => bound.metric === this.#across), y: [...lines.filter((bound) => bound.metric === this.#up), ...baseline] };
  }

  #drawBounds(root: SVGSVGElement, box: Box, bounds: Bounds, x: Scale, y: Scale): void {
    for (const bound of bounds.x) {
      const at = x(bound.bound);
      const isRight = at > (box.left + box.right) / 2;
      root.append(svg("line", { class: bound.kind, x1: at, x2: at, y1: box.top, y2: box.bottom }));
      root.append(svg("text.nbc-note", { x: at + (isRight ? -4 : 4), y: box.top - 1, "text-anchor": isRight ? "end" : "start" }, bound.label));
    }
    for (const bound of bounds.y) {
      const at = y(bound.bound);
      root.append(svg("line", { class: bound.kind, x1: box.left, x2: box.right, y1: at, y2: at }));
      root.append(svg("text.nbc-note", { x: box.right - 4, y: at - 4, "text-anchor": "end" }, bound.label));
    }
  }

  // Draws the lines between strips and chart, and names the strips.
  #drawRugs(root: SVGSVGElement, box: Box, lacksX: boolean, lacksY: boolean): void {
    if (lacksX) {
      const [at, middle] = [box.left + RUG, (box.top + box.bottom) / 2];
      const turned = { class: "nbc-note", "text-anchor": "middle", transform: `translate(${at + 11} ${middle}) rotate(-90)` };
      root.append(
        svg("line.nbc-rug", { x1: at, x2: at, y1: box.top, y2: box.bottom }),
        svg("text", turned, trans.__("without %1", shorten(this.#across ?? "", 24))),
      );
    }
    if (lacksY) {
      const at = box.bottom - RUG;
      const words = { class: "nbc-note", x: box.right - 2, y: at - 4, "text-anchor": "end" };
      root.append(
        svg("line.nbc-rug", { x1: box.left, x2: box.right, y1: at, y2: at }),
        svg("text", words, trans.__("without %1", shorten(this.#up ?? "", 24))),
      );
    }
  }

  #drawFront(root: SVGSVGElement, study: Study, places: readonly Spot[]): void {
    const members = new Set(study.front);
    const front = places.filter((place) => place.isFull && members.has(place.trial.number));
    const objectives = study.goal.objectives.map((objective) => objective.metric);
    // The front of more than two objectives is no line.
    const isPair = objectives.length === 2 && objectives.includes(this.#up ?? "") && objectives.includes(this.#across ?? "");
    if (isPair && front.length > 1) {
      const points = [...front].sort((a, b) => a.x - b.x).map((place) => [place.x, place.y] as const);
      root.append(svg("path.nbc-front", { d: linePath(points) }));
    }
    front.forEach((place) => root.append(svg("circle.nbc-ring", { cx: place.x, cy: place.y, r: 7 })));
  }

  #star(x: number, y: number, box: Box): SVGElement {
    const points = Array.from({ length: 10 }, (_, i) => {
      const r = i % 2 ? 3.6 : 8.5;
      const angle = (i * Math.PI) / 5 - Math.PI / 2;
      return `${x + r * Math.cos(angle)},${y + r * Math.sin(angle)}`;
    });
    const [isRight, isLow] = [x > (box.left + box.right) / 2, y > box.bottom - 60];
    return svg(
      "g",
      {},
      svg("text.nbc-note", { x: x + (isRight ? 8 : -8), y: y + (isLow ? -13 : 20), "text-anchor": isRight ? "end" : "start" }, trans.__("baseline")),
      svg("polygon.nbc-star", { points: points.join(" ") }, svg("title", {}, trans.__("The original model (baseline)"))),
    );
  }

  #describe(study: Study, dots: readonly Dot[]): string {
    const [xs, ys] = [extent(known(dots.map((dot) => dot.x))), extent(known(dots.map((dot) => dot.y)))];
    const range = (name: string | null, ends: [number, number] | null) => {
      return ends ? trans.__("%1 from %2 to %3", name ?? "", formatValue(ends[0]), formatValue(ends[1])) : (name ?? "");
    };
    const across = this.#across === BY_NUMBER ? trans.__("the trials") : range(this.#across, xs);
    return shorten(`${trans.__("%1 trials: %2 against %3; %4 on the front.", dots.length, range(this.#up, ys), across, study.front.length)} ${keyHelp()}`, 400);
  }
}

function known(values: readonly (number | null)[]): number[] {
  return values.filter((value): value is number => value !== null);
}
