// The page's data, numbers as text, ticks, colours, and a way to make elements.

const DATA = JSON.parse(document.getElementById("report-data").textContent);
const SEARCHABLE = DATA.strings.map((text) => text.toLowerCase());
const COLOURS = 7;
const MISSING = "–";

const prefixed = (names, unit, base) => names.map((name, i) => [name + unit, base ** i]);
const PREFIXES = {
  B: prefixed(["", "Ki", "Mi", "Gi", "Ti", "Pi"], "B", 1024),
  "B/s": prefixed(["", "k", "M", "G", "T", "P"], "B/s", 1000),
  s: [["ps", 1e-12], ["ns", 1e-9], ["µs", 1e-6], ["ms", 1e-3], ["s", 1]],
};

const clamp = (value, low, high) => Math.min(Math.max(value, low), high);
const trim = (digits) => (digits.includes(".") ? digits.replace(/\.?0+$/, "") : digits);
const grouped = (digits) => digits.replace(/^\d+/, (whole) => whole.replace(/\B(?=(\d{3})+$)/g, ","));
const withUnit = (digits, unit) => (["", "%", "×"].includes(unit) ? digits + unit : `${digits} ${unit}`);

function scaleFor(size, unit) {
  const steps = PREFIXES[unit];
  if (!steps || !size) return { divisor: 1, unit };
  const [name, divisor] = steps.findLast((step) => size >= step[1]) ?? steps[0];
  return { divisor, unit: name };
}

function significant(value) {
  const size = Math.abs(value);
  const sign = value < 0 ? "-" : "";
  if (size === 0) return "0";
  const [mantissa, exponent] = size.toExponential(3).split("e");
  if (size >= 1e15 || size < 1e-4) return `${sign}${trim(mantissa)}e${Number(exponent)}`;
  return sign + trim(grouped(size.toFixed(Math.max(0, 3 - Number(exponent)))));
}

function formatValue(value, unit = "") {
  if (value === null || value === undefined) return MISSING;
  const scale = scaleFor(Math.abs(value), unit);
  const plain = !(unit in PREFIXES) && Number.isSafeInteger(value);
  const sign = value < 0 ? "-" : "";
  const digits = plain ? sign + grouped(String(Math.abs(value))) : significant(value / scale.divisor);
  return withUnit(digits, scale.unit);
}

// Bytes are written to the last one as well: offsets are compared exactly.
function formatExactly(value, unit) {
  const text = formatValue(value, unit);
  return unit === "B" && value >= 1024 ? `${text} (${grouped(String(value))} B)` : text;
}

function niceTicks(low, high, count, unit) {
  const raw = (high - low) / Math.max(1, count);
  if (!(raw > 0)) return [low];
  const power = 10 ** Math.floor(Math.log10(raw));
  const step = unit === "B"
    ? 2 ** Math.ceil(Math.log2(raw))
    : power * [1, 2, 5, 10].find((m) => m * power >= raw * (1 - 1e-9));
  const ticks = [];
  for (let k = Math.ceil(low / step - 1e-9); k * step <= high + step * 1e-9; k++) ticks.push(k * step);
  return ticks;
}

// Ticks share a unit and the digits that tell neighbours apart.
function tickLabels(ticks, unit) {
  const step = ticks.length > 1 ? ticks[1] - ticks[0] : Math.abs(ticks[0]) || 1;
  const largest = Math.max(...ticks.map(Math.abs));
  const scale = scaleFor(unit === "B" ? Math.min(4 * step, largest) : largest, unit);
  const whole = (digits) => Math.abs((step / scale.divisor) * 10 ** digits - Math.round((step / scale.divisor) * 10 ** digits)) < 1e-6;
  let digits = 0;
  while (digits < 12 && !whole(digits)) digits++;
  return ticks.map((tick) => {
    if (tick === 0) return "0";
    const sign = tick < 0 ? "-" : "";
    return withUnit(sign + grouped(Math.abs(tick / scale.divisor).toFixed(digits)), scale.unit);
  });
}

function element(tag, properties = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name in node) node[name] = value;
    else node.setAttribute(name, value);
  }
  node.append(...children);
  return node;
}

function luminance(colour) {
  const channels = [1, 3, 5].map((i) => parseInt(colour.slice(i, i + 2), 16) / 255);
  const [r, g, b] = channels.map((c) => (c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4));
  return 0.2126 * r + 0.7152 * g + 0.0722 * b;
}

function stripes(colour) {
  const tile = element("canvas", { width: 6, height: 6 });
  const pen = tile.getContext("2d");
  pen.strokeStyle = colour;
  pen.lineWidth = 1.6;
  for (const shift of [-6, 0, 6]) {
    pen.moveTo(shift - 1, 7);
    pen.lineTo(shift + 7, -1);
  }
  pen.stroke();
  return pen.createPattern(tile, "repeat");
}

let cachedTheme = null;

// The colours of the page as they are now: light, dark, or paper.
function theme() {
  if (cachedTheme) return cachedTheme;
  const style = getComputedStyle(document.documentElement);
  const read = (name) => style.getPropertyValue(`--${name}`).trim();
  const names = ["surface", "ink", "dim", "grid", "edge", "accent", "warn"];
  const colours = Array.from({ length: COLOURS }, (_, i) => read(`c${i}`));
  cachedTheme = {
    ...Object.fromEntries(names.map((name) => [name, read(name)])),
    categories: colours,
    labels: colours.map((colour) => (luminance(colour) > 0.18 ? "#000000" : "#ffffff")),
    stripes: stripes(read("surface")),
    wait: stripes(read("warn")),
  };
  return cachedTheme;
}

const DASHES = [[], [7, 3], [2, 3], [9, 3, 2, 3], [4, 2]];

function plainSwatch(category) {
  const striped = category >= COLOURS ? " striped" : "";
  return element("span", { className: `swatch s${category % COLOURS}${striped}` });
}
