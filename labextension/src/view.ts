// The study view: header, trade-off, tabs, trials and record around one selection.

import { Acquisition } from "./acquisition";
import { LearningCurves } from "./curves";
import { Detail } from "./detail";
import { Distribution } from "./distribution";
import { el, userText } from "./dom";
import type { Study } from "./data";
import { Header, type Controls } from "./header";
import { History } from "./history";
import { Importance } from "./importance";
import { keepKeys } from "./keys";
import { Parallel } from "./parallel";
import type { Part } from "./part";
import { RecordView } from "./record";
import { Selection, type Limit } from "./selection";
import { Slices } from "./slices";
import { STYLES } from "./styles";
import { FOLDED, Tabs } from "./tabs";
import { Timeline } from "./timeline";
import { Tradeoff } from "./tradeoff";
import { Trials } from "./trials";
import { UnseenData } from "./unseen";
import { WhatIf } from "./whatif";
import { around, HERE, trans } from "./words";

// What the user has chosen in the live panel of a study. The finished panel is another view, of another script, which
// takes it over; the two share nothing but the page.
interface Choice {
  tab: number;
  view: number;
  trial: number | null;
  limits: ReadonlyMap<string, Limit>;
}

function choices(): Map<string, Choice> {
  const page = window as { nbcompressChoices?: Map<string, Choice> };
  return (page.nbcompressChoices ??= new Map());
}

export class StudyView {
  readonly element = el("article.nbc", { dir: "ltr", "aria-label": trans.__("Study") });
  readonly #selection = new Selection();
  readonly #header = new Header();
  readonly #trials = new Trials(this.#selection);
  readonly #whatIf = new WhatIf(this.#selection);
  readonly #detail = new Detail();
  readonly #foot = el("p", { class: "nbc-caption nbc-foot", hidden: true });
  readonly #parts: Part[];
  readonly #tabs: Tabs;
  readonly #views: Tabs;
  readonly #cleanups: (() => void)[] = [];
  #study: Study | null = null;
  #isVisible = true;
  #isStale = false;
  #isPressed = false;
  #isLive = false;
  #frame = 0;
  #width = 0;

  // `isCompact`: whether the views of all trials are folded until one is chosen, as between the cells of a notebook.
  constructor(isCompact = false) {
    const history = new History(this.#selection);
    const titled = [
      { title: trans.__("History"), part: history },
      { title: trans.__("Acquisition"), part: new Acquisition(this.#selection) },
      { title: trans.__("What if"), part: this.#whatIf },
      { title: trans.__("Importance"), part: new Importance() },
    ];
    const tabs = new Tabs(trans.__("Surrogate and history"), titled, () => this.#keepChoice());
    this.#tabs = tabs;
    const wide = [
      { title: trans.__("Parallel coordinates"), part: new Parallel(this.#selection) },
      { title: trans.__("Slices"), part: new Slices(this.#selection) },
      { title: trans.__("Learning curves"), part: new LearningCurves(this.#selection) },
      { title: trans.__("Distribution"), part: new Distribution(this.#selection) },
      { title: trans.__("Timeline"), part: new Timeline(this.#selection) },
    ];
    this.#views = new Tabs(trans.__("Views of all trials"), wide, () => this.#keepChoice(), true);
    if (isCompact) {
      this.#views.choose(FOLDED);
    }
    this.#views.element.classList.add("nbc-wide");
    const tradeoff = new Tradeoff(this.#selection);
    const record = new RecordView();
    const unseen = new UnseenData();
    this.#parts = [this.#header, tradeoff, tabs, this.#views, unseen, this.#trials, record];
    const charts = el("div.nbc-charts", {}, tradeoff.element, tabs.element);
    const style = el("style", {}, STYLES);
    this.element.append(
      style,
      this.#header.element,
      charts,
      this.#detail.element,
      this.#views.element,
      unseen.element,
      this.#trials.element,
      record.element,
      this.#foot,
    );
    this.#cleanups.push(
      this.#selection.listen(() => {
        this.#redraw();
        this.#trials.reveal();
        this.#keepChoice();
      }),
    );
    this.#cleanups.push(keepKeys(this.element));
    this.#watch();
  }

  // Draws a study at once if the view is on screen, else when it comes on screen.
  update(study: Study): void {
    const before = this.#study;
    this.#study = study;
    if (!before) {
      this.#takeChoice(study);
    }
    if (before && this.#isVisible && !this.#isStale && isSameButTime(before, study)) {
      this.#header.draw(study);
    } else {
      this.#redraw();
    }
  }

  setControls(controls: Controls | null): void {
    this.#header.setControls(controls);
    this.#whatIf.setControls(controls);
    this.#isLive = controls !== null;
  }

  dispose(): void {
    cancelAnimationFrame(this.#frame);
    this.#cleanups.forEach((cleanup) => cleanup());
    this.element.remove();
  }

  #keepChoice(): void {
    if (this.#study?.state === "running") {
      choices().set(this.#study.name, { tab: this.#tabs.index, view: this.#views.index, trial: this.#selection.number, limits: this.#selection.limits });
    }
  }

  #takeChoice(study: Study): void {
    const choice = choices().get(study.name);
    if (choice && study.state === "ended") {
      choices().delete(study.name);
      this.#tabs.choose(choice.tab);
      this.#views.choose(choice.view);
      this.#selection.setLimits(choice.limits);
      this.#selection.choose(choice.trial);
    }
  }

  #redraw(): void {
    if (!this.#isVisible || this.#isPressed) {
      this.#isStale = true;
      return;
    }
    const study = this.#study;
    if (study) {
      this.#isStale = false;
      this.#width = this.element.clientWidth;
      this.#parts.forEach((part) => part.draw(study));
      this.#detail.draw(study, this.#selection.number);
      this.#foot.hidden = !this.#isLive || study.state !== "running";
      // What the user should know before reloading the page.
      const advice = trans.__(
        "After a reload of this page, the panel of a search with --background comes back at once. Any other search is shown above the notebook if the Jupyter server has its part of nbcompress. Otherwise %1 in another notebook follows the search.",
        HERE,
      );
      this.#foot.replaceChildren(...around(advice, el("code", {}, "%bo_study ", userText(study.name))));
    }
  }

  #watch(): void {
    // A click needs the same element at press and release, so nothing is drawn in between.
    const press = (): void => void (this.#isPressed = true);
    const release = (): void => {
      this.#isPressed = false;
      setTimeout(() => this.#isStale && this.#redraw());
    };
    this.element.addEventListener("pointerdown", press);
    for (const name of ["pointerup", "pointercancel", "dragend", "blur"]) {
      window.addEventListener(name, release);
      this.#cleanups.push(() => window.removeEventListener(name, release));
    }
    if (typeof IntersectionObserver !== "undefined") {
      const seen = new IntersectionObserver((entries) => {
        this.#isVisible = entries.at(-1)?.isIntersecting ?? true;
        if (this.#isVisible && this.#isStale) {
          this.#redraw();
        }
      });
      seen.observe(this.element);
      this.#cleanups.push(() => seen.disconnect());
    }
    if (typeof ResizeObserver !== "undefined") {
      const sized = new ResizeObserver(() => {
        // It also fires once for the width in which the view was drawn.
        if (Math.abs(this.element.clientWidth - this.#width) > 1) {
          cancelAnimationFrame(this.#frame);
          this.#frame = requestAnimationFrame(() => this.#redraw());
        }
      });
      sized.observe(this.element);
      this.#cleanups.push(() => sized.disconnect());
    }
  }
}

// Returns whether only the time has changed.
function isSameButTime(before: Study, after: Study): boolean {
  const keys = Object.keys(after) as (keyof Study)[];
  return keys.every((key) => key === "elapsed" || key === "left" || before[key] === after[key]);
}

// Shows why data could not be drawn, with the text and the picture of the notebook.
export function refusal(sentence: string, text: string | null, image: string | null): HTMLElement {
  const parts: Node[] = [el("style", {}, STYLES), el("p.nbc-refusal", { role: "alert" }, sentence)];
  if (image && /^[A-Za-z0-9+/=\s]+$/.test(image)) {
    parts.push(el("img", { src: `data:image/png;base64,${image.replace(/\s/g, "")}`, alt: trans.__("Picture of the study") }));
  }
  if (text) {
    parts.push(el("pre", { dir: "auto" }, text));
  }
  return el("article.nbc", { dir: "ltr" }, ...parts);
}
