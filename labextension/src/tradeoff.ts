// Trials as dots: any two metrics against each other, or one against the trials.

import { axes, canvas, empty, HEIGHT, leftOf, line, MARGIN, show, type Box } from "./chart";
import { choice, el, svg } from "./dom";
import { STATES, type Study, type Trial } from "./data";
import { boundText, cut, metricsText, spell } from "./format";
import type { Part } from "./part";
import { extent, linear, measured, type Scale } from "./scales";
import type { Selection } from "./selection";
import { outline, shape } from "./states";

const BY_NUMBER = "(trial)";
// The strip along an axis for trials that did not measure the other metric.
const RUG = 18;
// The size of a mark, and from how far a click still means it.
const SIZE = 4.2;
const REACH = 10;
// So many marks are drawn one by one, each with what it says when pointed at.
const MANY = 1500;

// A trial in the picture; `null` where it did not measure that metric, which puts it at the edge.
interface Dot {
  trial: Trial;
  x: number | null;
  y: number | null;
}

interface Place {
  trial: Trial;
  x: number;
  y: number;
  isFull: boolean;
}

export class Tradeoff implements Part {
  readonly element = el("section", { class: "nbc-part", "aria-label": "Trade-off" });
  private readonly tools = el("div", { class: "nbc-tools" });
  private readonly place = el("div", { class: "nbc-place" });
  private across: string | null = null;
  private up: string | null = null;
  private drawn = "";
  private study: Study | null = null;

  constructor(private readonly selection: Selection) {
    this.element.append(el("h3", {}, "Trade-off"), this.tools, this.place);
  }

  draw(study: Study): void {
    this.study = study;
    const objectives = study.goal.objectives.map((one) => one.metric);
    this.up ??= objectives[0] ?? BY_NUMBER;
    this.across ??= objectives[1] ?? BY_NUMBER;
    this.drawTools(study);
    const dots = this.dots(study);
    if (!dots.some((one) => one.x !== null && one.y !== null)) {
      empty(this.place, "No trial has left these metrics yet.");
      return;
    }
    const { root, width } = canvas(this.place, HEIGHT, this.describe(study, dots));
    const base = this.baseline(study);
    const bounds = this.bounds(study);
    const xs = [...known(dots.map((one) => one.x)), ...(base ? [base.x] : []), ...bounds.x.map((one) => one.bound)];
    const ys = [...known(dots.map((one) => one.y)), ...(base ? [base.y] : []), ...bounds.y.map((one) => one.bound)];
    const [lacksX, lacksY] = [dots.some((one) => one.x === null), dots.some((one) => one.y === null)];
    const [top, bottom] = [MARGIN.top, HEIGHT - MARGIN.bottom];
    const y = measured(ys, [bottom - (lacksY ? RUG : 0), top], this.isGain(study, this.up));
    const box = { left: leftOf(y), right: width - MARGIN.right, top, bottom };
    const range: [number, number] = [box.left + (lacksX ? RUG : 0), box.right];
    const count = Math.max(3, width / 90);
    const x =
      this.across === BY_NUMBER ? linear(extent(xs) ?? [0, 1], range, { count, whole: true }) : measured(xs, range, this.isGain(study, this.across), count);
    axes(root, box, x, y, { x: this.across === BY_NUMBER ? "trial" : this.across, y: this.up });
    this.drawRugs(root, box, lacksX, lacksY);
    this.drawBounds(root, box, bounds, x, y);
    const places = dots.map((one) => ({
      trial: one.trial,
      x: one.x === null ? box.left + RUG / 2 : x(one.x),
      y: one.y === null ? box.bottom - RUG / 2 : y(one.y),
      isFull: one.x !== null && one.y !== null,
    }));
    this.drawFront(root, study, places);
    if (base) {
      root.append(this.star(x(base.x), y(base.y), box));
    }
    this.drawDots(root, places);
    this.listen(root, places);
    show(this.place, root);
  }

  // What is maximized has its best values close together at the top, where a logarithmic axis would squeeze them.
  private isGain(study: Study, metric: string | null): boolean {
    return study.goal.objectives.some((one) => one.metric === metric && one.direction === "maximize");
  }

  private drawTools(study: Study): void {
    const key = JSON.stringify([study.metrics, this.across, this.up]);
    if (key === this.drawn) {
      return;
    }
    this.drawn = key;
    const redraw = () => this.study && this.draw(this.study);
    const up = choice("Up", study.metrics, this.up ?? "", (value) => ((this.up = value), redraw()));
    const across = choice("Across", [BY_NUMBER, ...study.metrics], this.across ?? "", (value) => ((this.across = value), redraw()));
    this.tools.replaceChildren(up, across);
  }

  private position(numberOf: number, metrics: Trial["metrics"]): { x: number; y: number } | null {
    const x = this.across === BY_NUMBER ? numberOf : metrics[this.across ?? ""];
    const y = metrics[this.up ?? ""];
    return typeof x === "number" && typeof y === "number" ? { x, y } : null;
  }

  private dots(study: Study): Dot[] {
    const value = (trial: Trial, name: string | null) => (name === null ? null : trial.metrics[name] ?? null);
    return study.trials.flatMap((trial) => {
      const x = this.across === BY_NUMBER ? trial.number : value(trial, this.across);
      const y = value(trial, this.up);
      // Where nothing but the number is known, only a trial that has ended has something missing.
      const isBlank = (x === null || this.across === BY_NUMBER) && y === null && (x === null || trial.state === "running");
      return isBlank ? [] : [{ trial, x, y }];
    });
  }

  private baseline(study: Study): { x: number; y: number } | null {
    return study.baseline && this.across !== BY_NUMBER ? this.position(0, study.baseline) : null;
  }

  private bounds(study: Study) {
    const flat = this.across === BY_NUMBER ? study.baseline?.[this.up ?? ""] : null;
    const lines = study.goal.constraints.map((one) => ({ ...one, label: boundText(one), kind: "nbc-bound" }));
    const own = typeof flat === "number" ? [{ metric: this.up ?? "", bound: flat, label: "baseline", kind: "nbc-base" }] : [];
    return { x: lines.filter((one) => one.metric === this.across), y: [...lines.filter((one) => one.metric === this.up), ...own] };
  }

  private drawBounds(root: SVGSVGElement, box: Box, bounds: ReturnType<Tradeoff["bounds"]>, x: Scale, y: Scale): void {
    for (const one of bounds.x) {
      const at = x(one.bound);
      const isRight = at > (box.left + box.right) / 2;
      root.append(svg("line", { class: one.kind, x1: at, x2: at, y1: box.top, y2: box.bottom }));
      root.append(svg("text", { class: "nbc-note", x: at + (isRight ? -4 : 4), y: box.top - 1, "text-anchor": isRight ? "end" : "start" }, one.label));
    }
    for (const one of bounds.y) {
      const at = y(one.bound);
      root.append(svg("line", { class: one.kind, x1: box.left, x2: box.right, y1: at, y2: at }));
      root.append(svg("text", { class: "nbc-note", x: box.right - 4, y: at - 4, "text-anchor": "end" }, one.label));
    }
  }

  // Parts the strips at the edges from the axes and says what they hold.
  private drawRugs(root: SVGSVGElement, box: Box, lacksX: boolean, lacksY: boolean): void {
    if (lacksX) {
      const [at, middle] = [box.left + RUG, (box.top + box.bottom) / 2];
      const turned = { class: "nbc-note", "text-anchor": "middle", transform: `translate(${at + 11} ${middle}) rotate(-90)` };
      root.append(svg("line", { class: "nbc-rug", x1: at, x2: at, y1: box.top, y2: box.bottom }), svg("text", turned, `without ${cut(this.across ?? "", 24)}`));
    }
    if (lacksY) {
      const at = box.bottom - RUG;
      const words = { class: "nbc-note", x: box.right - 2, y: at - 4, "text-anchor": "end" };
      root.append(svg("line", { class: "nbc-rug", x1: box.left, x2: box.right, y1: at, y2: at }), svg("text", words, `without ${cut(this.up ?? "", 24)}`));
    }
  }

  private drawFront(root: SVGSVGElement, study: Study, places: readonly Place[]): void {
    const members = new Set(study.front);
    const front = places.filter((one) => one.isFull && members.has(one.trial.number));
    const objectives = study.goal.objectives.map((one) => one.metric);
    // Of more than two objectives the front is no line.
    const isPair = objectives.length === 2 && objectives.includes(this.up ?? "") && objectives.includes(this.across ?? "");
    if (isPair && front.length > 1) {
      const points = [...front].sort((a, b) => a.x - b.x).map((one) => [one.x, one.y] as const);
      root.append(svg("path", { class: "nbc-front", d: line(points) }));
    }
    front.forEach((one) => root.append(svg("circle", { class: "nbc-ring", cx: one.x, cy: one.y, r: 7 })));
  }

  private star(x: number, y: number, box: Box): SVGElement {
    const points = Array.from({ length: 10 }, (_, i) => {
      const r = i % 2 ? 3.6 : 8.5;
      const angle = (i * Math.PI) / 5 - Math.PI / 2;
      return `${x + r * Math.cos(angle)},${y + r * Math.sin(angle)}`;
    });
    const [isRight, isLow] = [x > (box.left + box.right) / 2, y > box.bottom - 60];
    return svg(
      "g",
      {},
      svg("text", { class: "nbc-note", x: x + (isRight ? 8 : -8), y: y + (isLow ? -13 : 20), "text-anchor": isRight ? "end" : "start" }, "baseline"),
      svg("polygon", { class: "nbc-star", points: points.join(" ") }, svg("title", {}, "The original model (baseline)")),
    );
  }

  private drawDots(root: SVGSVGElement, places: readonly Place[]): void {
    if (places.length > MANY) {
      // An element for each would keep the reader waiting: one for each state, and a click finds the nearest trial.
      for (const state of STATES) {
        const d = places.filter((one) => one.trial.state === state).map((one) => outline(state, one.x, one.y, SIZE));
        root.append(svg("path", { class: `nbc-mark nbc-${state}`, d: d.join("") }));
      }
    } else {
      for (const { trial, x, y } of places) {
        const mark = shape(trial.state, x, y, SIZE);
        mark.append(svg("title", {}, `Trial ${trial.number}, ${trial.state}: ${cut(metricsText(trial, Object.keys(trial.metrics)), 200)}`));
        mark.setAttribute("data-trial", String(trial.number));
        root.append(mark);
      }
    }
    const chosen = places.find((one) => one.trial.number === this.selection.number);
    if (chosen) {
      root.append(svg("circle", { class: "nbc-chosen", cx: chosen.x, cy: chosen.y, r: 10 }));
    }
  }

  private listen(root: SVGSVGElement, places: readonly Place[]): void {
    root.setAttribute("tabindex", "0");
    root.addEventListener("click", (event) => {
      const mark = (event.target as Element | null)?.closest("[data-trial]");
      const box = root.getBoundingClientRect();
      const number = mark ? Number(mark.getAttribute("data-trial")) : nearest(places, event.clientX - box.left, event.clientY - box.top)?.trial.number;
      if (number !== undefined) {
        this.selection.choose(number);
      }
    });
    const order = [...places].sort((a, b) => a.x - b.x || a.y - b.y).map((one) => one.trial.number);
    root.addEventListener("keydown", (event) => {
      const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
      if (step) {
        event.preventDefault();
        const at = order.indexOf(this.selection.number ?? NaN);
        this.selection.choose(order[at < 0 ? 0 : (at + step + order.length) % order.length] ?? null);
      }
    });
  }

  private describe(study: Study, dots: readonly Dot[]): string {
    const [xs, ys] = [extent(known(dots.map((one) => one.x))), extent(known(dots.map((one) => one.y)))];
    const range = (name: string | null, one: [number, number] | null) => (one ? `${name} from ${spell(one[0])} to ${spell(one[1])}` : name);
    const where = `${range(this.up, ys)} against ${this.across === BY_NUMBER ? "the trials" : range(this.across, xs)}`;
    return cut(`${dots.length} trials: ${where}; ${study.front.length} on the front. Arrow keys choose a trial.`, 400);
  }
}

// The trial that a click means: the nearest, if it is near.
function nearest(places: readonly Place[], x: number, y: number): Place | null {
  let [found, least]: [Place | null, number] = [null, REACH];
  for (const one of places) {
    const distance = Math.hypot(one.x - x, one.y - y);
    if (distance <= least) {
      [found, least] = [one, distance];
    }
  }
  return found;
}

function known(values: readonly (number | null)[]): number[] {
  return values.filter((one): one is number => one !== null);
}
