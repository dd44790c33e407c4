// One canvas of boxes on time and height: a layer of a map, or all lanes of a figure.
// Boxes are kept in typed arrays and found through a grid, so that 10^4 of them stay smooth.

const FONT = "11px system-ui, sans-serif";
const MARGIN = { right: 10, top: 6, bottom: 26 };

class Boxes {
  constructor(spec, low, high) {
    this.count = spec.start.length;
    this.start = Float64Array.from(spec.start);
    this.end = Float64Array.from(spec.end);
    this.low = Float64Array.from(low);
    this.high = Float64Array.from(high);
    this.label = spec.label;
    this.category = spec.category;
    this.details = spec.details;
    const indices = Array.from({ length: this.count }, (_, i) => i);
    this.byTime = indices.slice().sort((a, b) => this.start[a] - this.start[b] || this.low[a] - this.low[b]);
    this.byCategory = indices.sort((a, b) => this.category[a] - this.category[b] || a - b);
    this.matched = null; // Which boxes a search has found, or null without a search.
    this.hidden = new Set(); // Categories that are not shown.
  }

  shown(i) {
    return !this.hidden.has(this.category[i]) && (!this.matched || this.matched[i] === 1);
  }

  text(i) {
    return DATA.strings[this.label[i]];
  }

  // Marks the boxes whose label or details contain the text.
  find(text) {
    if (!text) {
      this.matched = null;
      return;
    }
    const wanted = SEARCHABLE.map((candidate) => candidate.includes(text.toLowerCase()));
    const columns = [this.label, ...this.details.filter((d) => d.text).map((d) => d.text)];
    this.matched = new Uint8Array(this.count);
    for (const column of columns) column.forEach((s, i) => wanted[s] && (this.matched[i] = 1));
  }
}

// Which boxes touch a cell, as one array with a start for each cell.
class Grid {
  constructor(boxes, left, right, top) {
    Object.assign(this, { boxes, left, right, top });
    for (this.size = 128; this.size > 1 && this.touched() > 2e6; this.size /= 2);
    const { size } = this;
    this.starts = new Uint32Array(size * size + 1);
    this.each((cell) => this.starts[cell + 1]++);
    for (let i = 0; i < size * size; i++) this.starts[i + 1] += this.starts[i];
    const next = this.starts.slice();
    this.members = new Uint32Array(this.starts[size * size]);
    this.each((cell, i) => (this.members[next[cell]++] = i));
  }

  cells(start, end, low, high) {
    const cell = (part) => clamp(Math.floor(part * this.size), 0, this.size - 1);
    const across = (time) => cell((time - this.left) / (this.right - this.left));
    return [across(start), across(end), cell(low / this.top), cell(high / this.top)];
  }

  touched() {
    const { start, end, low, high, count } = this.boxes;
    let sum = 0;
    for (let i = 0; i < count; i++) {
      const [a, b, c, d] = this.cells(start[i], end[i], low[i], high[i]);
      sum += (b - a + 1) * (d - c + 1);
    }
    return sum;
  }

  each(visit) {
    const { start, end, low, high, count } = this.boxes;
    for (let i = 0; i < count; i++) {
      const [a, b, c, d] = this.cells(start[i], end[i], low[i], high[i]);
      for (let row = c; row <= d; row++) for (let at = a; at <= b; at++) visit(row * this.size + at, i);
    }
  }

  // Returns the box that holds the point, else the nearest within the tolerances, else -1.
  hit(time, level, dt, dy) {
    const { start, end, low, high } = this.boxes;
    const [a, b, c, d] = this.cells(time - dt, time + dt, level - dy, level + dy);
    let best = -1;
    let least = 1;
    for (let row = c; row <= d; row++) {
      for (let at = a; at <= b; at++) {
        const cell = row * this.size + at;
        for (let k = this.starts[cell]; k < this.starts[cell + 1]; k++) {
          const i = this.members[k];
          const x = Math.max(start[i] - time, time - end[i], 0) / dt;
          const y = Math.max(low[i] - level, level - high[i], 0) / dy;
          const distance = Math.max(x, y);
          if (distance <= least && this.boxes.shown(i)) [best, least] = [i, distance];
        }
      }
    }
    return best;
  }
}

class View {
  // `figure` gives: axis, level (what of the height is visible), leftMargin, down, paintScale, waits, readout.
  constructor(figure, spec, boxes) {
    Object.assign(this, { figure, spec, boxes, axis: figure.axis });
    this.grid = new Grid(boxes, this.axis.low, this.axis.high, figure.height);
    this.base = element("canvas", { ariaHidden: "true" });
    this.overlay = element("canvas", { tabIndex: 0, role: "application" });
    this.overlay.setAttribute("aria-label", `${figure.name} ${spec.name}`.trim());
    this.overlay.setAttribute("aria-describedby", `help-${figure.root.dataset.figure}`);
    this.tip = element("div", { className: "tip", hidden: true });
    this.plot = element("div", { className: "plot" }, this.base, this.overlay, this.tip);
    this.readout = element("div", { className: "readout" });
    const head = spec.name
      ? [element("h3", {}, spec.name, element("small", {}, spec.note))]
      : [];
    this.root = element("div", { className: "view" }, ...head, this.plot, this.readout);
    this.dirty = true;
    this.drawTime = 0;
    this.axis.views.push(this);
    new ResizeObserver(() => this.invalidate()).observe(this.plot);
    this.pointAt();
  }

  invalidate(all = true) {
    this.dirty ||= all;
    if (this.pending) return;
    this.pending = requestAnimationFrame(() => this.draw());
  }

  draw() {
    cancelAnimationFrame(this.pending);
    this.pending = 0;
    const { clientWidth: width, clientHeight: height } = this.plot;
    if (!width || !height) return;
    this.ratio = Math.max(window.devicePixelRatio || 1, this.figure.printing ? 2 : 1);
    const left = this.figure.leftMargin;
    this.area = { left, top: MARGIN.top, width: width - left - MARGIN.right, height: height - MARGIN.top - MARGIN.bottom };
    if (this.dirty) {
      const began = performance.now();
      this.paint(this.base, width, height, (pen) => this.paintBase(pen));
      this.drawTime = performance.now() - began;
      this.dirty = false;
    }
    this.paint(this.overlay, width, height, (pen) => this.paintOverlay(pen));
  }

  paint(canvas, width, height, draw) {
    const [w, h] = [Math.round(width * this.ratio), Math.round(height * this.ratio)];
    if (canvas.width !== w || canvas.height !== h) [canvas.width, canvas.height] = [w, h];
    const pen = canvas.getContext("2d");
    pen.setTransform(this.ratio, 0, 0, this.ratio, 0, 0);
    pen.clearRect(0, 0, width, height);
    pen.font = FONT;
    this.character ??= pen.measureText("abcdefghijklmnopqrstuvwxyz_.0123456789").width / 38;
    draw(pen);
  }

  x(time) {
    return this.area.left + ((time - this.axis.from) / (this.axis.to - this.axis.from)) * this.area.width;
  }

  y(level) {
    const { from, to } = this.figure.level;
    const part = (level - from) / (to - from);
    return this.area.top + (this.figure.down ? part : 1 - part) * this.area.height;
  }

  timeAt(x) {
    return this.axis.from + ((x - this.area.left) / this.area.width) * (this.axis.to - this.axis.from);
  }

  levelAt(y) {
    const { from, to } = this.figure.level;
    const part = (y - this.area.top) / this.area.height;
    return from + (this.figure.down ? part : 1 - part) * (to - from);
  }

  // The box on screen as [x, y, width, height], at least a hair wide.
  screen(i) {
    const { start, end, low, high } = this.boxes;
    const x = this.x(start[i]);
    const y = this.figure.down ? this.y(low[i]) : this.y(high[i]);
    const bottom = this.figure.down ? this.y(high[i]) : this.y(low[i]);
    return [x, y, Math.max(this.x(end[i]) - x, 0.7), Math.max(bottom - y, 0.7)];
  }

  clip(pen, draw) {
    const { left, top, width, height } = this.area;
    pen.save();
    pen.beginPath();
    pen.rect(left, top, width, height);
    pen.clip();
    draw();
    pen.restore();
  }

  fit(text, width) {
    const room = Math.floor(width / (this.character * 1.06)); // Names are a little wider than the sample.
    return text.length <= room ? text : text.slice(0, Math.max(0, room - 1)) + "…";
  }

  paintBase(pen) {
    this.figure.paintScale(this, pen);
    this.paintTime(pen);
    this.clip(pen, () => {
      const labels = this.paintBoxes(pen);
      this.figure.paintMarks(this, pen);
      this.paintLabels(pen, labels);
    });
    this.figure.paintLimits(this, pen);
    this.paintWindow(pen);
  }

  paintTime(pen) {
    const { left, top, width, height } = this.area;
    const { axis } = this;
    const column = width / (axis.to - axis.from);
    const named = axis.stepped && axis.names.length > 0 && column >= 60;
    let ticks = niceTicks(axis.from, axis.to, Math.max(2, width / 90), axis.unit);
    if (axis.stepped) ticks = ticks.filter(Number.isInteger);
    if (named) ticks = Array.from({ length: Math.ceil(axis.to - Math.floor(axis.from)) }, (_, k) => Math.floor(axis.from) + k);
    const labels = named
      ? ticks.map((tick) => this.fit(`${tick} ${axis.nameAt(tick)}`, column - 8))
      : tickLabels(ticks, axis.unit);
    pen.textAlign = named ? "left" : "center";
    pen.textBaseline = "alphabetic";
    ticks.forEach((tick, k) => {
      const x = this.x(tick);
      if (x < left - 1) return;
      pen.fillStyle = theme().grid;
      pen.fillRect(x, top, 1, height + 4);
      pen.fillStyle = theme().dim;
      const half = named ? 0 : (labels[k].length * this.character) / 2;
      pen.fillText(labels[k], named ? x + 4 : clamp(x, left + half, left + width - half), top + height + 15);
    });
  }

  paintBoxes(pen) {
    const { boxes } = this;
    const { left, top, width, height } = this.area;
    const labels = [];
    let current = -1;
    for (const i of boxes.byCategory) {
      if (boxes.hidden.has(boxes.category[i])) continue;
      if (boxes.end[i] < this.axis.from || boxes.start[i] > this.axis.to) continue;
      const [x, y, w, h] = this.screen(i);
      if (y > top + height || y + h < top) continue;
      if (boxes.category[i] !== current) {
        current = boxes.category[i];
        pen.fillStyle = theme().categories[current % COLOURS];
      }
      const found = boxes.shown(i);
      pen.globalAlpha = found ? 1 : 0.13;
      const gap = w > 3 && h > 3 ? 0.6 : 0;
      pen.fillRect(x, y, w - gap, h - gap);
      if (current >= COLOURS && w > 2 && h > 2) {
        pen.fillStyle = theme().stripes;
        pen.fillRect(x, y, w - gap, h - gap);
        current = -1;
      }
      const visible = Math.min(x + w, left + width) - Math.max(x, left);
      const room = Math.min(5, boxes.text(i).length) * this.character + 6;
      if (found && h >= 11 && visible >= room) labels.push([i, Math.max(x, left), y + h / 2, visible]);
    }
    pen.globalAlpha = 1;
    return labels;
  }

  paintLabels(pen, labels) {
    pen.textAlign = "left";
    pen.textBaseline = "middle";
    for (const [i, x, y, width] of labels) {
      const colour = this.boxes.category[i] % COLOURS;
      const text = this.fit(this.boxes.text(i), width - 6);
      if (this.boxes.category[i] >= COLOURS) {
        pen.fillStyle = theme().categories[colour];
        pen.fillRect(x + 1, y - 6, text.length * this.character + 4, 12);
      }
      pen.fillStyle = theme().labels[colour];
      pen.fillText(text, x + 3, y + 0.5);
    }
  }

  // Below the ticks: how much of the whole time is in view.
  paintWindow(pen) {
    const { axis, area } = this;
    if (!axis.zoomed) return;
    const y = area.top + area.height + MARGIN.bottom - 5;
    const at = (time) => area.left + ((time - axis.low) / (axis.high - axis.low)) * area.width;
    pen.fillStyle = theme().grid;
    pen.fillRect(area.left, y, area.width, 4);
    pen.fillStyle = theme().accent;
    pen.fillRect(at(axis.from), y, Math.max(3, at(axis.to) - at(axis.from)), 4);
  }

  paintOverlay(pen) {
    const { axis, boxes } = this;
    this.clip(pen, () => {
      if (axis.pointed !== null) {
        const start = axis.stepped ? Math.floor(axis.pointed) : axis.pointed;
        const width = axis.stepped ? this.x(start + 1) - this.x(start) : 1;
        pen.fillStyle = theme().ink;
        pen.globalAlpha = width > 2 ? 0.12 : 0.55;
        pen.fillRect(this.x(start), this.area.top, Math.max(width, 1), this.area.height);
        pen.globalAlpha = 1;
      }
      if (axis.marked !== null) {
        for (let i = 0; i < boxes.count; i++) {
          if (boxes.label[i] === axis.marked && !boxes.hidden.has(boxes.category[i])) this.outline(pen, i, 1.5);
        }
      }
      const { pinned, hovered } = this.figure;
      if (pinned?.view === this) this.outline(pen, pinned.box, 3);
      if (hovered?.view === this) this.outline(pen, hovered.box, 2);
    });
  }

  // An outline of two tones, visible on any fill.
  outline(pen, i, width) {
    const [x, y, w, h] = this.screen(i);
    const rect = [x - 0.5, y - 0.5, Math.max(w, 2) + 1, Math.max(h, 2) + 1];
    pen.strokeStyle = theme().surface;
    pen.lineWidth = width + 2;
    pen.strokeRect(...rect);
    pen.strokeStyle = theme().ink;
    pen.lineWidth = width;
    pen.strokeRect(...rect);
  }

  // The pointer's time changed, here or in another figure of the axis.
  pointAt() {
    const { axis } = this;
    const time = axis.pointed;
    if (time === null) {
      this.readout.textContent = this.figure.summary(this);
    } else {
      const name = axis.nameAt(time);
      const at = axis.stepped ? formatValue(Math.floor(time)) : axis.format(time);
      this.readout.textContent = [`${axis.label} ${at}`, name, this.figure.describe(this, time)]
        .filter(Boolean)
        .join(" · ");
    }
    this.invalidate(false);
  }

  hit(x, y) {
    const { left, top, width, height } = this.area ?? {};
    if (!(x >= left && x <= left + width && y >= top && y <= top + height)) return -1;
    const [time, level] = [this.timeAt(x), this.levelAt(y)];
    const dt = (3 / width) * (this.axis.to - this.axis.from);
    const dy = (3 / height) * (this.figure.level.to - this.figure.level.from);
    return this.grid.hit(time, level, dt, dy);
  }

  showTip(i, x, y) {
    this.tip.hidden = i < 0;
    if (i < 0) return;
    this.tip.replaceChildren(element("b", {}, this.boxes.text(i)), ` ${this.figure.amount(this, i)}`);
    const right = x > this.plot.clientWidth / 2;
    this.tip.style.left = right ? "" : `${x + 12}px`;
    this.tip.style.right = right ? `${this.plot.clientWidth - x + 12}px` : "";
    this.tip.style.top = `${clamp(y - 30, 0, this.plot.clientHeight - 28)}px`;
  }
}
