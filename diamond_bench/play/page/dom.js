/** Elements, numbers and colours. What the server says becomes text nodes, so none of it is read as markup. */

export const $ = (id) => document.getElementById(id);

/** An element with attributes (or properties, if they are true, false or functions) and children. */
export function h(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (typeof value === "function" || typeof value === "boolean") element[name] = value;
    else if (value !== null && value !== undefined) element.setAttribute(name, value);
  }
  element.append(...children);
  return element;
}

/** An icon of the page's sprite. */
export function icon(name) {
  const [svg, use] = ["svg", "use"].map((tag) => document.createElementNS("http://www.w3.org/2000/svg", tag));
  use.setAttribute("href", `#i-${name}`);
  svg.append(use);
  return svg;
}

/** Radio buttons that look like one bar. `options`: [{value, label, mark?: class of a dot, off?: why it cannot be chosen}]. */
export function segments(place, name, options, chosen, choose) {
  const labels = options.map(({ value, label, mark, off }) => {
    const input = h("input", { type: "radio", name, value, checked: value === chosen, disabled: Boolean(off) });
    input.addEventListener("change", () => choose(value));
    const dot = mark ? [h("i", { class: `dot ${mark}` })] : [];
    return h("label", off ? { title: off } : {}, input, h("span", {}, ...dot, label));
  });
  place.replaceChildren(...labels);
}

/** A canvas as wide as its place and so many CSS pixels high, with a pen in CSS pixels. */
export function sized(canvas, height) {
  const [width, scale] = [canvas.clientWidth, devicePixelRatio];
  const [across, down] = [Math.round(width * scale), Math.round(height * scale)];
  if (canvas.width !== across || canvas.height !== down) Object.assign(canvas, { width: across, height: down });
  const pen = canvas.getContext("2d");
  pen.setTransform(scale, 0, 0, scale, 0, 0);
  pen.clearRect(0, 0, width, height);
  return { pen, width };
}

/** A function that calls `work` in an animation frame, at most ten times a second, and once more after the last call. */
export function paced(work) {
  let [asked, last] = [false, 0];
  return () => {
    if (asked) return;
    asked = true;
    const run = () => {
      asked = false;
      last = performance.now();
      work();
    };
    setTimeout(() => requestAnimationFrame(run), Math.max(0, last + 100 - performance.now()));
  };
}

/** Why an input cannot be taken, in a sentence, or "" if it can. `name`: that of the input. */
export function refusal(input, name) {
  const empty = input.value.trim() === "" ? "Please enter a number." : "";
  const why = input.validationMessage || empty;
  return why && `${name}: ${why} The old value holds.`;
}

/** A number with so many digits after the point. */
export function written(value, digits) {
  return value === null || value === undefined ? "–" : value.toFixed(digits).replace("-", "−");
}

/** A reward or a sum of rewards, with its sign: two digits after the point, or the first two digits of a smaller number. */
export function signed(value) {
  if (value === null || value === undefined) return "–";
  const size = Math.abs(value);
  const text = String(size < 0.01 ? Number(value.toPrecision(2)) : Math.round(value * 100) / 100).replace("-", "−");
  return value > 0 ? `+${text}` : text;
}

/** A number for the label of an axis. */
export function short(value) {
  const size = Math.abs(value);
  if (size && (size >= 10000 || size < 0.001)) return value.toExponential(0).replaceAll("-", "−");
  return String(Number(value.toPrecision(2))).replace("-", "−");
}

/** The class with the colour of a lane. The real game has that of the text. */
export function look(lanes, lane) {
  return lanes[lane].real ? "real" : `lane-${lane}`;
}

/** The page's colours in the present scheme. */
export function colours(lanes) {
  const style = getComputedStyle(document.documentElement);
  const of = (name) => style.getPropertyValue(`--${name}`).trim();
  return { ink: of("ink"), soft: of("soft"), line: of("line"), link: of("link"), lanes: lanes.map((_, lane) => of(look(lanes, lane))) };
}
