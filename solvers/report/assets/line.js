// Curves over a common x with reference lines; the values under the pointer are written below.

class LineFigure {
  constructor(root, spec) {
    Object.assign(this, { root, spec, pointed: null, printing: false });
    this.canvas = element("canvas", { tabIndex: 0, role: "application" });
    this.canvas.setAttribute("aria-label", `${spec.title || spec.yLabel}: arrow keys read the values`);
    this.plot = element("div", { className: "plot line" }, this.canvas);
    this.readout = element("div", { className: "readout", ariaLive: "polite" });
    this.root.append(this.legend(), this.plot, this.readout);
    const all = spec.series.flatMap((series) => series.x);
    this.low = all.length ? Math.min(...all.map((x) => this.forward(x))) : 0;
    this.high = all.length ? Math.max(...all.map((x) => this.forward(x))) : 1;
    if (this.high === this.low) this.high = this.low + 1;
    this.stops = [...new Set(all)].sort((a, b) => a - b);
    this.listen();
    this.point(null);
    new ResizeObserver(() => this.draw()).observe(this.plot);
  }

  forward(x) {
    return this.spec.logX ? Math.log10(x) : x;
  }

  back(position) {
    return this.spec.logX ? 10 ** position : position;
  }

  legend() {
    const sample = (i) => {
      const dash = DASHES[i % DASHES.length].join(" ");
      const svg = `<svg width="26" height="10" aria-hidden="true"><path d="M1 5H25" class="s${i % COLOURS}" stroke-dasharray="${dash}"/></svg>`;
      return element("span", { className: "sample", innerHTML: svg });
    };
    const items = this.spec.series.map((series, i) => element("span", {}, sample(i), series.name));
    return element("div", { className: "toolbar keys" }, ...items);
  }

  listen() {
    this.canvas.onpointermove = (event) => {
      const x = event.clientX - this.canvas.getBoundingClientRect().left;
      const part = clamp((x - this.area.left) / this.area.width, 0, 1);
      this.point(this.back(this.low + part * (this.high - this.low)));
    };
    this.canvas.onpointerleave = () => this.point(null);
    this.canvas.onkeydown = (event) => {
      const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
      if (!step || !this.stops.length) return;
      event.preventDefault();
      const at = this.pointed ?? (step > 0 ? -Infinity : Infinity);
      const next = step > 0 ? this.stops.find((x) => x > at) : this.stops.findLast((x) => x < at);
      if (next !== undefined) this.point(next);
    };
  }

  // The value of a series at x: the last step, or the straight line between two points.
  valueAt(series, x) {
    const after = series.x.findIndex((candidate) => candidate > x);
    const k = after < 0 ? series.x.length - 1 : after - 1;
    if (k < 0) return null;
    if (series.step || after < 0) return after < 0 && x > series.x[k] && !series.step ? null : series.y[k];
    const part = (x - series.x[k]) / (series.x[after] - series.x[k]);
    return series.y[k] + part * (series.y[after] - series.y[k]);
  }

  point(x) {
    const { spec } = this;
    this.pointed = x;
    const at = x ?? this.stops.at(-1) ?? 0;
    const values = spec.series.map((series) => `${series.name} ${formatValue(this.valueAt(series, at), spec.yUnit)}`);
    const whole = spec.xUnit === "" && this.stops.every(Number.isInteger);
    const place = formatValue(whole ? Math.round(at) : at, spec.xUnit);
    this.readout.textContent = [`${spec.xLabel} ${place}`, ...values].join(" · ");
    this.draw();
  }

  range() {
    const values = [...this.spec.series.flatMap((series) => series.y), ...this.spec.references.map(({ y }) => y)];
    if (!values.length) return [0, 1];
    const [low, high] = [values.reduce((a, b) => Math.min(a, b)), values.reduce((a, b) => Math.max(a, b))];
    const pad = (high - low || Math.abs(high) || 1) * 0.08;
    return [low >= 0 ? Math.max(0, low - pad) : low - pad, high + pad];
  }

  draw() {
    const { clientWidth: width, clientHeight: height } = this.plot;
    if (!width || !height) return;
    const ratio = Math.max(window.devicePixelRatio || 1, this.printing ? 2 : 1);
    [this.canvas.width, this.canvas.height] = [Math.round(width * ratio), Math.round(height * ratio)];
    const pen = this.canvas.getContext("2d");
    pen.scale(ratio, ratio);
    pen.font = FONT;
    const [low, high] = this.range();
    const tall = height - 10 - 36;
    const rows = niceTicks(low, high, Math.max(2, tall / 45), this.spec.yUnit);
    const names = tickLabels(rows, this.spec.yUnit);
    const left = Math.max(70, ...names.map((name) => Math.ceil(pen.measureText(name).width) + 14));
    this.area = { left, top: 10, width: width - left - 14, height: tall };
    const { area } = this;
    this.x = (x) => area.left + ((this.forward(x) - this.low) / (this.high - this.low)) * area.width;
    this.y = (y) => area.top + (1 - (y - low) / (high - low)) * area.height;
    this.paintScales(pen, rows, names);
    this.paintReferences(pen);
    this.spec.series.forEach((series, i) => this.paintSeries(pen, series, i));
    if (this.pointed !== null) this.paintPointer(pen);
  }

  paintScales(pen, rows, names) {
    const { area, spec } = this;
    pen.textAlign = "right";
    pen.textBaseline = "middle";
    rows.forEach((tick, k) => {
      pen.fillStyle = theme().grid;
      pen.fillRect(area.left, this.y(tick), area.width, 1);
      pen.fillStyle = theme().dim;
      pen.fillText(names[k], area.left - 7, this.y(tick));
    });
    const columns = this.columns();
    pen.textAlign = "center";
    pen.textBaseline = "alphabetic";
    columns.forEach(([tick, name]) => {
      pen.fillStyle = theme().grid;
      pen.fillRect(this.x(tick), area.top, 1, area.height + 4);
      pen.fillStyle = theme().dim;
      const half = pen.measureText(name).width / 2;
      pen.fillText(name, clamp(this.x(tick), area.left + half, area.left + area.width - half), area.top + area.height + 16);
    });
    pen.fillText(spec.xLabel, area.left + area.width / 2, area.top + area.height + 31);
  }

  columns() {
    const { spec } = this;
    if (!spec.logX) {
      const whole = spec.xUnit === "" && this.stops.every(Number.isInteger);
      const all = niceTicks(this.low, this.high, Math.max(2, this.area.width / 100), spec.xUnit);
      const ticks = whole ? all.filter(Number.isInteger) : all;
      return tickLabels(ticks, spec.xUnit).map((name, k) => [ticks[k], name]);
    }
    const powers = niceTicks(this.low, this.high, 8, "").filter(Number.isInteger);
    return powers.map((power) => [10 ** power, formatValue(10 ** power, spec.xUnit)]);
  }

  paintReferences(pen) {
    const { area, spec } = this;
    pen.textBaseline = "alphabetic";
    pen.textAlign = "right";
    let last = -Infinity;
    for (const { name, y } of [...spec.references].sort((a, b) => b.y - a.y)) {
      const level = this.y(y);
      pen.strokeStyle = theme().dim;
      pen.lineWidth = 1;
      pen.setLineDash([3, 3]);
      pen.beginPath();
      pen.moveTo(area.left, level);
      pen.lineTo(area.left + area.width, level);
      pen.stroke();
      pen.setLineDash([]);
      const base = Math.max(level - 4, last + 13);
      last = base;
      pen.fillStyle = theme().ink;
      pen.fillText(`${name} ${formatValue(y, spec.yUnit)}`, area.left + area.width - 4, base);
    }
  }

  paintSeries(pen, series, i) {
    if (!series.x.length) return;
    pen.strokeStyle = theme().categories[i % COLOURS];
    pen.lineWidth = 2;
    pen.setLineDash(DASHES[i % DASHES.length]);
    pen.beginPath();
    pen.moveTo(this.x(series.x[0]), this.y(series.y[0]));
    for (let k = 1; k < series.x.length; k++) {
      if (series.step) pen.lineTo(this.x(series.x[k]), this.y(series.y[k - 1]));
      pen.lineTo(this.x(series.x[k]), this.y(series.y[k]));
    }
    pen.stroke();
    pen.setLineDash([]);
    const last = series.x.length - 1;
    pen.fillStyle = theme().categories[i % COLOURS];
    pen.beginPath();
    pen.arc(this.x(series.x[last]), this.y(series.y[last]), 3.5, 0, 7);
    pen.fill();
  }

  paintPointer(pen) {
    pen.fillStyle = theme().ink;
    pen.globalAlpha = 0.5;
    pen.fillRect(this.x(this.pointed), this.area.top, 1, this.area.height);
    pen.globalAlpha = 1;
  }
}
