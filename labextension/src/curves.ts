// Learning curves: what trials reported after each step.

import { axes, axisNote, canvas, HEIGHT, leftOf, linePath, MARGIN } from "./chart";
import { choice, el, svg } from "./dom";
import type { Study, Trial } from "./data";
import { formatValue, shorten } from "./format";
import type { Part } from "./part";
import { KEYS, Plot, trialPlace } from "./plot";
import { extent, linearScale, valueScale } from "./scales";
import type { Selection } from "./selection";

interface Curve {
  trial: Trial;
  points: (readonly [step: number, value: number])[];
}

export class LearningCurves implements Part {
  readonly element = el("div");
  private readonly tools = el("div", { class: "nbc-tools" });
  private readonly plot: Plot;
  private metric: string | null = null;
  private drawn = "";
  private study: Study | null = null;

  constructor(private readonly selection: Selection) {
    this.plot = new Plot(selection, () => this.redraw());
    this.element.append(this.tools, this.plot.element);
  }

  draw(study: Study): void {
    this.study = study;
    const names = [...new Set(study.trials.flatMap((trial) => Object.keys(trial.reports ?? {})))];
    const metric = names.find((name) => name === this.metric) ?? names[0];
    this.drawTools(names, metric ?? "");
    const curves = metric === undefined ? [] : curvesOf(study, metric);
    if (metric === undefined || !curves.length) {
      this.plot.message("No trial has reported a metric at several steps (trial.report).");
      return;
    }
    const { root, width } = canvas(this.plot.element, HEIGHT, shorten(`${metric} of ${curves.length} trials after each step. ${KEYS}`, 300));
    const [top, bottom] = [MARGIN.top, HEIGHT - MARGIN.bottom];
    const points = curves.flatMap((curve) => curve.points);
    const isMaximized = study.goal.objectives.some((objective) => objective.metric === metric && objective.direction === "maximize");
    const y = this.plot.zoomed("y", valueScale(points.map(([, value]) => value), [bottom, top], isMaximized));
    const box = { left: leftOf(y), right: width - MARGIN.right, top, bottom };
    const steps = extent(points.map(([step]) => step)) ?? [0, 1];
    const x = this.plot.zoomed("x", linearScale(steps, [box.left, box.right], { count: Math.max(3, width / 90), whole: true, padded: steps[0] === steps[1] }));
    axes(root, box, x, y, { x: "step", y: metric, yNote: axisNote(study, metric, y) });
    const layer = this.plot.layer(root, box);
    for (const curve of curves) {
      const kind = curve.trial.number === this.selection.number ? "nbc-picked" : this.selection.has(curve.trial) ? "nbc-in" : "nbc-out";
      layer.append(svg("path", { class: `nbc-thread ${kind}`, d: linePath(curve.points.map(([step, value]) => [x(step), y(value)] as const)) }));
      // A curve of one point is no line.
      const [step, value] = curve.points.at(-1) ?? [0, 0];
      layer.append(svg("circle", { class: `nbc-end ${kind}`, cx: x(step), cy: y(value), r: 2.2 }));
    }
    const places = curves.flatMap(({ trial, points: own }) => {
      return own.map(([step, value]) => {
        const words = () => `Trial ${trial.number}, ${trial.state}\nstep ${formatValue(step)}: ${shorten(metric, 40)} ${formatValue(value)}`;
        return trialPlace(trial, x(step), y(value), words);
      });
    });
    this.plot.show(root, box, x, y, places);
  }

  private redraw(): void {
    if (this.study) {
      this.draw(this.study);
    }
  }

  private drawTools(names: readonly string[], metric: string): void {
    const key = JSON.stringify([names, metric]);
    if (key === this.drawn) {
      return;
    }
    this.drawn = key;
    const change = (value: string): void => {
      this.metric = value;
      this.plot.unzoom();
      this.redraw();
    };
    this.tools.replaceChildren(...(names.length > 1 ? [choice("Metric", names, metric, change)] : []));
  }
}

function curvesOf(study: Study, metric: string): Curve[] {
  return study.trials.flatMap((trial) => {
    const points = (trial.reports?.[metric] ?? []).flatMap(([step, value]) => {
      return typeof step === "number" && typeof value === "number" ? [[step, value] as const] : [];
    });
    return points.length ? [{ trial, points }] : [];
  });
}
