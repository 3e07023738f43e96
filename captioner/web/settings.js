// The form of decoding settings: its fields, words and ranges come from the schema of the model.

import { element, get } from "./elements.js";

const MAIN = ["captions", "beam"]; // the others are under "More settings"
const LARGEST = 100; // of whole numbers, unless the engine says otherwise: browsers lack memory

/** The settings panel. `onChange` is called with all settings, when the reader changed one. */
export class Settings {
  /** Build the fields; `check(settings)` rejects with what is wrong with them. */
  constructor({ schema, values, calibrated, largest = LARGEST }, check, onChange) {
    this.schema = schema;
    this.largest = largest;
    this.defaults = values;
    this.values = values;
    this.check = check;
    this.onChange = onChange;
    this.inputs = {};
    this.updates = 0;
    for (const name of Object.keys(schema)) {
      if (name === "min_confidence" && !calibrated) continue;
      const panel = get(MAIN.includes(name) ? "main-settings" : "more-settings");
      panel.append(this.#field(name));
    }
    const form = get("form");
    form.addEventListener("change", () => this.#update());
    form.addEventListener("submit", (event) => event.preventDefault());
    form.addEventListener("reset", (event) => {
      event.preventDefault();
      for (const [name, input] of Object.entries(this.inputs)) write(input, this.defaults[name]);
      this.#update();
    });
  }

  #field(name) {
    const { title, description } = this.schema[name];
    const input = makeInput(this.schema[name], this.largest);
    this.inputs[name] = Object.assign(input, { id: `setting-${name}`, name });
    write(input, this.values[name]);
    const hint = element("small", { id: `hint-${name}` }, description);
    const problem = element("small", { id: `problem-${name}`, className: "error" });
    input.setAttribute("aria-describedby", `${hint.id} ${problem.id}`);
    const label = element("label", { htmlFor: input.id }, title);
    return element("div", { className: "field" }, label, input, hint, problem);
  }

  /** Take the settings of the form, unless one of them is not valid. */
  async #update() {
    const update = ++this.updates;
    const values = { ...this.defaults };
    let valid = true;
    for (const [name, input] of Object.entries(this.inputs)) {
      valid = showProblem(input) && valid;
      values[name] = read(input, this.schema[name]);
    }
    get("settings-error").textContent = "";
    if (!valid) return;
    try {
      await this.check(values);
      if (update !== this.updates) return; // changed meanwhile: a later check decides
    } catch (error) {
      if (update !== this.updates) return;
      get("settings-error").textContent = error.message;
      return;
    }
    if (JSON.stringify(values) === JSON.stringify(this.values)) return;
    this.values = values;
    this.onChange(values);
  }
}

/** Show what the browser finds wrong with a field; return whether that is nothing. */
function showProblem(input) {
  const message = input.validationMessage;
  input.setAttribute("aria-invalid", String(message !== ""));
  get(`problem-${input.name}`).textContent = message;
  return message === "";
}

/** Return the alternative of a schema that is not null, and whether null is another. */
function alternatives(schema) {
  const choices = schema.anyOf ?? [schema];
  const optional = choices.some((choice) => choice.type === "null");
  return [choices.find((choice) => choice.type !== "null"), optional];
}

function makeInput(schema, largest) {
  const [choice, optional] = alternatives(schema);
  if (choice.enum) {
    return element("select", {}, ...choice.enum.map((value) => element("option", {}, value)));
  }
  if (choice.type === "boolean") return element("input", { type: "checkbox" });
  if (choice.type === "string") return element("input", { type: "text", autocomplete: "off" });
  if (choice.type === "array") {
    const placeholder = "words, with commas";
    return element("input", { type: "text", autocomplete: "off", placeholder });
  }
  const whole = choice.type === "integer";
  const range = { min: choice.minimum, max: choice.maximum };
  if (whole) range.max = Math.min(range.max ?? largest, largest);
  const step = whole ? 1 : "any";
  return element("input", { type: "number", step, required: !optional, ...range });
}

function write(input, value) {
  if (input.type === "checkbox") input.checked = value;
  else input.value = Array.isArray(value) ? value.join(", ") : value ?? "";
}

function read(input, schema) {
  const [{ type }] = alternatives(schema);
  if (type === "boolean") return input.checked;
  if (type === "array") return input.value.split(",").map((word) => word.trim()).filter(Boolean);
  if (type === "string") return input.value;
  return input.value === "" ? null : Number(input.value);
}
