// Keys that are pressed in the panel act on the panel: a notebook would delete its cell on "d d" and fold on an arrow.

// What a select, a slider, a button or a table may act on whatever else is held; other shortcuts stay the front end's.
const ACTING = ["ArrowUp", "ArrowDown", "ArrowLeft", "ArrowRight", "Home", "End", "PageUp", "PageDown", "Enter", " "];
// Lumino looks for this on the element that has the focus, and then for no shortcut.
const SUPPRESS = "data-lm-suppress-shortcuts";

export function isOwn(event: KeyboardEvent): boolean {
  return (!event.ctrlKey && !event.metaKey && !event.altKey) || ACTING.includes(event.key);
}

// Keeps an element's own keys from the page around it. Returns what ends that.
export function keepKeys(element: HTMLElement): () => void {
  // JupyterLab listens at the document as events bubble, Notebook as they come down; only the window is before that.
  // The mark lasts for one key, since it would keep shortcuts such as "save" away, too.
  const mark = (event: KeyboardEvent): void => {
    const { target } = event;
    if (target instanceof Element && element.contains(target)) {
      target.toggleAttribute(SUPPRESS, isOwn(event));
    }
  };
  const keep = (event: KeyboardEvent): void => {
    if (isOwn(event)) {
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
