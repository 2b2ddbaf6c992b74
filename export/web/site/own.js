// The visitor's own image (drawn, from a file, or from the sliders), its reconstruction and its score.

import { $, latest, noun, paint, read } from "./images.js";

const PAD = 280; // pixels along the longer side of the drawing pad, at least
const BRUSH = 0.09; // of the shorter side

/** Returns a function that reconstructs and scores the image again, if there is one. */
export function makeOwn(model, sliders) {
  const { info } = model;
  const [height, width, channels] = info.image_shape;
  const scale = Math.max(4, Math.ceil(PAD / Math.max(height, width)));
  const pad = $("pad");
  [pad.width, pad.height] = [width * scale, height * scale];
  const context = pad.getContext("2d", { willReadFrequently: true });
  let image = null;
  let point = null; // position of the brush while it is down

  const look = latest(async () => {
    image = read(pad, info, scale);
    const now = image;
    const reconstruction = await model.reconstruct(now);
    const score = model.has("score") ? await model.score(now) : null;
    if (image !== now) return; // cleared in the meantime
    $("result-empty").hidden = true;
    $("result-content").hidden = false;
    paint($("seen"), info, now);
    paint($("reconstruction"), info, reconstruction);
    if (score) showScore(model, score);
  });

  function clear() {
    context.fillStyle = "#000";
    context.fillRect(0, 0, pad.width, pad.height);
    $("pad-hint").hidden = false;
    $("file-problem").textContent = "";
    $("result-empty").hidden = false;
    $("result-content").hidden = true;
    image = null;
  }

  function changed() {
    $("pad-hint").hidden = true;
    return look();
  }

  // Drawing
  const place = (event) => {
    const box = pad.getBoundingClientRect();
    return [((event.clientX - box.left) * pad.width) / box.width, ((event.clientY - box.top) * pad.height) / box.height];
  };
  function stroke(event) {
    context.strokeStyle = channels === 3 ? $("color").value : "#fff";
    context.lineWidth = BRUSH * Math.min(pad.width, pad.height);
    context.lineCap = context.lineJoin = "round";
    context.beginPath();
    context.moveTo(...point);
    for (const part of event.getCoalescedEvents?.() ?? []) context.lineTo(...place(part));
    point = place(event);
    context.lineTo(...point);
    context.stroke();
    changed();
  }
  pad.addEventListener("pointerdown", (event) => {
    if (!event.isPrimary || event.button !== 0) return;
    pad.setPointerCapture(event.pointerId);
    $("result").setAttribute("aria-busy", "true"); // announced when the line is finished
    point = place(event);
    stroke(event);
  });
  pad.addEventListener("pointermove", (event) => {
    if (point && event.isPrimary) stroke(event);
  });
  for (const name of ["pointerup", "pointercancel"]) {
    pad.addEventListener(name, () => {
      point = null;
      $("result").setAttribute("aria-busy", "false");
    });
  }

  // Files: the largest central part that fits
  async function open(file) {
    const picture = new Image();
    picture.src = URL.createObjectURL(file);
    try {
      await picture.decode();
    } catch {
      $("file-problem").textContent = `“${file.name}” isn't an image that this browser can read. Use a PNG or a JPEG file.`;
      return;
    } finally {
      URL.revokeObjectURL(picture.src);
    }
    const ratio = Math.min(picture.naturalWidth / pad.width, picture.naturalHeight / pad.height);
    const [w, h] = [pad.width * ratio, pad.height * ratio];
    const [x, y] = [(picture.naturalWidth - w) / 2, (picture.naturalHeight - h) / 2];
    clear();
    context.imageSmoothingQuality = "high";
    context.drawImage(picture, x, y, w, h, 0, 0, pad.width, pad.height);
    await changed();
  }
  /** Opens the first dropped or pasted image; without one, the first file, which gives an error message. */
  function openFrom({ files }) {
    const file = [...files].find(({ type }) => type.startsWith("image/")) ?? files[0];
    if (file) open(file);
    return file;
  }
  $("choose").addEventListener("click", () => $("file").click());
  $("file").addEventListener("change", () => {
    if ($("file").files[0]) open($("file").files[0]);
    $("file").value = ""; // allows choosing the same file again
  });
  document.addEventListener("paste", (event) => openFrom(event.clipboardData));
  const own = $("own");
  for (const name of ["dragenter", "dragover"]) {
    own.addEventListener(name, (event) => {
      event.preventDefault();
      own.classList.add("dragging");
    });
  }
  for (const name of ["dragleave", "drop"]) own.addEventListener(name, () => own.classList.remove("dragging"));
  own.addEventListener("drop", (event) => {
    event.preventDefault();
    if (!openFrom(event.dataTransfer)) $("file-problem").textContent = "Drop an image file: a PNG or a JPEG, for example.";
  });

  // Buttons
  $("clear").addEventListener("click", clear);
  $("invert").addEventListener("click", () => {
    const pixels = context.getImageData(0, 0, pad.width, pad.height);
    for (let i = 0; i < pixels.data.length; i++) if (i % 4 < 3) pixels.data[i] = 255 - pixels.data[i];
    context.putImageData(pixels, 0, 0);
    changed();
  });
  $("from-sliders").addEventListener("click", () => {
    context.imageSmoothingEnabled = false; // whole squares, so that the exact image is read
    context.drawImage($("picture"), 0, 0, pad.width, pad.height);
    context.imageSmoothingEnabled = true;
    changed();
  });
  $("to-sliders").addEventListener("click", async () => {
    if (image) sliders.set((await model.encode(image)).mean, true);
  });
  $("color-field").hidden = channels !== 3;
  clear();
  return () => image && look();
}

export function showScore(model, score) {
  const nats = (values) => values[0].toLocaleString("en", { maximumFractionDigits: 1 }).replace("-", "−");
  $("negative-elbo").textContent = nats(score.negative_elbo);
  $("distortion").textContent = nats(score.distortion);
  $("rate").textContent = nats(score.rate);
  const percent = model.percentile(score.negative_elbo[0]);
  $("gauge").hidden = percent === null;
  if (percent !== null) $("gauge-mark").style.left = `${percent}%`;
  const p = model.pValue(score.negative_elbo[0]);
  $("p-value-field").hidden = p === null;
  if (p !== null) $("p-value").textContent = p.toLocaleString("en", { maximumSignificantDigits: 2 });
  const [word, text] = verdict(percent, model.info.score?.images, noun(model.info, 2));
  $("verdict-word").textContent = word;
  $("verdict-text").textContent = text;
}

/** Returns a word and a sentence for an image that scores higher than this percentage of ordinary images. */
export function verdict(percent, count, images = "images") {
  const ordinary = `${count?.toLocaleString("en")} ordinary ${images}`;
  if (percent === null) return ["Scored", `The file has no scores of ordinary ${images}. Compare the scores of several ${images}.`];
  if (percent >= 100) return ["Very unusual", `More unusual than all ${ordinary}.`];
  const share = `${percent < 99 ? Math.round(percent) : Math.floor(10 * percent) / 10} %`;
  if (percent >= 99) return ["Very unusual", `More unusual than ${share} of ordinary ${images}.`];
  if (percent >= 95) return ["Unusual", `More unusual than ${share} of ordinary ${images}.`];
  if (percent >= 1) return ["Ordinary", `More unusual than ${share} of ordinary ${images}.`];
  return ["Unusually simple", `Almost all ordinary ${images} score higher. Empty and very simple ${images} score low.`];
}
