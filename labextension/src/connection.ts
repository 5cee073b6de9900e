// Whether the search that a live panel shows is still there. A page can outlive it: the kernel is restarted, another one
// takes its place, or the notebook was saved with the panel in it. Then no button may be offered, since an interrupt
// would hit whatever runs in that kernel now.

import type { Manager } from "./commands";
import { trans } from "./words";

// Milliseconds without a message. A search sends the time once a second, and every three seconds at the slowest.
const SILENCE_TIMEOUT = 10_000;
// After one of these statuses the kernel is another process.
const OVER = ["starting", "restarting", "autorestarting", "terminating", "dead"];

const saved = (): string => trans.__("This panel has no search: it was saved while one ran, or its kernel has ended since.");

export class Connection {
  #reason: string | null = null;
  #hasReceived = false;
  #timer: ReturnType<typeof setTimeout> | undefined;
  #isOver = false;
  #kernel: Manager["kernel"];

  constructor(
    private readonly manager: Manager,
    private readonly changed: () => void,
  ) {
    this.#watch();
    this.#wait();
  }

  // Why the search is not there, as far as the page knows; null while it is there.
  get lostReason(): string | null {
    return this.#reason;
  }

  // Whether the search is known to run in the kernel that an interrupt would reach.
  get isConfirmed(): boolean {
    return this.#hasReceived && !this.#reason && this.manager.kernel?.id === this.#kernel?.id;
  }

  // Handles any message of the search. A message that was under way when the kernel ended does not count.
  receive(): void {
    if (this.#isOver) {
      return;
    }
    const wasCertain = this.isConfirmed;
    this.#watch();
    this.#hasReceived = true;
    this.#reason = null;
    this.#wait();
    if (!wasCertain) {
      this.changed();
    }
  }

  // Looks whether the comm of the controls is open; that of a saved panel is not.
  async checkControls(controlsId: string): Promise<void> {
    let isLive: boolean | undefined = false;
    try {
      isLive = (await this.manager.get_model(controlsId)).comm_live;
    } catch {
      // The model is neither in the kernel nor in the saved state.
    }
    if (isLive === false && !this.#hasReceived) {
      this.#setLost(saved());
    }
  }

  dispose(): void {
    clearTimeout(this.#timer);
    this.#kernel?.statusChanged?.disconnect(this.#onStatus);
    this.#kernel?.disposed?.disconnect(this.#onDisposed);
  }

  // Listens to the kernel that the messages come from.
  #watch(): void {
    const { kernel } = this.manager;
    if (kernel && kernel !== this.#kernel) {
      this.#kernel?.statusChanged?.disconnect(this.#onStatus);
      this.#kernel?.disposed?.disconnect(this.#onDisposed);
      this.#kernel = kernel;
      kernel.statusChanged?.connect(this.#onStatus);
      kernel.disposed?.connect(this.#onDisposed);
    }
  }

  readonly #onStatus = (_kernel: unknown, status: string): void => {
    if (OVER.includes(status)) {
      this.#end(trans.__("The kernel that ran this search has ended, and the search with it."));
    }
  };

  readonly #onDisposed = (): void => this.#end(trans.__("This notebook is no longer connected to the kernel that runs this search."));

  #end(reason: string): void {
    if (!this.#isOver) {
      this.#isOver = true;
      this.#setLost(reason);
    }
  }

  #wait(): void {
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => this.#setLost(this.#hasReceived ? trans.__("This search has sent no message for a while.") : saved()), SILENCE_TIMEOUT);
  }

  #setLost(reason: string): void {
    clearTimeout(this.#timer);
    this.#reason = reason;
    this.changed();
  }
}
