// The History tab: the progress of the search after each trial.

import { axes, axisNote, canvas, HEIGHT, leftOf, MARGIN, stepPath } from "./chart";
import { el, svg, userText } from "./dom";
import { STATES, type Study, type Trial } from "./data";
import { shorten, formatMetric, formatValue } from "./format";
import type { Part } from "./part";
import { keyHelp, Plot, trialPlace, trialText } from "./plot";
import { linearScale, valueScale } from "./scales";
import type { Selection } from "./selection";
import { outline } from "./states";
import { around, HERE, trans } from "./words";

export class History implements Part {
  readonly element = el("div");
  readonly #plot: Plot;
  readonly #caption = el("p.nbc-caption", {});
  #study: Study | null = null;

  constructor(private readonly selection: Selection) {
    // At the level of the chart beside it, which has selects above.
    this.#plot = new Plot(selection, () => this.#study && this.draw(this.#study), "nbc-level");
    this.element.append(this.#plot.element, this.#caption);
  }

  draw(study: Study): void {
    this.#study = study;
    const values = study.progress?.values ?? [];
    const points = study.trials.flatMap((trial, i) => {
      const value = values[i];
      return typeof value === "number" ? [{ trial, value }] : [];
    });
    const [first, last] = [points[0], points.at(-1)];
    this.#drawCaption(first ? study : null);
    if (!first || !last || !study.progress) {
      this.#plot.message(trans.__("No feasible trial yet."));
      return;
    }
    const { metric: objective, direction } = study.goal.objectives[0] ?? { metric: "", direction: "maximize" };
    const known = study.progress.label;
    // Single trials are shown only if they have the unit of the line.
    const isBest = known === `best ${objective}`;
    const name = isBest ? trans.__("best %1", objective) : known === "hypervolume" ? trans.__("hypervolume") : known;
    const label = `${trans.__("%1 after each trial, from %2 to %3.", name, formatValue(first.value), formatValue(last.value))} ${keyHelp()}`;
    const { root, width } = canvas(this.#plot.element, HEIGHT, shorten(label, 300));
    const dots = isBest ? study.trials.filter((trial) => typeof trial.metrics[objective] === "number") : [];
    const heights = [...points.map((point) => point.value), ...dots.map((trial) => trial.metrics[objective] as number)];
    const [top, bottom] = [MARGIN.top, HEIGHT - MARGIN.bottom];
    const y = this.#plot.zoomed("y", valueScale(heights, [bottom, top], !dots.length || direction === "maximize"));
    const box = { left: leftOf(y), right: width - MARGIN.right, top, bottom };
    const from = study.trials[0]?.number ?? 0;
    const until = study.trials.at(-1)?.number ?? last.trial.number;
    const count = Math.max(3, width / 90);
    const x = this.#plot.zoomed("x", linearScale([from, Math.max(until, from + 1)], [box.left, box.right], { count, whole: true }));
    axes(root, box, x, y, { x: trans.__("trial"), y: name, yNote: isBest ? axisNote(study, objective, y) : trans.__("higher is better") });
    const layer = this.#plot.layer(root, box);
    const at = (trial: Trial, value: number) => trialPlace(trial, x(trial.number), y(value));
    const marks = dots.map((trial) => at(trial, trial.metrics[objective] as number));
    // A failed or infeasible trial may lie beyond the line although it does not count; its shape shows the state.
    for (const state of STATES) {
      for (const isIn of [false, true]) {
        const faint = marks
          .filter(({ trial }) => trial.state === state && this.selection.has(trial) === isIn)
          .map((mark) => outline(state, mark.x, mark.y, 2.6));
        if (!faint.length) {
          continue;
        }
        layer.append(svg("path", { class: `nbc-faint${state === "complete" ? "" : ` nbc-${state}`}${isIn ? "" : " nbc-out"}`, d: faint.join("") }));
      }
    }
    const path = points.map((point) => [x(point.trial.number), y(point.value)] as const);
    layer.append(svg("path.nbc-line", { d: stepPath([...path, [x(until), y(last.value)]]) }));
    // Marks the trials that improved the value, which also makes a line of one point visible.
    const gains = points
      .filter((point, i) => point.value !== points[i - 1]?.value)
      .map(({ trial, value }) => ({
        ...at(trial, value),
        text: () => `${trialText(trial)}\n${name} ${formatValue(value)}`,
      }));
    gains.forEach((gain) => layer.append(svg("circle.nbc-gain-dot", { cx: gain.x, cy: gain.y, r: 3.2 })));
    const chosen = this.selection.number;
    if (chosen !== null) {
      layer.append(svg("line.nbc-cursor", { x1: x(chosen), x2: x(chosen), y1: box.top, y2: box.bottom }));
    }
    this.#plot.show(root, box, x, y, [...gains, ...marks]);
  }

  // A hypervolume means nothing without the point from which it is measured.
  #drawCaption(study: Study | null): void {
    const reference = Object.entries(study?.progress?.reference ?? {});
    this.#caption.hidden = !reference.length;
    const point = reference.map(([name, value]) => `${shorten(name, 40)} ${formatMetric(value)}`).join(", ");
    this.#caption.replaceChildren(...around(trans.__("Reference point of the hypervolume: %1.", HERE), userText(point)));
  }
}
