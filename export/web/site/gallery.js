// Images of a seed from the prior, and the path between two of them.

import { $, element, latest, paint, reducedMotion } from "./images.js";

const PAGE = 16;
const STRIP = 9;
const PERIOD = 5000; // duration of the animation there and back, ms

/** Returns a function that redraws everything. */
export function makeGallery(model, sliders) {
  const { info } = model;
  const D = info.latent_dim;
  let seed = 7n;
  let count = PAGE;
  let samples = null; // {image, z}
  let chosen = []; // up to two indices: start and end of the path
  const path = makePath(model, sliders);

  const draw = latest(async () => {
    const [wanted, temperature] = [seed, $("temperature").valueAsNumber];
    samples = await model.generate(wanted, count, temperature);
    while ($("grid").children.length < count) $("grid").append(makeTile($("grid").children.length));
    while ($("grid").children.length > count) $("grid").lastChild.remove();
    [...$("grid").children].forEach((tile, i) => {
      paint(tile.firstChild, info, samples.image, i);
      tile.setAttribute("aria-label", `Image ${i + 1} of seed ${wanted}`);
    });
  });

  function makeTile(index) {
    const tile = element("button", { className: "tile", "aria-pressed": "false" }, element("canvas"));
    tile.addEventListener("click", () => choose(index));
    return tile;
  }

  const latents = (index) => samples.z.slice(index * D, (index + 1) * D);

  function choose(index) {
    if (chosen.includes(index)) chosen = chosen.filter((other) => other !== index);
    else {
      chosen = [...chosen, index].slice(-2);
      sliders.set(latents(index));
    }
    mark();
    $("chosen").textContent =
      chosen.length === 1 ? `Image ${chosen[0] + 1} is in the sliders. Tap another one to see the path between them.` : "";
    if (chosen.length === 2) path.show(...chosen.map(latents));
    else path.hide();
  }

  function mark() {
    [...$("grid").children].forEach((tile, i) => {
      const place = chosen.indexOf(i);
      tile.setAttribute("aria-pressed", place >= 0);
      if (place >= 0) tile.dataset.mark = place + 1;
      else delete tile.dataset.mark;
    });
  }

  function clearChoice() {
    chosen = [];
    mark();
    $("chosen").textContent = "";
    path.hide();
  }

  function readSeed() {
    const text = $("seed").value.trim();
    const value = /^[+-]?\d+$/.test(text) ? BigInt(text.replace("+", "")) : null;
    const valid = value !== null && value >= -(2n ** 63n) && value < 2n ** 64n;
    $("seed").setAttribute("aria-invalid", !valid);
    $("seed-problem").textContent = valid ? "" : "The seed must be a whole number of up to 64 bits, such as 7.";
    if (!valid || value === seed) return;
    seed = value;
    count = PAGE;
    clearChoice();
    draw();
  }

  $("seed").addEventListener("input", readSeed);
  $("new-seed").addEventListener("click", () => {
    $("seed").value = crypto.getRandomValues(new Uint32Array(1))[0] % 1_000_000;
    readSeed();
  });
  $("temperature").addEventListener("input", () => {
    $("temperature-value").textContent = $("temperature").valueAsNumber.toFixed(2);
    clearChoice();
    draw();
  });
  $("more-images").addEventListener("click", () => {
    count += PAGE;
    draw();
  });
  // A browser may restore the form after a reload without an event.
  $("temperature-value").textContent = $("temperature").valueAsNumber.toFixed(2);
  readSeed();
  return async () => {
    await draw();
    if (chosen.length === 2) await path.draw(...chosen.map(latents));
  };
}

/** The film strip, the scrubber and the animation. */
function makePath(model, sliders) {
  const { info } = model;
  const strip = Array.from({ length: STRIP }, () => element("canvas"));
  const position = $("position");
  let [start, end] = [null, null];
  let playing = false;
  let visible = true;

  const drawStrip = latest(async () => {
    const images = await model.interpolate(start, end, Float32Array.from(strip, (_, i) => i / (STRIP - 1)));
    strip.forEach((canvas, i) => paint(canvas, info, images, i));
  });
  const drawMorph = latest(async () => {
    paint($("morph"), info, await model.interpolate(start, end, Float32Array.of(position.valueAsNumber)));
  });

  function play(on) {
    if (on && !playing) requestAnimationFrame(begin);
    playing = on;
    $("play").textContent = on ? "Pause" : "Play";
  }

  function begin(began) {
    const from = Math.acos(1 - 2 * position.valueAsNumber) / (2 * Math.PI);
    const tick = (now) => {
      if (!playing) return;
      requestAnimationFrame(tick);
      if (!visible) return;
      position.value = 0.5 - 0.5 * Math.cos(2 * Math.PI * (from + (now - began) / PERIOD));
      drawMorph();
    };
    tick(began);
  }

  position.step = "any";
  position.addEventListener("input", () => {
    play(false);
    drawMorph();
  });
  $("play").addEventListener("click", () => play(!playing));
  $("path-to-sliders").addEventListener("click", () => {
    play(false);
    const t = position.valueAsNumber;
    sliders.set(start.map((value, d) => value + t * (end[d] - value)), true);
  });
  new IntersectionObserver(([entry]) => (visible = entry.isIntersecting)).observe($("morph"));
  $("strip").replaceChildren(...strip);

  function draw(from, to) {
    [start, end] = [from, to];
    return Promise.all([drawStrip(), drawMorph()]);
  }

  return {
    draw,
    async show(from, to) {
      position.value = 0;
      play(false);
      $("path").hidden = false;
      await draw(from, to);
      $("path").scrollIntoView({ block: "nearest", behavior: reducedMotion() ? "auto" : "smooth" });
      if (!reducedMotion()) play(true);
    },
    hide() {
      play(false);
      $("path").hidden = true;
    },
  };
}
