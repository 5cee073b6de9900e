// The buttons of a running search. Each is sent to Python on a comm of its own, which a kernel can answer while a cell
// runs. If Stop is not answered, it is sent as an interrupt too, but only while the same run is going on.

import type { Controls } from "./header";
import type { Ack, Control, PanelState, Command } from "./messages";
import { trans } from "./words";

const ANSWER_TIMEOUT = 300;
// A front end may need a moment to open its channel to a subshell; messages before that go to the busy main shell.
const HELLO_RETRY_AFTER = [250, 500, 1000, 2000, 4000, 8000];
const ATTEMPTS_BEFORE_NOTE = 3;
// Milliseconds for which the note of Skip is shown.
const SHOW_SKIPPED_FOR = 2000;
const lateNote = (control: Control): string =>
  ({
    stop: trans.__("The kernel has not answered Stop yet."),
    pause: trans.__("The kernel has not answered Pause yet."),
    resume: trans.__("The kernel has not answered Pause yet."),
    skip: trans.__("The kernel has not answered Skip yet."),
    next: trans.__("The kernel has not answered Run this next yet."),
    narrow: trans.__("The kernel has not answered the limits yet."),
  })[control];

// Identifies this page, to tell it from the one after a reload.
const PAGE = Math.random().toString(36).slice(2);

interface Signal<T> {
  connect(slot: (sender: unknown, value: T) => void): unknown;
  disconnect(slot: (sender: unknown, value: T) => void): unknown;
}

// What a front end provides; only JupyterLab and Notebook have `kernel`.
export interface Manager {
  get_model(id: string): Promise<{ send(content: unknown): void; comm_live?: boolean }>;
  kernel?: { id?: string; interrupt?: () => Promise<void>; statusChanged?: Signal<string>; disposed?: Signal<void> } | null;
}

export class CommandSender {
  #isAnswering = false;
  #isPaused = false;
  #note = "";
  #answer = "";
  #noteTimer: ReturnType<typeof setTimeout> | undefined;
  #timers = new Map<Control | "hello", ReturnType<typeof setTimeout>>();

  // `interrupts`: whether an interrupt of the kernel ends the search; one in the background never receives it.
  // `isThere`: whether the search is known to run in that kernel now.
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
    this.#hello(0);
  }

  // Offers the buttons that work now.
  offer(): void {
    this.changed(this.#offered());
  }

  // Handles Python's answer to a command.
  handleAnswer(ack: Ack): void {
    if (ack.run !== this.state()?.run) {
      return;
    }
    clearTimeout(this.#timers.get(ack.control));
    this.#timers.delete(ack.control);
    this.#isAnswering = true;
    this.#isPaused = ack.paused;
    this.#answer = ack.note ?? "";
    const standing = ack.paused ? trans.__("Paused: the running trial ends, then the search waits.") : "";
    this.#note = ack.control === "stop" ? trans.__("Stopping.") : ack.control === "skip" ? trans.__("Skipped: that trial ends as stopped.") : standing;
    this.offer();
    clearTimeout(this.#noteTimer);
    if (ack.control === "skip") {
      this.#noteTimer = setTimeout(() => ((this.#note = standing), this.offer()), SHOW_SKIPPED_FOR);
    }
  }

  dispose(): void {
    clearTimeout(this.#noteTimer);
    this.#timers.forEach((timer) => clearTimeout(timer));
    this.#timers.clear();
  }

  // Repeats "hello" until Python answers; meanwhile a note says what works without an answer.
  #hello(attempt: number): void {
    const within = HELLO_RETRY_AFTER[attempt];
    if (within === undefined || this.#isAnswering) {
      return;
    }
    void this.#send("hello", within, () => {
      if (attempt === ATTEMPTS_BEFORE_NOTE) {
        this.#note = this.#canInterrupt()
          ? trans.__("Stop interrupts the kernel. Pause and Skip do not reach a busy kernel from here; they work with --background.")
          : this.interrupts
            ? trans.__("The buttons do not reach a busy kernel from here. Interrupt the kernel to stop, or search with --background.")
            : trans.__("The kernel is busy with another cell. The buttons appear when it answers.");
        this.offer();
      }
      this.#hello(attempt + 1);
    });
  }

  #offered(): Controls {
    const press = (control: Control) => () => void this.#send(control, ANSWER_TIMEOUT, () => this.#onTimeout(control));
    return {
      stop: this.#isAnswering || this.#canInterrupt() ? press("stop") : null,
      pause: this.#isAnswering ? () => press(this.#isPaused ? "resume" : "pause")() : null,
      skip: this.#isAnswering ? press("skip") : null,
      run: this.#isAnswering ? (values) => void this.#send("next", ANSWER_TIMEOUT, () => this.#onTimeout("next"), { values }) : null,
      narrow:
        this.#isAnswering && this.state()?.study.narrowed
          ? (limits) => void this.#send("narrow", ANSWER_TIMEOUT, () => this.#onTimeout("narrow"), { limits })
          : null,
      answer: this.#answer,
      isPaused: this.#isPaused,
      note: this.#note,
    };
  }

  #canInterrupt(): boolean {
    return this.interrupts && this.isThere() && typeof this.manager.kernel?.interrupt === "function";
  }

  async #send(control: Control | "hello", within: number, onLate: () => void, more: Pick<Command, "values" | "limits"> = {}): Promise<void> {
    const state = this.state();
    if (!state || this.#timers.has(control)) {
      return;
    }
    const timer = setTimeout(() => {
      this.#timers.delete(control);
      onLate();
    }, within);
    this.#timers.set(control, timer);
    try {
      const message: Command = { kind: "press", control, run: state.run, page: PAGE, ...more };
      (await this.manager.get_model(this.controlsId)).send(message);
    } catch {
      // The comm is closed, so no answer will come. The timer handles that.
    }
  }

  #onTimeout(control: Control): void {
    const state = this.state();
    const kernel = this.manager.kernel;
    // Once the search has ended, an interrupt would hit the next cell. The status of the kernel does not help: after a
    // subshell has answered, the kernel looks idle although the cell still runs.
    if (control === "stop" && state?.study.state === "running" && this.#canInterrupt() && kernel?.interrupt) {
      this.#note = trans.__("Stopping with an interrupt of the kernel.");
      void kernel.interrupt();
    } else {
      const onLate = lateNote(control);
      const isAboutPoint = control === "next" || control === "narrow";
      this.#answer = isAboutPoint ? onLate : this.#answer;
      this.#note = isAboutPoint ? this.#note : onLate;
    }
    this.offer();
  }
}
