// Keys that are pressed in the panel act on the panel only: a notebook would delete its cell on "d d".

// Keys that a select, slider, button or table uses also with modifiers; other shortcuts are left to the front end.
const ACTING = ["ArrowUp", "ArrowDown", "ArrowLeft", "ArrowRight", "Home", "End", "PageUp", "PageDown", "Enter", " "];
// Lumino handles no shortcut if the focused element has this attribute.
const SUPPRESS = "data-lm-suppress-shortcuts";

export function isPanelKey(event: KeyboardEvent): boolean {
  return (!event.ctrlKey && !event.metaKey && !event.altKey) || ACTING.includes(event.key);
}

// Keeps the keys of an element from the page around it. Returns a function that ends this.
export function keepKeys(element: HTMLElement): () => void {
  // JupyterLab listens on the document in the bubbling phase, Notebook in the capturing phase; only the window is before.
  // The attribute is set for one key at a time, since it would suppress shortcuts such as "save" too.
  const mark = (event: KeyboardEvent): void => {
    const { target } = event;
    if (target instanceof Element && element.contains(target)) {
      target.toggleAttribute(SUPPRESS, isPanelKey(event));
    }
  };
  const keep = (event: KeyboardEvent): void => {
    if (isPanelKey(event)) {
      event.stopPropagation();
    }
    if (event.target instanceof Element) {
      event.target.removeAttribute(SUPPRESS);
    }
  };
  window.addEventListener("keydown", mark, true);
  element.addEventListener("keydown", keep);
  return () => {
    window.removeEventListener("keydown", mark, true);
    element.removeEventListener("keydown", keep);
  };
}
