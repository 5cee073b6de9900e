// Colour and shape of each state, so that states can be told apart without colours.

import { svg } from "./dom";
import type { State } from "./data";
import { trans } from "./words";

// Returns the outline of a state's shape as a path.
export function outline(state: State, x: number, y: number, size: number): string {
  const r = state === "running" ? size * 0.9 : size;
  const at = (dx: number, dy: number): string => `${round(x + dx * r)} ${round(y + dy * r)}`;
  switch (state) {
    case "complete":
    case "running":
      return `M${at(-1, 0)}A${round(r)} ${round(r)} 0 1 0 ${at(1, 0)}A${round(r)} ${round(r)} 0 1 0 ${at(-1, 0)}Z`;
    case "stopped":
      return `M${at(-0.9, -0.9)}L${at(0.9, -0.9)}L${at(0.9, 0.9)}L${at(-0.9, 0.9)}Z`;
    case "infeasible":
      return `M${at(0, -1.15)}L${at(1.1, 0.8)}L${at(-1.1, 0.8)}Z`;
    case "failed":
      return `M${at(-1, -1)}L${at(1, 1)}M${at(-1, 1)}L${at(1, -1)}`;
    case "interrupted":
      return `M${at(0, -1.2)}L${at(1.2, 0)}L${at(0, 1.2)}L${at(-1.2, 0)}Z`;
  }
}

export function stateName(state: State): string {
  switch (state) {
    case "complete":
      return trans.__("complete");
    case "running":
      return trans.__("running");
    case "stopped":
      return trans.__("stopped");
    case "infeasible":
      return trans.__("infeasible");
    case "failed":
      return trans.__("failed");
    case "interrupted":
      return trans.__("interrupted");
  }
}

export function shape(state: State, x: number, y: number, size: number): SVGPathElement {
  return svg("path", { class: `nbc-mark nbc-${state}`, d: outline(state, x, y, size) });
}

function round(value: number): number {
  return Math.round(value * 100) / 100;
}

export function icon(state: State): SVGSVGElement {
  return svg("svg.nbc-icon", { width: 12, height: 12, viewBox: "0 0 12 12", "aria-hidden": "true" }, shape(state, 6, 6, 4));
}
