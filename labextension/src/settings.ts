// The user's settings, with defaults for a page that has none. schema/settings.json describes them.

import type { SettingsStore } from "./lab";

export const SETTINGS_ID = "nbcompress:settings";

export interface Values {
  // Seconds between two looks at a running study.
  refresh: number;
  // How many trials the form offers.
  trials: number;
  // The budget that the form offers, as a share of the model's size.
  budgetShare: number;
  colors: "colorblind" | "gray";
}

const DEFAULTS: Values = { refresh: 2, trials: 30, budgetShare: 0.1, colors: "colorblind" };

export class Settings {
  #store: SettingsStore | null = null;
  readonly #listeners = new Set<() => void>();

  use(store: SettingsStore): void {
    this.#store = store;
    store.changed.connect(() => this.#tell());
    this.#tell();
  }

  get values(): Values {
    const given = this.#store?.composite ?? {};
    const number = (name: "refresh" | "trials" | "budgetShare"): number => {
      const value = given[name];
      return typeof value === "number" && value > 0 ? value : DEFAULTS[name];
    };
    return {
      refresh: Math.max(0.5, number("refresh")),
      trials: number("trials"),
      budgetShare: number("budgetShare"),
      colors: given["colors"] === "gray" ? "gray" : "colorblind",
    };
  }

  listen(listener: () => void): () => void {
    this.#listeners.add(listener);
    return () => this.#listeners.delete(listener);
  }

  #tell(): void {
    this.#listeners.forEach((listener) => listener());
  }
}
