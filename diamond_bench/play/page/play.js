/** The page: connects messages of the server, keys and controls. The protocol is described in play/messages.py. */

import { Connection } from "./connection.js";
import { $, h, icon, refusal, segments, written } from "./dom.js";
import { History } from "./history.js";
import { gameRows, Input, keyName, PAGE_KEYS } from "./input.js";
import { bitmaps, film, Stage, still, thumbnails } from "./pictures.js";
import { Plots } from "./plots.js";
import { Settings } from "./settings.js";
import { Timeline } from "./timeline.js";

const FPS = [1, 2, 4, 8, 10, 12, 15, 20, 24, 30, 45, 60, 90, 120];
const NOTICE_MS = 9000;
const TOUCH = matchMedia("(pointer: coarse)");

const history = new History();
let welcome = null;
let state = null;
let stage = null;
let plots = null;
let settings = null;
let newest = 0; // number of the newest frame whose pictures were drawn
let ready = false; // whether a picture was drawn
let filmed = null; // the lane and the moment of the film strip

const on = {
  welcome(message) {
    newest = 0;
    input.again();
    if (welcome?.session === message.session) return;
    if (welcome) return location.reload(); // the old session is gone, and what the page shows is of it
    welcome = message;
    document.title = `${message.game} · Play`;
    $("game").textContent = message.game;
    const sources = [...new Set(message.lanes.filter((lane) => !lane.real).map((lane) => lane.source))];
    $("sources").textContent = sources.length > 1 ? `${sources.length} models` : sources.join();
    stage = new Stage($("stage"), message.lanes);
    plots = new Plots($("plots"), message.lanes, names(message), history, go);
    settings = new Settings(message.lanes, message.form, (lane, setting) => send({ do: "change", lane, setting }), restrip, notice);
    input.learn(message, $("pad"), $("stage"));
    controls(message);
    help(message);
    $("notes").replaceChildren(...message.notes.map((note) => h("p", {}, note)));
    $("notes-group").hidden = !message.notes.length;
  },
  state(message) {
    const before = state;
    state = message;
    status();
    $("toggle-icon").setAttribute("href", message.running ? "#i-pause" : "#i-run");
    $("toggle-text").textContent = message.running ? "Pause" : "Play";
    for (const field of ["fps", "horizon", "seed"]) if ($(field) !== document.activeElement) $(field).value = message[field];
    $("pictures").value = message.pictures;
    $("compare").value = String(message.compare);
    if (message.player === "policy") $("policy-lane").value = String(message.lane);
    for (const radio of $("player").querySelectorAll("input")) radio.checked = radio.value === message.player;
    stage.settings(message.settings);
    settings.show(message.settings);
    const place = message.start === null ? null : welcome.starts[message.start];
    $("start-place").textContent = place ? `recording ${place[0]}, step ${place[1]}` : "as asked for";
    if (before?.running && !message.running) restrip();
  },
  tree(message) {
    history.grow(message.runs);
    if (history.size === 1) history.forget();
  },
  async frame(message, pictures) {
    history.note(message);
    meters(message);
    $("action").textContent = message.action === null ? "" : actionName(message.action);
    if (state) status();
    const found = await bitmaps(pictures);
    if (message.number > newest) {
      newest = message.number;
      $("stage").dataset.moment = message.moment;
      if (!ready) begin();
      stage.show(message, found);
      if (message.step === 0) $("start-picture").replaceChildren(still(found[0], 64, "start"));
      timeline.draw();
      plots.draw();
      if (!state?.running) restrip();
    }
    requestAnimationFrame(() => send({ do: "ack", number: message.number, shown: performance.now() }));
  },
  async thumbnails(message, pictures) {
    const buttons = await thumbnails(message, pictures, state.start, (number) => {
      $("starts").close();
      send({ do: "reset", start: number });
    });
    if (message.first === 0) $("thumbnails").replaceChildren();
    $("thumbnails").append(...buttons);
    const next = message.first + message.starts.length;
    $("more-starts").hidden = next >= message.of;
    $("more-starts").onclick = () => send({ do: "starts", first: next });
  },
  strip(message, pictures) {
    const lane = welcome.lanes[message.lane].name;
    const calls = `${message.of} network ${message.of === 1 ? "call" : "calls"}`;
    const rows = "the input above, the estimate of the clean frame below";
    $("strip-of").textContent = `${lane}, step ${history.step(message.moment)}, ${calls}: ${rows}`;
    film($("film"), message, pictures);
  },
  saved(message) {
    $("saved").replaceChildren(...message.files.map((file) => h("code", {}, file)));
    notice(`Saved: ${message.files.join(", ")}`);
  },
  notice(message) {
    if (!state?.over || !message.text.startsWith(state.over)) notice(message.text); // else the line below the pictures says it
    if (!state) return;
    on.state(state); // what was refused goes back to what holds
    settings.show(state.settings, true);
  },
};

const commands = {
  toggle: () => send({ do: state.running ? "pause" : "run" }),
  step: () => send({ do: "step" }),
  back: () => send({ do: "rewind", steps: 1 }),
  second: () => send({ do: "rewind", steps: Math.max(1, Math.round(state.fps)) }),
  first: () => go(0),
  last: () => go(history.leaf),
  "branch-before": () => go(history.branch(-1)),
  "branch-after": () => go(history.branch(1)),
  reset: () => send({ do: "reset" }),
  player() {
    const able = [...$("player").querySelectorAll("input:enabled")].map((radio) => radio.value);
    play(able[(able.indexOf(state.player) + 1) % able.length]);
  },
  fewer: () => settings.more(-1),
  more: () => settings.more(1),
  slower: () => speed(FPS.findLast((fps) => fps < state.fps)),
  faster: () => speed(FPS.find((fps) => fps > state.fps && fps <= welcome.limits.max_fps)),
  save: () => send({ do: "save" }),
  strip() {
    if (!welcome.lanes.some((lane) => lane.watchable)) return notice("No model here samples its pictures in steps.");
    $("strip").hidden = !$("strip").hidden;
    $("strip-button").setAttribute("aria-pressed", String(!$("strip").hidden));
    filmed = null;
    restrip(true);
  },
  help: () => $("help").showModal(),
  leave: () => $("strip").hidden || commands.strip(),
};

const connection = new Connection(on, (how, why) => {
  document.body.dataset.connection = how;
  if (how === "warming" && !ready) $("status").textContent = "Warming up the model";
  $("link").textContent = why;
  $("link").hidden = !why;
});
const send = (message) => connection.send(message);
const input = new Input((message) => ready && send(message), (what) => command(what));
const timeline = new Timeline(history, (moment) => go(moment));

/** Goes to a moment. While a slider moves, the newest place wins. */
let wanted = null;
function go(moment) {
  if (moment === undefined) return;
  if (wanted === null) {
    requestAnimationFrame(() => {
      send({ do: "go", moment: wanted });
      wanted = null;
    });
  }
  wanted = moment;
}

function play(who) {
  send({ do: "player", who, lane: Number($("policy-lane").value) || 0 });
}

function speed(fps) {
  if (fps) send({ do: "fps", fps });
}

/** Asks for the film strip, if it is open and shows another frame or lane. While play runs, it does so only with `pause`. */
function restrip(pause = false) {
  if ($("strip").hidden || !state || (state.running && !pause)) return;
  const { lanes } = welcome;
  const lane = settings.concerned.find((number) => lanes[number].watchable) ?? lanes.findIndex((found) => found.watchable);
  const asked = `${lane} ${history.now}`;
  if (filmed === asked) return;
  filmed = asked;
  if (history.step(history.now)) {
    if (!$("film").childElementCount) $("strip-of").textContent = "Computing";
    return send({ do: "strip", lane });
  }
  $("film").replaceChildren();
  $("strip-of").textContent = "The start is real play. Play a step to see how its picture is made.";
}

function names({ actions }) {
  return actions.names.length ? actions.names : Array.from({ length: actions.sizes[0] }, (_, number) => String(number));
}

/** The name of an action, or its pressed keys and the values of its other columns. */
function actionName(action) {
  if (!Array.isArray(action)) return names(welcome)[action];
  const columns = action.map((value, column) => {
    const name = welcome.actions.names[column];
    if (name && welcome.actions.sizes[column] === 2) return value ? name : null;
    return `${name ?? column} ${Math.round(value * 100) / 100}`;
  });
  return columns.filter((words) => words !== null).join(", ") || "no key";
}

/** With the first picture, keys and buttons count. */
function begin() {
  ready = true;
  input.again();
  status();
}

function status() {
  if (!state) return;
  const text = state.over ?? (state.running || !ready ? "" : history.size === 1 ? hint() : "");
  if ($("message").textContent !== text) $("message").textContent = text;
  $("message").classList.toggle("over", Boolean(state.over));
  if (!ready) return;
  $("status").textContent = state.over ? "Over" : state.running ? "Playing" : "Paused";
  $("status").dataset.is = state.over ? "over" : state.running ? "running" : "paused";
}

function hint() {
  if (TOUCH.matches) return `Press Play to begin.${state.player === "human" ? " The buttons below the timeline play." : ""}`;
  const keys = welcome.game_keys.filter((code) => !code.startsWith("Arrow")).slice(0, 8).map(keyName);
  return `Press Play or the key . to begin. ${state.player === "human" ? `${keys.join(" ")} play, and ` : ""}? lists all keys.`;
}

function meters({ fps, model_ms: model, encode_ms: encode, latency_ms: latency, dropped }) {
  $("m-fps").textContent = `${written(fps, 1)} of ${state ? state.fps : "–"}`;
  $("m-latency").textContent = latency ? `${written(latency[0], 0)}, ${written(latency[1], 0)} ms` : "–";
  $("m-model").textContent = `${written(model, model < 100 ? 1 : 0)} ms`;
  $("m-encode").textContent = ` + ${written(encode, 1)}`;
  $("dropped").hidden = !dropped;
  $("m-dropped").textContent = String(dropped);
}

/** The controls that do not change while a session lasts. */
function controls({ lanes, recording, reference, limits }) {
  const watched = lanes.map((lane, number) => ({ lane, number })).filter(({ lane }) => lane.policy);
  const why = {
    human: "",
    policy: watched.length ? "" : "No policy: name an agent, also as --policy AGENT.",
    recording: recording === null ? "No recording: name one with --actions FILE." : "",
  };
  const players = Object.entries(why).map(([value, off]) => ({ value, label: value, off }));
  segments($("player"), "player", players, "human", play);
  $("player-off").textContent = Object.values(why).filter(Boolean).join(" ");
  $("policy-field").hidden = watched.length < 2;
  $("policy-lane").replaceChildren(...watched.map(({ lane, number }) => h("option", { value: number }, lane.name)));
  $("policy-lane").onchange = () => play(state.player);
  const compared = lanes.map((lane, number) => h("option", { value: number }, lane.name)).filter((_, number) => number !== reference);
  $("compare").replaceChildren(h("option", { value: "null" }, "none"), ...compared);
  $("compare-field").hidden = reference === null;
  $("inset-field").hidden = !lanes.some((lane) => lane.two_stages);
  $("fps").max = limits.max_fps;
  $("horizon").max = limits.horizon;
  $("seed").max = limits.seed;
  $("strip-button").hidden = !lanes.some((lane) => lane.watchable);
}

function help(message) {
  const row = (what, ways) => {
    const shown = ways.flatMap((keys, index) => [...(index ? [h("span", {}, " or ")] : []), ...keys.map((key) => h("kbd", {}, key))]);
    return h("tr", {}, h("th", { scope: "row" }, what), h("td", {}, ...(shown.length ? shown : ["no key"])));
  };
  $("game-keys").replaceChildren(...gameRows(message).map(([name, ways]) => row(name, ways)));
  $("page-keys").replaceChildren(...PAGE_KEYS.map(([code, , what]) => row(what, [[keyName(code)]])), row("this sheet", [["?"]]));
  $("mouse-help").hidden = !message.mouse;
}

/** Shows a sentence for some seconds. */
function notice(text) {
  const close = h("button", { type: "button", class: "quiet", "aria-label": "Close this message" }, icon("close"));
  const shown = h("p", {}, h("span", {}, text), close);
  let timer = null;
  const wait = () => (timer = setTimeout(() => shown.remove(), NOTICE_MS));
  shown.addEventListener("pointerenter", () => clearTimeout(timer));
  shown.addEventListener("pointerleave", wait);
  close.addEventListener("click", () => shown.remove());
  $("notices").append(shown);
  while ($("notices").childElementCount > 4) $("notices").firstChild.remove();
  wait();
}

const command = (what) => state && ready && commands[what](); // until a picture is there, keys and buttons do nothing
for (const button of document.querySelectorAll("[data-do]")) button.addEventListener("click", () => command(button.dataset.do));
for (const [field, key] of [["fps", "fps"], ["horizon", "steps"], ["seed", "seed"]]) {
  $(field).addEventListener("change", () => {
    const why = refusal($(field), $(field).closest("label").textContent.trim());
    if (!why) return send({ do: field, [key]: Number($(field).value) });
    notice(why);
    $(field).value = state[field];
  });
}
$("pictures").addEventListener("change", () => send({ do: "pictures", format: $("pictures").value }));
$("inset").addEventListener("change", () => document.body.classList.toggle("no-insets", !$("inset").checked));
$("compare").addEventListener("change", () => send({ do: "compare", lane: JSON.parse($("compare").value) }));
$("open-help").addEventListener("click", commands.help);
$("open-starts").addEventListener("click", () => {
  $("starts").showModal();
  send({ do: "starts", first: 0 });
});
$("setting-form").addEventListener("submit", (event) => event.preventDefault());
document.addEventListener("visibilitychange", () => {
  if (document.hidden && state?.running && state.player === "human") send({ do: "pause" });
});

/** A pointer gives the keys back to the game after each click. Who moves with the keyboard keeps the focus. */
let pointer = false;
addEventListener("pointerdown", () => (pointer = true), true);
addEventListener("keydown", () => (pointer = false), true);
const giveBack = (event) => {
  const free = pointer && !document.querySelector("dialog[open]") && !["text", "number"].includes(event.target.type);
  if (free && (event.type === "change" || event.target.closest("button, summary"))) $("stage").focus({ preventScroll: true });
};
addEventListener("click", giveBack);
addEventListener("change", giveBack);
addEventListener("keydown", (event) => {
  if (event.code === "Enter" && ["text", "number"].includes(event.target.type)) $("stage").focus({ preventScroll: true });
});

window.history.replaceState(null, "", location.pathname); // the token of the address is in a cookie now
