// The image as a file, and a link to the state of the page, after the # of the address (never sent to a server).
//
//     #seed=7&temperature=0.7&condition=3&z=0.25,-1.5     a condition is the number of a class, or all of its numbers

import { $, element, report } from "./images.js";

const SIDE = 512; // pixels along the longer side of a saved image, about
const MOST = 256; // latents in a link; with more, the address would be too long for many programs
const MESSAGE_TIME = 5000; // display time of a message, ms

/** Applies a link's seed, temperature and condition; returns its latents, or null. */
export function openLink(model) {
  addEventListener("hashchange", () => location.reload());
  const link = new URLSearchParams(location.hash.slice(1));
  for (const name of ["seed", "temperature"]) if (link.has(name)) $(name).value = link.get(name);
  const { condition, latent_dim: latents } = model.info;
  const classes = (numbers) => numbers.length === 1 && Number.isInteger(numbers[0]) && numbers[0] >= 0;
  const given = numbersOf(link, "condition");
  if (given && condition) {
    if (classes(given) && given[0] < condition.size) [model.condition] = given;
    else if (given.length === condition.size) model.condition = given;
    else report(new Error(`The link has the condition ${given}. This model has ${condition.size} conditions.`));
  }
  const z = numbersOf(link, "z");
  if (z && z.length !== latents) {
    report(new Error(`The link is for a model with ${z.length} latents. This one has ${latents}.`));
    return null;
  }
  return z;
}

/** Returns the numbers of a part of the link; null if it is missing or has other values. */
function numbersOf(link, name) {
  const numbers = link.get(name)?.split(",").map((text) => (text.trim() ? Number(text) : NaN));
  if (!numbers || numbers.every(Number.isFinite)) return numbers ?? null;
  report(new Error(`Expected numbers in the link's “${name}”. It has “${link.get(name)}”.`));
  return null;
}

/** Returns the shortest decimal equal to this float32. */
function shortest(value) {
  let digits = 1;
  while (Math.fround(Number(value.toPrecision(digits))) !== value) digits++;
  return Number(value.toPrecision(digits));
}

/** Sets up the buttons that save and share the image of the sliders, and copy the link. */
export function makeShare(model, sliders) {
  let timer = 0;
  function say(text) {
    $("share-status").textContent = text;
    clearTimeout(timer);
    timer = setTimeout(() => ($("share-status").textContent = ""), MESSAGE_TIME);
  }

  function link() {
    const parts = model.has("generate") ? [`seed=${$("seed").value.trim()}`, `temperature=${$("temperature").value}`] : [];
    if (model.info.condition) parts.push(`condition=${model.condition}`);
    if (sliders.z.length <= MOST) parts.push(`z=${Array.from(sliders.z, shortest)}`);
    return `${location.href.split("#")[0]}#${parts.join("&")}`;
  }

  async function imageFile() {
    const picture = $("picture");
    const scale = Math.max(1, Math.round(SIDE / Math.max(picture.width, picture.height)));
    const canvas = element("canvas", { width: picture.width * scale, height: picture.height * scale });
    const context = canvas.getContext("2d");
    context.imageSmoothingEnabled = $("smooth").checked; // as on the page
    context.drawImage(picture, 0, 0, canvas.width, canvas.height);
    const blob = await new Promise((resolve) => canvas.toBlob(resolve, "image/png"));
    return new File([blob], `${document.title.replace(/[^\p{L}\p{N}]+/gu, "-")}.png`, { type: "image/png" });
  }

  $("save").addEventListener("click", async () => {
    const file = await imageFile();
    const address = URL.createObjectURL(file);
    element("a", { href: address, download: file.name }).click();
    setTimeout(() => URL.revokeObjectURL(address), 60_000);
  });

  const example = new File([""], "image.png", { type: "image/png" });
  $("share").hidden = !navigator.canShare?.({ files: [example] });
  $("share").addEventListener("click", async () => {
    try {
      await navigator.share({ files: [await imageFile()], title: document.title });
    } catch (error) {
      if (error.name !== "AbortError") say(`The image could not be shared: ${error.message}`); // else: cancelled
    }
  });

  $("copy-link").addEventListener("click", async () => {
    history.replaceState(null, "", link());
    try {
      await navigator.clipboard.writeText(location.href);
      say("The link is copied. It opens this page in its current state.");
    } catch {
      say("Copy the link from the address bar. It opens this page in its current state."); // http has no clipboard
    }
  });
}
