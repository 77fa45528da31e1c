/** Keys, touch and mouse: what is held for the game, and the keys that steer the page. A key is a place on the keyboard (`event.code`). */

import { h } from "./dom.js";

const MOST = 16; // keys that the server reads
const CROSS = { KeyW: "Up", KeyS: "Down", KeyA: "Left", KeyD: "Right" };
const NAMES = {
  ...{ ArrowUp: "↑", ArrowDown: "↓", ArrowLeft: "←", ArrowRight: "→", PageUp: "Page Up", PageDown: "Page Down", Escape: "Esc" },
  ...{ Mouse0: "left button", Mouse2: "right button", ShiftLeft: "Shift" },
  ...{ Period: ".", Comma: ",", Minus: "−", Equal: "=", BracketLeft: "[", BracketRight: "]" },
};

/** Keys of the page: [code, what it does, its text in the help sheet]. Keys that hold repeat where that makes sense. */
export const PAGE_KEYS = [
  ["Period", "toggle", "play or pause"],
  ["KeyE", "step", "one step"],
  ["Comma", "back", "one step back"],
  ["Backspace", "second", "rewind one second"],
  ["Enter", "reset", "reset to the start state"],
  ["Home", "first", "first step"],
  ["End", "last", "last step of this branch"],
  ["PageUp", "branch-before", "previous branch"],
  ["PageDown", "branch-after", "next branch"],
  ["KeyM", "player", "next player"],
  ["BracketLeft", "fewer", "one denoising step less"],
  ["BracketRight", "more", "one denoising step more"],
  ["Minus", "slower", "slower"],
  ["Equal", "faster", "faster"],
  ["KeyN", "strip", "show the denoising steps"],
  ["Escape", "leave", "close what is open"],
];
const REPEAT = new Set(["step", "back", "second", "fewer", "more", "slower", "faster", "branch-before", "branch-after"]);

/** The text of a key: the letter that this keyboard has in its place, where the browser knows it. */
let layout = null;
navigator.keyboard?.getLayoutMap?.().then((found) => (layout = found), () => {});
export function keyName(code) {
  if (NAMES[code]) return NAMES[code];
  const bare = code.replace(/^(Key|Digit)/, "");
  return bare.length === 1 ? (layout?.get(code) ?? bare).toUpperCase() : bare;
}

export class Input {
  /**
   * @param {(message: object) => void} send
   * @param {(what: string) => void} command called with what a key of the page does
   */
  constructor(send, command) {
    Object.assign(this, { send, command, held: [], game: new Set(), motion: [0, 0] });
    addEventListener("keydown", (event) => this.down(event));
    addEventListener("keyup", (event) => this.release(event.code, event.timeStamp));
    addEventListener("blur", () => this.releaseAll());
    document.addEventListener("mousemove", (event) => this.moved(event));
    document.addEventListener("mousedown", ({ button, timeStamp }) => this.clicked(`Mouse${button}`, timeStamp));
    document.addEventListener("mouseup", ({ button, timeStamp }) => this.release(`Mouse${button}`, timeStamp));
  }

  down(event) {
    const { code, target } = event;
    if (event.ctrlKey || event.altKey || event.metaKey || document.querySelector("dialog[open]")) return;
    if (code !== "Escape" && belongs(code, target)) return;
    if (this.game.has(code)) {
      event.preventDefault();
      return void (event.repeat || this.press(code, event.timeStamp));
    }
    const what = event.key === "?" ? "help" : PAGE_KEYS.find(([key]) => key === code)?.[1];
    if (!what || (event.repeat && !REPEAT.has(what))) return;
    event.preventDefault();
    if (what === "leave") target.blur();
    this.command(what);
  }

  press(code, at) {
    if (this.held.includes(code)) return;
    this.held = [...this.held, code].slice(-MOST);
    this.tell(at);
  }

  release(code, at) {
    if (!this.held.includes(code)) return;
    this.held = this.held.filter((other) => other !== code);
    this.tell(at);
  }

  /** Lets go of everything, as when the window loses the focus: no key goes up then. */
  releaseAll() {
    if (!this.held.length) return;
    this.held = [];
    this.tell(performance.now());
  }

  tell(at) {
    this.send({ do: "keys", held: this.held, motion: this.motion, at });
    this.motion = [0, 0];
  }

  /** Tells the server again what is held, after a new connection. */
  again() {
    this.tell(performance.now());
  }

  /** A mouse button. The click that captures the mouse is none of the game's. */
  clicked(code, at) {
    if (document.pointerLockElement && this.game.has(code)) this.press(code, at);
  }

  moved(event) {
    if (!document.pointerLockElement) return;
    this.motion = [this.motion[0] + event.movementX, this.motion[1] + event.movementY];
    this.asked ??= requestAnimationFrame(() => {
      this.asked = null;
      this.tell(event.timeStamp);
    });
  }

  /** Learns the keys of the game, and builds its touch buttons. */
  learn(welcome, pad, stage) {
    this.game = new Set(welcome.game_keys);
    pad.replaceChildren(...touch(welcome, this));
    if (welcome.mouse) stage.addEventListener("click", () => stage.requestPointerLock()?.catch(() => {})); // refused: click again
  }
}

/** Whether a control that has the focus needs a key for itself. */
function belongs(code, target) {
  const control = target.closest("input, select, textarea, button, a, summary");
  if (!control) return false;
  const arrow = code.startsWith("Arrow");
  if (control.matches("button, a, summary")) return code === "Enter" || code === "Space";
  if (control.type === "radio") return arrow || code === "Space";
  if (control.type === "range") return arrow || ["Home", "End", "PageUp", "PageDown"].includes(code);
  return true;
}

/** Touch buttons: a cross with eight directions where the game has them, and a button for each other key. */
function touch(welcome, input) {
  const row = (code) => welcome.keys.find(([, ways]) => ways.includes(code));
  const named = (code) => row(code)?.[0] ?? keyName(code);
  // one button for each action: an arrow has one only where no letter does the same
  const others = welcome.game_keys.filter((code) => {
    if (code in CROSS || code.startsWith("Mouse")) return false;
    return !code.startsWith("Arrow") || row(code)?.[1].every((way) => way.startsWith("Arrow"));
  });
  const buttons = others.map((code) => {
    const button = h("button", { type: "button" }, named(code).toLowerCase());
    const stop = (event) => input.release(code, event.timeStamp);
    button.addEventListener("pointerdown", (event) => {
      event.preventDefault();
      button.setPointerCapture(event.pointerId);
      input.press(code, event.timeStamp);
    });
    for (const end of ["pointerup", "pointercancel", "lostpointercapture"]) button.addEventListener(end, stop);
    return button;
  });
  const directions = Object.keys(CROSS).filter((code) => welcome.game_keys.includes(code));
  return [...(directions.length ? [cross(directions, input)] : []), h("div", { class: "others" }, ...buttons)];
}

function cross(directions, input) {
  const arrow = (code) => h("span", { class: `arrow ${CROSS[code].toLowerCase()}`, "data-code": code }, keyName(`Arrow${CROSS[code]}`));
  const arrows = directions.map(arrow);
  const place = h("div", { class: "cross", role: "group", "aria-label": "Directions" }, ...arrows);
  const point = (event) => {
    const box = place.getBoundingClientRect();
    const [x, y] = [event.clientX - box.left - box.width / 2, event.clientY - box.top - box.height / 2];
    const far = Math.hypot(x, y) > box.width / 10;
    const toward = { KeyD: x, KeyA: -x, KeyS: y, KeyW: -y };
    for (const arrow of arrows) {
      const { code } = arrow.dataset;
      const held = far && toward[code] > 0.38 * Math.hypot(x, y);
      arrow.classList.toggle("held", held);
      if (held) input.press(code, event.timeStamp);
      else input.release(code, event.timeStamp);
    }
  };
  const stop = (event) => {
    for (const arrow of arrows) {
      arrow.classList.remove("held");
      input.release(arrow.dataset.code, event.timeStamp);
    }
  };
  place.addEventListener("pointerdown", (event) => {
    event.preventDefault();
    place.setPointerCapture(event.pointerId);
    point(event);
  });
  place.addEventListener("pointermove", (event) => place.hasPointerCapture(event.pointerId) && point(event));
  for (const end of ["pointerup", "pointercancel", "lostpointercapture"]) place.addEventListener(end, stop);
  return place;
}

/** The rows of the help sheet: [what, [keys]]. */
export function gameRows(welcome) {
  return welcome.keys.map(([name, ways]) => [name, ways.map((way) => way.split("+").map(keyName))]);
}
