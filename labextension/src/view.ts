// The study view: header, trade-off, history, acquisition, importance, trials and record around one selection.

import { Acquisition } from "./acquisition";
import { el, user } from "./dom";
import type { Study } from "./data";
import { metricsText, paramsText } from "./format";
import { Header, type Controls } from "./header";
import { History } from "./history";
import { Importance } from "./importance";
import { keepKeys } from "./keys";
import type { Part } from "./part";
import { Record_ } from "./record";
import { Selection } from "./selection";
import { icon } from "./states";
import { STYLES } from "./styles";
import { Tabs } from "./tabs";
import { Tradeoff } from "./tradeoff";
import { Trials } from "./trials";
import { WhatIf } from "./whatif";

// What a person should know before the page is loaded again.
const RELOADING = [
  "If this page is loaded again, the panel of a search with --background comes back at once, any other when its cell ends; until then ",
  " in another notebook follows it.",
] as const;

export class StudyView {
  readonly element = el("article", { class: "nbc", dir: "ltr", "aria-label": "Study" });
  private readonly selection = new Selection();
  private readonly header = new Header();
  private readonly trials = new Trials(this.selection);
  private readonly whatIf = new WhatIf(this.selection);
  private readonly detail = el("p", { class: "nbc-detail", "aria-live": "polite" });
  private readonly foot = el("p", { class: "nbc-caption nbc-foot", hidden: true });
  private readonly parts: Part[];
  private readonly cleanups: (() => void)[] = [];
  private study: Study | null = null;
  private isVisible = true;
  private isStale = false;
  private isPressed = false;
  private isLive = false;
  private frame = 0;

  constructor() {
    const history = new History(this.selection);
    const tabs = new Tabs("Surrogate and history", [
      { title: "History", part: history },
      { title: "Acquisition", part: new Acquisition(this.selection) },
      { title: "What if", part: this.whatIf },
      { title: "Importance", part: new Importance() },
    ]);
    const tradeoff = new Tradeoff(this.selection);
    const record = new Record_();
    this.parts = [this.header, tradeoff, tabs, this.trials, record];
    const charts = el("div", { class: "nbc-charts" }, tradeoff.element, tabs.element);
    this.element.append(el("style", {}, STYLES), this.header.element, charts, this.detail, this.trials.element, record.element, this.foot);
    this.cleanups.push(
      this.selection.listen(() => {
        this.redraw();
        this.trials.reveal();
      }),
    );
    this.cleanups.push(keepKeys(this.element));
    this.watch();
  }

  // Draws a study, at the next frame and only while the view is on screen.
  update(study: Study): void {
    const before = this.study;
    this.study = study;
    if (before && this.isVisible && !this.isStale && isSameButTime(before, study)) {
      this.header.draw(study);
    } else {
      this.redraw();
    }
  }

  steer(controls: Controls | null): void {
    this.header.steer(controls);
    this.whatIf.steer(controls);
    this.isLive = controls !== null;
  }

  dispose(): void {
    cancelAnimationFrame(this.frame);
    this.cleanups.forEach((one) => one());
    this.element.remove();
  }

  private redraw(): void {
    if (!this.isVisible || this.isPressed) {
      this.isStale = true;
      return;
    }
    const study = this.study;
    if (study) {
      this.isStale = false;
      this.parts.forEach((one) => one.draw(study));
      this.drawDetail(study);
      this.foot.hidden = !this.isLive || study.state !== "running";
      this.foot.replaceChildren(RELOADING[0], el("code", {}, "%bo_study ", user(study.name)), RELOADING[1]);
    }
  }

  private drawDetail(study: Study): void {
    const trial = study.trials.find((one) => one.number === this.selection.number);
    this.detail.hidden = !trial;
    if (trial) {
      const values = [metricsText(trial, study.metrics), paramsText(trial)].filter(Boolean).join("; ");
      const why = trial.reason ? [". Why this point: ", user(trial.reason)] : [];
      this.detail.replaceChildren(icon(trial.state), el("strong", {}, ` Trial ${trial.number}, ${trial.state}: `), user(values), ...why);
    }
  }

  private watch(): void {
    // A click needs its element from press to release, so nothing is drawn in between.
    const press = (): void => void (this.isPressed = true);
    const release = (): void => {
      this.isPressed = false;
      setTimeout(() => this.isStale && this.redraw());
    };
    this.element.addEventListener("pointerdown", press);
    for (const name of ["pointerup", "pointercancel", "dragend", "blur"]) {
      window.addEventListener(name, release);
      this.cleanups.push(() => window.removeEventListener(name, release));
    }
    if (typeof IntersectionObserver !== "undefined") {
      const seen = new IntersectionObserver((entries) => {
        this.isVisible = entries.at(-1)?.isIntersecting ?? true;
        if (this.isVisible && this.isStale) {
          this.redraw();
        }
      });
      seen.observe(this.element);
      this.cleanups.push(() => seen.disconnect());
    }
    if (typeof ResizeObserver !== "undefined") {
      let width = 0;
      const sized = new ResizeObserver(() => {
        if (Math.abs(this.element.clientWidth - width) > 1) {
          width = this.element.clientWidth;
          cancelAnimationFrame(this.frame);
          this.frame = requestAnimationFrame(() => this.redraw());
        }
      });
      sized.observe(this.element);
      this.cleanups.push(() => sized.disconnect());
    }
  }
}

// Says whether nothing but the clock has moved on.
function isSameButTime(before: Study, after: Study): boolean {
  const keys = Object.keys(after) as (keyof Study)[];
  return keys.every((key) => key === "elapsed" || key === "left" || before[key] === after[key]);
}

// Shows why data could not be drawn, and what its notebook holds besides.
export function refusal(sentence: string, text: string | null, image: string | null): HTMLElement {
  const parts: Node[] = [el("style", {}, STYLES), el("p", { class: "nbc-refusal", role: "alert" }, sentence)];
  if (image && /^[A-Za-z0-9+/=\s]+$/.test(image)) {
    parts.push(el("img", { src: `data:image/png;base64,${image.replace(/\s/g, "")}`, alt: "Picture of the study" }));
  }
  if (text) {
    parts.push(el("pre", { dir: "auto" }, text));
  }
  return el("article", { class: "nbc", dir: "ltr" }, ...parts);
}
