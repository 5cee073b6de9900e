// How far the search had come after each trial.

import { axes, canvas, empty, HEIGHT, leftOf, MARGIN, show, steps } from "./chart";
import { el, svg } from "./dom";
import { STATES, type Study } from "./data";
import { cut, spell } from "./format";
import type { Part } from "./part";
import { linear, measured } from "./scales";
import type { Selection } from "./selection";
import { outline } from "./states";

export class History implements Part {
  // Level with the chart beside it, which has its choices above.
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
      empty(this.element, "No feasible trial yet.");
      return;
    }
    const name = study.progress.label;
    const label = `${name} after each trial, from ${spell(first.value)} to ${spell(last.value)}`;
    const { root, width } = canvas(this.element, HEIGHT, cut(label, 300));
    const { metric: objective, direction } = study.goal.objectives[0] ?? { metric: "", direction: "maximize" };
    // The single trials tell something only where they share the unit of the line.
    const dots = name === `best ${objective}` ? study.trials.filter((trial) => typeof trial.metrics[objective] === "number") : [];
    const heights = [...points.map((point) => point.value), ...dots.map((trial) => trial.metrics[objective] as number)];
    const [top, bottom] = [MARGIN.top, HEIGHT - MARGIN.bottom];
    const y = measured(heights, [bottom, top], !dots.length || direction === "maximize");
    const box = { left: leftOf(y), right: width - MARGIN.right, top, bottom };
    const from = study.trials[0]?.number ?? 0;
    const until = study.trials.at(-1)?.number ?? last.number;
    const x = linear([from, Math.max(until, from + 1)], [box.left, box.right], { count: Math.max(3, width / 90), whole: true });
    axes(root, box, x, y, { x: "trial", y: name });
    // What failed or broke a bound may be better than the line and does not count: its shape says so.
    for (const state of STATES) {
      const faint = dots.filter((trial) => trial.state === state).map((trial) => outline(state, x(trial.number), y(trial.metrics[objective] as number), 2.6));
      root.append(svg("path", { class: state === "complete" ? "nbc-faint" : `nbc-faint nbc-${state}`, d: faint.join("") }));
    }
    const path = points.map((point) => [x(point.number), y(point.value)] as const);
    root.append(svg("path", { class: "nbc-line", d: steps([...path, [x(until), y(last.value)]]) }));
    // The trials that brought something new; a line of one point could not be seen without.
    const gains = points.filter((point, i) => point.value !== points[i - 1]?.value);
    gains.forEach((point) => root.append(svg("circle", { class: "nbc-gain-dot", cx: x(point.number), cy: y(point.value), r: 3.2 })));
    const chosen = this.selection.number;
    if (chosen !== null) {
      root.append(svg("line", { class: "nbc-cursor", x1: x(chosen), x2: x(chosen), y1: box.top, y2: box.bottom }));
    }
    show(this.element, root);
  }
}
