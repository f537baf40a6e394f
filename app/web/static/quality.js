"use strict";
// Draws the curves of the page of quality, in place of the lines that stand there without scripts.

const HEIGHT = 260;
const AGAIN_MS = 2000;
// x and y of a row of the data, and what a legend says of it
const CHARTS = {
  precision: { x: 1, y: 2, names: ["recall", "precision"], more: { label: "from score", at: 0 } },
  calibration: { x: 0, y: 1, names: ["mean score", "share of frauds"], more: { label: "labels", at: 2 }, diagonal: true },
};
const drawn = {};

function colour(name) {
  return getComputedStyle(document.documentElement).getPropertyValue(name).trim();
}

function written(value) {
  return value === null || value === undefined ? "–" : value.toLocaleString("en", { maximumFractionDigits: 4 });
}

function draw() {
  const ink = colour("--quiet"), line = colour("--line");
  for (const [name, chart] of Object.entries(CHARTS)) {
    const place = document.getElementById(`chart-${name}`);
    if (!place) continue;
    const rows = JSON.parse(place.dataset.rows);
    if (!rows.length) continue;
    if (drawn[name]) drawn[name].destroy();
    place.replaceChildren();
    const axis = { stroke: ink, grid: { stroke: line, width: 1 }, ticks: { stroke: line, width: 1 }, font: "11px system-ui, sans-serif" };
    const column = (index) => rows.map((row) => row[index]);
    const series = [
      { label: chart.names[0], value: (_, value) => written(value) },
      { label: chart.names[1], stroke: colour("--line1"), width: 1.5, points: { show: rows.length <= 20 }, value: (_, value) => written(value) },
      { label: chart.more.label, scale: "none", show: true, width: 0, points: { show: false }, value: (_, value) => written(value) },
    ];
    const data = [column(chart.x), column(chart.y), column(chart.more.at)];
    if (chart.diagonal) {
      series.push({ label: "as scored", stroke: colour("--line2"), width: 1, dash: [4, 4], points: { show: false }, value: (_, value) => written(value) });
      data.push(column(chart.x));
    }
    drawn[name] = new uPlot({
      width: place.clientWidth,
      height: HEIGHT,
      cursor: { drag: { x: false, y: false } },
      axes: [axis, { ...axis, size: 45 }],
      scales: { x: { time: false, range: [0, 1] }, y: { range: [0, 1.02] }, none: { range: [0, 1] } },
      series,
    }, data, place);
  }
}

// nothing moves under a reader until the figures are there (or the login has ended)
async function measured() {
  const answer = await fetch(location.href).catch(() => null);
  if (answer && !(await answer.text()).includes('id="measuring"')) location.reload();
  else setTimeout(measured, AGAIN_MS);
}

if (document.getElementById("measuring")) setTimeout(measured, AGAIN_MS);
draw();
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
let resizing = 0;
addEventListener("resize", () => {
  clearTimeout(resizing);
  resizing = setTimeout(draw, 100);
});
