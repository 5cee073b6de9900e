// What a search is after, how far it is, and the buttons that steer it.

import { button, el, user } from "./dom";
import { STATES, trialsIn, type Study } from "./data";
import { cut, duration, goalText, limitsText, metricsText, paramsText } from "./format";
import type { Part } from "./part";
import { icon } from "./states";

// What the live panel can ask of Python. A control that cannot work here is not offered.
export interface Controls {
  stop: (() => void) | null;
  pause: (() => void) | null;
  skip: (() => void) | null;
  // Queues a point, its values by the places of the parameters.
  run: ((values: (number | null)[]) => void) | null;
  // Searches within limits from now on, by the places of the parameters.
  narrow: ((limits: (number[] | null)[]) => void) | null;
  // What Python said to the latest point or limits.
  answer: string;
  isPaused: boolean;
  note: string;
}

const COUNTED = ["complete", "stopped", "infeasible", "failed"] as const;

export class Header implements Part {
  readonly element = el("header", { class: "nbc-header" });
  private readonly title = el("h2", { class: "nbc-title" });
  private readonly goal = el("p", { class: "nbc-goal" });
  private readonly buttons = el("div", { class: "nbc-buttons", role: "group", "aria-label": "Controls of the search" });
  private readonly bar = el("div", { class: "nbc-progress", role: "progressbar", "aria-label": "Trials done" }, el("div"));
  private readonly counts = el("p", { class: "nbc-counts" });
  private readonly best = el("p", { class: "nbc-best" });
  private readonly notes = el("div", { class: "nbc-notes", role: "status" });
  private controls: Controls | null = null;
  private study: Study | null = null;

  constructor() {
    const words = el("div", { class: "nbc-words" }, this.title, this.goal);
    this.element.append(el("div", { class: "nbc-top" }, words, this.buttons), this.bar, this.counts, this.best, this.notes);
  }

  steer(controls: Controls | null): void {
    this.controls = controls;
    this.drawButtons();
    if (this.study) {
      this.draw(this.study);
    }
  }

  draw(study: Study): void {
    const wasRunning = this.study?.state;
    this.study = study;
    if (wasRunning !== study.state) {
      this.drawButtons();
    }
    this.title.replaceChildren("Study ", user(study.name));
    this.goal.textContent = goalText(study.goal);
    this.drawProgress(study);
    this.drawCounts(study);
    const best = study.trials.find((one) => one.number === study.best);
    this.best.replaceChildren(
      el("strong", {}, best ? `Best: trial ${best.number}` : "No feasible trial yet"),
      best ? user(`  ${metricsText(best, study.metrics)}  (${paramsText(best)})`) : "",
    );
    const limits = study.state === "running" ? limitsText(study.narrowed) : "";
    const notes = [limits && `Searches within ${limits} only, as asked under What if.`, study.ending, ...study.warnings.map((one) => `⚠ ${one}`), study.cut, this.controls?.note || null];
    const texts = notes.filter((one): one is string => Boolean(one));
    // Rewriting an unchanged sentence would make a screen reader say it again.
    if (this.notes.dataset["texts"] !== JSON.stringify(texts)) {
      this.notes.dataset["texts"] = JSON.stringify(texts);
      this.notes.replaceChildren(...texts.map((one) => el("p", {}, user(one))));
    }
  }

  private drawProgress(study: Study): void {
    const done = doneOf(study);
    const all = study.budget.trials;
    this.bar.hidden = all === null || study.state === "ended";
    if (all !== null) {
      const inner = this.bar.firstElementChild as HTMLElement;
      inner.style.width = `${Math.min(100, (100 * done) / Math.max(1, all))}%`;
      for (const [name, value] of Object.entries({ valuemin: 0, valuemax: all, valuenow: Math.min(done, all) })) {
        this.bar.setAttribute(`aria-${name}`, String(value));
      }
    }
  }

  private drawCounts(study: Study): void {
    const done = doneOf(study);
    const all = study.budget.trials;
    const parts: (Node | string)[] = [el("span", { class: "nbc-done" }, all === null ? `${done} trials` : `${done} of ${all} trials`)];
    for (const state of STATES) {
      const n = trialsIn(study, state);
      if (n) {
        parts.push(el("span", { class: "nbc-count" }, icon(state), ` ${n} ${state}`));
      }
    }
    const total = STATES.reduce((sum, state) => sum + trialsIn(study, state), 0);
    if (study.trials.length < total) {
      parts.push(el("span", {}, `${study.trials.length} shown`));
    }
    if (study.elapsed !== null) {
      parts.push(el("span", {}, duration(study.elapsed)));
    }
    if (study.state === "running" && study.left !== null) {
      parts.push(el("span", {}, `about ${duration(study.left)} left`));
    }
    this.counts.replaceChildren(...parts);
  }

  private drawButtons(): void {
    const controls = this.controls;
    const isRunning = this.study?.state === "running";
    this.buttons.hidden = !controls || !isRunning;
    if (!controls || !isRunning) {
      this.buttons.replaceChildren();
      return;
    }
    const made = [
      controls.stop && button("Stop", { class: "nbc-button nbc-stop", title: "End the search; the running trial is abandoned" }, controls.stop),
      controls.pause &&
        button("Pause", { class: "nbc-button", "aria-pressed": String(controls.isPaused), title: "Let the running trial end, then wait; press again to go on" }, controls.pause),
      controls.skip && button("Skip", { class: "nbc-button", title: "End the running trial as stopped and go on" }, controls.skip),
    ].filter((one): one is HTMLButtonElement => Boolean(one));
    const focused = cut(document.activeElement?.textContent ?? "", 20);
    const hadFocus = this.buttons.contains(document.activeElement);
    this.buttons.replaceChildren(...made);
    if (hadFocus) {
      made.find((one) => one.textContent === focused)?.focus();
    }
  }
}

// How many trials count against the budget.
function doneOf(study: Study): number {
  return COUNTED.reduce((sum, state) => sum + trialsIn(study, state), 0);
}
