// Several studies beside each other: charts of their fronts, of the best so far over trials and of the distribution of a
// metric, and a table.

import { axes, axisNote, canvas, HEIGHT, leftOf, linePath, MARGIN, stepPath } from "./chart";
import { shareSteps, sharesOf } from "./distribution";
import { choice, el, svg, userText } from "./dom";
import type { Study } from "./data";
import { formatDuration, formatMetric, goalText, shorten } from "./format";
import type { Translation } from "./words";
import { Plot, type Place } from "./plot";
import { linearScale, valueScale, type Scale } from "./scales";
import { Selection } from "./selection";

// Okabe and Ito's colours, which people with colour blindness can tell apart; lines differ by their dashes, too.
const COLORS = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9"];
const DASHES = ["", "6 3", "2 3", "8 3 2 3", "12 4", "4 2"];

export interface Compared {
  label: string;
  study: Study | null;
  problem: string | null;
}

// What the curves of a chart are, which says how points are joined and where the axes begin.
type Kind = "front" | "best" | "shares";

interface Curve {
  label: string;
  index: number;
  points: (readonly [number, number])[];
}

export class Comparison {
  readonly element = el("article", { class: "nbc nbc-compare", dir: "ltr" });
  readonly #selects = el("div.nbc-tools", {});
  // The chosen study, whose curves stand out.
  readonly #selection = new Selection();
  readonly #fronts = new Plot(this.#selection, () => this.#drawFronts());
  readonly #progress = new Plot(this.#selection, () => this.#drawProgress());
  readonly #shares = new Plot(this.#selection, () => this.#drawShares());
  readonly #progressSelect = el("div.nbc-tools", {});
  readonly #sharesSelect = el("div.nbc-tools", {});
  readonly #table = el("div.nbc-scroll", { tabindex: 0, role: "region" });
  readonly #legend = el("ul.nbc-legend", {});
  #studies: Compared[] = [];
  #x: string | null = null;
  #y: string | null = null;
  #best: string | null = null;
  #shared: string | null = null;
  #colors: "colorblind" | "gray" = "colorblind";
  readonly #sized: ResizeObserver | null;

  constructor(private readonly trans: Translation) {
    this.element.setAttribute("aria-label", trans.__("Comparison of studies"));
    this.#table.setAttribute("aria-label", trans.__("Table of studies"));
    const part = (title: string, ...children: Node[]): HTMLElement => el("section.nbc-part", {}, el("h3", {}, title), ...children);
    const charts = el(
      "div",
      { class: "nbc-charts" },
      part(trans.__("Fronts"), this.#selects, this.#fronts.element),
      part(trans.__("Best so far"), this.#progressSelect, this.#progress.element),
      part(trans.__("Distribution"), this.#sharesSelect, this.#shares.element),
    );
    this.element.append(el("h2.nbc-title", {}, trans.__("Comparison")), this.#legend, charts, part(trans.__("Studies"), this.#table));
    this.#selection.listen(() => this.#drawCharts());
    this.#sized = typeof ResizeObserver === "undefined" ? null : new ResizeObserver(() => this.#drawCharts());
    this.#sized?.observe(this.element);
  }

  update(studies: Compared[], colors: "colorblind" | "gray"): void {
    this.#studies = studies;
    this.#colors = colors;
    const metrics = this.#metrics();
    this.#x = this.#x !== null && metrics.includes(this.#x) ? this.#x : (metrics[1] ?? metrics[0] ?? null);
    this.#y = this.#y !== null && metrics.includes(this.#y) ? this.#y : (metrics[0] ?? null);
    this.#shared = this.#shared !== null && metrics.includes(this.#shared) ? this.#shared : (metrics[0] ?? null);
    this.#drawLegend();
    this.#drawSelects(metrics);
    this.#drawCharts();
    this.#drawTable(metrics);
  }

  dispose(): void {
    this.#sized?.disconnect();
  }

  // The metrics that every study has; those of the goals come first in the data.
  #metrics(): string[] {
    const known = this.#known();
    return (known[0]?.study.metrics ?? []).filter((name) => known.every(({ study }) => study.metrics.includes(name)));
  }

  #known(): { label: string; study: Study; index: number }[] {
    return this.#studies.flatMap(({ label, study }, index) => (study ? [{ label, study, index }] : []));
  }

  #color(index: number): string {
    return this.#colors === "gray" ? "var(--nbc-text)" : (COLORS[index % COLORS.length] ?? "#888");
  }

  #dash(index: number): string {
    return DASHES[index % DASHES.length] ?? "";
  }

  #drawLegend(): void {
    this.#legend.replaceChildren(
      ...this.#studies.map(({ label, problem }, index) => {
        const line = svg("line", { x1: 0, x2: 26, y1: 6, y2: 6, "stroke-width": 2.5, "stroke-dasharray": this.#dash(index) });
        line.style.stroke = this.#color(index);
        const mark = svg("svg", { width: 26, height: 12, "aria-hidden": "true" }, line);
        return el("li", {}, mark, " ", userText(label), problem ? ` (${problem})` : "");
      }),
    );
  }

  #drawSelects(metrics: readonly string[]): void {
    const { trans } = this;
    this.#selects.replaceChildren(
      choice(trans.__("across"), metrics, this.#x ?? "", (name) => {
        this.#x = name;
        this.#fronts.unzoom();
        this.#drawFronts();
      }),
      choice(trans.__("up"), metrics, this.#y ?? "", (name) => {
        this.#y = name;
        this.#fronts.unzoom();
        this.#drawFronts();
      }),
    );
    this.#sharesSelect.replaceChildren(
      choice(trans.__("of"), metrics, this.#shared ?? "", (name) => {
        this.#shared = name;
        this.#shares.unzoom();
        this.#drawShares();
      }),
    );
  }

  #drawCharts(): void {
    this.#drawFronts();
    this.#drawProgress();
    this.#drawShares();
  }

  #drawFronts(): void {
    const [across, up] = [this.#x, this.#y];
    if (across === null || up === null) {
      this.#fronts.message(this.trans.__("These studies have no metric in common."));
      return;
    }
    const curves = this.#known().map(({ label, study, index }) => {
      const points = study.front.flatMap((number) => {
        const trial = study.trials.find((known) => known.number === number);
        const [x, y] = [trial?.metrics[across], trial?.metrics[up]];
        return typeof x === "number" && typeof y === "number" ? [[x, y] as const] : [];
      });
      return { label, index, points: points.sort((a, b) => a[0] - b[0]) };
    });
    this.#drawCurves(this.#fronts, curves, { x: across, y: up }, this.trans.__("Fronts of %1 studies", curves.length), "front");
  }

  // The share of the complete trials up to each value.
  #drawShares(): void {
    const [metric, { trans }] = [this.#shared, this];
    if (metric === null) {
      this.#shares.message(trans.__("These studies have no metric in common."));
      return;
    }
    const curves = this.#known().map(({ label, study, index }) => ({ label, index, points: shareSteps(sharesOf(study.trials, metric)) }));
    const label = trans.__("Share of the complete trials up to each %1", metric);
    this.#drawCurves(this.#shares, curves, { x: metric, y: trans.__("share of trials up to the value") }, label, "shares");
  }

  // The best value so far of one objective. Hypervolumes have a reference point of each study's own, so they cannot be
  // compared.
  #drawProgress(): void {
    const known = this.#known();
    const shared = this.#objectives();
    const metric = shared.find((name) => name === this.#best) ?? shared[0];
    // Without a select, the chart stands at the level of the one beside it.
    this.#progressSelect.classList.toggle("nbc-level", shared.length < 2);
    this.#progressSelect.replaceChildren(
      ...(shared.length > 1 && metric !== undefined
        ? [
            choice(this.trans.__("of"), shared, metric, (name) => {
              this.#best = name;
              this.#progress.unzoom();
              this.#drawProgress();
            }),
          ]
        : []),
    );
    if (metric === undefined) {
      this.#progress.message(this.trans.__("These studies have no objective in common."));
      return;
    }
    const curves = known.map(({ label, study, index }) => ({ label, index, points: bestSoFar(study, metric) }));
    this.#drawCurves(
      this.#progress,
      curves,
      { x: this.trans.__("trials"), y: this.trans.__("best %1", metric) },
      this.trans.__("Best %1 after each trial", metric),
      "best",
      metric,
    );
  }

  // The objectives that every study has, in the same direction.
  #objectives(): string[] {
    const known = this.#known();
    const has = (study: Study, name: string, direction: string): boolean =>
      study.goal.objectives.some((objective) => objective.metric === name && objective.direction === direction);
    return (known[0]?.study.goal.objectives ?? [])
      .filter(({ metric, direction }) => known.every(({ study }) => has(study, metric, direction)))
      .map(({ metric }) => metric);
  }

  #drawCurves(plot: Plot, curves: readonly Curve[], names: { x: string; y: string }, label: string, kind: Kind, up = names.y): void {
    const points = curves.flatMap((curve) => curve.points);
    const [study] = this.#known();
    if (!points.length || !study) {
      plot.message(this.trans.__("No feasible trial yet."));
      return;
    }
    const { root, width } = canvas(plot.element, HEIGHT, shorten(label, 300));
    const [top, bottom] = [MARGIN.top, HEIGHT - MARGIN.bottom];
    const [xs, ys] = [points.map((point) => point[0]), points.map((point) => point[1])];
    const y = plot.zoomed("y", kind === "shares" ? linearScale([0, 1], [bottom, top], { padded: false }) : valueScale(ys, [bottom, top], false));
    const box = { left: leftOf(y), right: width - MARGIN.right, top, bottom };
    const ends: [number, number] = [box.left, box.right];
    const count = Math.max(3, width / 90);
    const x: Scale = plot.zoomed(
      "x",
      kind === "best" ? linearScale([0, Math.max(...xs)], ends, { count, whole: true, padded: false }) : valueScale(xs, ends, false, count),
    );
    axes(root, box, x, y, { ...names, xNote: axisNote(study.study, names.x, x), yNote: axisNote(study.study, up, y) });
    const layer = plot.layer(root, box);
    const places: Place[] = [];
    for (const { index, points: own, label: name } of curves) {
      const path = own.map(([a, b]) => [x(a), y(b)] as const);
      const isChosen = index === this.#selection.number;
      const line = svg("path", {
        d: (kind === "front" ? linePath : stepPath)(path),
        fill: "none",
        "stroke-width": isChosen ? 4 : 2,
        "stroke-dasharray": this.#dash(index),
      });
      line.style.stroke = this.#color(index);
      layer.append(line);
      own.forEach(([a, b], i) => {
        const [cx, cy] = path[i] ?? [0, 0];
        places.push({ x: cx, y: cy, number: index, text: () => `${name}\n${names.y} ${formatMetric(b)}\n${names.x} ${formatMetric(a)}` });
        if (kind === "front") {
          const dot = svg("circle", { cx, cy, r: isChosen ? 4.5 : 3.2 });
          dot.style.fill = this.#color(index);
          layer.append(dot);
        }
      });
    }
    plot.show(root, box, x, y, places);
  }

  #drawTable(metrics: readonly string[]): void {
    const { trans } = this;
    const heads = [trans.__("study"), trans.__("goal"), trans.__("trials"), ...metrics.map((name) => trans.__("%1 of the best trial", name)), trans.__("time")];
    const rows = this.#known().map(({ label, study }) => {
      const best = study.trials.find((trial) => trial.number === study.best);
      const count = Object.values(study.counts ?? {}).reduce((sum, n) => sum + n, 0) || study.trials.length;
      const values = [String(count), ...metrics.map((name) => formatMetric(best?.metrics[name])), study.elapsed === null ? "" : formatDuration(study.elapsed)];
      return el(
        "tr",
        {},
        el("td.nbc-text", {}, userText(label)),
        el("td.nbc-text", {}, userText(goalText(study.goal))),
        ...values.map((value) => el("td", {}, value)),
      );
    });
    const head = el("tr", {}, ...heads.map((text, i) => el("th", { scope: "col", class: i < 2 ? "nbc-text" : "" }, userText(text))));
    this.#table.replaceChildren(el("table", { class: "nbc-table nbc-plain" }, el("thead", {}, head), el("tbody", {}, ...rows)));
  }
}

// Returns the best value of an objective so far, for each trial that has improved it, and the last trial.
export function bestSoFar(study: Study, metric: string): [number, number][] {
  const sign = study.goal.objectives.find((objective) => objective.metric === metric)?.direction === "maximize" ? 1 : -1;
  const points: [number, number][] = [];
  let best: number | null = null;
  for (const trial of study.trials) {
    const value = trial.metrics[metric];
    if (trial.state === "complete" && typeof value === "number" && (best === null || sign * value > sign * best)) {
      best = value;
      points.push([trial.number + 1, value]);
    }
  }
  const last = study.trials.at(-1);
  if (best !== null && last && points.at(-1)?.[0] !== last.number + 1) {
    points.push([last.number + 1, best]);
  }
  return points;
}
