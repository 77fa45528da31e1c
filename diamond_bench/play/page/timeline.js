/** The timeline: a slider over the steps of the present branch, and under it the branches. */

import { $, colours, paced, sized } from "./dom.js";

const THUMB = 14; // pixels of the slider's thumb, as in the style
const ROW = 7;
const MOST_ROWS = 6;

export class Timeline {
  /** `go(moment)` is called while the slider moves, and for a click on a branch. */
  constructor(history, go) {
    Object.assign(this, { history, go, slider: $("timeline"), tree: $("tree"), draw: paced(() => this.drawn()) });
    this.slider.addEventListener("input", () => {
      const { path } = history;
      this.slider.value = Math.min(this.slider.value, path.length - 1);
      go(path[this.slider.value]);
    });
    this.tree.addEventListener("click", (event) => this.clicked(event));
    new ResizeObserver(() => this.draw()).observe(this.tree.parentElement);
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.draw());
  }

  drawn() {
    const { history, slider } = this;
    const [now, end] = [history.step(history.now), history.path.length - 1];
    this.most = Math.max(1, ...history.runs.map((run) => run.step + run.count - 1));
    slider.max = this.most;
    slider.value = now;
    slider.setAttribute("aria-valuetext", `step ${now} of ${end}`);
    slider.style.setProperty("--done", now / this.most);
    slider.style.setProperty("--known", end / this.most);
    $("place").textContent = `step ${now}${end > now ? ` of ${end}` : ""}`;
    const { leaves } = history;
    $("branches").hidden = leaves.length < 2;
    $("branch").textContent = `branch ${leaves.indexOf(history.leaf) + 1} of ${leaves.length}`;
    this.branches();
  }

  branches() {
    const { history, tree } = this;
    tree.hidden = history.runs.length < 2;
    if (tree.hidden) return;
    const rows = (this.rows = placed(history.runs));
    const { pen, width } = sized(tree, ROW * (Math.max(...rows) + 1) + 2);
    tree.style.height = `${ROW * (Math.max(...rows) + 1) + 2}px`;
    const { link, soft } = colours([]);
    const x = (step) => THUMB / 2 + (step / this.most) * (width - THUMB);
    const y = (row) => ROW * row + ROW / 2 + 1;
    const present = this.presentParts();
    const draw = (run, last, color, thick) => {
      const index = history.runs.indexOf(run);
      Object.assign(pen, { strokeStyle: color, lineWidth: thick, lineJoin: "round" });
      pen.beginPath();
      if (run.before >= 0) {
        pen.moveTo(x(run.step - 1), y(rows[this.runOf(run.before)]));
        pen.lineTo(x(run.step - 1) + 3, y(rows[index]));
      } else pen.moveTo(x(run.step), y(rows[index]));
      pen.lineTo(x(last), y(rows[index]));
      pen.stroke();
    };
    for (const run of history.runs) draw(run, run.step + run.count - 1, soft, 1);
    for (const [run, last] of present) draw(run, last, link, 2);
    pen.fillStyle = link;
    pen.beginPath();
    pen.arc(x(history.step(history.now)), y(rows[this.runOf(history.now)]), 3.5, 0, 7);
    pen.fill();
  }

  /** The parts of runs on the present branch: [run, its last step there]. */
  presentParts() {
    const { history } = this;
    const parts = [];
    for (let at = history.leaf; at >= 0; ) {
      const run = history.runs[this.runOf(at)];
      parts.push([run, history.step(at)]);
      at = run.before;
    }
    return parts;
  }

  /** The index of a moment's run. */
  runOf(moment) {
    const { runs } = this.history;
    return runs.findLastIndex((run) => run.first <= moment);
  }

  clicked(event) {
    const box = this.tree.getBoundingClientRect();
    const row = Math.floor((event.clientY - box.top - 1) / ROW);
    const step = Math.round(((event.clientX - box.left - THUMB / 2) / (box.width - THUMB)) * this.most);
    const beyond = (run) => Math.max(run.step - step, step - (run.step + run.count - 1), 0);
    const far = (run, index) => Math.abs(this.rows[index] - row) * 1e6 + beyond(run);
    const { run: near } = this.history.runs
      .map((run, index) => ({ run, far: far(run, index) }))
      .reduce((best, found) => (found.far < best.far ? found : best));
    this.go(near.first + Math.min(near.count - 1, Math.max(0, step - near.step)));
  }
}

/** A row for each run, so that runs that share steps lie under each other. Those that fit nowhere share the last row. */
function placed(runs) {
  const ends = [];
  return runs.map((run) => {
    const last = run.step + run.count - 1;
    const free = ends.findIndex((taken) => taken.every(([from, to]) => run.step - 1 > to || last < from));
    const row = free >= 0 ? free : Math.min(ends.length, MOST_ROWS - 1);
    (ends[row] ??= []).push([run.step - 1, last]);
    return row;
  });
}
