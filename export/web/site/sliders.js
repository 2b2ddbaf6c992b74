// Sliders for the latents, and their image.

import { $, element, latest, paint, reducedMotion } from "./images.js";

const SHOWN = 8;

/** Returns `set(z)`, which sets the sliders, `z`, their current latents, and `draw()`, which redraws their image. */
export function makeSliders(model) {
  const { info } = model;
  const { active, mean, std } = info.latents ?? {};
  const all = Array.from({ length: info.latent_dim }, (_, d) => d);
  const order = active ? [...active, ...all.filter((d) => !active.includes(d))] : all;
  const start = Float32Array.from(mean ?? all, (value) => (mean ? value : 0));
  const z = Float32Array.from(start);
  const rows = order.map(makeRow);
  const shown = Math.min(SHOWN, active?.length || SHOWN);

  function makeRow(d) {
    const idle = active && !active.includes(d);
    const reach = std && !idle && std[d] > 0 ? 3 * std[d] : 3;
    const input = element("input", { type: "range", id: `z${d}`, step: "any" });
    [input.min, input.max] = [start[d] - reach, start[d] + reach];
    const output = element("output", { htmlFor: input.id });
    const label = element("label", { htmlFor: input.id }, `z${d}`);
    if (idle) label.title = "This latent hardly changes the image.";
    input.addEventListener("input", () => {
      z[d] = input.valueAsNumber;
      show(d, input, output);
      draw();
    });
    const row = element("div", { className: idle ? "latent idle" : "latent" }, label, input, output);
    return { d, row, input, output };
  }

  function show(d, input, output) {
    const text = z[d].toFixed(2).replace(/^-0\.00$/, "0.00").replace("-", "−");
    output.textContent = text;
    input.setAttribute("aria-valuetext", text);
  }

  const draw = latest(async () => paint($("picture"), info, await model.decode(z)));

  function set(values, scroll = false) {
    z.set(values);
    for (const { d, input, output } of rows) {
      // Extend the range for a sample outside of it.
      input.min = Math.min(input.min, z[d]);
      input.max = Math.max(input.max, z[d]);
      input.value = z[d];
      show(d, input, output);
    }
    if (scroll) $("sliders").scrollIntoView({ behavior: reducedMotion() ? "auto" : "smooth" });
    return draw();
  }

  async function random() {
    if (!model.has("generate")) return set(z.map((_, d) => start[d] + (std ? std[d] : 1) * normal()));
    const [seed] = crypto.getRandomValues(new BigUint64Array(1));
    return set((await model.generate(seed)).z);
  }

  function showMore() {
    const more = $("more-sliders").getAttribute("aria-expanded") === "false";
    $("more-sliders").setAttribute("aria-expanded", more);
    $("more-sliders").textContent = more ? "Fewer" : `All ${rows.length} latents`;
    rows.forEach(({ row }, i) => (row.hidden = i >= shown && !more));
  }

  $("slider-list").replaceChildren(...rows.map(({ row }) => row));
  rows.forEach(({ row }, i) => (row.hidden = i >= shown));
  $("more-sliders").textContent = `All ${rows.length} latents`;
  $("more-sliders").hidden = shown >= rows.length;
  $("more-sliders").addEventListener("click", showMore);
  $("random").addEventListener("click", random);
  $("reset").addEventListener("click", () => set(start));
  $("sliders-text").textContent =
    (rows.length === 1 ? "One number describes an image." : `${rows.length} numbers describe an image`) +
    (rows.length === 1 ? "" : active ? ", the most active first. Move one and watch." : ". Move one and watch.");
  set(start);
  return { z, set, draw };
}

/** Returns a standard normal number (Box and Muller). */
function normal() {
  return Math.sqrt(-2 * Math.log(1 - Math.random())) * Math.cos(2 * Math.PI * Math.random());
}
