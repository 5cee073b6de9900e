// Slices: the trials by one parameter and one metric.

import { axes, axisNote, canvas, HEIGHT, leftOf, MARGIN } from "./chart";
import { choice, el } from "./dom";
import type { Study } from "./data";
import { shorten } from "./format";
import type { Part } from "./part";
import { drawMarks, KEYS, Plot, trialPlace } from "./plot";
import { parameterScale, placeOf, valueScale } from "./scales";
import type { Selection } from "./selection";

export class Slices implements Part {
  readonly element = el("div");
  private readonly tools = el("div", { class: "nbc-tools" });
  private readonly plot: Plot;
  private parameter: string | null = null;
  private metric: string | null = null;
  private drawn = "";
  private study: Study | null = null;

  constructor(private readonly selection: Selection) {
    this.plot = new Plot(selection, () => this.redraw());
    this.element.append(this.tools, this.plot.element);
  }

  draw(study: Study): void {
    this.study = study;
    const parameter = study.parameters.find(({ name }) => name === this.parameter) ?? study.parameters[0];
    const metric = study.metrics.find((name) => name === this.metric) ?? study.metrics[0];
    if (!parameter || metric === undefined) {
      this.plot.message("Slices are drawn here once trials have metrics.");
      return;
    }
    this.drawTools(study, parameter.name, metric);
    const trials = study.trials.filter((trial) => typeof trial.metrics[metric] === "number" && trial.params[parameter.name] !== undefined);
    if (!trials.length) {
      this.plot.message(`No trial has both ${shorten(parameter.name, 40)} and ${shorten(metric, 40)} yet.`);
      return;
    }
    const label = `${trials.length} trials: ${metric} against ${parameter.name}. ${KEYS}`;
    const { root, width } = canvas(this.plot.element, HEIGHT, shorten(label, 300));
    const [top, bottom] = [MARGIN.top, HEIGHT - MARGIN.bottom];
    const values = trials.map((trial) => trial.metrics[metric] as number);
    const isMaximized = study.goal.objectives.some((objective) => objective.metric === metric && objective.direction === "maximize");
    const y = this.plot.zoomed("y", valueScale(values, [bottom, top], isMaximized));
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

  private redraw(): void {
    if (this.study) {
      this.draw(this.study);
    }
  }

  private drawTools(study: Study, parameter: string, metric: string): void {
    const names = study.parameters.map(({ name }) => name);
    const key = JSON.stringify([names, study.metrics, parameter, metric]);
    if (key === this.drawn) {
      return;
    }
    this.drawn = key;
    const change = (): void => {
      this.plot.unzoom();
      this.redraw();
    };
    this.tools.replaceChildren(
      choice("Parameter", names, parameter, (value) => ((this.parameter = value), change())),
      choice("Metric", study.metrics, metric, (value) => ((this.metric = value), change())),
    );
  }
}
