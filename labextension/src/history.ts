// The History tab: the progress of the search after each trial.

import { axes, canvas, showMessage, HEIGHT, leftOf, MARGIN, replaceChart, stepPath } from "./chart";
import { el, svg } from "./dom";
import { STATES, type Study } from "./data";
import { shorten, formatValue } from "./format";
import type { Part } from "./part";
import { linearScale, valueScale } from "./scales";
import type { Selection } from "./selection";
import { outline } from "./states";

export class History implements Part {
  // At the level of the chart beside it, which has selects above.
  readonly element = el("div", { class: "nbc-place nbc-level" });

  constructor(private readonly selection: Selection) {}

  draw(study: Study): void {
    const values = study.progress?.values ?? [];
    const points = study.trials.flatMap((trial, i) => {
      const value = values[i];
      return typeof value === "number" ? [{ number: trial.number, value }] : [];
    });
    const [first, last] = [points[0], points.at(-1)];
    if (!first || !last || !study.progress) {
      showMessage(this.element, "No feasible trial yet.");
      return;
    }
    const name = study.progress.label;
    const label = `${name} after each trial, from ${formatValue(first.value)} to ${formatValue(last.value)}`;
    const { root, width } = canvas(this.element, HEIGHT, shorten(label, 300));
    const { metric: objective, direction } = study.goal.objectives[0] ?? { metric: "", direction: "maximize" };
    // Single trials are shown only if they have the unit of the line.
    const dots = name === `best ${objective}` ? study.trials.filter((trial) => typeof trial.metrics[objective] === "number") : [];
    const heights = [...points.map((point) => point.value), ...dots.map((trial) => trial.metrics[objective] as number)];
    const [top, bottom] = [MARGIN.top, HEIGHT - MARGIN.bottom];
    const y = valueScale(heights, [bottom, top], !dots.length || direction === "maximize");
    const box = { left: leftOf(y), right: width - MARGIN.right, top, bottom };
    const from = study.trials[0]?.number ?? 0;
    const until = study.trials.at(-1)?.number ?? last.number;
    const x = linearScale([from, Math.max(until, from + 1)], [box.left, box.right], { count: Math.max(3, width / 90), whole: true });
    axes(root, box, x, y, { x: "trial", y: name });
    // A failed or infeasible trial may lie beyond the line although it does not count; its shape shows the state.
    for (const state of STATES) {
      const faint = dots.filter((trial) => trial.state === state).map((trial) => outline(state, x(trial.number), y(trial.metrics[objective] as number), 2.6));
      root.append(svg("path", { class: state === "complete" ? "nbc-faint" : `nbc-faint nbc-${state}`, d: faint.join("") }));
    }
    const path = points.map((point) => [x(point.number), y(point.value)] as const);
    root.append(svg("path", { class: "nbc-line", d: stepPath([...path, [x(until), y(last.value)]]) }));
    // Marks the trials that improved the value, which also makes a line of one point visible.
    const gains = points.filter((point, i) => point.value !== points[i - 1]?.value);
    gains.forEach((point) => root.append(svg("circle", { class: "nbc-gain-dot", cx: x(point.number), cy: y(point.value), r: 3.2 })));
    const chosen = this.selection.number;
    if (chosen !== null) {
      root.append(svg("line", { class: "nbc-cursor", x1: x(chosen), x2: x(chosen), y1: box.top, y2: box.bottom }));
    }
    replaceChart(this.element, root);
  }
}
