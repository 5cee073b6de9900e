// A part of the view: an element that can draw a study.

import type { Study } from "./data";

export interface Part {
  readonly element: HTMLElement;
  draw(study: Study): void;
}
