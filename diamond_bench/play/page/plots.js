/** Small plots over the steps of the present branch, and the bars of a policy. */

import { colours, h, look, paced, short, signed, sized, written } from "./dom.js";

const SHOWN = 300; // steps in a plot
const HEIGHT = 84;
const LEFT = 64; // pixels for the labels of the axis
const DASHES = [[], [], [], [6, 3], [2, 2], [8, 3, 2, 3], [4, 2]];

const REWARD = "expected. Marks: the rewards that were drawn, and those of the real game";
/** What can be plotted: `of(lane)` gives a number, or null where the lane does not have it. */
const PLOTS = [
  { name: "Drift", unit: "mean squared error against the real game, pixels in [0, 1]", of: (lane) => lane.mse, low: 0, digits: 5 },
  { name: "Predicted reward", unit: REWARD, of: expected, marks: (lane) => lane.reward, low: -1, high: 1, digits: 2 },
  { name: "End probability", unit: "predicted", of: (lane) => lane.p_end, low: 0, high: 1, digits: 3 },
  { name: "Value", unit: "expected discounted return, by the policy's critic", of: (lane) => lane.value, digits: 2 },
  { name: "Entropy", unit: "of the policy, in bits", of: (lane) => lane.entropy, low: 0, digits: 2 },
  { name: "Return", unit: "sum of rewards since the start", of: (lane) => lane.return, write: signed, only: (lane) => lane.rewards },
];

function expected(lane) {
  return lane.p_reward ? lane.p_reward[2] - lane.p_reward[0] : null;
}

export class Plots {
  /**
   * @param {HTMLElement} place where the plots go
   * @param {object[]} lanes as in `welcome`
   * @param {string[]} actions their names
   * @param {(moment: number) => void} go called with the moment of a step that was clicked
   */
  constructor(place, lanes, actions, history, go) {
    Object.assign(this, { place, lanes, actions, history, go, hover: null, plots: new Map(), bars: null, draw: paced(() => this.drawn()) });
    place.replaceChildren();
    new ResizeObserver(() => this.draw()).observe(place);
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.draw());
  }

  drawn() {
    const { history } = this;
    const [now, end] = [history.step(history.now), history.path.length - 1];
    const last = Math.min(end, now + SHOWN / 2);
    const first = Math.max(0, last - SHOWN);
    Object.assign(this, { first, last, width: Math.max(last - first, 20), frames: history.frames(first, last) });
    const colors = colours(this.lanes);
    for (const plot of PLOTS) {
      const lines = [];
      for (const [lane, facts] of this.lanes.entries()) {
        if (plot.only && !plot.only(facts)) continue;
        const line = this.frames.map((frame) => (frame ? plot.of(frame.lanes[lane]) : null));
        if (line.some(known)) lines.push({ line, lane });
      }
      if (lines.length && !this.plots.has(plot)) this.add(plot);
      if (this.plots.has(plot)) this.plot(plot, lines, now, colors);
    }
    this.policy(this.frames[now - first]);
  }

  add(plot) {
    const canvas = h("canvas", { role: "img" });
    const values = h("span", { class: "values" });
    const figure = h("figure", { class: "plot", title: plot.unit }, h("figcaption", {}, h("b", {}, plot.name), values), canvas);
    const step = (event) => {
      const { left, width } = canvas.getBoundingClientRect();
      const share = (event.clientX - left - LEFT) / (width - LEFT);
      return Math.min(this.last, Math.max(this.first, Math.round(this.first + share * this.width)));
    };
    const point = (at) => {
      this.hover = at;
      this.draw();
    };
    canvas.addEventListener("pointermove", (event) => point(step(event)));
    canvas.addEventListener("pointerleave", () => point(null));
    canvas.addEventListener("click", (event) => this.go(this.history.path[step(event)]));
    this.plots.set(plot, { figure, canvas, values });
    const order = PLOTS.filter((other) => this.plots.has(other)).map((other) => this.plots.get(other).figure);
    this.place.replaceChildren(...order.toSpliced(2, 0, ...(this.bars ? [this.bars.figure] : [])));
  }

  plot(plot, lines, now, colors) {
    const { canvas, values } = this.plots.get(plot);
    const { pen, width } = sized(canvas, HEIGHT);
    const finite = lines.flatMap(({ line }) => line.filter((value) => Number.isFinite(value)));
    const low = plot.low ?? Math.min(0, ...finite);
    const most = plot.high ?? Math.max(low, ...finite);
    const high = most - low < 1e-9 ? low + 1 : most;
    const x = (index) => LEFT + (index / this.width) * (width - LEFT - 2);
    const y = (value) => 7 + (1 - (Math.min(high, Math.max(low, value)) - low) / (high - low)) * (HEIGHT - 14);

    Object.assign(pen, { fillStyle: colors.soft, textAlign: "right", textBaseline: "middle" });
    pen.font = `12px ${getComputedStyle(canvas).fontFamily}`;
    for (const value of low < 0 && high > 0 ? [low, 0, high] : [low, high]) {
      pen.fillText(short(value), LEFT - 6, y(value));
      stroke(pen, colors.line, 1, [[LEFT, Math.round(y(value)) + 0.5], [width, Math.round(y(value)) + 0.5]]);
    }
    for (const { line, lane } of lines) {
      pen.setLineDash(DASHES[lane]);
      stroke(pen, colors.lanes[lane], 1.5, line.map((value, index) => [x(index), y(value), known(value)]).filter(([, , is]) => is));
      pen.setLineDash([]);
    }
    for (const lane of plot.marks ? this.lanes.keys() : []) {
      pen.fillStyle = colors.lanes[lane];
      const [thick, long] = this.lanes[lane].real ? [1, 9] : [3, 5];
      for (const [index, frame] of this.frames.entries()) {
        const value = frame ? plot.marks(frame.lanes[lane]) : 0;
        if (value) pen.fillRect(x(index) - thick / 2, value > 0 ? 1 : HEIGHT - 1 - long, thick, long);
      }
    }
    for (const [step, color] of [[this.hover, colors.soft], [now, colors.ink]]) {
      if (step === null || step < this.first || step > this.last) continue;
      const place = Math.round(x(step - this.first)) + 0.5;
      stroke(pen, color, 1, [[place, 0], [place, HEIGHT]]);
    }
    const write = plot.write ?? ((value) => written(value, plot.digits));
    const read = (step) => lines.map(({ line, lane }) => ({ lane, text: write(line[step - this.first]) }));
    values.replaceChildren(
      ...(this.hover === null ? [] : [h("span", { class: "soft" }, `step ${this.hover}`)]),
      ...read(this.hover ?? now).map(({ lane, text }) => h("span", { class: look(this.lanes, lane) }, text)),
    );
    const numbers = read(now).map(({ lane, text }) => `${this.lanes[lane].name} ${text}`);
    canvas.setAttribute("aria-label", `${plot.name}: ${numbers.join(", ")}`);
  }

  /** The probabilities of the policy of the first lane that has one. */
  policy(frame) {
    const lane = frame ? frame.lanes.findIndex((found) => found.policy) : -1;
    if (lane < 0) return;
    const { policy } = frame.lanes[lane];
    if (!this.bars) {
      const rows = this.actions.map((name) => {
        const [bar, value] = [h("span", { class: "bar" }), h("td", { class: "number" })];
        return { bar, value, row: h("tr", {}, h("th", { scope: "row" }, name), h("td", { class: "track" }, bar), value) };
      });
      const values = h("span", { class: "values" });
      const table = h("table", { class: "bars" }, ...rows.map(({ row }) => row));
      const caption = h("figcaption", {}, h("b", {}, "Policy"), values);
      const figure = h("figure", { class: `plot ${rows.length > 9 ? "long" : "policy"}` }, caption, table);
      this.bars = { rows, values, figure };
      this.place.insertBefore(figure, this.place.children[2] ?? null);
    }
    const most = Math.max(...policy);
    for (const [action, { row, bar, value }] of this.bars.rows.entries()) {
      bar.style.width = `${(100 * policy[action]).toFixed(1)}%`;
      value.textContent = written(policy[action], 2);
      row.classList.toggle("most", policy[action] === most);
    }
    this.bars.values.replaceChildren(h("span", { class: look(this.lanes, lane) }, this.lanes[lane].name));
  }
}

function known(value) {
  return value !== null && value !== undefined;
}

function stroke(pen, color, width, points) {
  if (!points.length) return;
  Object.assign(pen, { strokeStyle: color, lineWidth: width, lineJoin: "round" });
  pen.beginPath();
  pen.moveTo(points[0][0] - (points.length === 1 ? 1 : 0), points[0][1]);
  for (const [x, y] of points) pen.lineTo(x, y);
  pen.stroke();
}
