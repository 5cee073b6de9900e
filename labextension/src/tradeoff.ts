// Trials as dots: any two metrics against each other, or one against the trials.

import { axes, canvas, empty, HEIGHT, line, MARGIN, show, type Box } from "./chart";
import { choice, el, svg } from "./dom";
import type { Study, Trial } from "./data";
import { boundText, cut, metricsText, spell } from "./format";
import type { Part } from "./part";
import { extent, linear, type Scale } from "./scales";
import type { Selection } from "./selection";
import { shape } from "./states";

const BY_NUMBER = "(trial)";

interface Dot {
  trial: Trial;
  x: number;
  y: number;
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
    if (!dots.length) {
      empty(this.place, "No trial has left these metrics yet.");
      return;
    }
    const { root, width } = canvas(this.place, HEIGHT, this.describe(study, dots));
    const box = { left: MARGIN.left, right: width - MARGIN.right, top: MARGIN.top, bottom: HEIGHT - MARGIN.bottom };
    const base = this.baseline(study);
    const bounds = this.bounds(study);
    const xs = [...dots.map((one) => one.x), ...(base ? [base.x] : []), ...bounds.x.map((one) => one.bound)];
    const ys = [...dots.map((one) => one.y), ...(base ? [base.y] : []), ...bounds.y.map((one) => one.bound)];
    const x = linear(extent(xs) ?? [0, 1], [box.left, box.right], Math.max(3, width / 90));
    const y = linear(extent(ys) ?? [0, 1], [box.bottom, box.top]);
    axes(root, box, x, y, { x: this.across === BY_NUMBER ? "trial" : this.across, y: this.up });
    this.drawBounds(root, box, bounds, x, y);
    this.drawFront(root, study, dots, x, y);
    if (base) {
      root.append(this.star(x(base.x), y(base.y)));
    }
    this.drawDots(root, dots, x, y);
    this.listen(root, dots);
    show(this.place, root);
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
    return study.trials.flatMap((trial) => {
      const at = this.position(trial.number, trial.metrics);
      return at ? [{ trial, ...at }] : [];
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
      root.append(svg("text", { class: "nbc-note", x: at + (isRight ? -4 : 4), y: box.bottom - 5, "text-anchor": isRight ? "end" : "start" }, one.label));
    }
    for (const one of bounds.y) {
      const at = y(one.bound);
      root.append(svg("line", { class: one.kind, x1: box.left, x2: box.right, y1: at, y2: at }));
      root.append(svg("text", { class: "nbc-note", x: box.right - 4, y: at - 4, "text-anchor": "end" }, one.label));
    }
  }

  private drawFront(root: SVGSVGElement, study: Study, dots: readonly Dot[], x: Scale, y: Scale): void {
    const members = new Set(study.front);
    const front = dots.filter((one) => members.has(one.trial.number));
    const objectives = study.goal.objectives.map((one) => one.metric);
    const isPair = objectives.length > 1 && objectives.includes(this.up ?? "") && objectives.includes(this.across ?? "");
    if (isPair && front.length > 1) {
      const points = [...front].sort((a, b) => a.x - b.x).map((one) => [x(one.x), y(one.y)] as const);
      root.append(svg("path", { class: "nbc-front", d: line(points) }));
    }
    front.forEach((one) => root.append(svg("circle", { class: "nbc-ring", cx: x(one.x), cy: y(one.y), r: 7 })));
  }

  private star(x: number, y: number): SVGElement {
    const points = Array.from({ length: 10 }, (_, i) => {
      const r = i % 2 ? 3.6 : 8.5;
      const angle = (i * Math.PI) / 5 - Math.PI / 2;
      return `${x + r * Math.cos(angle)},${y + r * Math.sin(angle)}`;
    });
    return svg("g", {}, svg("polygon", { class: "nbc-star", points: points.join(" ") }, svg("title", {}, "The original model (baseline)")));
  }

  private drawDots(root: SVGSVGElement, dots: readonly Dot[], x: Scale, y: Scale): void {
    for (const { trial, x: across, y: up } of dots) {
      const mark = shape(trial.state, x(across), y(up), 4.2);
      mark.append(svg("title", {}, `Trial ${trial.number}, ${trial.state}: ${cut(metricsText(trial, Object.keys(trial.metrics)), 200)}`));
      mark.setAttribute("data-trial", String(trial.number));
      root.append(mark);
    }
    const chosen = dots.find((one) => one.trial.number === this.selection.number);
    if (chosen) {
      root.append(svg("circle", { class: "nbc-chosen", cx: x(chosen.x), cy: y(chosen.y), r: 10 }));
    }
  }

  private listen(root: SVGSVGElement, dots: readonly Dot[]): void {
    root.setAttribute("tabindex", "0");
    root.addEventListener("click", (event) => {
      const mark = (event.target as Element | null)?.closest("[data-trial]");
      if (mark) {
        this.selection.choose(Number(mark.getAttribute("data-trial")));
      }
    });
    const order = [...dots].sort((a, b) => a.x - b.x || a.y - b.y).map((one) => one.trial.number);
    root.addEventListener("keydown", (event) => {
      const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
      if (step) {
        event.preventDefault();
        event.stopPropagation();
        const at = order.indexOf(this.selection.number ?? NaN);
        this.selection.choose(order[at < 0 ? 0 : (at + step + order.length) % order.length] ?? null);
      }
    });
  }

  private describe(study: Study, dots: readonly Dot[]): string {
    const [xs, ys] = [extent(dots.map((one) => one.x)), extent(dots.map((one) => one.y))];
    const range = (name: string | null, one: [number, number] | null) => (one ? `${name} from ${spell(one[0])} to ${spell(one[1])}` : name);
    const where = `${range(this.up, ys)} against ${this.across === BY_NUMBER ? "the trials" : range(this.across, xs)}`;
    return cut(`${dots.length} trials: ${where}; ${study.front.length} on the front. Arrow keys choose a trial.`, 400);
  }
}
