// After a reload of the page, the output of a cell that runs in the foreground is empty until the cell ends, since the
// kernel answers nothing. Until then the server reads the study, and its view stands above the notebook.

import type { Widget } from "@lumino/widgets";
import { button, el, userText } from "./dom";
import type { LabModules, NotebookPanel } from "./lab";
import type { Translation } from "./words";
import type { Line, StudyServer } from "./server";
import type { Settings } from "./settings";
import { StudyTab } from "./study_tab";

// A suggestion can take seconds, and no trial runs meanwhile. After so many looks without one the search has ended.
const MOST_LOOKS_WITHOUT_TRIAL = 20;

export class RunningPanel {
  #widget: Widget | null = null;
  #tab: StudyTab | null = null;
  #shown: string | null = null;
  #stop: HTMLButtonElement | null = null;
  readonly #words = el("p", { role: "status" });
  #looks = 0;
  #looksWithoutTrial = 0;
  #timer: ReturnType<typeof setTimeout> | undefined;

  constructor(
    private readonly panel: NotebookPanel,
    private readonly server: StudyServer,
    private readonly settings: Settings,
    private readonly trans: Translation,
    private readonly modules: LabModules,
  ) {
    panel.disposed.connect(() => this.#close());
    void panel.sessionContext.ready.then(() => this.#start());
  }

  // Only a kernel that was busy before this page was there runs a cell whose panel the page has missed.
  #start(): void {
    if (!this.panel.isDisposed && this.#kernel?.status !== "idle") {
      void this.#look();
    }
  }

  get #kernel() {
    return this.panel.sessionContext.session?.kernel ?? null;
  }

  // Whether the live panel has its buttons again.
  get #isBack(): boolean {
    return this.panel.node.querySelector(".jp-OutputArea .nbc-buttons button") !== null;
  }

  async #look(): Promise<void> {
    const kernel = this.#kernel;
    if (this.panel.isDisposed || !kernel) {
      return;
    }
    if (this.#isBack) {
      this.#close();
      return;
    }
    if (kernel.status === "idle" && this.#shown !== null) {
      this.#end();
      return;
    }
    let studies: Line[] = [];
    try {
      studies = (await this.server.list()).studies;
    } catch {
      // A server without our part, where the panel comes back when the cell ends, or one that did not answer in time.
    }
    const line = studies.find(({ state, kernels }) => state === "running" && kernels.includes(kernel.id));
    this.#looksWithoutTrial = line ? 0 : this.#looksWithoutTrial + 1;
    if (this.#shown !== null && this.#looksWithoutTrial > MOST_LOOKS_WITHOUT_TRIAL) {
      this.#end();
      return;
    }
    // Just after a reload the state of a kernel is not known. One that answers nothing is still unknown at the second
    // look, and one that searches in the background is idle by then.
    const isBusy = kernel.status !== "idle" && this.#looks++ > 0;
    if (line && isBusy && !this.#isBack && this.#shown !== keyOf(line)) {
      this.#show(line);
    }
    if (kernel.status === "idle") {
      this.#close();
      return;
    }
    this.#timer = setTimeout(() => void this.#look(), this.settings.values.refresh * 1000);
  }

  #show(line: Line): void {
    this.#close();
    this.#shown = keyOf(line);
    this.#tab = new StudyTab(this.server, { path: line.path, kernel: line.kernel, study: line.name }, this.settings, this.trans);
    this.#stop = button(
      this.trans.__("Stop"),
      { class: "nbc-button nbc-stop", title: this.trans.__("Interrupt the kernel, which ends the search") },
      () => void this.#kernel?.interrupt(),
    );
    const hide = button(this.trans.__("Hide"), { class: "nbc-button" }, () => this.#close());
    this.#words.replaceChildren(this.trans.__("This notebook has run a search since before the page was loaded: "), userText(line.label));
    const widget = new this.modules.widgets.Widget();
    widget.addClass("nbc-running");
    widget.node.append(el("div", { class: "nbc-running-head nbc" }, this.#words, this.#stop, hide), this.#tab.element);
    this.#widget = widget;
    this.panel.contentHeader.addWidget(widget);
  }

  // The view stays with the last state, since the cell's output may not show it.
  #end(): void {
    this.#stop?.remove();
    this.#words.textContent = this.trans.__("The search that ran before the page was loaded has ended.");
  }

  #close(): void {
    clearTimeout(this.#timer);
    this.#tab?.dispose();
    this.#tab = null;
    if (this.#widget && !this.#widget.isDisposed) {
      this.#widget.dispose();
    }
    this.#widget = null;
    this.#shown = null;
  }
}

function keyOf(line: Line): string {
  return `${line.path} ${line.name}`;
}
