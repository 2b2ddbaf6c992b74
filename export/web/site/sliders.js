// Sliders for the latents and the directions, and their image.

import { $, element, latest, noun, paint, reducedMotion } from "./images.js";
import { isSeries } from "./lines.js";

const SHOWN = 8;
const MOST = 64; // sliders; a hierarchy may have thousands of latents

/** Returns `set(z)`, which sets the sliders, `z`, their current latents, and `draw()`, which redraws their image. */
export function makeSliders(model) {
  const { info } = model;
  const { active, mean, std } = info.latents ?? {};
  const all = Array.from({ length: info.latent_dim }, (_, d) => d);
  const top = info.levels ? info.levels[0].latents : info.latent_dim; // the others are details
  const order = [...new Set([...(active ?? []), ...all])].filter((d) => d < top).slice(0, MOST);
  const start = Float32Array.from(mean ?? all, (value) => (mean ? value : 0));
  const z = Float32Array.from(start);
  const rows = order.map(makeRow);
  const directions = (info.directions ?? []).map(makeDirection);
  const shown = Math.min(SHOWN, active?.length || SHOWN);
  const every = order.length < info.latent_dim ? `${order.length} of ${top.toLocaleString("en")} latents` : `All ${order.length} latents`;

  function makeRow(d) {
    const idle = active && !active.includes(d);
    const reach = std && !idle && std[d] > 0 ? 3 * std[d] : 3;
    const slider = makeSlider(`z${d}`, `z${d}`, [start[d] - reach, start[d] + reach], (value) => (z[d] = value));
    if (idle) {
      slider.label.title = `This latent hardly changes the ${noun(info)}.`;
      slider.row.classList.add("idle");
    }
    return { ...slider, value: () => z[d] };
  }

  function makeDirection({ name, low, high }, i) {
    const value = () => model.position(z, name)[0];
    const slider = makeSlider(`direction${i}`, name, [low, high], (to) => z.set(model.move(z, name, to - value())));
    slider.row.classList.add("direction");
    return { ...slider, value };
  }

  /** Returns a slider; `change(value)` changes z. The other sliders follow. */
  function makeSlider(id, text, [min, max], change) {
    const input = element("input", { type: "range", id, step: "any" });
    [input.min, input.max] = [min, max];
    const output = element("output", { htmlFor: id });
    const label = element("label", { htmlFor: id }, text);
    input.addEventListener("input", () => {
      change(input.valueAsNumber);
      show(input);
      draw();
    });
    return { row: element("div", { className: "latent" }, label, input, output), label, input, output };
  }

  /** Shows z in all sliders; the one that is being moved keeps its value. */
  function show(moved) {
    for (const { input, output, value } of [...rows, ...directions]) {
      const now = value();
      if (input !== moved) {
        // Extend the range for a sample outside of it.
        input.min = Math.min(input.min, now);
        input.max = Math.max(input.max, now);
        input.value = now;
      }
      input.style.setProperty("--zero", -input.min / (input.max - input.min));
      const text = now.toFixed(2).replace(/^-0\.00$/, "0.00").replace("-", "−");
      output.textContent = text;
      input.setAttribute("aria-valuetext", text);
    }
  }

  const draw = latest(async () => paint($("picture"), info, await model.decode(z)));

  function set(values, scroll = false) {
    z.set(values);
    show();
    if (scroll) $("sliders").scrollIntoView({ behavior: reducedMotion() ? "auto" : "smooth" });
    return draw();
  }

  async function random() {
    if (!model.has("generate")) return set(z.map((_, d) => start[d] + (std ? std[d] : 1) * normal()));
    const [seed] = crypto.getRandomValues(new BigUint64Array(1));
    return set((await model.generate(seed)).z);
  }

  /** Draws the latents below the top level again, which keeps the content of the image. */
  async function redraw() {
    const [seed] = crypto.getRandomValues(new BigUint64Array(1));
    const drawn = (await model.generate(seed)).z;
    return set(z.map((value, d) => (d < top ? value : drawn[d])));
  }

  function showMore() {
    const more = $("more-sliders").getAttribute("aria-expanded") === "false";
    $("more-sliders").setAttribute("aria-expanded", more);
    $("more-sliders").textContent = more ? "Fewer" : every;
    rows.forEach(({ row }, i) => (row.hidden = i >= shown && !more));
  }

  $("slider-list").replaceChildren(...rows.map(({ row }) => row));
  rows.forEach(({ row }, i) => (row.hidden = i >= shown));
  $("more-sliders").textContent = every;
  $("more-sliders").hidden = shown >= rows.length;
  $("more-sliders").addEventListener("click", showMore);
  $("random").addEventListener("click", random);
  $("reset").addEventListener("click", () => set(start));
  $("redraw").hidden = !info.levels || info.levels.length < 2 || !model.has("generate");
  $("redraw").addEventListener("click", redraw);
  $("sliders-text").textContent =
    (top === 1 ? "One number describes" : `${top.toLocaleString("en")} numbers describe`) +
    (info.levels
      ? ` the content of an image, ${(info.latent_dim - top).toLocaleString("en")} its details`
      : ` ${isSeries(info) ? "a series" : "an image"}`) +
    (top === 1 ? "." : active ? ", the most active first. Move one and watch." : ". Move one and watch.");
  $("directions").hidden = directions.length === 0;
  $("direction-list").replaceChildren(...directions.map(({ row }) => row));
  set(start);
  return { z, set, draw };
}

/** Returns a standard normal number (Box and Muller). */
function normal() {
  return Math.sqrt(-2 * Math.log(1 - Math.random())) * Math.cos(2 * Math.PI * Math.random());
}
