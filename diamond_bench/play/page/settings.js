/** The form of a model's settings. Its fields come from the server, so a new sampler appears without code here. */

import { $, h, look, refusal, segments } from "./dom.js";

const FIRST = new Set(["num_steps", "guidance", "schedule"]); // fields that are always in view
const LABELS = {
  ...{ num_steps: "Steps, n", guidance: "Guidance", schedule: "Schedule", sigma_min: "lowest noise level", sigma_max: "highest noise level" },
  ...{ rho: "exponent of the levels, rho", start_noise: "scale of the first noise", quantize: "round to 8 bits", quantization: "how to round" },
  ...{ s_churn: "added noise, total", s_tmin: "added from level", s_tmax: "added up to level", s_noise: "its standard deviation" },
  ...{ churn_sigma: "level that the network gets", s_cond: "noise on past frames", s_cond_rule: "noise on past frames, rule" },
  ...{ clip_denoised: "clip to [−1, 1]", eta: "new noise, eta" },
  ...{ upsampling_steps: "upsampler: steps", upsampling_solver: "upsampler: solver", upsampling_rho: "upsampler: exponent, rho" },
  ...{ upsampling_sigma_min: "upsampler: lowest level", upsampling_sigma_max: "upsampler: highest level", upsampling_churn: "upsampler: added noise" },
  ...{ upsampling_tmin: "upsampler: added from level", upsampling_tmax: "upsampler: added up to level" },
  ...{ upsampling_noise: "upsampler: its standard deviation", upsampling_churn_sigma: "upsampler: level it gets" },
};
const NO_GUIDANCE = "This model was trained without action dropout, which guidance needs.";

export class Settings {
  /**
   * @param {object[]} lanes as in `welcome`
   * @param {object} form `welcome.form`
   * @param {(lane: number, setting: object) => void} change
   * @param {() => void} chose called when another lane was chosen
   * @param {(sentence: string) => void} refuse called with why a value is not taken
   */
  constructor(lanes, form, change, chose, refuse) {
    Object.assign(this, { lanes, form, change, refuse, settings: lanes.map((lane) => lane.setting), open: false });
    this.able = lanes.map((_, lane) => lane).filter((lane) => lanes[lane].samplers.length || lanes[lane].milestones.length > 1);
    this.chosen = this.able[0];
    $("settings").hidden = !this.able.length;
    const options = this.able.map((lane) => ({ value: String(lane), label: lanes[lane].name, mark: look(lanes, lane) }));
    if (this.able.length > 1) options.push({ value: "all", label: "all" });
    $("setting-lanes").hidden = this.able.length < 2;
    segments($("setting-lanes"), "setting-lane", options, String(this.chosen), (value) => {
      this.chosen = value === "all" ? null : Number(value);
      this.build();
      chose();
    });
    if (this.able.length) this.build();
  }

  /** The lanes that a change concerns. */
  get concerned() {
    return this.chosen === null ? this.able : [this.chosen];
  }

  /** Shows the settings that hold. The form stays as it is where it shows them already, unless `anyway`. */
  show(settings, anyway = false) {
    const same = JSON.stringify(settings) === JSON.stringify(this.settings);
    this.settings = settings;
    if (this.able.length && (anyway || !same)) this.build();
  }

  /** More or fewer denoising steps. */
  more(by) {
    this.sampler((sampler) => ({ ...sampler, num_steps: Math.max(1, sampler.num_steps + by) }));
    if (this.able.length) this.build();
  }

  /** Changes the sampler of all lanes that are chosen and have one. */
  sampler(of) {
    for (const lane of this.concerned) {
      const { sampler } = this.settings[lane];
      if (sampler) this.apply(lane, { sampler: of(sampler, this.lanes[lane].setting.sampler) });
    }
  }

  apply(lane, part) {
    this.settings = this.settings.with(lane, { ...this.settings[lane], ...part });
    this.change(lane, this.settings[lane]);
  }

  build() {
    const lane = this.concerned[0];
    const [facts, setting] = [this.lanes[lane], this.settings[lane]];
    const rows = [];
    if (setting.sampler) {
      const { sampler } = setting;
      const schedule = sampler.schedule?.name;
      const fields = this.form.samplers[sampler.name];
      const set = (field) => (value) => this.sampler((old) => ({ ...old, [field.name]: value }));
      const row = (field) =>
        field.kind === "schedule" ? this.schedules(sampler, field) : this.row(field, sampler[field.name], facts, set(field));
      rows.push(...fields.filter((field) => field.name === "num_steps").map(row), this.samplers(facts, sampler));
      rows.push(...fields.filter((field) => FIRST.has(field.name) && field.name !== "num_steps").map(row));
      const setInner = (field) => (value) => this.sampler((old) => ({ ...old, schedule: { ...old.schedule, [field.name]: value } }));
      const inner = (field) => this.row(field, sampler.schedule[field.name], facts, setInner(field));
      const others = fields.filter((field) => !FIRST.has(field.name)).map(row);
      if (schedule) others.unshift(...this.form.schedules[schedule].map(inner));
      const details = h("details", { open: this.open }, h("summary", {}, "More of the sampler"), ...others);
      details.addEventListener("toggle", () => (this.open = details.open));
      rows.push(details);
    }
    if (facts.milestones.length > 1) rows.unshift(this.milestones(facts, setting));
    const focused = $("setting-form").contains(document.activeElement) && document.activeElement.name;
    $("setting-form").replaceChildren(...rows);
    if (focused) $("setting-form").elements[focused]?.focus();
  }

  samplers(facts, sampler) {
    return choice("Sampler", facts.samplers, sampler.name, (name) => {
      this.sampler((old, own) => exchanged(name, this.form.samplers[name], old, own, true));
      this.build();
    });
  }

  schedules(sampler, field) {
    return choice(LABELS[field.name], Object.keys(this.form.schedules), sampler.schedule.name, (name) => {
      const fields = this.form.schedules[name];
      this.sampler((old, own) => ({ ...old, schedule: exchanged(name, fields, old.schedule, own.schedule, false) }));
      this.build();
    });
  }

  milestones(facts, setting) {
    const shares = facts.milestones.map((share) => [String(share), `${Math.round(share * 1000) / 10}%`]);
    return choice("Trained for", shares, String(setting.milestone ?? facts.milestones.at(-1)), (value) => {
      for (const lane of this.concerned) this.apply(lane, { milestone: Number(value) });
    });
  }

  row(field, value, facts, set) {
    const name = LABELS[field.name] ?? field.name.replaceAll("_", " ");
    if (field.kind === "choice") return choice(name, field.choices, value, set, field.name);
    if (field.kind === "flag") {
      const box = h("input", { type: "checkbox", name: field.name, checked: value });
      box.addEventListener("change", () => set(box.checked));
      return labelled(name, box);
    }
    const off = field.name === "guidance" && !facts.guidance ? NO_GUIDANCE : "";
    const [minimum, maximum] = [field.minimum, field.maximum];
    const finite = { type: "number", step: field.kind === "whole" ? 1 : "any", min: minimum, max: maximum, value };
    const input = h("input", { name: field.name, ...(field.default === "inf" ? { type: "text", value } : finite), disabled: Boolean(off) });
    input.addEventListener("change", () => {
      const wanted = input.value.trim() === "inf" ? "inf" : Number(input.value);
      const why = refusal(input, name) || (Number.isNaN(wanted) ? `${name}: Please enter a number or inf. The old value holds.` : "");
      if (!why) return set((value = wanted));
      this.refuse(why);
      input.value = value;
    });
    if (field.name === "num_steps") {
      input.setAttribute("aria-label", name);
      return h("div", { class: "field" }, h("span", { class: "label" }, name), this.stepper(input));
    }
    const label = labelled(name, input);
    label.title = off;
    return label;
  }

  /** A number with a button on each side. */
  stepper(input) {
    const button = (by, text, key) => {
      const found = h("button", { type: "button", name: text, title: `${text} (${key})`, "aria-label": text }, by > 0 ? "+" : "−");
      found.addEventListener("click", () => this.more(by));
      return found;
    };
    return h("span", { class: "stepper" }, button(-1, "one denoising step less", "["), input, button(1, "one denoising step more", "]"));
  }
}

/** Another sampler or schedule: its defaults, or what the job has of it (`own`), and if `keep` all values of keys that `old` has too. */
function exchanged(name, fields, old, own, keep) {
  const pick = (from) => Object.fromEntries(fields.filter((field) => from && field.name in from).map((field) => [field.name, from[field.name]]));
  const neutral = Object.fromEntries(fields.map((field) => [field.name, field.default]));
  return { name, ...neutral, ...(own?.name === name ? pick(own) : {}), ...(keep ? pick(old) : {}) };
}

/** `options`: values, or [value, text]. */
function choice(name, options, chosen, choose, key = name) {
  const select = h("select", { name: key }, ...options.map((option) => {
    const [value, text] = Array.isArray(option) ? option : [option, option.replaceAll("_", " ")];
    return h("option", { value, selected: value === chosen }, text);
  }));
  select.addEventListener("change", () => choose(select.value));
  return labelled(name, select);
}

function labelled(name, control) {
  return h("label", { class: "field" }, h("span", { class: "label" }, name), control);
}
