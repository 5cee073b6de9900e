// Creates elements. Texts are set as text, never as HTML, so that a user's string stays a string.

type Attributes = Record<string, string | number | boolean | null>;
type Child = Node | string | null;

const SVG = "http://www.w3.org/2000/svg";

// The name of an element, or with the name of its class after a dot.
type Name<K extends string> = K | `${K}.${string}`;

function fill<T extends Element>(element: T, kind: string | undefined, attributes: Attributes, children: readonly Child[]): T {
  if (kind) {
    element.setAttribute("class", kind);
  }
  for (const [name, value] of Object.entries(attributes)) {
    if (value !== null && value !== false) {
      element.setAttribute(name, value === true ? "" : String(value));
    }
  }
  element.append(...children.filter((child): child is Node | string => child !== null));
  return element;
}

export function el<K extends keyof HTMLElementTagNameMap>(name: Name<K>, attributes: Attributes = {}, ...children: Child[]): HTMLElementTagNameMap[K] {
  const [tag, kind] = name.split(".") as [K, string?];
  return fill(document.createElement(tag), kind, attributes, children);
}

export function svg<K extends keyof SVGElementTagNameMap>(name: Name<K>, attributes: Attributes = {}, ...children: Child[]): SVGElementTagNameMap[K] {
  const [tag, kind] = name.split(".") as [K, string?];
  return fill(document.createElementNS(SVG, tag), kind, attributes, children);
}

// A user's string, isolated from the text direction around it.
export function userText(text: string): HTMLElement {
  return el("bdi", {}, text);
}

export function button(label: string, attributes: Attributes, press: (event: MouseEvent) => void): HTMLButtonElement {
  const made = el("button", { type: "button", ...attributes }, label);
  made.addEventListener("click", press);
  return made;
}

// A <select> whose options are the user's own names.
export function choice(label: string, options: readonly string[], chosen: string, change: (value: string, index: number) => void): HTMLLabelElement {
  const select = el("select.nbc-select", {});
  options.forEach((text, index) => select.append(el("option", { value: index, selected: text === chosen }, text)));
  select.addEventListener("change", () => change(options[Number(select.value)] ?? chosen, Number(select.value)));
  return el("label.nbc-choice", {}, userText(label), " ", select);
}

// Saves a text as a file of the reader, made in the page.
export function download(name: string, text: string, type: string): void {
  const address = URL.createObjectURL(new Blob([text], { type }));
  el("a", { href: address, download: name }).click();
  setTimeout(() => URL.revokeObjectURL(address), 60_000);
}
