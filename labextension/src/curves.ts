// Learning curves: what trials reported after each step.

import { axes, axisNote, canvas, HEIGHT, isMaximized, leftOf, linePath, MARGIN } from "./chart";
import { svg } from "./dom";
import type { Study, Trial } from "./data";
import { formatValue, shorten } from "./format";
import { ChartPart } from "./part";
import { keyHelp, trialName, trialPlace } from "./plot";
import { extent, linearScale, valueScale } from "./scales";
import { trans } from "./words";

interface Curve {
  trial: Trial;
  points: (readonly [step: number, value: number])[];
}

export class LearningCurves extends ChartPart {
  #metric: string | null = null;

  protected drawChart(study: Study): void {
    const names = [...new Set(study.trials.flatMap((trial) => Object.keys(trial.reports ?? {})))];
    const metric = names.find((name) => name === this.#metric) ?? names[0];
    const select = { label: trans.__("Metric"), options: names, chosen: metric ?? "", change: (value: string) => (this.#metric = value) };
    this.drawSelects(...(names.length > 1 ? [select] : []));
    const curves = metric === undefined ? [] : curvesOf(study, metric);
    if (metric === undefined || !curves.length) {
      this.plot.message(trans.__("No trial has reported a metric at several steps (trial.report)."));
      return;
    }
    const { root, width } = canvas(
      this.plot.element,
      HEIGHT,
      shorten(`${trans._n("%1 of %2 trial after each step.", "%1 of %2 trials after each step.", curves.length, metric, curves.length)} ${keyHelp()}`, 300),
    );
    const [top, bottom] = [MARGIN.top, HEIGHT - MARGIN.bottom];
    const points = curves.flatMap((curve) => curve.points);
    const y = this.plot.zoomed(
      "y",
      valueScale(
        points.map(([, value]) => value),
        [bottom, top],
        isMaximized(study, metric),
      ),
    );
    const box = { left: leftOf(y), right: width - MARGIN.right, top, bottom };
    const steps = extent(points.map(([step]) => step)) ?? [0, 1];
    const x = this.plot.zoomed("x", linearScale(steps, [box.left, box.right], { count: Math.max(3, width / 90), whole: true, padded: steps[0] === steps[1] }));
    axes(root, box, x, y, { x: trans.__("step"), y: metric, yNote: axisNote(study, metric, y) });
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
        const words = () => `${trialName(trial)}\n${trans.__("step %1: %2 %3", formatValue(step), shorten(metric, 40), formatValue(value))}`;
        return trialPlace(trial, x(step), y(value), words);
      });
    });
    this.plot.show(root, box, x, y, places);
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
