// The header: goal, progress, best trial, and the buttons of a running search.

import { button, el, userText } from "./dom";
import { STATES, countTrials, type Study } from "./data";
import { formatDuration, goalText, limitsText, metricsText, paramsText } from "./format";
import type { Part } from "./part";
import { icon, stateName } from "./states";
import { around, HERE, trans } from "./words";

// The commands of a live panel; null where a command does not work here, so that no button is shown for it.
export interface Controls {
  stop: (() => void) | null;
  pause: (() => void) | null;
  skip: (() => void) | null;
  // Queues a point: a value for each parameter in order, an option by its index.
  run: ((values: (number | null)[]) => void) | null;
  // Sets the limits from now on: an entry for each parameter in order, options by their indices.
  narrow: ((limits: (number[] | null)[]) => void) | null;
  // Python's answer to the latest point or limits.
  answer: string;
  isPaused: boolean;
  note: string;
}

const COUNTED_STATES = ["complete", "stopped", "infeasible", "failed"] as const;

export class Header implements Part {
  readonly element = el("header.nbc-header", {});
  readonly #title = el("h2.nbc-title", {});
  readonly #goal = el("p.nbc-goal", {});
  readonly #buttons = el("div.nbc-buttons", { role: "group", "aria-label": trans.__("Controls of the search") });
  readonly #bar = el("div.nbc-progress", { role: "progressbar", "aria-label": trans.__("Trials done") }, el("div"));
  readonly #counts = el("p.nbc-counts", {});
  readonly #best = el("p.nbc-best", {});
  readonly #notes = el("div.nbc-notes", { role: "status" });
  #controls: Controls | null = null;
  #study: Study | null = null;

  constructor() {
    const words = el("div.nbc-words", {}, this.#title, this.#goal);
    this.element.append(el("div.nbc-top", {}, words, this.#buttons), this.#bar, this.#counts, this.#best, this.#notes);
  }

  setControls(controls: Controls | null): void {
    this.#controls = controls;
    this.#drawButtons();
    if (this.#study) {
      this.draw(this.#study);
    }
  }

  draw(study: Study): void {
    const wasRunning = this.#study?.state;
    this.#study = study;
    if (wasRunning !== study.state) {
      this.#drawButtons();
    }
    this.#title.replaceChildren(...around(trans.__("Study %1", HERE), userText(study.name)));
    this.#goal.textContent = goalText(study.goal);
    this.#drawProgress(study);
    this.#drawCounts(study);
    const best = study.trials.find((trial) => trial.number === study.best);
    const [first, second] = study.goal.objectives;
    const title = !best
      ? [trans.__("No feasible trial yet")]
      : first && second
        ? around(trans.__("Best in %1: trial %2", HERE, best.number), userText(first.metric))
        : [trans.__("Best: trial %1", best.number)];
    this.#best.replaceChildren(el("strong", {}, ...title), best ? userText(`  ${metricsText(best, study.metrics)}  (${paramsText(best)})`) : "");
    const limits = study.state === "running" ? limitsText(study.narrowed) : "";
    const notes = [
      limits && trans.__("The search is narrowed to %1 (see What if).", limits),
      study.ending,
      ...study.warnings.map((warning) => `⚠ ${warning}`),
      study.cut,
      this.#controls?.note || null,
    ];
    const texts = notes.filter((text): text is string => Boolean(text));
    // If an unchanged sentence were replaced, a screen reader would read it again.
    if (this.#notes.dataset["texts"] !== JSON.stringify(texts)) {
      this.#notes.dataset["texts"] = JSON.stringify(texts);
      this.#notes.replaceChildren(...texts.map((text) => el("p", {}, userText(text))));
    }
  }

  #drawProgress(study: Study): void {
    const done = countDone(study);
    const all = study.budget.trials;
    this.#bar.hidden = all === null || study.state === "ended";
    if (all !== null) {
      const inner = this.#bar.firstElementChild as HTMLElement;
      inner.style.width = `${Math.min(100, (100 * done) / Math.max(1, all))}%`;
      for (const [name, value] of Object.entries({ valuemin: 0, valuemax: all, valuenow: Math.min(done, all) })) {
        this.#bar.setAttribute(`aria-${name}`, String(value));
      }
    }
  }

  #drawCounts(study: Study): void {
    const done = countDone(study);
    const all = study.budget.trials;
    const parts: (Node | string)[] = [
      el("span.nbc-done", {}, all === null ? trans._n("%1 trial", "%1 trials", done, done) : trans.__("%1 of %2 trials", done, all)),
    ];
    for (const state of STATES) {
      const n = countTrials(study, state);
      if (n) {
        parts.push(el("span.nbc-count", {}, icon(state), ` ${n} ${stateName(state)}`));
      }
    }
    const total = STATES.reduce((sum, state) => sum + countTrials(study, state), 0);
    if (study.trials.length < total) {
      parts.push(el("span", {}, trans.__("%1 shown", study.trials.length)));
    }
    if (study.elapsed !== null) {
      parts.push(el("span", {}, formatDuration(study.elapsed)));
    }
    if (study.state === "running" && study.left !== null) {
      parts.push(el("span", {}, trans.__("about %1 left", formatDuration(study.left))));
    }
    this.#counts.replaceChildren(...parts);
  }

  #drawButtons(): void {
    const controls = this.#controls;
    const isRunning = this.#study?.state === "running";
    this.#buttons.hidden = !controls || !isRunning;
    if (!controls || !isRunning) {
      this.#buttons.replaceChildren();
      return;
    }
    const made = [
      controls.stop &&
        button(trans.__("Stop"), { class: "nbc-button nbc-stop", title: trans.__("End the search; the running trial is abandoned") }, controls.stop),
      controls.pause &&
        (controls.isPaused
          ? button(trans.__("Resume"), { class: "nbc-button", title: trans.__("Go on with the search") }, controls.pause)
          : button(trans.__("Pause"), { class: "nbc-button", title: trans.__("Let the running trial end, then wait") }, controls.pause)),
      controls.skip && button(trans.__("Skip"), { class: "nbc-button", title: trans.__("End the running trial as stopped and continue") }, controls.skip),
    ].filter((made): made is HTMLButtonElement => Boolean(made));
    // Pause and Resume have the same place.
    const focused = [...this.#buttons.children].indexOf(document.activeElement as Element);
    this.#buttons.replaceChildren(...made);
    made[focused]?.focus();
  }
}

// Returns how many trials count against the budget.
function countDone(study: Study): number {
  return COUNTED_STATES.reduce((sum, state) => sum + countTrials(study, state), 0);
}
