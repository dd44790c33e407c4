// Starts the figures, and redraws them when the colours change or the page goes to paper.

const axes = Object.fromEntries(Object.entries(DATA.axes).map(([group, spec]) => [group, new TimeAxis(spec)]));
const KINDS = { map: MapFigure, lanes: LanesFigure, line: LineFigure };

const figures = [...document.querySelectorAll("[data-figure]")].map((root) => {
  const spec = DATA.figures[Number(root.dataset.figure)];
  return new KINDS[spec.type](root, spec, axes[spec.axis]);
});

function redraw() {
  cachedTheme = null;
  for (const figure of figures) {
    for (const view of figure.views ?? [figure]) {
      view.dirty = true;
      view.draw();
    }
  }
}

// What a plot shows, as an image: paper has another width, and keeps the shape of images.
function snapshot(plot) {
  const [first, ...others] = plot.querySelectorAll("canvas");
  const sheet = element("canvas", { width: first.width, height: first.height });
  const pen = sheet.getContext("2d");
  for (const canvas of [first, ...others]) pen.drawImage(canvas, 0, 0);
  plot.append(element("img", { className: "paper", alt: "", src: sheet.toDataURL() }));
}

function paper(on) {
  for (const image of document.querySelectorAll(".paper")) image.remove();
  if (on) document.documentElement.dataset.theme = "light";
  else delete document.documentElement.dataset.theme;
  document.body.style.width = on ? "1000px" : "";
  for (const figure of figures) figure.printing = on;
  redraw();
  if (on) document.querySelectorAll(".plot").forEach(snapshot);
  document.body.style.width = "";
}

matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redraw);
window.addEventListener("beforeprint", () => paper(true));
window.addEventListener("afterprint", () => paper(false));

// For the console and for tests.
window.scheduleReport = { figures, axes, formatValue, redraw };
