// Every state has a colour and a shape: neither alone has to be told apart.

import { svg } from "./dom";
import type { State } from "./data";

export function shape(state: State, x: number, y: number, size: number): SVGElement {
  const common = { class: `nbc-mark nbc-${state}` };
  const r = size;
  switch (state) {
    case "complete":
      return svg("circle", { ...common, cx: x, cy: y, r });
    case "running":
      return svg("circle", { ...common, cx: x, cy: y, r: r * 0.9 });
    case "stopped":
      return svg("rect", { ...common, x: x - r * 0.9, y: y - r * 0.9, width: r * 1.8, height: r * 1.8 });
    case "infeasible":
      return svg("path", { ...common, d: `M${x} ${y - r * 1.15}L${x + r * 1.1} ${y + r * 0.8}H${x - r * 1.1}Z` });
    case "failed":
      return svg("path", { ...common, d: `M${x - r} ${y - r}L${x + r} ${y + r}M${x - r} ${y + r}L${x + r} ${y - r}` });
    case "interrupted":
      return svg("path", { ...common, d: `M${x} ${y - r * 1.2}L${x + r * 1.2} ${y}L${x} ${y + r * 1.2}L${x - r * 1.2} ${y}Z` });
  }
}

export function icon(state: State): SVGSVGElement {
  return svg("svg", { class: "nbc-icon", width: 12, height: 12, viewBox: "0 0 12 12", "aria-hidden": "true" }, shape(state, 6, 6, 4));
}
