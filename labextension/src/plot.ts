// A chart that zooms, with a tooltip: dragging the mouse, or + and -, shows a part of it; a double click, 0 or the
// button shows all of it again. Mouse, touch and arrow keys show what a mark is.

import { replaceChart, showMessage, type Box } from "./chart";
import { button, el, svg } from "./dom";
import { STATES, type Trial } from "./data";
import { shorten, metricsText, paramsText } from "./format";
import { zoomedScale, type Scale } from "./scales";
import type { Selection } from "./selection";
import { outline, shape, stateName } from "./states";
import { trans } from "./words";

export const keyHelp = (): string => trans.__("Arrow keys choose a trial; +, - and 0 zoom.");
// The distance within which a pointer finds a mark; a finger is wider.
const REACH = 10;
const TOUCH_REACH = 22;
// A shorter drag is a click.
const DRAG = 5;
const SIZE = 4.2;
// With more marks than this there is one element for each state instead of one for each trial.
const MANY = 1500;

// What a pointer finds: a position in pixels, the number that is chosen there, and what the tooltip says.
export interface Place {
  x: number;
  y: number;
  // Where a bar begins, which ends at `x`.
  from?: number;
  number: number;
  text: () => string;
}

export interface TrialPlace extends Place {
  trial: Trial;
}

export function trialPlace(trial: Trial, x: number, y: number, text: () => string = () => trialText(trial)): TrialPlace {
  return { trial, x, y, number: trial.number, text };
}

type Ends = [number, number];

interface Zoom {
  x: Ends | null;
  y: Ends | null;
}

export class Plot {
  readonly element: HTMLDivElement;
  readonly #tip = el("div.nbc-tip", { role: "tooltip", dir: "auto", hidden: true });
  readonly #reset = button(trans.__("Show all"), { class: "nbc-button nbc-unzoom", title: trans.__("Undo the zoom (or double click, or press 0)") }, () =>
    this.#setZoom(null),
  );
  #zoom: Zoom | null = null;
  #x: Scale | null = null;
  #y: Scale | null = null;
  #box: Box = { left: 0, right: 0, top: 0, bottom: 0 };
  #places: readonly Place[] = [];
  #tipped: number | null = null;
  #wasDragged = false;

  constructor(
    private readonly selection: Selection,
    private readonly redraw: () => void,
    more = "",
  ) {
    this.element = el("div", { class: `nbc-place nbc-plot ${more}` });
    // The picture is another one after a click that chose a trial.
    this.element.addEventListener("dblclick", () => this.#setZoom(null));
  }

  // Returns the scale of an axis, zoomed.
  zoomed(axis: "x" | "y", scale: Scale): Scale {
    const ends = this.#zoom?.[axis];
    return ends ? zoomedScale(scale, ends) : scale;
  }

  // Forgets the zoom, for other axes.
  unzoom(): void {
    this.#zoom = null;
    this.#tipped = null;
  }

  message(sentence: string): void {
    this.unzoom();
    showMessage(this.element, sentence);
  }

  // Returns where to draw: what lies outside of a zoomed chart is cut off.
  layer(root: SVGSVGElement, box: Box): SVGSVGElement {
    if (!this.#zoom) {
      return root;
    }
    const [width, height] = [box.right - box.left, box.bottom - box.top];
    const inner = svg("svg", { x: box.left, y: box.top, width, height, viewBox: `${box.left} ${box.top} ${width} ${height}` });
    root.append(inner);
    return inner;
  }

  // Shows a picture whose marks are at `places`; an axis that cannot be zoomed is null.
  show(root: SVGSVGElement, box: Box, x: Scale | null, y: Scale | null, places: readonly Place[]): void {
    [this.#box, this.#x, this.#y] = [box, x, y];
    this.#places = this.#zoom
      ? places.filter((place) => place.x >= box.left && (place.from ?? place.x) <= box.right && place.y >= box.top && place.y <= box.bottom)
      : places;
    root.setAttribute("tabindex", "0");
    root.addEventListener("pointermove", (event) => this.#follow(root, event));
    root.addEventListener("pointerleave", () => this.#hide());
    root.addEventListener("pointerdown", (event) => this.#press(root, event));
    root.addEventListener("click", (event) => this.#click(root, event));
    root.addEventListener("keydown", (event) => this.#key(event));
    root.addEventListener("focus", () => this.#tell(this.#chosen()));
    root.addEventListener("blur", () => this.#hide());
    // The button that has the focus stays where it is.
    const isOld = this.element.querySelector(":scope > .nbc-chart");
    if (isOld && this.element.contains(this.#tip)) {
      const hadFocus = document.activeElement === isOld;
      isOld.replaceWith(root);
      if (hadFocus) {
        root.focus();
      }
    } else {
      replaceChart(this.element, root);
      this.element.append(this.#tip, this.#reset);
    }
    this.#reset.hidden = !this.#zoom;
    this.#tell(this.#places.find((place) => place.number === this.#tipped));
  }

  #setZoom(zoom: Zoom | null): void {
    if (zoom || this.#zoom) {
      const hadFocus = document.activeElement === this.#reset;
      this.#zoom = zoom;
      this.redraw();
      if (hadFocus) {
        this.element.querySelector<SVGSVGElement>(".nbc-chart")?.focus();
      }
    }
  }

  #chosen(): Place | undefined {
    return this.#places.find((place) => place.number === this.selection.number);
  }

  #tell(place: Place | undefined): void {
    this.#tip.hidden = !place;
    this.#tipped = place?.number ?? null;
    if (place) {
      const chart = this.element.querySelector<SVGSVGElement>(":scope > .nbc-chart");
      const width = chart?.clientWidth ?? 0;
      const isRight = place.x > width / 2;
      this.#tip.textContent = place.text();
      this.#tip.style.left = isRight ? "auto" : `${place.x + 14}px`;
      this.#tip.style.right = isRight ? `${Math.max(0, this.element.clientWidth - place.x + 14)}px` : "auto";
      this.#tip.style.top = `${Math.max(0, place.y - 10)}px`;
    }
  }

  #hide(): void {
    this.#tell(undefined);
  }

  #near(root: SVGSVGElement, event: MouseEvent, reach: number): Place | undefined {
    const at = position(root, event);
    return nearest(this.#places, at.x, at.y, reach);
  }

  #follow(root: SVGSVGElement, event: PointerEvent): void {
    if (event.buttons === 0 && event.pointerType !== "touch") {
      this.#tell(this.#near(root, event, REACH));
    }
  }

  #click(root: SVGSVGElement, event: MouseEvent): void {
    if (this.#wasDragged) {
      this.#wasDragged = false;
      return;
    }
    const number = (event.target as Element | null)?.closest("[data-trial]")?.getAttribute("data-trial");
    const isTouch = (event as PointerEvent).pointerType === "touch";
    const place = number ? this.#places.find((known) => known.number === Number(number)) : this.#near(root, event, isTouch ? TOUCH_REACH : REACH);
    if (place) {
      this.#tell(place);
      this.selection.choose(place.number);
    }
  }

  // Draws the part that is dragged over, and shows it when the button is released. A finger scrolls the page.
  #press(root: SVGSVGElement, event: PointerEvent): void {
    this.#wasDragged = false;
    if (event.button !== 0 || event.pointerType === "touch" || !(this.#x ?? this.#y)) {
      return;
    }
    const from = position(root, event);
    const frame = svg("rect.nbc-brush", {});
    const part = (to: { x: number; y: number }) => {
      const { left, right, top, bottom } = this.#box;
      const [x, y] = [inside(from.x, to.x, left, right), inside(from.y, to.y, top, bottom)];
      return { x: this.#x ? x : ([left, right] as Ends), y: this.#y ? y : ([top, bottom] as Ends) };
    };
    const move = (moved: PointerEvent): void => {
      const to = position(root, moved);
      if (!this.#wasDragged && Math.hypot(to.x - from.x, to.y - from.y) < DRAG) {
        return;
      }
      if (!this.#wasDragged) {
        this.#wasDragged = true;
        this.#hide();
        root.append(frame);
      }
      const { x, y } = part(to);
      Object.entries({ x: x[0], y: y[0], width: x[1] - x[0], height: y[1] - y[0] }).forEach(([name, value]) => frame.setAttribute(name, String(value)));
    };
    const end = (ended: PointerEvent): void => {
      window.removeEventListener("pointermove", move);
      window.removeEventListener("pointerup", end);
      window.removeEventListener("pointercancel", end);
      frame.remove();
      if (this.#wasDragged && ended.type === "pointerup") {
        this.#zoomTo(part(position(root, ended)));
      }
    };
    window.addEventListener("pointermove", move);
    window.addEventListener("pointerup", end);
    window.addEventListener("pointercancel", end);
  }

  #zoomTo(part: { x: Ends; y: Ends }): void {
    const values = (scale: Scale | null, [a, b]: Ends): Ends | null => {
      const ends = scale ? ([scale.invert(a), scale.invert(b)].sort((low, high) => low - high) as Ends) : null;
      return ends && Number.isFinite(ends[0]) && Number.isFinite(ends[1]) && ends[0] < ends[1] ? ends : null;
    };
    const isWide = (ends: Ends) => ends[1] - ends[0] >= 2 * DRAG;
    const zoom = {
      x: isWide(part.x) ? values(this.#x, part.x) : (this.#zoom?.x ?? null),
      y: isWide(part.y) ? values(this.#y, part.y) : (this.#zoom?.y ?? null),
    };
    this.#setZoom(zoom.x || zoom.y ? zoom : null);
  }

  #key(event: KeyboardEvent): void {
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    const factor = { "+": 0.5, "=": 0.5, "-": 2 }[event.key];
    if (step && this.#places.length) {
      const order = [...new Set([...this.#places].sort((a, b) => a.x - b.x || a.y - b.y).map((place) => place.number))];
      const at = order.indexOf(this.selection.number ?? NaN);
      this.#tipped = order[at < 0 ? 0 : (at + step + order.length) % order.length] ?? null;
      this.selection.choose(this.#tipped);
      this.#tell(this.#chosen());
    } else if (factor) {
      this.#zoomBy(factor);
    } else if (event.key === "0") {
      this.#setZoom(null);
    } else if (event.key === "Escape") {
      this.#hide();
    }
    if (step || factor || event.key === "0") {
      event.preventDefault();
    }
  }

  // Zooms around the selected trial, or the middle.
  #zoomBy(factor: number): void {
    const { left, right, top, bottom } = this.#box;
    const at = this.#chosen() ?? { x: (left + right) / 2, y: (top + bottom) / 2 };
    const ends = (low: number, high: number, middle: number): Ends => [middle - (middle - low) * factor, middle + (high - middle) * factor];
    if (factor < 1 || this.#zoom) {
      this.#zoomTo({ x: ends(left, right, at.x), y: ends(top, bottom, at.y) });
    }
  }
}

// Draws trials as marks with the shape of their state; those outside of the limits are faded.
export function drawMarks(layer: SVGSVGElement, places: readonly TrialPlace[], selection: Selection): void {
  const [inner, outer] = [places.filter(({ trial }) => selection.has(trial)), places.filter(({ trial }) => !selection.has(trial))];
  for (const [group, more] of [
    [outer, " nbc-out"],
    [inner, ""],
  ] as const) {
    if (group.length > MANY) {
      // An element for each trial would be slow; a click still finds the nearest trial.
      for (const state of STATES) {
        const d = group.filter((place) => place.trial.state === state).map((place) => outline(state, place.x, place.y, 0.6 * SIZE));
        layer.append(svg("path", { class: `nbc-mark nbc-many nbc-${state}${more}`, d: d.join("") }));
      }
    } else {
      for (const { trial, x, y } of group) {
        const mark = shape(trial.state, x, y, SIZE);
        mark.setAttribute("class", `${mark.getAttribute("class")}${more}`);
        mark.setAttribute("data-trial", String(trial.number));
        layer.append(mark);
      }
    }
  }
  const chosen = places.find((place) => place.trial.number === selection.number);
  if (chosen) {
    layer.append(svg("circle.nbc-chosen", { cx: chosen.x, cy: chosen.y, r: 10 }));
  }
}

export function trialName({ number, state }: Trial): string {
  return trans.__("Trial %1, %2", number, stateName(state));
}

// Returns the values of a trial in a few lines.
export function trialText(trial: Trial): string {
  const lines = [trialName(trial), metricsText(trial, Object.keys(trial.metrics)), paramsText(trial)];
  return lines
    .filter(Boolean)
    .map((line) => shorten(line, 200))
    .join("\n");
}

// Returns the mark nearest to a position, if it is near enough.
export function nearest(places: readonly Place[], x: number, y: number, reach: number): Place | undefined {
  let [found, least]: [Place | undefined, number] = [undefined, reach];
  for (const place of places) {
    const distance = Math.hypot(Math.max((place.from ?? place.x) - x, 0, x - place.x), place.y - y);
    if (distance <= least) {
      [found, least] = [place, distance];
    }
  }
  return found;
}

// Returns where an event happened in the picture.
export function position(root: SVGSVGElement, event: MouseEvent): { x: number; y: number } {
  const box = root.getBoundingClientRect();
  return { x: event.clientX - box.left, y: event.clientY - box.top };
}

function inside(a: number, b: number, low: number, high: number): Ends {
  const cut = (value: number) => Math.min(high, Math.max(low, value));
  return [cut(Math.min(a, b)), cut(Math.max(a, b))];
}
