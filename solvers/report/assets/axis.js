// A time axis that several figures share: what is visible, pointed at and selected.

class TimeAxis {
  constructor(spec) {
    [this.low, this.high] = spec.range;
    this.label = spec.label;
    this.unit = spec.unit;
    this.stepped = spec.stepped; // Whether time counts whole steps, each a column of its own.
    this.first = spec.first;
    this.names = spec.names;
    this.categories = spec.categories;
    this.least = Math.min(this.high - this.low, this.stepped ? 2 : (this.high - this.low) * 1e-5);
    this.views = [];
    this.from = this.low;
    this.to = this.high;
    this.pointed = null; // The time under the pointer.
    this.marked = null; // The label that is outlined in all figures.
  }

  get zoomed() {
    return this.from > this.low || this.to < this.high;
  }

  show(from, to) {
    const span = clamp(to - from, this.least, this.high - this.low);
    this.from = clamp((from + to - span) / 2, this.low, this.high - span);
    this.to = this.from + span;
    for (const view of this.views) view.invalidate();
  }

  zoom(factor, around = (this.from + this.to) / 2) {
    this.show(around - (around - this.from) * factor, around + (this.to - around) * factor);
  }

  pan(delta) {
    const shift = clamp(delta, this.low - this.from, this.high - this.to);
    this.show(this.from + shift, this.to + shift);
  }

  // Pans as little as needed to have [start, end) in view.
  reveal(start, end) {
    if (start < this.from || end > this.to) {
      const span = this.to - this.from;
      if (end <= this.from || start >= this.to || end - start < span) {
        const middle = end - start < span ? (start + end) / 2 : start + span / 2;
        this.show(middle - span / 2, middle + span / 2);
      }
    }
  }

  point(time) {
    this.pointed = time === null ? null : clamp(time, this.low, this.high);
    for (const view of this.views) view.pointAt();
  }

  mark(label) {
    if (label === this.marked) return;
    this.marked = label;
    for (const view of this.views) view.invalidate(false);
  }

  nameAt(time) {
    const name = this.names[Math.floor(time) - this.first];
    return name === undefined ? "" : DATA.strings[name];
  }

  format(time) {
    return formatValue(time, this.unit);
  }
}
