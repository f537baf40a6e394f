"use strict";
// The dashboard's page: takes what /live says, puts it in its place, and draws the last hour.

const KEPT = 360;
const SILENT_MS = 5000;
const AGAIN_MS = 10000;
const CHARTS = {
  rate: { columns: [1], labels: ["per second"] },
  latency: { columns: [2, 3, 4], labels: ["p50", "p95", "p99"] },
  lag: { columns: [5], labels: ["records"] },
  alerts: { columns: [6], labels: ["per minute"] },
};
const HEIGHT = 160;
let points = [];
let drawn = {};
let heard = Date.now();

function colour(name) {
  return getComputedStyle(document.documentElement).getPropertyValue(name).trim();
}

function dataOf(chart) {
  return [0, ...chart.columns].map((column) => points.map((point) => point[column]));
}

function draw() {
  const ink = colour("--quiet"), line = colour("--line");
  for (const [name, chart] of Object.entries(CHARTS)) {
    const place = document.getElementById(`chart-${name}`);
    if (drawn[name]) drawn[name].destroy();
    place.replaceChildren();
    const axis = { stroke: ink, grid: { stroke: line, width: 1 }, ticks: { stroke: line, width: 1 }, font: "11px system-ui, sans-serif" };
    drawn[name] = new uPlot({
      width: place.clientWidth,
      height: HEIGHT,
      tzDate: (seconds) => uPlot.tzDate(new Date(seconds * 1000), "Etc/UTC"),
      cursor: { drag: { x: false, y: false } },
      axes: [{ ...axis, values: (_, ticks) => ticks.map((tick) => new Date(tick * 1000).toISOString().slice(11, 16)) }, { ...axis, size: 60 }],
      scales: { y: { range: (_, low, high) => [0, high > 0 ? high * 1.1 : 1] } },
      series: [
        { label: "UTC", value: (_, tick) => (tick ? new Date(tick * 1000).toISOString().slice(11, 19) : "–") },
        ...chart.labels.map((label, index) => ({
          label,
          stroke: colour(`--line${index + 1}`),
          width: 1.5,
          points: { show: false },
          value: (_, value) => (value === null || value === undefined ? "–" : value.toLocaleString("en", { maximumFractionDigits: 1 })),
        })),
      ],
    }, dataOf(chart), place);
  }
}

function redraw() {
  for (const [name, chart] of Object.entries(CHARTS)) drawn[name].setData(dataOf(chart));
}

function take(said) {
  heard = Date.now();
  document.getElementById("connection").textContent = "Live";
  for (const [part, html] of Object.entries(said.html)) {
    const place = document.getElementById(part);
    // a link that somebody has reached by keyboard stays where it is
    if (place && !place.contains(document.activeElement)) place.innerHTML = html;
  }
  if (said.points.length) {
    points = points.concat(said.points).slice(-KEPT);
    if (drawn.rate) redraw(); else draw();
  }
  setTimeout(showNewest); // after what a new point makes uPlot do
}

// while nobody points at a chart, its legend has the newest figures
function showNewest() {
  for (const chart of Object.values(drawn)) if (!(chart.cursor.left >= 0)) chart.setLegend({ idx: points.length - 1 });
}

// a browser asks again by itself, except after a refusal: too many pages watch the worker, or the login has ended
function listen() {
  const source = new EventSource("/live");
  source.onmessage = (event) => take(JSON.parse(event.data));
  source.onerror = () => { if (source.readyState === EventSource.CLOSED) setTimeout(listen, AGAIN_MS); };
}
listen();
setInterval(() => {
  if (Date.now() - heard > SILENT_MS)
    document.getElementById("connection").textContent = "The worker does not respond, or you are logged out: the figures below are out of date.";
}, 1000);
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => { if (drawn.rate) draw(); });
let resizing = 0;
addEventListener("resize", () => {
  clearTimeout(resizing);
  resizing = setTimeout(() => { if (drawn.rate) draw(); }, 100);
});
