/** Pictures: the lanes next to each other, the film strip of denoising, and the starts. Pixels stay whole multiples of screen pixels. */

import { h, look, signed, written } from "./dom.js";

const GAP = 16;
const AROUND = 52; // pixels of a picture's caption and numbers
const PHONE = matchMedia("(max-width: 47.99rem)");
const NEAR = 12; // pixels between the pictures of a phone
const PEEK = 40; // pixels of the next picture that a phone shows, so that one sees that there is more

export class Stage {
  /**
   * @param {HTMLElement} place
   * @param {object[]} lanes as in `welcome`
   */
  constructor(place, lanes) {
    this.place = place;
    this.size = [64, 64];
    this.figures = lanes.map((lane, number) => new Picture(lane.name, lane.source, look(lanes, number)));
    this.difference = new Picture("difference", "absolute difference from the real game, four times brighter", "difference");
    this.lanes = lanes;
    this.living = new Set(); // lanes whose game counts lives: others always have 0
    place.replaceChildren(...this.figures.map((picture) => picture.figure));
    new ResizeObserver(() => this.fit()).observe(place.parentElement);
    addEventListener("resize", () => this.fit());
    this.fit();
  }

  /** Draws a frame: its numbers, and a bitmap for each of its pictures. */
  show(frame, bitmaps) {
    const other = this.size;
    this.size = [bitmaps[0].width, bitmaps[0].height];
    const shown = this.difference.figure.isConnected;
    if (frame.difference && !shown) this.place.append(this.difference.figure);
    if (!frame.difference && shown) this.difference.figure.remove();
    if (shown !== Boolean(frame.difference) || String(other) !== String(this.size)) this.fit();
    let inset = frame.lanes.length;
    frame.lanes.forEach((lane, number) => {
      this.figures[number].draw(bitmaps[number]);
      if (lane.low_bytes !== null) this.figures[number].inlay(bitmaps[inset++]);
      if (lane.lives) this.living.add(number);
      const shown = numbers(lane, this.lanes[number], this.living.has(number));
      this.figures[number].say(shown, lane.ended ? "over" : lane.cut ? "time limit" : "");
    });
    if (frame.difference) {
      const lane = frame.lanes[frame.difference.lane];
      this.difference.draw(bitmaps.at(-1));
      this.difference.detail(`${this.lanes.length > 2 ? `of ${this.lanes[frame.difference.lane].name} ` : ""}× 4`);
      this.difference.say([["PSNR", lane.psnr === null ? "equal" : `${written(lane.psnr, 1)} dB`], ["MSE", written(lane.mse, 5)]], "");
    }
  }

  /** Writes the setting of each lane into its caption. */
  settings(settings) {
    settings.forEach((setting, number) => this.figures[number].detail(summary(setting, this.lanes[number])));
  }

  /** Gives all pictures the largest scale at which they fit, with whole screen pixels for each of theirs. */
  fit() {
    const count = this.place.childElementCount;
    const [across, down] = this.size;
    const width = this.place.clientWidth;
    const height = Math.max(innerHeight * (PHONE.matches ? 0.5 : 0.62), 300);
    const whole = (space) => Math.max(1, Math.floor(space * devicePixelRatio)) / devicePixelRatio;
    let [scale, columns, lines] = [0, 1, count];
    if (PHONE.matches) {
      const space = count === 2 ? (width - NEAR) / 2 : width - (count > 1 ? PEEK : 0);
      scale = whole(Math.min(space / across, height / down));
    } else {
      for (let tried = 1; tried <= count; tried++) {
        const rows = Math.ceil(count / tried);
        const found = whole(Math.min((width - GAP * (tried - 1)) / tried / across, (height - AROUND * rows) / rows / down));
        if (found > scale || (found === scale && rows < lines)) [scale, columns, lines] = [found, tried, rows];
      }
    }
    this.place.style.setProperty("--columns", columns);
    for (const { canvas, figure, inset } of [...this.figures, this.difference]) {
      canvas.style.width = figure.style.width = `${scale * across}px`;
      canvas.style.height = `${scale * down}px`;
      inset.style.width = `${scale * inset.width}px`;
    }
  }
}

class Picture {
  constructor(name, source, color) {
    this.canvas = h("canvas", { width: 64, height: 64, role: "img", "aria-label": name });
    this.inset = h("canvas", { width: 0, class: "inset", role: "img", "aria-label": `${name}, at low resolution`, hidden: true });
    this.details = h("span", { class: "soft detail" });
    this.badge = h("span", { class: "ended", hidden: true });
    this.numbers = h("dl", { class: "numbers" });
    const caption = h("figcaption", { title: source }, h("i", { class: `dot ${color}` }), h("b", {}, name), this.details, this.badge);
    const screen = h("div", { class: "screen" }, this.canvas, this.inset);
    this.figure = h("figure", { class: `picture of-${color}` }, caption, screen, this.numbers);
  }

  /** Draws the frame at low resolution into a corner, with pixels as large as those of the picture. */
  inlay(bitmap) {
    draw(this.inset, bitmap);
    if (!this.inset.hidden) return;
    this.inset.hidden = false;
    this.inset.style.width = `${(parseFloat(this.canvas.style.width) / this.canvas.width) * bitmap.width}px`;
  }

  draw(bitmap) {
    draw(this.canvas, bitmap);
  }

  detail(text) {
    if (this.details.textContent !== text) this.details.textContent = text;
  }

  say(numbers, badge) {
    this.badge.hidden = !badge;
    this.badge.textContent = badge;
    this.numbers.replaceChildren(...numbers.map(([name, value]) => h("div", {}, h("dt", {}, name), h("dd", {}, value))));
  }
}

function numbers(lane, facts, lives) {
  const found = [];
  if (facts.rewards) found.push(["reward", signed(lane.reward)], ["return", signed(lane.return)]);
  if (lives) found.push(["lives", String(lane.lives)]);
  return found;
}

/** A setting in a few words, such as "n 3 · euler · guidance 2 · 50%". */
function summary(setting, lane) {
  if (lane.real) return "";
  const parts = [];
  if (setting.sampler) parts.push(`n ${setting.sampler.num_steps}`, setting.sampler.name.replaceAll("_", " "));
  if (setting.sampler && setting.sampler.guidance !== 1) parts.push(`guidance ${setting.sampler.guidance}`);
  if (setting.milestone !== null && lane.milestones.length > 1) parts.push(`${Math.round(setting.milestone * 100)}%`);
  if (changed(setting.sampler, lane.setting.sampler)) parts.push("changed");
  return parts.join(" · ");
}

/** Whether a sampler has another value than the first one in a key that both have and the caption does not show. */
function changed(sampler, first) {
  const shown = ["name", "num_steps", "guidance"];
  const keys = Object.keys(sampler ?? {}).filter((key) => !shown.includes(key) && first && key in first);
  return keys.some((key) => JSON.stringify(sampler[key]) !== JSON.stringify(first[key]));
}

function draw(canvas, bitmap) {
  const { width, height } = bitmap;
  if (canvas.width !== width || canvas.height !== height) Object.assign(canvas, { width, height });
  canvas.getContext("2d").drawImage(bitmap, 0, 0);
}

/** Bitmaps of pictures, in their order. */
export function bitmaps(pictures) {
  return Promise.all(pictures.map((picture) => createImageBitmap(picture)));
}

/** A canvas with a bitmap, about `width` pixels wide and at a whole multiple of its size. */
export function still(bitmap, width, label) {
  const scale = Math.max(1, Math.floor((width * devicePixelRatio) / bitmap.width)) / devicePixelRatio;
  const canvas = h("canvas", { role: "img", "aria-label": label });
  draw(canvas, bitmap);
  canvas.style.width = `${bitmap.width * scale}px`;
  canvas.style.height = `${bitmap.height * scale}px`;
  return canvas;
}

/** Fills the film strip: for each call its noise level, its input, and its estimate of the clean frame. */
export async function film(place, strip, pictures) {
  const found = await bitmaps(pictures);
  const width = strip.calls.length > (PHONE.matches ? 2 : 6) ? 64 : 128;
  const columns = strip.calls.map(({ call, sigma }, index) => {
    const name = `call ${call + 1}`;
    const [noisy, clean] = [still(found[2 * index], width, `${name}, noisy`), still(found[2 * index + 1], width, `${name}, estimate`)];
    return h("figure", {}, h("figcaption", {}, h("b", {}, String(call + 1)), ` σ ${sigma.toPrecision(3)}`), noisy, clean);
  });
  place.replaceChildren(...columns);
}

/** Buttons for start pictures. */
export async function thumbnails(message, pictures, chosen, choose) {
  const found = await bitmaps(pictures);
  const width = PHONE.matches ? 64 : 128;
  const several = message.starts.some((start) => start.place[0] !== message.starts[0].place[0]) || message.of > message.starts.length;
  return message.starts.map((start, index) => {
    const number = message.first + index;
    const [recording, step] = [`recording ${start.place[0]}`, `step ${start.place[1]}`];
    const picture = still(found[index], width, `${recording}, ${step}`);
    const text = several ? [h("span", {}, recording), h("span", {}, step)] : [h("span", {}, step)];
    const button = h("button", { type: "button", "aria-pressed": String(number === chosen) }, picture, ...text);
    button.addEventListener("click", () => choose(number));
    return button;
  });
}
