// A study as a tab: the study view, which looks again while the search runs.

import { el } from "./dom";
import type { Study } from "./data";
import type { Translation } from "./words";
import { RequestFailed, type Line, type Source, type StudyServer } from "./server";
import type { Settings } from "./settings";
import { refusal, StudyView } from "./view";

// A study that does not run is looked at so many times more rarely.
const ENDED_FACTOR = 5;
let made = 0;

export class StudyTab {
  readonly element = el("div.nbc-tabpage", {});
  readonly #asker = `tab ${++made}`;
  readonly #chooser = el("div.nbc-tab-chooser", { hidden: true });
  readonly #place = el("div");
  #view: StudyView | null = null;
  #timer: ReturnType<typeof setTimeout> | undefined;
  #isShown = true;
  #isDisposed = false;
  #study: Study | null = null;

  constructor(
    private readonly server: StudyServer,
    private source: Source,
    private readonly settings: Settings,
    private readonly trans: Translation,
  ) {
    this.element.append(this.#chooser, this.#place);
    void this.#start();
  }

  // A tab in the background asks for nothing.
  setShown(isShown: boolean): void {
    const wasShown = this.#isShown;
    this.#isShown = isShown;
    if (isShown && !wasShown) {
      void this.#look();
    }
  }

  dispose(): void {
    this.#isDisposed = true;
    clearTimeout(this.#timer);
    this.server.forget(this.#asker);
    this.#view?.dispose();
  }

  async #start(): Promise<void> {
    if (this.source.study === null) {
      try {
        const { studies } = await this.server.list(this.source.path);
        this.#offer(studies);
        const last = studies.at(-1);
        this.source = { ...this.source, study: last?.name ?? null };
      } catch {
        // `look` says why.
      }
    }
    await this.#look();
  }

  #offer(studies: Line[]): void {
    if (studies.length < 2) {
      return;
    }
    const select = el("select.nbc-select", { "aria-label": this.trans.__("Study of this file") });
    studies.forEach((line, i) => select.append(el("option", { value: i, selected: i === studies.length - 1 }, line.label)));
    select.addEventListener("change", () => {
      const line = studies[Number(select.value)];
      if (line) {
        this.source = { ...this.source, study: line.name };
        this.#view?.dispose();
        this.#view = null;
        this.#study = null;
        this.server.forget(this.#asker);
        void this.#look();
      }
    });
    this.#chooser.hidden = false;
    this.#chooser.replaceChildren(el("label", {}, `${this.trans.__("Study")} `, select));
  }

  async #look(): Promise<void> {
    clearTimeout(this.#timer);
    const { source } = this;
    try {
      const reading = await this.server.study(source, this.#asker);
      if (this.#isDisposed || source !== this.source) {
        return;
      }
      if (reading && "refusal" in reading) {
        this.#refuse(reading.refusal);
      } else if (reading) {
        this.#draw(reading.study);
      }
    } catch (error) {
      if (this.#isDisposed) {
        return;
      }
      const text = error instanceof RequestFailed ? error.message : this.trans.__("The Jupyter server does not answer.");
      if (this.#view) {
        this.element.dataset["problem"] = text;
      } else {
        this.#refuse(text);
      }
    }
    const factor = this.#study?.state === "running" ? 1 : ENDED_FACTOR;
    if (this.#isShown && !this.#isDisposed) {
      this.#timer = setTimeout(() => void this.#look(), this.settings.values.refresh * factor * 1000);
    }
  }

  #draw(study: Study): void {
    if (!this.#view) {
      this.#view = new StudyView();
      this.#place.replaceChildren(this.#view.element);
    }
    this.#study = study;
    this.#view.update(study);
  }

  #refuse(sentence: string): void {
    this.#view?.dispose();
    this.#view = null;
    this.#place.replaceChildren(refusal(sentence, null, null));
  }
}

// The name of a source for a tab before its study is read.
export function shortName(source: Source): string {
  return source.study ?? source.path.split("/").at(-1) ?? source.path;
}
