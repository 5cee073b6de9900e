// The buttons of a running search. Each goes to Python on a comm of its own, which a kernel can answer while a cell
// runs; Stop is sent as an interrupt as well if no answer comes, but only while that very run is still going.

import type { Controls } from "./header";
import type { Ack, Control, PanelState, Press } from "./messages";

const ANSWER_WITHIN = 300;
// A front end may need a moment to open its second way into the kernel, and what is sent before goes the busy way.
const HELLO_AGAIN = [250, 500, 1000, 2000, 4000, 8000];
const PATIENT = 3;
// How long a sentence stays that is true for a moment only.
const PASSING = 2000;
const NAMES: Record<Control, string> = { stop: "Stop", pause: "Pause", resume: "Pause", skip: "Skip", next: "Run this next", narrow: "the limits" };

// Tells one page from the next, such as after a reload.
const PAGE = Math.random().toString(36).slice(2);

interface Signal<T> {
  connect(slot: (sender: unknown, value: T) => void): unknown;
  disconnect(slot: (sender: unknown, value: T) => void): unknown;
}

// What a front end offers; `kernel` only exists in JupyterLab and Notebook.
export interface Manager {
  get_model(id: string): Promise<{ send(content: unknown): void; comm_live?: boolean }>;
  kernel?: { id?: string; interrupt?: () => Promise<void>; statusChanged?: Signal<string>; disposed?: Signal<void> } | null;
}

export class Steering {
  private hears = false;
  private isPaused = false;
  private note = "";
  private answer = "";
  private passing: ReturnType<typeof setTimeout> | undefined;
  private waiting = new Map<Control | "hello", ReturnType<typeof setTimeout>>();

  // `interrupts` says whether an interrupt of the kernel ends the search, since one in the background never sees it;
  // `isThere` says whether the search is known to be in that kernel now.
  constructor(
    private readonly manager: Manager,
    private readonly controlsId: string,
    private readonly interrupts: boolean,
    private readonly isThere: () => boolean,
    private readonly state: () => PanelState | null,
    private readonly changed: (controls: Controls) => void,
  ) {}

  start(): void {
    this.offer();
    this.hello(0);
  }

  // Offers what works now.
  offer(): void {
    this.changed(this.offered());
  }

  // Takes Python's answer to a press.
  heard(ack: Ack): void {
    if (ack.run !== this.state()?.run) {
      return;
    }
    clearTimeout(this.waiting.get(ack.control));
    this.waiting.delete(ack.control);
    this.hears = true;
    this.isPaused = ack.paused;
    this.answer = ack.note ?? "";
    const standing = ack.paused ? "Paused: the running trial ends, then the search waits." : "";
    this.note = ack.control === "stop" ? "Stopping." : ack.control === "skip" ? "Skipped: that trial ends as stopped." : standing;
    this.offer();
    clearTimeout(this.passing);
    if (ack.control === "skip") {
      this.passing = setTimeout(() => ((this.note = standing), this.offer()), PASSING);
    }
  }

  dispose(): void {
    clearTimeout(this.passing);
    this.waiting.forEach((one) => clearTimeout(one));
    this.waiting.clear();
  }

  // Asks until Python answers, and says meanwhile what works without an answer.
  private hello(attempt: number): void {
    const within = HELLO_AGAIN[attempt];
    if (within === undefined || this.hears) {
      return;
    }
    void this.send("hello", within, () => {
      if (attempt === PATIENT) {
        this.note = this.canInterrupt()
          ? "Stop interrupts the kernel. Pause and Skip do not reach a busy kernel from here; they work with --background."
          : this.interrupts
            ? "The buttons do not reach a busy kernel from here. Interrupt the kernel to stop, or search with --background."
            : "The kernel is busy with another cell. The buttons come when it answers.";
        this.offer();
      }
      this.hello(attempt + 1);
    });
  }

  private offered(): Controls {
    const press = (control: Control) => () => void this.send(control, ANSWER_WITHIN, () => this.unanswered(control));
    return {
      stop: this.hears || this.canInterrupt() ? press("stop") : null,
      pause: this.hears ? () => press(this.isPaused ? "resume" : "pause")() : null,
      skip: this.hears ? press("skip") : null,
      run: this.hears ? (values) => void this.send("next", ANSWER_WITHIN, () => this.unanswered("next"), { values }) : null,
      narrow:
        this.hears && this.state()?.study.narrowed ? (limits) => void this.send("narrow", ANSWER_WITHIN, () => this.unanswered("narrow"), { limits }) : null,
      answer: this.answer,
      isPaused: this.isPaused,
      note: this.note,
    };
  }

  private canInterrupt(): boolean {
    return this.interrupts && this.isThere() && typeof this.manager.kernel?.interrupt === "function";
  }

  private async send(control: Control | "hello", within: number, late: () => void, more: Pick<Press, "values" | "limits"> = {}): Promise<void> {
    const state = this.state();
    if (!state || this.waiting.has(control)) {
      return;
    }
    const timer = setTimeout(() => {
      this.waiting.delete(control);
      late();
    }, within);
    this.waiting.set(control, timer);
    try {
      const message: Press = { kind: "press", control, run: state.run, page: PAGE, ...more };
      (await this.manager.get_model(this.controlsId)).send(message);
    } catch {
      // The comm is gone, so no answer will come, and the timer does what there is to do.
    }
  }

  private unanswered(control: Control): void {
    const state = this.state();
    const kernel = this.manager.kernel;
    // Once the search has ended, an interrupt would hit the next cell. The kernel's own status does not tell: a
    // subshell that has answered something makes it look idle while the cell runs on.
    if (control === "stop" && state?.study.state === "running" && this.canInterrupt() && kernel?.interrupt) {
      this.note = "Stopping by an interrupt of the kernel.";
      void kernel.interrupt();
    } else {
      const late = `The kernel has not answered ${NAMES[control]} yet.`;
      const isBeside = control === "next" || control === "narrow";
      this.answer = isBeside ? late : this.answer;
      this.note = isBeside ? this.note : late;
    }
    this.offer();
  }
}
