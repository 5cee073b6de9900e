// The form "Insert a search". The kernel says what the notebook holds, and writes the cell.

import { el, userText } from "./dom";
import { isObject } from "./guard";
import type { Kernel } from "./lab";
import { trans, type Translation } from "./words";
import type { Values } from "./settings";

interface Offered {
  name: string;
  kind: string;
  kilobytes?: number;
}

export interface Choices {
  models: Offered[];
  data: Offered[];
  metrics: Offered[];
  tries: string[];
}

export interface WrittenCell {
  cell: string;
  before: string;
}

const MODULE = "__import__('nbcompress.magics.insert_form', fromlist=['form_cell'])";
const OTHER = "\u0000other";
const NONE = "\u0000none";

// Evaluates an expression in the kernel and returns the JSON that it answers with.
async function ask(kernel: Kernel, expression: string): Promise<unknown> {
  const content = { code: "", silent: true, store_history: false, user_expressions: { answer: expression }, allow_stdin: false };
  const reply = await kernel.requestExecute(content).done;
  const expressions = reply.content["user_expressions"];
  const answer = isObject(expressions) ? expressions["answer"] : null;
  if (!isObject(answer)) {
    throw new Error(trans.__("The kernel does not answer as a Python kernel does."));
  }
  if (answer["status"] !== "ok") {
    throw new Error(`${String(answer["ename"])}: ${String(answer["evalue"])}`);
  }
  return isObject(answer["data"]) ? answer["data"]["application/json"] : null;
}

export async function choicesOf(kernel: Kernel): Promise<Choices> {
  const data = await ask(kernel, `${MODULE}.form_choices()`);
  if (!isObject(data) || !Array.isArray(data["models"])) {
    throw new Error(trans.__("The kernel's answer holds no models."));
  }
  return data as unknown as Choices;
}

export async function cellOf(kernel: Kernel, request: object): Promise<WrittenCell | { problem: string }> {
  const data = await ask(kernel, `${MODULE}.form_cell(${pythonText(JSON.stringify(request))})`);
  if (isObject(data) && typeof data["problem"] === "string") {
    return { problem: data["problem"] };
  }
  if (isObject(data) && typeof data["cell"] === "string") {
    return { cell: data["cell"], before: typeof data["before"] === "string" ? data["before"] : "" };
  }
  throw new Error(trans.__("The kernel's answer holds no cell."));
}

// A text as a literal of Python: every escape of JSON is one of Python's.
export function pythonText(text: string): string {
  return JSON.stringify(text).replace(/[\u007f-\uffff]/g, (letter) => `\\u${letter.charCodeAt(0).toString(16).padStart(4, "0")}`);
}

// The fields of the form.
export class SearchForm {
  readonly element = el("form.nbc-form", {});
  readonly #model: Field;
  readonly #data: Field;
  readonly #metric: Field;
  readonly #example: Field;
  readonly #boxes: HTMLInputElement[];
  readonly #budget = el("input", { type: "number", class: "nbc-form-number", min: 0, step: "any" });
  readonly #unit = el("select.nbc-form-unit", {});
  readonly #trials = el("input", { type: "number", class: "nbc-form-number", min: 1, step: 1 });
  readonly #problem = el("p.nbc-form-problem", { role: "alert" });
  #isBudgetOwn = false;

  constructor(
    private readonly choices: Choices,
    private readonly trans: Translation,
    private readonly defaults: Values,
  ) {
    const t = trans;
    const words = this.#words();
    this.#model = new Field(t.__("Model"), choices.models, t, null, () => this.#suggest());
    this.#data = new Field(t.__("Training data"), choices.data, t, t.__("none: the model is not trained"));
    this.#metric = new Field(t.__("Metric"), choices.metrics, t, t.__("accuracy on the training data"));
    this.#example = new Field(t.__("Example input"), [], t, t.__("from the data"));
    this.#boxes = choices.tries.map((word) => el("input", { type: "checkbox", value: word, checked: true }));
    this.#unit.append(...["kB", "MB", "ms"].map((name) => el("option", { value: name }, name)));
    this.#unit.addEventListener("change", () => this.#suggest());
    this.#budget.addEventListener("input", () => (this.#isBudgetOwn = true));
    this.#trials.value = String(defaults.trials);
    const tries = el(
      "fieldset",
      { class: "nbc-form-tries" },
      el("legend", {}, t.__("What to try")),
      ...this.#boxes.map((box) => el("label", {}, box, " ", words[box.value] ?? box.value)),
    );
    const budget = el(
      "div",
      { class: "nbc-form-row" },
      el("label", {}, el("span", {}, t.__("Budget")), this.#budget),
      el("label.nbc-form-second", {}, el("span.nbc-hidden", {}, t.__("Unit of the budget")), this.#unit),
      el("label.nbc-form-second", {}, el("span", {}, t.__("Trials")), this.#trials),
    );
    this.element.append(this.#model.element, this.#data.element, this.#metric.element, this.#example.element, tries, budget, this.#problem);
    this.element.addEventListener("submit", (event) => event.preventDefault());
    this.#suggest();
    if (!choices.models.length) {
      this.show(t.__("The kernel holds no model yet: run the cells that make one."));
    }
  }

  // What the kernel is asked to write.
  request(): object {
    const tries = this.#boxes.filter((box) => box.checked).map((box) => box.value);
    return {
      model: this.#model.value ?? "model",
      data: this.#data.value,
      evaluate: this.#metric.value,
      example: this.#example.value,
      budget: [`${this.#budget.value}${this.#unit.value}`],
      trials: Number(this.#trials.value),
      // With every box checked, the kernel takes what suits the model.
      tries: tries.length === this.#boxes.length ? null : tries,
    };
  }

  show(problem: string): void {
    this.#problem.textContent = problem;
  }

  #words(): Record<string, string> {
    const t = this.trans;
    return {
      blocks: t.__("remove whole blocks"),
      channels: t.__("remove channels and heads"),
      rank: t.__("low rank"),
      weights: t.__("set weights to zero"),
      bits: t.__("fewer bits"),
      codebooks: t.__("codebooks (shared weights)"),
      training: t.__("train afterwards"),
    };
  }

  // Offers a share of the model's size, until the user has typed a budget.
  #suggest(): void {
    if (this.#isBudgetOwn) {
      return;
    }
    const chosen = this.choices.models.find((model) => model.name === this.#model.value);
    const kilobytes = (chosen?.kilobytes ?? 0) * this.defaults.budgetShare;
    const value = this.#unit.value === "ms" ? 1 : this.#unit.value === "MB" ? kilobytes / 1000 : kilobytes;
    this.#budget.value = value > 0 ? String(Number(value.toPrecision(2))) : "";
  }
}

// A variable of the notebook, or an expression that the user types.
class Field {
  readonly element: HTMLElement;
  readonly #select = el("select.nbc-form-select", {});
  readonly #typed: HTMLInputElement;

  constructor(label: string, offered: readonly Offered[], trans: Translation, none: string | null, changed: () => void = () => undefined) {
    this.#typed = el("input", {
      type: "text",
      class: "nbc-form-typed",
      hidden: true,
      "aria-label": trans.__("%1: an expression of Python", label),
      spellcheck: "false",
    });
    this.#select.append(...offered.map(({ name, kind }) => el("option", { value: name }, `${name} (${kind})`)));
    if (none !== null) {
      this.#select.append(el("option", { value: NONE }, none));
    }
    this.#select.append(el("option", { value: OTHER }, trans.__("an expression ...")));
    this.#select.addEventListener("change", () => {
      this.#typed.hidden = this.#select.value !== OTHER;
      changed();
    });
    this.#typed.hidden = this.#select.value !== OTHER;
    this.element = el("div.nbc-form-row", {}, el("label", {}, el("span", {}, userText(label)), this.#select), this.#typed);
  }

  get value(): string | null {
    const value = this.#select.value === OTHER ? this.#typed.value.trim() : this.#select.value;
    return value === NONE || value === "" ? null : value;
  }
}
