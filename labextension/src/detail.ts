// The selected trial: its values and why it was proposed, when and where it ran, what it kept and what it printed.

import { el, userText } from "./dom";
import type { Study, Trial } from "./data";
import { formatDuration, metricsText, paramsText } from "./format";
import { trialName } from "./plot";
import { icon } from "./states";
import { around, HERE, trans } from "./words";

export class Detail {
  readonly element = el("div.nbc-detail", { hidden: true });
  readonly #values = el("p", { "aria-live": "polite" });
  readonly #facts = el("p.nbc-reason", {});
  // It stays open from trial to trial.
  readonly #printed = el("details", {}, el("summary", {}, trans.__("What it printed")));
  readonly #text = el("pre", { dir: "auto" });

  constructor() {
    this.#printed.append(this.#text);
    this.element.append(this.#values, this.#facts, this.#printed);
  }

  draw(study: Study, number: number | null): void {
    const trial = study.trials.find((known) => known.number === number);
    this.element.hidden = !trial;
    if (!trial) {
      return;
    }
    const values = [metricsText(trial, study.metrics), paramsText(trial)].filter(Boolean).join("; ");
    const why = trial.reason ? [". ", ...around(trans.__("Why this point: %1", HERE), userText(trial.reason))] : [];
    this.#values.replaceChildren(icon(trial.state), el("strong", {}, ` ${trialName(trial)}: `), userText(values), ...why);
    const facts = factsOf(study, trial);
    this.#facts.hidden = !facts.length;
    this.#facts.replaceChildren(...facts.flatMap((fact, i) => (i ? [" ", ...fact] : fact)));
    this.#printed.hidden = !trial.printed;
    if (this.#text.textContent !== (trial.printed ?? "")) {
      this.#text.textContent = trial.printed ?? "";
    }
  }
}

// Returns sentences on where the trial ran and what it kept.
function factsOf(study: Study, trial: Trial): (Node | string)[][] {
  const seconds = formatDuration(trial.seconds);
  const facts: (Node | string)[][] = [];
  if (trial.worker) {
    const sentence = trial.seconds === null ? trans.__("It runs in %1.", HERE) : trans.__("It ran for %1 in %2.", seconds, HERE);
    facts.push(around(sentence, userText(trial.worker)));
  }
  const kept = study.kept?.[String(trial.number)] ?? [];
  if (kept.length) {
    const code = kept.map((name) => `study.all_trials[${trial.number}].kept[${JSON.stringify(name)}]`).join(", ");
    facts.push(around(trans.__("It keeps %1.", HERE), el("code", { dir: "ltr" }, code)));
  }
  return facts;
}
