// Maps over two parameters, side by side: the predicted metric, the acquisition, and the probability of meeting every
// constraint without failing.

import { axes, canvas, LETTER, linePath, MARGIN, type Box } from "./chart";
import type { Parameter, Scalar, Study, Trial } from "./data";
import { svg } from "./dom";
import { shorten, formatValue } from "./format";
import { bandScale, extent, linearScale, logScale, type Scale } from "./scales";
import { completePoint, fromUnit, gridOf, toUnit, type Point } from "./space";
import type { Surrogate } from "./surrogate";
import { trans } from "./words";

const HEIGHT = 270;
const CELLS = 21;
// Pixels for the title and the colour scale above a map.
const HEAD = 40;
const GAP = 18;
// With at most this many values every one has a label below the map.
const MAX_MARKS = 8;
// From dark to light in even steps, so that it can be read in black and white and by colour-blind readers.
const COLOURS = [
  [0, 34, 78],
  [53, 69, 108],
  [102, 105, 112],
  [148, 142, 119],
  [200, 184, 102],
  [254, 232, 56],
] as const;

interface Axis {
  parameter: Parameter;
  values: Scalar[];
}

// The content of one map: a number for each cell, by rows from the bottom.
interface Field {
  title: string;
  cells: number[][];
  isBare: boolean;
}

export interface Maps {
  across: Axis;
  up: Axis;
  fields: Field[];
  // The values in the cell with the largest acquisition, or null.
  most: { across: Scalar; up: Scalar } | null;
}

export function makeMaps(study: Study, surrogate: Surrogate, through: Point, names: readonly [string, string], metric: string): Maps {
  const [across, up] = names.map((name): Axis => {
    const parameter = study.parameters.find((known) => known.name === name)!;
    return { parameter, values: gridOf(parameter, CELLS).map((u) => fromUnit(parameter, u)) };
  }) as [Axis, Axis];
  const points = up.values.map((y) => across.values.map((x) => completePoint(study.parameters, { ...through, [names[0]]: x, [names[1]]: y })));
  const fields: Field[] = [
    { title: trans.__("predicted %1", metric), cells: points.map((row) => row.map((point) => surrogate.mean(metric, point))), isBare: false },
  ];
  let most: Maps["most"] = null;
  if (surrogate.hasAcquisition) {
    const cells = points.map((row) => row.map((point) => surrogate.acquisition(point)));
    fields.push({ title: trans.__("acquisition"), cells, isBare: true });
    const largest = Math.max(...cells.flat());
    const row = cells.findIndex((cellsOfRow) => cellsOfRow.includes(largest));
    most = row < 0 ? null : { across: across.values[cells[row]!.indexOf(largest)] ?? null, up: up.values[row] ?? null };
  }
  if (surrogate.feasibility(points[0]?.[0] ?? {}) !== null) {
    const cells = points.map((row) => row.map((point) => surrogate.feasibility(point) ?? 1));
    fields.push({ title: trans.__("probability of success"), cells, isBare: false });
  }
  return { across, up, fields, most };
}

export function drawMaps(place: HTMLElement, study: Study, maps: Maps, through: Trial | null): SVGSVGElement {
  const [a, b] = [maps.across.parameter.name, maps.up.parameter.name];
  const { root, width } = canvas(place, HEIGHT, shorten(trans.__("Predicted and acquisition over %1 and %2, as maps", a, b), 300));
  const left = 24 + LETTER * Math.max(4, ...axisScale(maps.up, [0, HEIGHT]).ticks.map(({ label }) => Math.min(label.length, 9)));
  const room = (width - left - MARGIN.right - GAP * (maps.fields.length - 1)) / maps.fields.length;
  maps.fields.forEach((field, i) => {
    const start = left + i * (room + GAP);
    const box = { left: start, right: start + room, top: HEAD, bottom: HEIGHT - MARGIN.bottom };
    const [x, y] = [axisScale(maps.across, [box.left, box.right]), axisScale(maps.up, [box.bottom, box.top])];
    axes(root, box, x, i ? Object.assign((value: number) => y(value), { ...y, ticks: [] }) : y, { x: a, y: i ? "" : b });
    drawCells(root, box, field);
    drawScale(root, box, field);
    drawMarks(root, box, study, maps, through);
  });
  return root;
}

function drawCells(root: SVGSVGElement, box: Box, field: Field): void {
  const [low, high] = domainOf(field);
  const [nx, ny] = [field.cells[0]?.length ?? 1, field.cells.length];
  const [w, h] = [(box.right - box.left) / nx, (box.bottom - box.top) / ny];
  field.cells.forEach((row, j) => {
    row.forEach((value, i) => {
      const fill = colour(high > low ? (value - low) / (high - low) : 0.5);
      root.append(svg("rect", { x: box.left + i * w, y: box.bottom - (j + 1) * h, width: w + 0.5, height: h + 0.5, fill, "shape-rendering": "crispEdges" }));
    });
  });
}

// A logarithm far below the others would give all others the same colour.
function domainOf(field: Field): [number, number] {
  const sorted = field.cells
    .flat()
    .filter(Number.isFinite)
    .sort((a, b) => a - b);
  const low = field.isBare ? sorted[Math.floor(sorted.length * 0.2)] : sorted[0];
  return [low ?? 0, sorted.at(-1) ?? 1];
}

function drawScale(root: SVGSVGElement, box: Box, field: Field): void {
  const [low, high] = domainOf(field).map((end) => (field.isBare ? "" : formatValue(Number(end.toPrecision(3))))) as [string, string];
  root.append(svg("text.nbc-axis", { x: box.left, y: 12 }, shorten(field.title, Math.max(10, (box.right - box.left) / 7))));
  const from = box.left + (field.isBare ? LETTER * 5 : LETTER * low.length + 5);
  const to = Math.max(from + 30, box.right - (field.isBare ? LETTER * 5 : LETTER * high.length + 5));
  const n = 24;
  for (let i = 0; i < n; i++) {
    const w = (to - from) / n;
    root.append(svg("rect", { x: from + i * w, y: 20, width: w + 0.5, height: 9, fill: colour(i / (n - 1)), "shape-rendering": "crispEdges" }));
  }
  root.append(
    svg("text", { x: from - 4, y: 28, "text-anchor": "end" }, field.isBare ? "low" : low),
    svg("text", { x: to + 4, y: 28 }, field.isBare ? "high" : high),
  );
}

function drawMarks(root: SVGSVGElement, box: Box, study: Study, maps: Maps, through: Trial | null): void {
  const at = (point: Point): [number, number] | null => {
    const [x, y] = [positionOn(maps.across, point, [box.left, box.right]), positionOn(maps.up, point, [box.bottom, box.top])];
    return x === null || y === null ? null : [x, y];
  };
  const mark = (point: Point, path: (x: number, y: number) => string, title: string, kind: string): void => {
    const found = at(point);
    if (found) {
      const d = path(...found);
      root.append(svg("path.nbc-mark-edge", { d }), svg("path", { class: kind, d }, svg("title", {}, title)));
    }
  };
  for (const trial of study.trials.slice(-400)) {
    const found = trial.state === "running" ? null : at(trial.params);
    if (found) {
      root.append(svg("circle.nbc-sample", { cx: found[0], cy: found[1], r: 2.2 }));
    }
  }
  if (maps.most) {
    const point = { [maps.across.parameter.name]: maps.most.across, [maps.up.parameter.name]: maps.most.up };
    mark(
      point,
      (x, y) =>
        `${linePath([
          [x, y - 7],
          [x + 7, y],
          [x, y + 7],
          [x - 7, y],
        ])}Z`,
      trans.__("Largest acquisition"),
      "nbc-mark-most",
    );
  }
  if (through) {
    mark(through.params, (x, y) => `M${x - 6} ${y}a6 6 0 1 0 12 0a6 6 0 1 0 -12 0`, trans.__("Trial %1", through.number), "nbc-mark-through");
  }
  for (const trial of study.trials.filter((known) => known.state === "running")) {
    mark(
      trial.params,
      (x, y) => `M${x - 6} ${y - 6}L${x + 6} ${y + 6}M${x - 6} ${y + 6}L${x + 6} ${y - 6}`,
      trans.__("Trial %1 runs here", trial.number),
      "nbc-mark-now",
    );
  }
}

// Returns the position of a point along an axis of a map; cells are centred on the values.
function positionOn({ parameter, values }: Axis, point: Point, [from, to]: readonly [number, number]): number | null {
  const value = point[parameter.name];
  if (value === undefined) {
    return null;
  }
  const cell = (to - from) / values.length;
  return from + cell / 2 + toUnit(parameter, value) * (to - from - cell);
}

function axisScale({ parameter, values }: Axis, range: [number, number]): Scale {
  const numbers = values.filter((value): value is number => typeof value === "number");
  const domain = extent(numbers);
  const cell = (range[1] - range[0]) / values.length;
  if (parameter.kind === "choice" || values.length <= MAX_MARKS || !domain) {
    return bandScale(
      values.map((value) => shorten(formatValue(value), 9)),
      range,
    );
  }
  const inner: [number, number] = [range[0] + cell / 2, range[1] - cell / 2];
  return parameter.log ? logScale(domain, inner, { count: 4 }) : linearScale(domain, inner, { padded: false, count: 4 });
}

function colour(share: number): string {
  const place = Math.min(1, Math.max(0, Number.isFinite(share) ? share : 0)) * (COLOURS.length - 1);
  const i = Math.min(COLOURS.length - 2, Math.floor(place));
  const [from, to] = [COLOURS[i]!, COLOURS[i + 1]!];
  return `rgb(${from.map((start, k) => Math.round(start + (place - i) * ((to[k] ?? start) - start))).join(" ")})`;
}
