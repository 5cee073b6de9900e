// A document for tests of what is drawn.

import { Window } from "happy-dom";

let opened: Window | null = null;

export function openPage(): void {
  void opened?.happyDOM.close();
  // What a listener throws fails the test.
  const page = new Window({ url: "http://localhost/", settings: { disableErrorCapturing: true } });
  opened = page;
  const names = ["document", "window", "Node", "Element", "HTMLElement", "SVGElement", "Event", "MouseEvent", "KeyboardEvent"];
  for (const name of names) {
    Object.defineProperty(globalThis, name, { value: (page as unknown as Record<string, unknown>)[name], configurable: true });
  }
  Object.assign(globalThis, { requestAnimationFrame: (run: () => void) => (run(), 0), cancelAnimationFrame: () => undefined });
}

export function click(element: Element | null | undefined): void {
  element?.dispatchEvent(new MouseEvent("click", { bubbles: true }));
}

export function press(element: Element | null | undefined, key: string): void {
  element?.dispatchEvent(new KeyboardEvent("keydown", { key, bubbles: true }));
}

export function byText(root: Element, selector: string, text: string): HTMLElement | undefined {
  return [...root.querySelectorAll<HTMLElement>(selector)].find((element) => element.textContent?.trim() === text);
}
