// Conversion between the model's arrays and canvases, and small helpers for all parts of the page.

import { isSeries, paintSeries } from "./lines.js";

export const $ = (id) => document.getElementById(id);

/** Draws image number `index` of an array of images `(N, H, W, C)`; without 3 channels, the first channel in grey.
 * Series `(N, T, F)` are drawn as lines. */
export function paint(canvas, info, images, index = 0) {
  if (isSeries(info)) return paintSeries(canvas, info, images, index);
  const [height, width, channels] = info.image_shape;
  const [low, high] = info.value_range;
  if (canvas.width !== width || canvas.height !== height) [canvas.width, canvas.height] = [width, height];
  const context = canvas.getContext("2d");
  const pixels = context.createImageData(width, height);
  const offset = index * height * width * channels;
  for (let i = 0; i < height * width; i++) {
    for (let k = 0; k < 3; k++) {
      const value = images[offset + i * channels + (channels === 3 ? k : 0)];
      pixels.data[4 * i + k] = (255 * (value - low)) / (high - low); // the array rounds and clips
    }
    pixels.data[4 * i + 3] = 255;
  }
  context.putImageData(pixels, 0, 0);
}

/** Reads an image `(1, H, W, C)` from a canvas of H·scale × W·scale pixels: means of squares, Rec. 601 for grey. */
export function read(canvas, info, scale) {
  const [height, width, channels] = info.image_shape;
  const [low, high] = info.value_range;
  const { data } = canvas.getContext("2d").getImageData(0, 0, width * scale, height * scale);
  const image = new Float32Array(height * width * channels);
  for (let y = 0; y < height; y++) {
    for (let x = 0; x < width; x++) {
      const sum = [0, 0, 0];
      for (let dy = 0; dy < scale; dy++) {
        let at = 4 * ((y * scale + dy) * width * scale + x * scale);
        for (let dx = 0; dx < scale; dx++, at += 4) for (let k = 0; k < 3; k++) sum[k] += data[at + k];
      }
      const grey = 0.299 * sum[0] + 0.587 * sum[1] + 0.114 * sum[2];
      for (let c = 0; c < channels; c++) {
        const mean = (channels === 3 ? sum[c] : grey) / (255 * scale * scale);
        image[(y * width + x) * channels + c] = Math.min(high, low + (high - low) * mean);
      }
    }
  }
  return image;
}

/** Returns the name of what the model draws: "image", "images" or "series". */
export const noun = (info, count = 1) => (isSeries(info) ? "series" : count === 1 ? "image" : "images");

/** Returns a function that runs `task` at most once per frame and never twice at a time; a run follows its last call.
 * Its promise is fulfilled when no run is pending. */
export function latest(task) {
  let wanted = false;
  let running = null;
  const work = async () => {
    while (wanted) {
      await new Promise(requestAnimationFrame);
      wanted = false;
      await task();
    }
  };
  return () => {
    wanted = true;
    running ??= work().catch(report).finally(() => (running = null));
    return running;
  };
}

/** Shows the message of an error. */
export function report(error) {
  console.warn(error);
  $("problem").textContent = error?.message ? error.message : `Something went wrong: ${error}`;
  $("problem").hidden = false;
}

export const reducedMotion = () => matchMedia("(prefers-reduced-motion: reduce)").matches;

/** Creates an element with properties, attributes (names with a dash) and children. */
export function element(tag, properties = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name.includes("-")) made.setAttribute(name, value);
    else made[name] = value;
  }
  made.append(...children);
  return made;
}
