// Whether the search that a live panel shows is still there. A page can outlive it: the kernel is started anew, another
// one takes its place, or the notebook was saved with the panel in it. Then nothing must be offered that steers it: an
// interrupt would hit whatever runs in that kernel now.

import type { Manager } from "./steering";

// A search tells its page the time every second, at the very slowest every three.
const SILENCE = 10_000;
// A kernel that says one of these is no longer the process that it was.
const OVER = ["starting", "restarting", "autorestarting", "terminating", "dead"];

const SAVED = "No search answers this panel: it was saved while one ran, or its kernel has ended since.";
const GONE = "The kernel that ran this search has ended, and the search with it.";
const LEFT = "This notebook is no longer connected to the kernel that runs this search.";
const SILENT = "Nothing has been heard from this search for a while.";

export class Life {
  private reason: string | null = null;
  private wasHeard = false;
  private timer: ReturnType<typeof setTimeout> | undefined;
  private isOver = false;
  private kernel: Manager["kernel"];

  constructor(
    private readonly manager: Manager,
    private readonly changed: () => void,
  ) {
    this.watch();
    this.wait();
  }

  // Why the search is not there, as far as the page can tell; null while it is.
  get lost(): string | null {
    return this.reason;
  }

  // Whether it is known to be there now: in the kernel that an interrupt would reach.
  get isCertain(): boolean {
    return this.wasHeard && !this.reason && this.manager.kernel?.id === this.kernel?.id;
  }

  // Takes a message of the search, of whatever kind. One that was on its way when the kernel ended revives nothing.
  heard(): void {
    if (this.isOver) {
      return;
    }
    const wasCertain = this.isCertain;
    this.watch();
    this.wasHeard = true;
    this.reason = null;
    this.wait();
    if (!wasCertain) {
      this.changed();
    }
  }

  // Asks whether the controls have anybody at their other end: those that were saved have not.
  async look(controlsId: string): Promise<void> {
    let isLive: boolean | undefined = false;
    try {
      isLive = (await this.manager.get_model(controlsId)).comm_live;
    } catch {
      // They are neither in the kernel nor in what was saved.
    }
    if (isLive === false && !this.wasHeard) {
      this.lose(SAVED);
    }
  }

  dispose(): void {
    clearTimeout(this.timer);
    this.kernel?.statusChanged?.disconnect(this.listen);
    this.kernel?.disposed?.disconnect(this.leave);
  }

  // Listens to the kernel that the messages come from.
  private watch(): void {
    const { kernel } = this.manager;
    if (kernel && kernel !== this.kernel) {
      this.kernel?.statusChanged?.disconnect(this.listen);
      this.kernel?.disposed?.disconnect(this.leave);
      this.kernel = kernel;
      kernel.statusChanged?.connect(this.listen);
      kernel.disposed?.connect(this.leave);
    }
  }

  private readonly listen = (_kernel: unknown, status: string): void => {
    if (OVER.includes(status)) {
      this.end(GONE);
    }
  };

  private readonly leave = (): void => this.end(LEFT);

  private end(reason: string): void {
    if (!this.isOver) {
      this.isOver = true;
      this.lose(reason);
    }
  }

  private wait(): void {
    clearTimeout(this.timer);
    this.timer = setTimeout(() => this.lose(this.wasHeard ? SILENT : SAVED), SILENCE);
  }

  private lose(reason: string): void {
    clearTimeout(this.timer);
    this.reason = reason;
    this.changed();
  }
}
