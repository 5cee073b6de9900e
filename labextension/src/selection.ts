// The selected trial, which every part of a view follows.

export class Selection {
  private chosen: number | null = null;
  private readonly listeners = new Set<() => void>();

  get number(): number | null {
    return this.chosen;
  }

  choose(number: number | null): void {
    if (number !== this.chosen) {
      this.chosen = number;
      this.listeners.forEach((listener) => listener());
    }
  }

  listen(listener: () => void): () => void {
    this.listeners.add(listener);
    return () => this.listeners.delete(listener);
  }
}
