// How far the search had come after each trial.

import { axes, canvas, empty, HEIGHT, MARGIN, show, steps } from "./chart";
import { el, svg } from "./dom";
import type { Study } from "./data";
import { cut, spell } from "./format";
import type { Part } from "./part";
import { extent, linear } from "./scales";
import type { Selection } from "./selection";

export class History implements Part {
  readonly element = el("div", { class: "nbc-place" });

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
    const box = { left: MARGIN.left, right: width - MARGIN.right, top: MARGIN.top, bottom: HEIGHT - MARGIN.bottom };
    const until = study.trials.at(-1)?.number ?? last.number;
    const x = linear([study.trials[0]?.number ?? 0, Math.max(until, 1)], [box.left, box.right], Math.max(3, width / 90));
    const objective = study.goal.objectives[0]?.metric ?? "";
    // The single trials tell something only where they share the unit of the line.
    const dots = name === `best ${objective}` ? study.trials.filter((one) => typeof one.metrics[objective] === "number") : [];
    const heights = [...points.map((one) => one.value), ...dots.map((one) => one.metrics[objective] as number)];
    const y = linear(extent(heights) ?? [0, 1], [box.bottom, box.top]);
    axes(root, box, x, y, { x: "trial", y: name });
    dots.forEach((one) => root.append(svg("circle", { class: "nbc-faint", cx: x(one.number), cy: y(one.metrics[objective] as number), r: 2.6 })));
    const path = points.map((one) => [x(one.number), y(one.value)] as const);
    root.append(svg("path", { class: "nbc-line", d: steps([...path, [x(until), y(last.value)]]) }));
    const chosen = this.selection.number;
    if (chosen !== null) {
      root.append(svg("line", { class: "nbc-cursor", x1: x(chosen), x2: x(chosen), y1: box.top, y2: box.bottom }));
    }
    show(this.element, root);
  }
}
