// Figures on a time axis: toolbar, views, and the panel with the details of one box.

const HELP =
  "Drag to pan. Ctrl + wheel (or the wheel alone, once the figure has been clicked) zooms time, with Alt the height. " +
  "Keys: arrows select, Shift + arrows pan, + and − zoom, Enter zooms to the selection, 0 shows all, Esc clears.";

const counted = (count, noun) => `${formatValue(count)} ${noun}${count === 1 ? "" : "s"}`;

// What maps and lanes have in common. The two kinds below say what the height means.
class TimeFigure {
  constructor(root, spec, axis) {
    Object.assign(this, { root, spec, axis, name: spec.title || spec.type });
    this.pinned = null; // { view, box } that was clicked or reached by key.
    this.hovered = null; // { view, box } under the pointer.
    this.printing = false;
    this.keys = new Map();
    const id = `help-${root.dataset.figure}`;
    this.help = element("details", { className: "help" }, element("summary", {}, "Mouse and keys"), element("p", { id }, HELP));
  }

  build(makeBoxes) {
    this.level = { from: 0, to: this.height };
    this.views = this.spec.views.map((spec) => new View(this, spec, makeBoxes(spec)));
    this.panel = element("div", { className: "panel" });
    this.live = element("div", { className: "unseen", ariaLive: "polite" });
    this.stage = element("div", { className: `views ${this.spec.type}` }, ...this.views.map((view) => view.root));
    this.root.append(this.toolbar(), this.stage, this.panel, this.help, this.live);
    for (const view of this.views) this.listen(view);
    this.fillPanel();
  }

  toolbar() {
    const bar = element("div", { className: "toolbar" });
    if (this.views.length > 1) bar.append(this.chooser());
    const button = (text, label, act) => element("button", { type: "button", textContent: text, title: label, ariaLabel: label, onclick: act });
    bar.append(
      element(
        "span",
        { className: "group" },
        button("−", "Zoom out", () => this.axis.zoom(2)),
        button("+", "Zoom in", () => this.axis.zoom(0.5)),
        button("All", "Show all", () => this.showAll()),
      ),
      this.finder(),
    );
    bar.append(this.legend());
    return bar;
  }

  // Which layers to show: all side by side, or one.
  chooser() {
    const group = element("fieldset", { className: "group" }, element("legend", { className: "unseen" }, "Layers"));
    const titles = ["Side by side", ...this.views.map((view) => view.spec.name)];
    this.choices = titles.map((title, i) => {
      const input = element("input", { type: "radio", name: `layers-${this.root.dataset.figure}`, checked: i === 0, onchange: () => this.choose(i) });
      group.append(element("label", {}, input, element("span", {}, title)));
      return input;
    });
    return group;
  }

  choose(index) {
    this.choices[index].checked = true;
    this.views.forEach((view, i) => (view.root.hidden = index > 0 && i !== index - 1));
    this.countFound();
    for (const view of this.views) view.invalidate();
  }

  // From one layer to the next in the same place, to see what moved.
  flip() {
    if (this.views.length < 2) return;
    const shown = this.choices.findIndex((input) => input.checked);
    this.choose((shown % this.views.length) + 1);
    this.views.find((view) => !view.root.hidden).overlay.focus();
  }

  finder() {
    this.count = element("output", {});
    const input = element("input", { type: "search", placeholder: "Find a name", ariaLabel: "Find a name" });
    input.oninput = () => {
      for (const view of this.views) {
        view.boxes.find(input.value.trim());
        view.invalidate();
      }
      this.countFound();
    };
    input.onkeydown = (event) => {
      if (event.key !== "Enter") return;
      const view = this.views.find((v) => !v.root.hidden && v.boxes.byTime.some((i) => v.boxes.shown(i)));
      if (view) this.moveInTime(view, 1);
    };
    return element("span", { className: "group find" }, input, this.count);
  }

  countFound() {
    const visible = this.views.filter((view) => !view.root.hidden && view.boxes.matched);
    const found = visible.reduce((sum, view) => sum + view.boxes.matched.reduce((a, b) => a + b, 0), 0);
    this.count.textContent = visible.length ? `${formatValue(found)} found` : "";
  }

  legend() {
    const list = element("span", { className: "group legend" });
    const used = new Set(this.views.flatMap((view) => view.boxes.category));
    this.axis.categories.forEach((category, i) => {
      if (!category || !used.has(i)) return;
      const button = element("button", { type: "button", ariaPressed: "true", title: "Show or hide" }, plainSwatch(i), category);
      button.onclick = () => {
        const shown = button.ariaPressed === "false";
        button.ariaPressed = String(shown);
        for (const { boxes } of this.views) shown ? boxes.hidden.delete(i) : boxes.hidden.add(i);
        for (const view of this.views) view.invalidate();
      };
      list.append(button);
    });
    if (this.spec.views.some((view) => view.wait?.length)) {
      list.append(element("span", {}, element("span", { className: "swatch wait" }), this.spec.waitLabel));
    }
    return list;
  }

  listen(view) {
    const target = view.overlay;
    let drag = null;
    const place = (event) => {
      const rect = target.getBoundingClientRect();
      return [event.clientX - rect.left, event.clientY - rect.top];
    };
    target.onpointerdown = (event) => {
      if (event.button !== 0) return;
      target.setPointerCapture(event.pointerId);
      drag = { at: place(event), moved: false };
    };
    target.onpointermove = (event) => {
      const [x, y] = place(event);
      if (drag && (drag.moved || Math.hypot(x - drag.at[0], y - drag.at[1]) > 4)) {
        this.axis.pan(view.timeAt(drag.at[0]) - view.timeAt(x));
        this.panLevel(view.levelAt(drag.at[1]) - view.levelAt(y));
        drag = { at: [x, y], moved: true };
        return;
      }
      this.axis.point(view.timeAt(x));
      const box = view.hit(x, y);
      this.hover(box < 0 ? null : { view, box });
      view.showTip(box, x, y);
    };
    target.onpointerup = (event) => {
      if (drag && !drag.moved) {
        const box = view.hit(...place(event));
        this.pin(box < 0 ? null : { view, box });
      }
      drag = null;
    };
    target.onpointercancel = () => (drag = null);
    target.onpointerleave = () => {
      this.axis.point(null);
      this.hover(null);
      view.showTip(-1);
    };
    target.ondblclick = () => this.zoomToPinned();
    target.addEventListener("wheel", (event) => this.wheel(view, event, place(event)), { passive: false });
    target.onkeydown = (event) => this.key(view, event);
  }

  wheel(view, event, [x, y]) {
    const sideways = Math.abs(event.deltaX) > Math.abs(event.deltaY);
    const active = event.ctrlKey || event.metaKey || event.altKey || document.activeElement === view.overlay;
    if (!sideways && !active) return;
    event.preventDefault();
    const span = this.axis.to - this.axis.from;
    const factor = Math.exp(clamp(event.deltaY, -200, 200) * 0.004);
    if (sideways) this.axis.pan((event.deltaX / view.area.width) * span);
    else if (event.altKey) this.zoomLevel(factor, view.levelAt(y));
    else this.axis.zoom(factor, view.timeAt(x));
  }

  key(view, event) {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const quarter = (this.axis.to - this.axis.from) / 4;
    const actions = {
      ArrowRight: () => (event.shiftKey ? this.axis.pan(quarter) : this.moveInTime(view, 1)),
      ArrowLeft: () => (event.shiftKey ? this.axis.pan(-quarter) : this.moveInTime(view, -1)),
      ArrowUp: () => this.moveInLevel(view, this.down ? -1 : 1),
      ArrowDown: () => this.moveInLevel(view, this.down ? 1 : -1),
      "+": () => this.axis.zoom(0.5),
      "=": () => this.axis.zoom(0.5),
      "-": () => this.axis.zoom(2),
      0: () => this.showAll(),
      Home: () => this.moveInTime(view, 1, true),
      End: () => this.moveInTime(view, -1, true),
      Enter: () => this.zoomToPinned(),
      Escape: () => this.pin(null),
      t: () => this.flip(),
    };
    const act = actions[event.key];
    if (!act) return;
    event.preventDefault();
    act();
  }

  // Selects the next box in order of start time; without a selection, the first or last in view.
  moveInTime(view, direction, fromEdge = false) {
    const { boxes } = view;
    const order = boxes.byTime;
    const current = fromEdge || this.pinned?.view !== view ? -1 : order.indexOf(this.pinned.box);
    let k = current >= 0 ? current + direction : direction > 0 ? 0 : order.length - 1;
    const inView = (i) => fromEdge || current >= 0 || boxes.end[i] > this.axis.from;
    while (k >= 0 && k < order.length && !(boxes.shown(order[k]) && inView(order[k]))) k += direction;
    if (k >= 0 && k < order.length) this.reach(view, order[k]);
  }

  // Selects the nearest box above or below, of those that exist at the same time if there are any.
  moveInLevel(view, direction) {
    const { boxes } = view;
    if (this.pinned?.view !== view) {
      this.moveInTime(view, 1);
      return;
    }
    const from = this.pinned.box;
    let best = -1;
    let least = [Infinity, Infinity];
    for (let i = 0; i < boxes.count; i++) {
      const distance = (boxes.low[i] - boxes.low[from]) * direction;
      if (!(distance > 0) || !boxes.shown(i)) continue;
      const gap = Math.max(boxes.start[i] - boxes.end[from], boxes.start[from] - boxes.end[i]);
      const apart = gap < 0 ? -1 : gap;
      if (apart < least[0] || (apart === least[0] && distance < least[1])) [best, least] = [i, [apart, distance]];
    }
    if (best >= 0) this.reach(view, best);
  }

  reach(view, box) {
    const { start, end, low, high } = view.boxes;
    this.axis.reveal(start[box], end[box]);
    const { from, to } = this.level;
    if (low[box] < from || high[box] > to) this.panLevel((low[box] + high[box]) / 2 - (from + to) / 2);
    this.pin({ view, box });
    this.axis.point(Math.max(start[box], Math.min(end[box], this.axis.from)));
    this.live.textContent = [...this.panel.querySelectorAll("h4, dl > div")].map((node) => node.textContent).join("; ");
  }

  hover(item) {
    if (item?.view === this.hovered?.view && item?.box === this.hovered?.box) return;
    this.hovered = item;
    this.refresh();
  }

  pin(item) {
    this.pinned = item;
    this.refresh();
  }

  refresh() {
    const item = this.hovered ?? this.pinned;
    this.axis.mark(item ? item.view.boxes.label[item.box] : null);
    for (const view of this.views) view.invalidate(false);
    this.fillPanel();
  }

  fillPanel() {
    const item = this.hovered ?? this.pinned;
    this.panel.classList.toggle("empty", !item);
    if (!item) {
      this.panel.replaceChildren("Point at a box, click one, or press Tab and the arrow keys, to see its details.");
      return;
    }
    const { view, box } = item;
    const { boxes } = view;
    const category = this.axis.categories[boxes.category[box]];
    const where = view.spec.name && this.views.length > 1 ? ` in ${view.spec.name}` : "";
    const title = element("h4", {}, plainSwatch(boxes.category[box]), boxes.text(box), element("small", {}, `${category}${where}`));
    const rows = [...this.facts(view, box), ...this.details(boxes, box)];
    this.panel.replaceChildren(title, element("dl", {}, ...rows.map(([key, value]) =>
      element("div", { className: value.length > 60 ? "long" : "" }, element("dt", {}, key), element("dd", {}, value)))));
    // Grows to the longest details seen and stays there, so that nothing below jumps.
    if (this.width !== innerWidth) this.panel.style.minHeight = "";
    this.width = innerWidth;
    this.panel.style.minHeight = `${this.panel.offsetHeight}px`;
  }

  details(boxes, box) {
    return boxes.details
      .map(({ key, unit, values, text }) => [key, text ? DATA.strings[text[box]] : values[box] === null ? undefined : formatExactly(values[box], unit)])
      .filter(([, value]) => value !== undefined);
  }

  span(start, end) {
    const { axis } = this;
    const length = axis.stepped ? formatValue(end - start) : axis.format(end - start);
    const [from, to] = [axis.nameAt(start), axis.nameAt(axis.stepped ? end - 1 : end)];
    const names = from && to ? (from === to ? `, ${from}` : `, ${from} → ${to}`) : "";
    return `${axis.format(start)} to ${axis.format(end)} (length ${length})${names}`;
  }

  showAll() {
    this.level = { from: 0, to: this.height };
    this.axis.show(this.axis.low, this.axis.high);
  }

  panLevel(delta) {
    const { from, to } = this.level;
    const shift = clamp(delta, -from, this.height - to);
    this.setLevel(from + shift, to + shift);
  }

  zoomLevel(factor, around) {
    const { from, to } = this.level;
    this.setLevel(around - (around - from) * factor, around + (to - around) * factor);
  }

  setLevel(from, to) {
    const span = clamp(to - from, this.height * 1e-5, this.height);
    const low = clamp((from + to - span) / 2, 0, this.height - span);
    this.level = { from: low, to: low + span };
    for (const view of this.views) view.invalidate();
  }

  zoomToPinned() {
    if (!this.pinned) return;
    const { view, box } = this.pinned;
    const { start, end, low, high } = view.boxes;
    const room = Math.max(end[box] - start[box], this.axis.least) * 0.5;
    this.axis.show(start[box] - room, end[box] + room);
    const part = (high[box] - low[box]) / (this.level.to - this.level.from);
    if (part < 0.05) {
      const spare = Math.max(high[box] - low[box], this.height * 1e-5) * 5;
      this.setLevel(low[box] - spare, high[box] + spare);
    }
  }
}

class MapFigure extends TimeFigure {
  constructor(root, spec, axis) {
    super(root, spec, axis);
    this.height = spec.top;
    this.down = false;
    this.leftMargin = 66;
    this.build((view) => new Boxes(view, view.offset, view.offset.map((offset, i) => offset + view.size[i])));
  }

  facts(view, box) {
    const { spec } = view;
    const { unit, sizeLabel, offsetLabel } = this.spec;
    return [
      [sizeLabel, formatExactly(spec.size[box], unit)],
      [offsetLabel, formatExactly(spec.offset[box], unit)],
      [this.axis.label, this.span(view.boxes.start[box], view.boxes.end[box])],
    ].filter(([key]) => key !== "");
  }

  amount(view, box) {
    return formatValue(view.spec.size[box], this.spec.unit);
  }

  summary(view) {
    const { capacity, unit } = this.spec;
    const of = capacity === null ? "" : ` of ${formatValue(capacity, unit)}`;
    return `${counted(view.boxes.count, "rectangle")} · peak ${formatValue(view.spec.peak, unit)}${of}`;
  }

  describe(view, time) {
    const { capacity, unit } = this.spec;
    const share = capacity ? ` (${Math.round((100 * this.inUse(view, time)) / capacity)}%)` : "";
    return `in use ${formatValue(this.inUse(view, time), unit)}${share}`;
  }

  // What the boxes cover at a time; where they share offsets these count once.
  inUse({ boxes }, time) {
    const { start, end, low, high, count } = boxes;
    const at = this.axis.stepped ? Math.floor(time) + 0.5 : time;
    const live = [];
    for (let i = 0; i < count; i++) if (start[i] <= at && at < end[i]) live.push(i);
    live.sort((a, b) => low[a] - low[b]);
    let [sum, top] = [0, -Infinity];
    for (const i of live) {
      sum += Math.max(0, high[i] - Math.max(low[i], top));
      top = Math.max(top, high[i]);
    }
    return sum;
  }

  paintScale(view, pen) {
    const { left, width, height } = view.area;
    const { from, to } = this.level;
    const ticks = niceTicks(from, to, Math.max(2, height / 50), this.spec.unit);
    const labels = tickLabels(ticks, this.spec.unit);
    pen.textAlign = "right";
    pen.textBaseline = "middle";
    ticks.forEach((tick, k) => {
      pen.fillStyle = theme().grid;
      pen.fillRect(left - 4, view.y(tick), width + 4, 1);
      pen.fillStyle = theme().dim;
      pen.fillText(labels[k], left - 7, view.y(tick));
    });
  }

  paintMarks() {}

  paintLimits(view, pen) {
    const { capacity, capacityLabel, unit } = this.spec;
    if (capacity === null) return;
    const { left, top, width, height } = view.area;
    const y = view.y(capacity);
    if (y < top && this.level.to < this.height) return;
    const text = `${capacityLabel} ${formatValue(capacity, unit)}${y < top ? ", above this view" : ""}`;
    if (y > top + height) return;
    pen.textAlign = "right";
    pen.textBaseline = "alphabetic";
    if (y >= top) {
      pen.strokeStyle = theme().warn;
      pen.lineWidth = 1.5;
      pen.setLineDash([6, 4]);
      pen.beginPath();
      pen.moveTo(left, y);
      pen.lineTo(left + width, y);
      pen.stroke();
      pen.setLineDash([]);
    }
    const base = Math.max(y - 4, top + 11);
    pen.fillStyle = theme().surface;
    pen.globalAlpha = 0.8;
    pen.fillRect(left + width - 8 - text.length * view.character, base - 10, text.length * view.character + 8, 13);
    pen.globalAlpha = 1;
    pen.fillStyle = theme().ink;
    pen.fillText(text, left + width - 4, base);
  }
}

class LanesFigure extends TimeFigure {
  constructor(root, spec, axis) {
    super(root, spec, axis);
    this.height = Math.max(1, spec.rows);
    this.down = true;
    const longest = Math.max(0, ...spec.lanes.map((lane) => lane.name.length));
    this.leftMargin = clamp(longest * 7 + 16, 66, 190);
    this.build((view) => new Boxes(view, view.row.map((row) => row + 0.08), view.row.map((row) => row + 0.92)));
    this.views[0].plot.style.height = `${clamp(spec.rows * 20, 60, 360) + MARGIN.top + MARGIN.bottom}px`;
  }

  facts(view, box) {
    const { spec } = view;
    const { amountLabel, waitLabel, unit, lanes } = this.spec;
    const lane = lanes.find(({ first, rows }) => spec.row[box] >= first && spec.row[box] < first + rows);
    const wait = spec.wait.indexOf(box);
    return [
      ["lane", lane.name],
      [amountLabel, spec.amount[box] === null ? "" : formatExactly(spec.amount[box], unit)],
      [this.axis.label, this.span(view.boxes.start[box], view.boxes.end[box])],
      [waitLabel, wait < 0 ? "" : this.span(spec.waitStart[wait], spec.waitEnd[wait])],
    ].filter(([, value]) => value !== "");
  }

  amount(view, box) {
    const amount = view.spec.amount[box];
    return amount === null ? "" : formatValue(amount, this.spec.unit);
  }

  summary({ boxes, spec }) {
    const waits = this.spec.waitLabel && ` · ${formatValue(spec.wait.length)} with ${this.spec.waitLabel}`;
    return `${counted(boxes.count, "interval")}${waits}`;
  }

  describe({ boxes, spec }, time) {
    const at = this.axis.stepped ? Math.floor(time) + 0.5 : time;
    let [count, sum] = [0, 0];
    for (let i = 0; i < boxes.count; i++) {
      if (boxes.start[i] > at || at >= boxes.end[i]) continue;
      count += 1;
      sum += spec.amount[i] ?? 0;
    }
    return `${formatValue(count)} in progress${sum ? `, ${formatValue(sum, this.spec.unit)}` : ""}`;
  }

  paintScale(view, pen) {
    const { left, top, width, height } = view.area;
    pen.textAlign = "right";
    pen.textBaseline = "middle";
    for (const { name, first, rows } of this.spec.lanes) {
      const above = clamp(view.y(first), top, top + height);
      const below = clamp(view.y(first + rows), top, top + height);
      if (below - above < 1) continue;
      pen.fillStyle = theme().edge;
      pen.fillRect(0, below, left + width, 1);
      pen.fillStyle = theme().ink;
      pen.fillText(view.fit(name, left - 12), left - 7, (above + below) / 2);
    }
  }

  // Waits are striped; one that lies within its own interval takes the lower half of it.
  paintMarks(view, pen) {
    const { wait, waitStart, waitEnd } = view.spec;
    wait.forEach((box, k) => {
      if (view.boxes.hidden.has(view.boxes.category[box])) return;
      const [, top, , full] = view.screen(box);
      const height = waitStart[k] < view.boxes.end[box] ? full / 2 : full;
      const y = top + full - height;
      const x = view.x(waitStart[k]);
      const width = Math.max(view.x(waitEnd[k]) - x, 2);
      pen.fillStyle = theme().surface;
      pen.fillRect(x, y, width, height);
      pen.fillStyle = width < 5 ? theme().warn : theme().wait;
      pen.fillRect(x, y, width, height);
      pen.strokeStyle = theme().warn;
      pen.lineWidth = 1;
      if (width >= 5) pen.strokeRect(x + 0.5, y + 0.5, width - 1, height - 1);
    });
  }

  paintLimits() {}
}
