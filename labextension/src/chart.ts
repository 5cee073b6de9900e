// The frame of a chart: axes, grid, labels, and a width that follows the element around it.

import { el, svg } from "./dom";
import type { Study } from "./data";
import { shorten } from "./format";
import type { Scale } from "./scales";
import { trans } from "./words";

export const HEIGHT = 280;
export const MARGIN = { top: 10, right: 14, bottom: 40 };
// Pixels for the rotated name of an axis, and for each letter of a tick.
const NAME_ROOM = 24;
export const LETTER = 6.4;
const FALLBACK_WIDTH = 480;

export interface Box {
  left: number;
  right: number;
  top: number;
  bottom: number;
}

export function canvas(place: HTMLElement, height: number, label: string): { root: SVGSVGElement; width: number } {
  const width = Math.max(240, place.clientWidth || FALLBACK_WIDTH);
  const root = svg("svg.nbc-chart", { width, height, viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": label });
  return { root, width };
}

// Returns the left edge of a chart, with room for the longest tick and the name of the axis.
export function leftOf(...scales: readonly Scale[]): number {
  const longest = Math.max(0, ...scales.flatMap((scale) => scale.ticks.map(({ label }) => label.length)));
  return Math.round(NAME_ROOM + LETTER * Math.max(3, longest) + 8);
}

// Names of the axes, and in brackets what a reader should know of them, which is never cut off.
export interface Names {
  x: string | null;
  y: string;
  xNote?: string;
  yNote?: string;
}

// Returns which way a metric is better and whether its axis is logarithmic.
export function axisNote(study: Study, metric: string | null, scale: Scale): string {
  const direction = study.goal.objectives.find((objective) => objective.metric === metric)?.direction;
  const better = direction && (direction === "maximize" ? trans.__("higher is better") : trans.__("lower is better"));
  return [better, scale.isLog ? trans.__("log scale") : ""].filter(Boolean).join(", ");
}

// A metric to maximize has its best values close together at the top, where a logarithmic axis would squeeze them.
export function isMaximized(study: Study, metric: string | null): boolean {
  return study.goal.objectives.some((objective) => objective.metric === metric && objective.direction === "maximize");
}

function named(name: string, note: string | undefined, limit: number): string {
  return note ? `${shorten(name, Math.max(8, limit - note.length - 3))} (${note})` : shorten(name, limit);
}

// Appends grid, ticks and names; without a name the x axis has no labels, for a chart above another one.
export function axes(root: SVGSVGElement, box: Box, x: Scale, y: Scale, names: Names): void {
  const grid = svg("g.nbc-grid", { "aria-hidden": "true" });
  const words = svg("g.nbc-ticks", { "aria-hidden": "true" });
  for (const { value, label } of y.ticks) {
    const at = y(value);
    grid.append(svg("line", { x1: box.left, x2: box.right, y1: at, y2: at }));
    words.append(svg("text", { x: box.left - 6, y: at + 3.5, "text-anchor": "end" }, label));
  }
  const room = (box.right - box.left) / Math.max(1, x.ticks.length) / 6;
  for (const { value, label } of x.ticks) {
    const at = x(value);
    grid.append(svg("line", { x1: at, x2: at, y1: box.top, y2: box.bottom }));
    if (names.x !== null) {
      words.append(svg("text", { x: at, y: box.bottom + 15, "text-anchor": "middle" }, shorten(label, Math.max(4, room))));
    }
  }
  root.append(grid, words);
  if (names.x !== null) {
    root.append(
      svg(
        "text.nbc-axis",
        { x: (box.left + box.right) / 2, y: box.bottom + 33, "text-anchor": "middle" },
        named(names.x, names.xNote, Math.max(40, (box.right - box.left) / 7)),
      ),
    );
  }
  const middle = (box.top + box.bottom) / 2;
  const turned = { class: "nbc-axis", x: 0, y: 0, "text-anchor": "middle", transform: `translate(12 ${middle}) rotate(-90)` };
  root.append(svg("text", turned, named(names.y, names.yNote, Math.max(12, (box.bottom - box.top) / 6.4))));
}

// Replaces the picture in `place` and keeps the keyboard focus on it.
export function replaceChart(place: HTMLElement, root: SVGSVGElement): void {
  const focused = place.contains(document.activeElement) && document.activeElement?.tagName.toLowerCase() === "svg";
  place.replaceChildren(root);
  if (focused) {
    root.focus();
  }
}

export function showMessage(place: HTMLElement, sentence: string): void {
  place.replaceChildren(el("p.nbc-empty", {}, sentence));
}

export function linePath(points: readonly (readonly [number, number])[]): string {
  return points.map(([x, y], i) => `${i ? "L" : "M"}${round(x)} ${round(y)}`).join("");
}

export function stepPath(points: readonly (readonly [number, number])[]): string {
  return points.map(([x, y], i) => (i ? `H${round(x)}V${round(y)}` : `M${round(x)} ${round(y)}`)).join("");
}

function round(value: number): number {
  return Math.round(value * 10) / 10;
}
