// Starts the page: loads the model, shows the sections for its signatures, and caches everything for offline use.
//
// window.kvae gives the console and tests access to the model:
//     await kvae.ready                                     the Model of kvae.js, with its info
//     await kvae.gpu                                       whether the GPU runs a part of it
//     await kvae.generate(seed, n, temperature, start)     {image, z}
//     await kvae.score(image)                              {negative_elbo, distortion, rate}
//     (await kvae.ready).condition = 7                     for a conditional model; used by all later calls
//     also decode(z), encode(image), reconstruct(image), interpolate(start, end, position), percentile(nats),
//     pValue(nats), move(z, direction, steps), position(z, direction)

import { makeConditions } from "./conditions.js";
import { makeGallery } from "./gallery.js";
import { $, element, noun, report } from "./images.js";
import { load } from "./kvae.js";
import { RATIO, isSeries } from "./lines.js";
import { makeOwn, showScore } from "./own.js";
import { makeLegend, makeOwnSeries } from "./series.js";
import { makeShare, openLink } from "./share.js";
import { makeSliders } from "./sliders.js";

const METHODS = [
  "decode", "encode", "reconstruct", "generate", "interpolate", "score", "percentile", "pValue", "move", "position",
];

watchForUpdates();
window.kvae = { ready: start() };
window.kvae.gpu = window.kvae.ready.then(useGpu, () => false);
for (const name of METHODS) window.kvae[name] = async (...inputs) => (await window.kvae.ready)[name](...inputs);
window.kvae.ready.catch(report).finally(() => ($("status").hidden = true));
window.addEventListener("unhandledrejection", (event) => report(event.reason));

async function start() {
  $("status").classList.add("busy");
  const model = await load("model.tflite", (text) => ($("status-text").textContent = text));
  const [height, width] = model.info.event_shape;
  document.documentElement.style.setProperty("--ratio", isSeries(model.info) ? RATIO : `${width} / ${height}`);
  document.body.classList.toggle("series", isSeries(model.info));
  if (isSeries(model.info)) $("sliders-text").after(makeLegend(model.info));
  $("smooth").addEventListener("change", smooth);
  smooth();
  $("sliders").hidden = $("own").hidden = $("about").hidden = false;
  $("gallery").hidden = !model.has("generate");
  $("score").hidden = !model.has("score");
  if (!model.has("score")) $("result-empty").textContent = "The input of the model and its reconstruction appear here.";
  const linked = openLink(model);
  const sliders = makeSliders(model);
  if (linked) sliders.set(linked);
  makeShare(model, sliders);
  const own = isSeries(model.info) ? makeOwnSeries(model, sliders, showScore) : makeOwn(model, sliders);
  const gallery = model.has("generate") ? makeGallery(model, sliders) : () => {};
  if (model.info.condition) makeConditions(model, [sliders.draw, gallery, own]);
  await gallery();
  await showFacts(model);
  cachePage();
  return model;
}

function smooth() {
  document.body.classList.toggle("smooth", $("smooth").checked);
}

async function showFacts(model) {
  const { info, loaded, batchSizes } = model;
  const words = (name) => name.replace(/([a-z])([A-Z])/g, (_, a, b) => `${a} ${b.toLowerCase()}`);
  const size = loaded.bytes < 1e5 ? `${(loaded.bytes / 1e3).toFixed(1)} kB` : `${(loaded.bytes / 1e6).toFixed(2)} MB`;
  const smallest = batchSizes.at(-1);
  const time = element("dd", { id: "decode-time" }, "–");
  const facts = [
    ["Model", info.kind === "autoencoder" ? "Autoencoder" : "Variational autoencoder"],
    ...(info.likelihood ? [["Likelihood", words(info.likelihood)]] : []),
    ["Parameters", info.parameters.toLocaleString("en")],
    shapeFact(info),
    ["Latents", info.latents ? `${info.latents.active.length} of ${info.latent_dim} active` : info.latent_dim],
    ...(info.condition ? [["Conditions", info.condition.size]] : []),
    ...(info.data ? [["Trained on", info.data]] : []),
    ["File", document.querySelector("[download]").download],
    ["Size", size],
    ["Loaded in", `${loaded.seconds.toFixed(2)} s`],
  ].map(([name, value]) => element("div", {}, element("dt", {}, name), element("dd", {}, String(value))));
  facts.push(element("div", {}, element("dt", {}, "Runs on"), element("dd", { id: "runs-on" }, "CPU")));
  const timed = smallest === 1 ? `One ${noun(info)} takes` : `${smallest} ${noun(info, 2)} take`;
  facts.push(element("div", {}, element("dt", {}, timed), time));
  facts.push(element("div", {}, element("dt", {}, "Offline"), element("dd", { id: "offline" }, "not available")));
  $("facts").replaceChildren(...facts);
  $("directions-text").textContent = checks(info.directions ?? []);
  if (info.license) $("model-license").textContent = `The model: ${info.license}`;
  await measure(model);
  const median = () => {
    const sorted = [...model.decodeTimes].sort((a, b) => a - b);
    if (sorted.length) time.textContent = `${sorted[sorted.length >> 1].toFixed(1)} ms`;
  };
  median();
  setInterval(median, 1000);
}

function shapeFact(info) {
  const [height, width, channels] = info.event_shape;
  if (isSeries(info)) return ["Series", `${height} steps of ${width} ${width > 1 ? "features" : "feature"}`];
  return ["Images", `${height} × ${width}${channels > 1 ? ` × ${channels}` : ""}`];
}

/** Returns how well the positions along the directions predict the labels. */
function checks(directions) {
  const percent = (share) => `${Math.round(100 * share)}\u00a0%`;
  const each = directions.map((d) => `“${d.name}” ${percent(d.accuracy)} (the larger class alone: ${percent(d.majority)})`);
  return each.length ? `Labels of held-out images that the sliders' positions predict: ${each.join(", ")}.` : "";
}

/** Decodes a few times for a first median; later, decodings of the sliders are measured. */
async function measure(model) {
  model.decodeTimes = [];
  const until = performance.now() + 50;
  for (let i = 0; i < 20 && performance.now() < until; i++) await model.decode(new Float32Array(model.info.latent_dim));
}

/** Uses the GPU where possible, shows what runs where, and sets up the switch between GPU and CPU. */
async function useGpu(model) {
  const file = $("about").dataset.gpu;
  const found = file && (await model.accelerate(file).catch((error) => console.warn(error)));
  const { signatures, different } = model.gpu;
  const list = (names) => names.join(", ");
  const differently = different.length ? ` and ${list(different)}, because their results differ on the GPU` : "";
  const text = !file
    ? "A file with int8 weights runs on the CPU."
    : found
      ? `The GPU runs ${list(signatures)} (checked against the CPU). The CPU computes random numbers${differently}.`
      : different.length
        ? "The GPU computes different images from the CPU, so it isn't used."
        : "This browser has no WebGPU that can run the model.";
  const show = () => {
    const here = model.gpu.signatures.length > 0;
    $("gpu-text").textContent = found && !here ? "The GPU is no longer available. The CPU runs everything." : text;
    $("gpu-switch").hidden = !here;
    $("runs-on").textContent = model.gpu.on ? "GPU and CPU" : "CPU";
    $("gpu-button").textContent = model.gpu.on ? "Use only the CPU" : "Also use the GPU";
  };
  $("gpu-button").addEventListener("click", () => {
    model.gpu.on = !model.gpu.on;
    show();
    measure(model);
  });
  show();
  if (found) {
    await measure(model);
    setInterval(show, 1000); // a GPU may become unavailable
  }
  return Boolean(found);
}

/** Shows a message when a new version of the page is active; a browser may check before the model is loaded. */
function watchForUpdates() {
  let before = navigator.serviceWorker?.controller; // the first service worker also causes this event
  navigator.serviceWorker?.addEventListener("controllerchange", () => {
    $("update").hidden = !before;
    before = navigator.serviceWorker.controller;
  });
  $("reload").addEventListener("click", () => location.reload());
}

/** Registers the service worker that caches the page; it requires https or localhost. */
async function cachePage() {
  if (!("serviceWorker" in navigator)) {
    $("offline").textContent = "requires https";
    return;
  }
  try {
    await navigator.serviceWorker.register("sw.js");
    await navigator.serviceWorker.ready;
    $("offline").textContent = "ready";
  } catch (error) {
    console.warn(error);
    $("offline").textContent = "refused by this browser";
  }
}
