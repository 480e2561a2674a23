// Charts over time, drawn by uPlot in the colours of the theme.

import uPlot from "./vendor/uplot.js";
import { h, setText } from "./dom.js";

const HEIGHT = 190;
const charts = new Set();

// The colour that a custom property of the stylesheet has now.
export function colour(name) {
  const probe = h("span", { hidden: true });
  document.body.append(probe);
  probe.style.color = `var(${name})`;
  const value = getComputedStyle(probe).color;
  probe.remove();
  return value;
}

function translucent(value, alpha) {
  const [red, green, blue] = value.match(/[\d.]+/g);
  return `rgba(${red}, ${green}, ${blue}, ${alpha})`;
}

// `series`: [{label, colour: a custom property, isFilled}]; `format`: a value as text. `least`: the
// top of the scale where all values are smaller; `isWhole`: only whole numbers are on the scale.
export class Chart {
  constructor({ title, series, format, least = 1, maximum = null, isWhole = false, group = "charts" }) {
    this.series = series;
    this.format = format;
    this.least = least;
    this.maximum = maximum;
    this.isWhole = isWhole;
    this.group = group;
    this.data = [[], ...series.map(() => [])];
    this.plot = null;
    this.box = h("div", { class: "plot" });
    this.summary = h("span", { class: "hidden" });
    this.element = h(
      "figure",
      { class: "card chart" },
      h("figcaption", {}, h("h2", {}, title), this.summary),
      this.box,
    );
    this.observer = new ResizeObserver(() => this.#fit());
    this.observer.observe(this.box);
    charts.add(this);
  }

  // Times in seconds since 1970 and one list of values for each series; null is a gap.
  show(times, columns) {
    this.data = [times, ...columns];
    if (this.plot) this.plot.setData(this.data);
    const last = columns.map((column) => column[column.length - 1] ?? null);
    const values = this.series.map((one, index) => `${one.label} ${this.format(last[index])}`);
    this.latest = `Newest values: ${values.join(", ")}.`;
    if (!this.summary.textContent) setText(this.summary, this.latest);
  }

  // Screen readers get the newest values when they come to the chart, not each second.
  describe() {
    setText(this.summary, this.latest || "");
  }

  redraw() {
    if (this.plot) this.plot.destroy();
    this.plot = null;
    this.#fit();
  }

  close() {
    this.observer.disconnect();
    if (this.plot) this.plot.destroy();
    charts.delete(this);
  }

  #onAxis(value) {
    if (this.isWhole && !Number.isInteger(value)) return "";
    return this.format(value).replace(/\.0+(?=\D|$)/, "");
  }

  #fit() {
    const width = Math.floor(this.box.clientWidth);
    if (width < 50) return;
    if (!this.plot) this.plot = new uPlot(this.#options(width), this.data, this.box);
    else if (this.plot.width !== width) this.plot.setSize({ width, height: HEIGHT });
  }

  #options(width) {
    const [line, ink] = [colour("--line"), colour("--muted")];
    const font = "12px system-ui, sans-serif";
    const grid = { stroke: line, width: 1 };
    const ticks = { show: false };
    return {
      width,
      height: HEIGHT,
      padding: [8, 30, 0, 0], // half of a time fits beside the plot
      cursor: { sync: { key: this.group }, y: false, points: { size: 7 } },
      legend: { live: true },
      scales: {
        x: { time: true },
        y: { range: (_plot, low, high) => [0, this.maximum ?? Math.max(high * 1.1, this.least)] },
      },
      axes: [
        { stroke: ink, font, grid: { show: false }, ticks, size: 28, space: 110, values: axisTimes },
        {
          stroke: ink, font, grid, ticks, size: 78,
          values: (_plot, splits) => splits.map((value) => this.#onAxis(value)),
        },
      ],
      series: [
        { value: (_plot, value) => (value === null ? "now" : new Date(value * 1000).toLocaleTimeString()) },
        ...this.series.map((one) => {
          const stroke = colour(one.colour);
          return {
            label: one.label,
            stroke,
            width: 2,
            fill: one.isFilled ? translucent(stroke, 0.14) : undefined,
            points: { show: false },
            value: (plot, value, index) => this.format(value ?? lastValue(plot.data[index])),
          };
        }),
      ],
    };
  }
}

function lastValue(column) {
  return column[column.length - 1] ?? null;
}

function axisTimes(plot, splits) {
  const span_s = plot.scales.x.max - plot.scales.x.min;
  const isLong = span_s > 86400;
  const second = span_s < 300 ? "2-digit" : undefined;
  return splits.map((value) => {
    const date = new Date(value * 1000);
    if (isLong) return date.toLocaleDateString(undefined, { weekday: "short", day: "numeric" });
    return date.toLocaleTimeString(undefined, { hour: "2-digit", minute: "2-digit", second });
  });
}

// Draws all charts again, in the colours of a changed theme.
export function redrawCharts() {
  for (const chart of charts) chart.redraw();
}
