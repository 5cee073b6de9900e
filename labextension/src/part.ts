// What every part of the view is: an element that can draw a study.

import type { Study } from "./data";

export interface Part {
  readonly element: HTMLElement;
  draw(study: Study): void;
}
