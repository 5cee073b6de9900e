// Slices: the trials by one parameter and one metric.

import { axes, axisNote, canvas, HEIGHT, isMaximized, leftOf, MARGIN } from "./chart";
import type { Study } from "./data";
import { shorten } from "./format";
import { ChartPart } from "./part";
import { drawMarks, keyHelp, trialPlace } from "./plot";
import { parameterScale, placeOf, valueScale } from "./scales";
import { trans } from "./words";

export class Slices extends ChartPart {
  #parameter: string | null = null;
  #metric: string | null = null;

  protected drawChart(study: Study): void {
    const parameter = study.parameters.find(({ name }) => name === this.#parameter) ?? study.parameters[0];
    const metric = study.metrics.find((name) => name === this.#metric) ?? study.metrics[0];
    if (!parameter || metric === undefined) {
      this.plot.message(trans.__("Slices are drawn here once trials have metrics."));
      return;
    }
    this.drawSelects(
      { label: trans.__("Parameter"), options: study.parameters.map(({ name }) => name), chosen: parameter.name, change: (value) => (this.#parameter = value) },
      { label: trans.__("Metric"), options: study.metrics, chosen: metric, change: (value) => (this.#metric = value) },
    );
    const trials = study.trials.filter((trial) => typeof trial.metrics[metric] === "number" && trial.params[parameter.name] !== undefined);
    if (!trials.length) {
      this.plot.message(trans.__("No trial has both %1 and %2 yet.", shorten(parameter.name, 40), shorten(metric, 40)));
      return;
    }
    const label = `${trans._n("%1 trial: %2 against %3.", "%1 trials: %2 against %3.", trials.length, trials.length, metric, parameter.name)} ${keyHelp()}`;
    const { root, width } = canvas(this.plot.element, HEIGHT, shorten(label, 300));
    const [top, bottom] = [MARGIN.top, HEIGHT - MARGIN.bottom];
    const values = trials.map((trial) => trial.metrics[metric] as number);
    const y = this.plot.zoomed("y", valueScale(values, [bottom, top], isMaximized(study, metric)));
    const box = { left: leftOf(y), right: width - MARGIN.right, top, bottom };
    const numbers = trials.map((trial) => trial.params[parameter.name]).filter((value): value is number => typeof value === "number");
    const whole = parameterScale(parameter, numbers, [box.left, box.right], Math.max(3, width / 90));
    const isChoice = parameter.kind === "choice";
    const x = isChoice ? whole : this.plot.zoomed("x", whole);
    axes(root, box, x, y, { x: parameter.name, y: metric, xNote: axisNote(study, null, x), yNote: axisNote(study, metric, y) });
    const places = trials.flatMap((trial) => {
      const at = placeOf(parameter, x, trial.params[parameter.name]);
      return at === null ? [] : [trialPlace(trial, at, y(trial.metrics[metric] as number))];
    });
    drawMarks(this.plot.layer(root, box), places, this.selection);
    this.plot.show(root, box, isChoice ? null : x, y, places);
  }
}
