// The features of a series, and the visitor's own series from a CSV file.

import { $, element, latest, paint } from "./images.js";
import { HEIGHT, WIDTH, colorOf, featuresOf } from "./lines.js";

/** Returns a list of the features with their colours. */
export function makeLegend(info) {
  const items = featuresOf(info).map(({ name }, f) => {
    const mark = element("i", { "aria-hidden": "true" });
    mark.style.background = colorOf(f);
    return element("li", {}, mark, name);
  });
  return element("ul", { className: "legend soft small", "aria-label": "Features" }, ...items);
}

/** Returns the numbers of a CSV text as one series `(T, F)`: the last T rows, with the columns of the features by name or,
 * without such a header, the last F columns. */
export function parse(text, info) {
  const [steps, width] = info.event_shape;
  const lines = text.split(/\r?\n/).filter((line) => line.trim());
  const cells = lines.map((line) => line.split(/[,;\t]/).map((cell) => cell.trim().replace(/^"(.*)"$/, "$1")));
  const names = featuresOf(info).map(({ name }) => name);
  const isNumber = (cell) => cell !== undefined && cell !== "" && Number.isFinite(Number(cell));
  const isHeader = cells.length > 0 && !cells[0].slice(-width).every(isNumber);
  const isNamed = isHeader && names.every((name) => cells[0].includes(name));
  const last = (cells[0]?.length ?? 0) - width;
  const columns = names.map((name, f) => (isNamed ? cells[0].indexOf(name) : last + f));
  const rows = (isHeader ? cells.slice(1) : cells).slice(-steps);
  const numbers = rows.flatMap((row) => columns.map((c) => (isNumber(row[c]) ? Number(row[c]) : NaN)));
  if (rows.length < steps) throw new Error(`Expected ${steps} rows or more. Received: ${rows.length}.`);
  if (!numbers.every(Number.isFinite)) throw new Error(`Expected numbers in ${width} columns: ${names.join(", ")}.`);
  return Float32Array.from(numbers);
}

/** Sets up the section for the visitor's own series, and returns a function that scores it again, if there is one. */
export function makeOwnSeries(model, sliders, showScore) {
  const { info } = model;
  let series = null;

  const look = latest(async () => {
    const now = series;
    const reconstruction = await model.reconstruct(now);
    const score = model.has("score") ? await model.score(now) : null;
    if (series !== now) return;
    $("result-empty").hidden = true;
    $("result-content").hidden = false;
    paint($("seen"), info, now);
    paint($("reconstruction"), info, reconstruction);
    if (score) showScore(model, score);
  });

  function use(next) {
    $("file-problem").textContent = "";
    $("pad-hint").hidden = true;
    series = next;
    paint($("pad"), info, series);
    return look();
  }

  async function open(file) {
    try {
      await use(parse(await file.text(), info));
    } catch (error) {
      $("file-problem").textContent = `“${file.name}” can't be used. ${error.message}`;
    }
  }

  $("own-text").textContent =
    `Drop or choose a CSV file: its last ${info.event_shape[0]} rows are the series. It stays on your device.`;
  $("pad-hint").textContent = "Drop a CSV file here";
  $("file").accept = ".csv,.tsv,.txt,text/csv";
  for (const id of ["clear", "invert", "color-field"]) $(id).hidden = true;
  [$("pad").width, $("pad").height] = [WIDTH, HEIGHT];
  $("choose").addEventListener("click", () => $("file").click());
  $("file").addEventListener("change", () => {
    if ($("file").files[0]) open($("file").files[0]);
    $("file").value = "";
  });
  const own = $("own");
  for (const name of ["dragenter", "dragover"]) own.addEventListener(name, (event) => event.preventDefault());
  own.addEventListener("drop", (event) => {
    event.preventDefault();
    if (event.dataTransfer.files[0]) open(event.dataTransfer.files[0]);
  });
  $("from-sliders").addEventListener("click", async () => use(await model.decode(sliders.z)));
  $("to-sliders").addEventListener("click", async () => {
    if (series) sliders.set((await model.encode(series)).mean, true);
  });
  return () => series && look();
}
