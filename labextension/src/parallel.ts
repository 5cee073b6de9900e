// Parallel coordinates: an axis for each parameter and metric, a line for each trial. A range that is chosen on an axis
// fades the trials outside of it, here and in every other chart and the table.

import { canvas, replaceChart, showMessage } from "./chart";
import { button, choice, el, svg } from "./dom";
import type { Parameter, Scalar, Study, Trial } from "./data";
import { formatValue, orList, shorten } from "./format";
import type { Part } from "./part";
import { position, trialText } from "./plot";
import { extent, parameterScale, placeOf, valueScale, type Scale } from "./scales";
import { metricKey, paramKey, type Limit, type Selection } from "./selection";
import { optionsOf } from "./space";
import { trans } from "./words";

const HEIGHT = 304;
const TOP = 44;
const BOTTOM = 268;
// Where trials stand that lack the value.
const MISSING = 286;
const SIDE = 58;
const LEAST_ROOM = 96;
const HIT = 24;
const REACH = 8;
const CLICK = 4;

interface Axis {
  key: string;
  name: string;
  note: string;
  options: readonly Scalar[] | null;
  scale: Scale;
  x: number;
  place: (trial: Trial) => number | null;
}

export class Parallel implements Part {
  readonly element = el("div.nbc-parallel", {});
  readonly #place = el("div", { class: "nbc-place nbc-sideways", tabindex: 0, role: "region", "aria-label": trans.__("Parallel coordinates") });
  readonly #tools = el("div.nbc-tools", { role: "group", "aria-label": trans.__("Range of an axis") });
  readonly #chips = el("div.nbc-tools", {});
  readonly #tip = el("p", { class: "nbc-caption nbc-line-tip" });
  #axis: string | null = null;
  #drawn = "";

  constructor(private readonly selection: Selection) {
    this.element.append(this.#tools, this.#place, this.#tip, this.#chips);
  }

  draw(study: Study): void {
    const room = canvas(this.element, HEIGHT, "").width;
    const axes = axesOf(study, room);
    if (!study.trials.length || axes.length < 2) {
      this.#tools.replaceChildren();
      this.#drawn = "";
      showMessage(this.#place, trans.__("Lines are drawn here once there are trials."));
      return;
    }
    const width = Math.max(room, 2 * SIDE + (axes.length - 1) * LEAST_ROOM);
    const label = trans.__(
      "%1 trials over %2 axes: %3. Drag along an axis, or use the fields above, to choose a range.",
      study.trials.length,
      axes.length,
      axes.map(({ name }) => name).join(", "),
    );
    const root = svg("svg.nbc-chart", { width, height: HEIGHT, viewBox: `0 0 ${width} ${HEIGHT}`, role: "img", "aria-label": shorten(label, 400) });
    const lines = study.trials.map((trial) => ({ trial, points: axes.map((axis) => [axis.x, axis.place(trial) ?? MISSING] as const) }));
    this.#drawLines(root, study, lines);
    axes.forEach((axis) => this.#drawAxis(root, axis));
    const gap = axes.find((_, i) => lines.some(({ points }) => points[i]?.[1] === MISSING));
    if (gap) {
      root.append(svg("text.nbc-note", { x: gap.x + 5, y: MISSING + 12 }, trans.__("no value")));
    }
    this.#listen(root, lines);
    const before = this.#place.scrollLeft;
    replaceChart(this.#place, root);
    this.#place.scrollLeft = before;
    this.#drawTools(axes);
    this.#drawChips(study);
  }

  // One element for each kind of line: one for each trial would be slow.
  #drawLines(root: SVGSVGElement, study: Study, lines: readonly Line[]): void {
    const front = new Set(study.front);
    const kinds: Record<string, string[]> = { "nbc-out": [], "nbc-in": [], "nbc-best": [] };
    for (const { trial, points } of lines) {
      const kind = this.selection.has(trial) ? (front.has(trial.number) ? "nbc-best" : "nbc-in") : "nbc-out";
      kinds[kind]?.push(path(points));
    }
    for (const [kind, paths] of Object.entries(kinds)) {
      root.append(svg("path", { class: `nbc-thread ${kind}`, d: paths.join("") }));
    }
    const chosen = lines.find(({ trial }) => trial.number === this.selection.number);
    if (chosen) {
      root.append(svg("path", { class: "nbc-thread nbc-picked", d: path(chosen.points) }));
    }
  }

  #drawAxis(root: SVGSVGElement, axis: Axis): void {
    const { x, scale } = axis;
    const words = svg("g.nbc-ticks", { "aria-hidden": "true" });
    words.append(
      svg("text.nbc-axis", { x, y: 14, "text-anchor": "middle" }, shorten(axis.name, 15), svg("title", {}, axis.name)),
      svg("text", { x, y: 28, "text-anchor": "middle" }, axis.note),
    );
    const every = Math.ceil(scale.ticks.length / 9);
    scale.ticks.forEach(({ value, label }, i) => {
      if (i % every === 0) {
        words.append(svg("text.nbc-note", { x: x + 5, y: scale(value) + 3.5 }, shorten(label, 11)));
      }
    });
    root.append(svg("line.nbc-upright", { x1: x, x2: x, y1: TOP, y2: BOTTOM }));
    const limit = this.selection.limits.get(axis.key);
    if (limit) {
      const [from, to] = ends(axis, limit);
      root.append(svg("rect.nbc-brush", { x: x - 7, y: from, width: 14, height: Math.max(3, to - from) }));
    }
    root.append(words);
    const hit = svg("rect.nbc-hit", { x: x - HIT / 2, y: TOP - 6, width: HIT, height: BOTTOM - TOP + 12 });
    hit.addEventListener("pointerdown", (event) => this.#brush(root, axis, event));
    root.append(hit);
  }

  // A drag chooses a range; a click on the axis ends it.
  #brush(root: SVGSVGElement, axis: Axis, event: PointerEvent): void {
    if (event.button !== 0) {
      return;
    }
    event.preventDefault();
    const cut = (moved: MouseEvent) => Math.min(BOTTOM, Math.max(TOP, position(root, moved).y));
    const from = cut(event);
    const frame = svg("rect.nbc-brush", { x: axis.x - 7, y: from, width: 14, height: 0 });
    root.append(frame);
    const move = (moved: PointerEvent): void => {
      const to = cut(moved);
      frame.setAttribute("y", String(Math.min(from, to)));
      frame.setAttribute("height", String(Math.abs(to - from)));
    };
    const end = (ended: PointerEvent): void => {
      window.removeEventListener("pointermove", move);
      window.removeEventListener("pointerup", end);
      window.removeEventListener("pointercancel", end);
      frame.remove();
      if (ended.type === "pointerup") {
        const to = cut(ended);
        this.#axis = axis.key;
        this.selection.limit(axis.key, Math.abs(to - from) < CLICK ? null : limitOf(axis, Math.min(from, to), Math.max(from, to)));
      }
    };
    window.addEventListener("pointermove", move);
    window.addEventListener("pointerup", end);
    window.addEventListener("pointercancel", end);
  }

  #listen(root: SVGSVGElement, lines: readonly Line[]): void {
    // Lines within the limits are found before those outside.
    const find = (event: MouseEvent) => {
      const at = position(root, event);
      return (
        nearestLine(
          lines.filter(({ trial }) => this.selection.has(trial)),
          at,
        ) ?? nearestLine(lines, at)
      );
    };
    root.addEventListener("pointermove", (event) => {
      const line = event.buttons ? undefined : find(event);
      this.#tip.textContent = line ? trialText(line.trial).replaceAll("\n", "; ") : "";
    });
    root.addEventListener("pointerleave", () => (this.#tip.textContent = ""));
    root.addEventListener("click", (event) => {
      const isAxis = (event.target as Element | null)?.classList.contains("nbc-hit");
      const line = isAxis ? undefined : find(event);
      if (line) {
        this.selection.choose(line.trial.number);
      }
    });
  }

  // The same ranges without a pointer: an axis, and its lowest and highest value or its option.
  #drawTools(axes: readonly Axis[]): void {
    const axis = axes.find(({ key }) => key === this.#axis) ?? axes[0];
    if (!axis) {
      return;
    }
    const limit = this.selection.limits.get(axis.key) ?? null;
    const key = JSON.stringify([axes.map((known) => known.key), axis.key, axis.options, limit]);
    if (key === this.#drawn) {
      return;
    }
    this.#drawn = key;
    const focus = this.#tools.contains(document.activeElement)
      ? [...this.#tools.querySelectorAll("input, select")].indexOf(document.activeElement as Element)
      : -1;
    const names = axes.map(({ name }) => name);
    const pick = choice(trans.__("Axis"), names, axis.name, (_, i) => {
      this.#axis = axes[i]?.key ?? null;
      this.#drawTools(axes);
    });
    const select = pick.querySelector("select");
    if (select) {
      // A parameter and a metric may have the same name.
      select.value = String(axes.indexOf(axis));
    }
    this.#tools.replaceChildren(pick, ...(axis.options ? [this.#optionField(axis, axis.options, limit)] : this.#rangeFields(axis, limit)));
    this.#tools.querySelectorAll<HTMLElement>("input, select")[focus]?.focus();
  }

  #optionField(axis: Axis, options: readonly Scalar[], limit: Limit | null): HTMLElement {
    const labels = [trans.__("any"), ...options.map(formatValue)];
    const only = limit && "options" in limit ? options.indexOf(limit.options[0] ?? null) + 1 : 0;
    return choice(trans.__("is"), labels, labels[only] ?? "", (_, i) => this.selection.limit(axis.key, i ? { options: [options[i - 1] ?? null] } : null));
  }

  #rangeFields(axis: Axis, limit: Limit | null): HTMLElement[] {
    const now = limit && "low" in limit ? limit : null;
    const field = (label: string, value: number | undefined): HTMLInputElement => {
      const shown = value === undefined || !Number.isFinite(value) ? "" : Number(value.toPrecision(6));
      return el("input", { class: "nbc-select nbc-number-field", type: "number", step: "any", value: shown, "aria-label": label });
    };
    const [low, high] = [field(trans.__("Lowest %1", axis.name), now?.low), field(trans.__("Highest %1", axis.name), now?.high)];
    const set = (): void => {
      const [from, to] = [low.value === "" ? -Infinity : Number(low.value), high.value === "" ? Infinity : Number(high.value)];
      this.selection.limit(axis.key, low.value === "" && high.value === "" ? null : { low: from, high: to });
    };
    [low, high].forEach((input) => input.addEventListener("change", set));
    return [el("label.nbc-choice", {}, trans.__("from"), " ", low), el("label.nbc-choice", {}, trans.__("to"), " ", high)];
  }

  #drawChips(study: Study): void {
    const { limits } = this.selection;
    const hadFocus = this.#chips.contains(document.activeElement);
    const chips = [...limits].map(([key, limit]) => {
      const text = limitWords(key.slice(2), limit);
      return button(`${text} ✕`, { class: "nbc-button nbc-chip", "aria-label": trans.__("End the range %1", text) }, () => this.selection.limit(key, null));
    });
    const all = limits.size > 1 ? [button(trans.__("End all ranges"), { class: "nbc-button" }, () => this.selection.setLimits(new Map()))] : [];
    const inside = study.trials.filter((trial) => this.selection.has(trial)).length;
    const words = limits.size ? trans.__("%1 of %2 trials are within.", inside, study.trials.length) : trans.__("Drag along an axis to choose a range.");
    this.#chips.replaceChildren(...chips, ...all, el("span.nbc-answer", { role: "status" }, words));
    if (hadFocus) {
      (this.#chips.querySelector("button") ?? this.#tools.querySelector("select"))?.focus();
    }
  }
}

interface Line {
  trial: Trial;
  points: (readonly [number, number])[];
}

function axesOf(study: Study, room: number): Axis[] {
  const count = study.parameters.length + study.metrics.length;
  const step = Math.max(LEAST_ROOM, (room - 2 * SIDE) / Math.max(1, count - 1));
  const range: [number, number] = [BOTTOM, TOP];
  const numbers = (value: (trial: Trial) => unknown) => study.trials.map(value).filter((known): known is number => typeof known === "number");
  const parameters = study.parameters.map((parameter: Parameter) => {
    const key = paramKey(parameter.name);
    const value = (trial: Trial) => trial.params[parameter.name];
    const scale = parameterScale(parameter, numbers(value), range, 4);
    const options = parameter.kind === "choice" ? optionsOf(parameter) : null;
    return {
      key,
      name: parameter.name,
      note: scale.isLog ? trans.__("log scale") : "",
      options,
      scale,
      place: (trial: Trial) => placeOf(parameter, scale, value(trial)),
    };
  });
  const metrics = study.metrics.map((name) => {
    const key = metricKey(name);
    const direction = study.goal.objectives.find((objective) => objective.metric === name)?.direction;
    const values = numbers((trial) => trial.metrics[name]);
    const scale = valueScale(extent(values) ? values : [0, 1], range, direction === "maximize", 4);
    const aim = direction && (direction === "maximize" ? trans.__("maximize") : trans.__("minimize"));
    const note = [aim, scale.isLog ? trans.__("log") : ""].filter(Boolean).join(", ");
    const place = (trial: Trial) => {
      const value = trial.metrics[name];
      return typeof value === "number" ? scale(value) : null;
    };
    return { key, name, note, options: null, scale, place };
  });
  return [...parameters, ...metrics].map((axis, i) => ({ ...axis, x: SIDE + i * step }));
}

// Returns the part of an axis between two positions.
function limitOf({ options, scale }: Axis, from: number, to: number): Limit {
  if (options) {
    const within = options.filter((_, i) => scale(i) >= from && scale(i) <= to);
    const near = options[Math.min(options.length - 1, Math.max(0, Math.round(scale.invert((from + to) / 2))))] ?? null;
    return { options: within.length ? within : [near] };
  }
  return { low: Number(scale.invert(to).toPrecision(6)), high: Number(scale.invert(from).toPrecision(6)) };
}

// Returns where the limit of an axis stands in the picture, from the top down.
function ends({ options, scale }: Axis, limit: Limit): [number, number] {
  const cut = (at: number) => Math.min(BOTTOM, Math.max(TOP, at));
  if ("options" in limit) {
    const half = Math.abs(scale(1) - scale(0)) / 2;
    const at = limit.options.map((option) => scale((options ?? []).indexOf(option)));
    return [cut(Math.min(...at) - half), cut(Math.max(...at) + half)];
  }
  const place = (value: number, end: number) => (Number.isFinite(value) && (value > 0 || !scale.isLog) ? cut(scale(value)) : end);
  return [place(limit.high, TOP), place(limit.low, BOTTOM)];
}

export function limitWords(name: string, limit: Limit): string {
  const words = (value: Scalar) => shorten(formatValue(value), 30);
  if ("options" in limit) {
    return `${shorten(name, 40)} ${orList(limit.options.map(words))}`;
  }
  const [short, low, high] = [shorten(name, 40), words(limit.low), words(limit.high)];
  if (Number.isFinite(limit.low)) {
    return Number.isFinite(limit.high) ? trans.__("%1 from %2 to %3", short, low, high) : trans.__("%1 from %2", short, low);
  }
  return Number.isFinite(limit.high) ? trans.__("%1 to %2", short, high) : short;
}

function path(points: readonly (readonly [number, number])[]): string {
  return points.map(([x, y], i) => `${i ? "L" : "M"}${Math.round(x)} ${Math.round(10 * y) / 10}`).join("");
}

// Returns the line nearest to a position, by its height there.
function nearestLine(lines: readonly Line[], at: { x: number; y: number }): Line | undefined {
  let [found, least]: [Line | undefined, number] = [undefined, REACH];
  for (const line of lines) {
    const i = line.points.findIndex(([x]) => x >= at.x);
    const [before, after] = [line.points[i - 1], line.points[i]];
    if (before && after) {
      const share = (at.x - before[0]) / (after[0] - before[0]);
      const distance = Math.abs(before[1] + share * (after[1] - before[1]) - at.y);
      if (distance < least) {
        [found, least] = [line, distance];
      }
    }
  }
  return found;
}
