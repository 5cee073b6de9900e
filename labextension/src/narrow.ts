// Buttons that narrow the search to a part of the space, from the value of a slider: at least, at most, only, not.

import type { Parameter, Scalar, Study } from "./data";
import { button, el, userText } from "./dom";
import { shorten, limitText, formatValue } from "./format";
import { optionsOf, type Point } from "./space";
import { around, HERE, trans } from "./words";

type Limits = Record<string, Scalar[]>;

export class Narrow {
  readonly element = el("div.nbc-narrow", { role: "group", "aria-label": trans.__("Narrow the search") });
  #drawn = "";

  constructor(private readonly ask: (limits: Limits) => void) {}

  // `parameter`: the one whose slider was moved last.
  draw(study: Study, parameter: Parameter | undefined, point: Point): void {
    const value = parameter && point[parameter.name];
    const limits = study.narrowed ?? {};
    const key = JSON.stringify([parameter?.name, value, limits]);
    if (key === this.#drawn) {
      return;
    }
    this.#drawn = key;
    const focus = document.activeElement?.getAttribute("data-focus");
    const hadFocus = this.element.contains(document.activeElement);
    const chips = Object.entries(limits).map(([name, values]) => this.#chip(limits, name, values));
    const row = parameter && value !== undefined ? this.#choices(limits, parameter, value) : [];
    this.element.replaceChildren(el("div.nbc-tools", {}, ...row), el("div.nbc-tools", {}, ...chips));
    if (hadFocus && focus) {
      this.element.querySelector<HTMLElement>(`[data-focus="${focus}"]`)?.focus();
    }
  }

  #choices(limits: Limits, parameter: Parameter, value: Scalar): Node[] {
    const { name } = parameter;
    const made = (word: string, values: Scalar[]): HTMLButtonElement => {
      const label = `${word} ${shorten(formatValue(value), 20)}`;
      const more = { class: "nbc-button", "data-focus": word, "aria-label": trans.__("Search with %1 %2", shorten(name, 40), label), disabled: !values.length };
      return button(label, more, () => this.ask(without(parameter, { ...limits, [name]: values })));
    };
    const [low, high] = [limits[name]?.[0] ?? parameter.low ?? null, limits[name]?.at(-1) ?? parameter.high ?? null];
    const left = limits[name] ?? optionsOf(parameter);
    const buttons =
      parameter.kind === "choice"
        ? [
            made(trans.__("only"), [value]),
            made(
              trans.__("not"),
              left.filter((option) => option !== value),
            ),
          ]
        : [
            made(trans.__("at least"), [value, larger(high, value)]),
            made(trans.__("at most"), [smaller(low, value), value]),
            made(trans.__("only"), [value, value]),
          ];
    return [el("span.nbc-choice", {}, ...around(trans.__("From now on, search with %1", HERE), userText(shorten(name, 40)))), ...buttons];
  }

  #chip(limits: Limits, name: string, values: Scalar[]): HTMLButtonElement {
    const { [name]: _, ...rest } = limits;
    const text = limitText(name, values);
    return button(`${text} ✕`, { class: "nbc-button nbc-chip", "aria-label": trans.__("Search all of %1 again, not only %2", shorten(name, 40), text) }, () =>
      this.ask(rest),
    );
  }
}

// Removes a limit that spans the whole parameter.
function without(parameter: Parameter, limits: Limits): Limits {
  const { [parameter.name]: values, ...rest } = limits;
  const isAll = parameter.kind === "choice" ? values?.length === parameter.options?.length : values?.[0] === parameter.low && values?.[1] === parameter.high;
  return isAll ? rest : limits;
}

function larger(a: Scalar, b: Scalar): Scalar {
  return Number(a) > Number(b) ? a : b;
}

function smaller(a: Scalar, b: Scalar): Scalar {
  return Number(a) < Number(b) ? a : b;
}
