// What the surrogate expects along one parameter, or over two, and where it wants to look next.

import { axes, canvas, empty, HEIGHT, leftOf, line, MARGIN, show, type Box } from "./chart";
import { choice, el, svg, user } from "./dom";
import type { Maybe, Slice, SliceMetric, Study, Trial } from "./data";
import { cut, spell } from "./format";
import { drawMaps, mapsOf, type Maps } from "./heatmap";
import type { Part } from "./part";
import { banded, extent, linear, logarithmic, type Scale } from "./scales";
import type { Selection } from "./selection";
import { Surrogate } from "./surrogate";

const SHARE = 0.64;
const WAITING = "The surrogate shows itself here once it has enough trials to learn from.";
const ALONE = "(alone)";
// So few values stand apart, each with a whisker and a column; lines stand beside these.
const FEW = 12;
const BESIDE = 14;
const NOTHING = "No slices of the surrogate were kept with this study.";

export class Acquisition implements Part {
  readonly element = el("div");
  private readonly tools = el("div", { class: "nbc-tools" });
  private readonly place = el("div", { class: "nbc-place" });
  private readonly caption = el("p", { class: "nbc-caption" });
  private parameter: string | null = null;
  private second: string | null = null;
  private metric: string | null = null;
  private drawn = "";
  private maps: { key: unknown[]; maps: Maps } | null = null;
  private study: Study | null = null;

  constructor(private readonly selection: Selection) {
    this.element.append(this.tools, this.place, this.caption);
  }

  draw(study: Study): void {
    this.study = study;
    const surrogate = Surrogate.of(study);
    const through = throughOf(study, surrogate ? this.selection.number : study.best);
    const names = surrogate && through ? byImportance(study, Object.keys(through.params)) : study.slices.map((slice) => slice.parameter);
    const name = names.find((known) => known === this.parameter) ?? names[0];
    const slice = name === undefined ? undefined : this.slice(study, surrogate, through, name);
    const metric = slice?.metrics.find((known) => known.metric === this.metric) ?? slice?.metrics[0];
    if (!slice || !metric || !slice.values.length) {
      this.tools.replaceChildren();
      this.caption.textContent = "";
      this.drawn = "";
      empty(this.place, study.state === "running" ? WAITING : NOTHING);
      return;
    }
    // Once something is shown, it stays, even if another parameter turns out to matter more.
    this.parameter = slice.parameter;
    const others = surrogate ? names.filter((other) => other !== slice.parameter) : [];
    const second = others.find((other) => other === this.second) ?? null;
    this.drawTools(names, others, slice, second, metric);
    if (surrogate && through && second !== null) {
      this.drawMaps(study, surrogate, through, [slice.parameter, second], metric.metric);
    } else {
      this.drawSlice(study, slice, metric, through);
    }
  }

  // The page's own slice. Where the acquisition's formula stays in Python, Python's slice through the best point is better.
  private slice(study: Study, surrogate: Surrogate | null, through: Trial | null, name: string): Slice | undefined {
    const stored = study.slices.find((known) => known.parameter === name);
    const isStored = stored && through && study.slices.every((known) => through.params[known.parameter] === known.at);
    return !surrogate || !through || (isStored && !surrogate.hasAcquisition) ? stored : surrogate.slice(through.params, name);
  }

  private drawSlice(study: Study, slice: Slice, metric: SliceMetric, through: Trial | null): void {
    const label = `Predicted ${metric.metric} along ${slice.parameter} with its 95 percent band, and the acquisition below`;
    const { root, width } = canvas(this.place, HEIGHT, cut(label, 300));
    const hasGain = slice.acquisition.some((value) => value !== null);
    const split = MARGIN.top + (HEIGHT - MARGIN.top - MARGIN.bottom) * (hasGain ? SHARE : 1);
    const up = meanScale(metric, [split - 6, MARGIN.top]);
    const above = { left: leftOf(up), right: width - MARGIN.right, top: MARGIN.top, bottom: split - 6 };
    const below = hasGain ? { ...above, top: split + 6, bottom: HEIGHT - MARGIN.bottom } : above;
    const { x, places } = this.across(study, slice, above);
    this.drawMean(root, above, x, up, places, metric, hasGain ? null : slice.parameter);
    if (hasGain) {
      this.drawAcquisition(root, below, x, places, slice);
    }
    this.drawNext(root, above, below, places, slice);
    this.drawRunning(root, above, below, x, study, slice);
    show(this.place, root);
    // The best point may have changed since Python worked its slices out.
    const passes = through && through.params[slice.parameter] === slice.at ? ` through trial ${through.number}${through.number === study.best ? " (the best)" : ""}` : "";
    const where = slice.next === null ? "" : `On this line${passes}, the acquisition is largest at ${slice.parameter} = ${spell(slice.next)}. `;
    this.caption.replaceChildren(user(where + why(study)));
  }

  private drawMaps(study: Study, surrogate: Surrogate, through: Trial, names: [string, string], metric: string): void {
    const key = [surrogate, through.number, ...names, metric];
    if (!this.maps || this.maps.key.some((part, i) => part !== key[i])) {
      this.maps = { key, maps: mapsOf(study, surrogate, through.params, names, metric) };
    }
    const { maps } = this.maps;
    show(this.place, drawMaps(this.place, study, maps, through));
    const running = study.trials.some((trial) => trial.state === "running") ? ", the cross the one that runs" : "";
    const marks = `Dots are trials, the ring is trial ${through.number}${through.number === study.best ? " (the best)" : ""}${running}. `;
    const most = maps.most ? `The diamond has most to gain: ${names[0]} = ${spell(maps.most.across)}, ${names[1]} = ${spell(maps.most.up)}. ` : "";
    this.caption.replaceChildren(user(marks + most + why(study)));
  }

  private drawTools(names: readonly string[], others: readonly string[], slice: Slice, second: string | null, metric: SliceMetric): void {
    const metrics = slice.metrics.map((known) => known.metric);
    const key = JSON.stringify([names, others, metrics, slice.parameter, second, metric.metric]);
    if (key === this.drawn) {
      return;
    }
    this.drawn = key;
    const redraw = () => this.study && this.draw(this.study);
    const pick = (value: string) => (value === ALONE ? null : value);
    this.tools.replaceChildren(
      choice("Along", names, slice.parameter, (value) => ((this.parameter = value), redraw())),
      ...(others.length ? [choice("and", [ALONE, ...others], second ?? ALONE, (value) => ((this.second = pick(value)), redraw()))] : []),
      ...(metrics.length > 1 ? [choice("Metric", metrics, metric.metric, (value) => ((this.metric = value), redraw()))] : []),
    );
  }

  private across(study: Study, slice: Slice, box: Box): { x: Scale; places: number[] } {
    const range: [number, number] = [box.left, box.right];
    const numbers = slice.values.filter((value): value is number => typeof value === "number");
    const parameter = study.parameters.find((known) => known.name === slice.parameter);
    const domain = extent(numbers);
    if (numbers.length < slice.values.length || parameter?.kind === "choice" || !domain) {
      const x = banded(slice.values.map(spell), range);
      return { x, places: slice.values.map((_, i) => x(i)) };
    }
    const x = parameter?.log && domain[0] > 0 ? logarithmic(domain, range) : linear(domain, range, { padded: false });
    return { x, places: numbers.map(x) };
  }

  private drawMean(root: SVGSVGElement, box: Box, x: Scale, y: Scale, places: readonly number[], metric: SliceMetric, name: string | null): void {
    axes(root, box, x, y, { x: name, y: metric.metric });
    const [low, mean, high] = [metric.low, metric.mean, metric.high].map((values) => placed(places, values, y));
    if (!low || !mean || !high) {
      return;
    }
    if (places.length > FEW) {
      root.append(svg("path", { class: "nbc-band", d: `${line([...high, ...[...low].reverse()])}Z` }));
      root.append(svg("path", { class: "nbc-line", d: line(mean) }));
      return;
    }
    mean.forEach(([at, middle], i) => {
      root.append(svg("line", { class: "nbc-whisker", x1: at, x2: at, y1: low[i]?.[1] ?? middle, y2: high[i]?.[1] ?? middle }));
      root.append(svg("circle", { class: "nbc-mark nbc-complete", cx: at, cy: middle, r: 4.5 }));
    });
  }

  private drawAcquisition(root: SVGSVGElement, box: Box, x: Scale, places: readonly number[], slice: Slice): void {
    const known = slice.acquisition.filter((value): value is number => value !== null);
    const y = linear(extent(known) ?? [0, 1], [box.bottom, box.top], { count: 2 });
    axes(root, box, x, bare(y), { x: slice.parameter, y: "acquisition" });
    const points = placed(places, slice.acquisition, y);
    if (places.length > FEW) {
      const [first, last] = [points[0], points.at(-1)];
      if (first && last) {
        root.append(svg("path", { class: "nbc-gain", d: `M${first[0]} ${box.bottom}L${line(points).slice(1)}L${last[0]} ${box.bottom}Z` }));
      }
      return;
    }
    points.forEach(([at, top]) => {
      root.append(svg("rect", { class: "nbc-gain", x: at - 9, y: top, width: 18, height: Math.max(1, box.bottom - top) }));
    });
  }

  // Marks where the trials that run now are, and the value that the line goes through.
  private drawRunning(root: SVGSVGElement, above: Box, below: Box, x: Scale, study: Study, slice: Slice): void {
    const parameter = study.parameters.find((known) => known.name === slice.parameter);
    const isNumber = slice.values.every((value) => typeof value === "number") && parameter?.kind !== "choice";
    for (const trial of study.trials.filter((known) => known.state === "running")) {
      const value = trial.params[slice.parameter];
      const at = isNumber ? (typeof value === "number" ? x(value) : NaN) : slice.values.findIndex((known) => known === value);
      const place = (isNumber ? at : at < 0 ? NaN : x(at)) + (slice.values.length > FEW ? 0 : BESIDE);
      if (place >= above.left && place <= above.right) {
        const isRight = place > (above.left + above.right) / 2;
        const words = { class: "nbc-note", x: place + (isRight ? -5 : 5), y: above.bottom - 5, "text-anchor": isRight ? "end" : "start" };
        root.append(svg("line", { class: "nbc-now", x1: place, x2: place, y1: above.top, y2: below.bottom }), svg("text", words, `trial ${trial.number} runs here`));
      }
    }
  }

  private drawNext(root: SVGSVGElement, above: Box, below: Box, places: readonly number[], slice: Slice): void {
    const place = slice.next === null ? undefined : places[slice.values.indexOf(slice.next)];
    if (place === undefined) {
      return;
    }
    const at = place - (slice.values.length > FEW ? 0 : BESIDE);
    const isRight = at > (above.left + above.right) / 2;
    root.append(svg("line", { class: "nbc-next", x1: at, x2: at, y1: above.top, y2: below.bottom }));
    root.append(svg("text", { class: "nbc-note", x: at + (isRight ? -5 : 5), y: above.top - 1, "text-anchor": isRight ? "end" : "start" }, "most to gain"));
  }
}

function meanScale(metric: SliceMetric, range: [number, number]): Scale {
  const known = [...metric.low, ...metric.high, ...metric.mean].filter((value): value is number => value !== null);
  return linear(extent(known) ?? [0, 1], range, { count: 4 });
}

// The trial whose point the slices and maps go through: the selected one, else the best.
function throughOf(study: Study, chosen: number | null): Trial | null {
  const found = study.trials.find((trial) => trial.number === chosen) ?? study.trials.find((trial) => trial.number === study.best);
  return found ?? null;
}

function byImportance(study: Study, names: readonly string[]): string[] {
  const share = (name: string): number => study.importance?.[name] ?? 0;
  return [...names].sort((a, b) => share(b) - share(a));
}

// Says why the latest point was chosen.
function why(study: Study): string {
  const latest = study.trials.findLast((trial) => trial.state === "running") ?? study.trials.at(-1);
  return latest?.reason ? `Why trial ${latest.number} ${latest.state === "running" ? "runs" : "ran"}: ${latest.reason}` : "";
}

// The acquisition has no unit, so its axis has no numbers.
function bare(y: Scale): Scale {
  return Object.assign((value: number) => y(value), { ticks: [] });
}

function placed(places: readonly number[], values: readonly Maybe[], y: Scale): [number, number][] {
  return values.flatMap((value, i) => {
    const at = places[i];
    return value === null || at === undefined ? [] : [[at, y(value)] as [number, number]];
  });
}
