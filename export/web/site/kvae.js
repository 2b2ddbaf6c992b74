// Client of a kvae .tflite file in the browser, like kvae.export.runtime in Python.
//
//     import { load } from "./kvae.js";
//     const model = await load("model.tflite");
//     const { image, z } = await model.generate(7, 16);   // Float32Arrays, (16, H, W, C) and (16, D)
//
// Arrays are flat Float32Arrays, row after row. A conditional model uses `model.condition`: the number of a class, or
// the numbers of a condition.
//
// The model runs in worker.js. `model.accelerate("gpu.tflite")` moves `decode`, `encode`, `reconstruct` and
// `interpolate` to the GPU if their results are the same there. Random numbers stay on the CPU, because GPUs compute
// their integer arithmetic wrong.

// (module (func (result v128) i32.const 0 i8x16.splat i8x16.popcnt)): the minimum for LiteRT.js.
const SIMD = [0, 97, 115, 109, 1, 0, 0, 0, 1, 5, 1, 96, 0, 1, 123, 3, 2, 1, 0, 10, 10, 1, 8, 0, 65, 0, 253, 15, 253, 98, 11];

/** Loads the runtime and the model; `onStep` is called with a text before each step. */
export async function load(url, onStep = () => {}) {
  if (typeof WebAssembly === "undefined" || !WebAssembly.validate(new Uint8Array(SIMD))) {
    throw new Error(
      "This browser can't run the model, because it has no WebAssembly with SIMD. " +
        "Use Chrome or Edge 91, Firefox 114, Safari 16.4, or a newer version.",
    );
  }
  const started = performance.now();
  onStep("Loading the runtime (9 MB, once)…");
  const ask = startWorker();
  const [bytes, hasGpu] = await Promise.all([
    download(url).catch((error) => fail("The model could not be loaded", error)),
    ask("runtime").catch((error) => fail("The runtime could not be loaded", error)),
  ]);
  onStep("Preparing the model…");
  const info = await ask("compile", bytes).catch((error) => fail("The model file is damaged", error));
  const loaded = { bytes: bytes.length, seconds: (performance.now() - started) / 1000, hasGpu };
  return new Model(ask, info, loaded);
}

async function download(url) {
  const response = await fetch(url);
  if (!response.ok) throw new Error(`${url} answers ${response.status}`);
  return new Uint8Array(await response.arrayBuffer());
}

function fail(what, error) {
  throw new Error(`${what}: reload the page when you are online. (${error?.message ?? "no answer"})`);
}

/** Starts worker.js; returns a function that sends it a task and promises the answer. */
function startWorker() {
  // From a blob, so that the page's content security policy also applies to the worker.
  const base = JSON.stringify(new URL("./", import.meta.url).href);
  const start = new Blob([`const base = ${base}; importScripts(base + "worker.js");`], { type: "text/javascript" });
  const address = URL.createObjectURL(start);
  const worker = new Worker(address);
  const waiting = new Map();
  worker.addEventListener("message", ({ data: { id, output, problem } }) => {
    const { resolve, reject } = waiting.get(id);
    waiting.delete(id);
    if (problem === undefined) resolve(output);
    else reject(new Error(problem));
  });
  worker.addEventListener("error", (event) => {
    event.preventDefault();
    for (const { reject } of waiting.values()) reject(new Error(event.message || "its script could not be loaded"));
    waiting.clear();
  });
  let id = 0;
  return (task, input) => {
    const answer = new Promise((resolve, reject) => waiting.set(++id, { resolve, reject }));
    worker.postMessage({ id, task, input });
    return answer;
  };
}

export class Model {
  /** `info` has the facts of the file; `loaded` has its size in bytes, the loading time, and whether there is a GPU. */
  constructor(ask, info, loaded) {
    this.ask = ask;
    this.info = info;
    this.loaded = loaded;
    this.condition = 0;
    this.decodeTimes = []; // times of the last decodings of one batch, ms
    this.batchSizes = [...info.batch_sizes].sort((a, b) => b - a);
    this.gpu = { on: false, signatures: [], different: [] }; // `signatures`: same results as on the CPU
    this.last = Promise.resolve();
  }

  has(endpoint) {
    return endpoint in this.info.signatures;
  }

  decode(z) {
    return this.run("decode", { z }).then((outputs) => outputs.image);
  }

  /** Returns `{mean, variance}` of q(z|x); an autoencoder has no variance. */
  encode(image) {
    return this.run("encode", { image });
  }

  reconstruct(image) {
    return this.run("reconstruct", { image }).then((outputs) => outputs.reconstruction);
  }

  /** Returns `{image, z}` of samples `start` to `start + n` of a seed: a BigInt, an integer, or a string of digits. */
  async generate(seed, n = 1, temperature = 1, start = 0) {
    const index = Int32Array.from({ length: n }, (_, i) => start + i);
    const inputs = { seed: seedWords(seed), index, temperature: Float32Array.of(temperature) };
    // A file may have a signature for latents; otherwise they come with their images, from the CPU.
    const { image, z } = await this.run(this.has("latents") ? "latents" : "generate", inputs);
    return { image: image && !this.gpu.on ? image : await this.decode(z), z };
  }

  /** Returns images on the line from `start` to `end`, `(D,)` each, at positions in [0, 1]. */
  interpolate(start, end, position) {
    return this.run("interpolate", { start, end, position }).then((outputs) => outputs.image);
  }

  /** Directions in latent space, by name. A position of −½ is the mean of the images without the attribute, and ½ the
   * mean of those with it; the direction holds from `low` to `high`. */
  get directions() {
    return Object.fromEntries((this.info.directions ?? []).map((direction) => [direction.name, direction]));
  }

  /** Returns latents `(N, D)` moved along a direction; a step of 1 adds 1 to their positions. */
  move(z, name, steps = 1) {
    const { vector, distance } = this.#direction(name);
    return z.map((value, i) => value + steps * distance * vector[i % vector.length]);
  }

  /** Returns the positions of latents `(N, D)` along a direction: an array of N numbers. */
  position(z, name) {
    const { vector, distance, middle } = this.#direction(name);
    const row = (i) => vector.reduce((sum, value, d) => sum + value * z[i * vector.length + d], 0);
    return Array.from({ length: z.length / vector.length }, (_, i) => (row(i) - middle) / distance);
  }

  #direction(name) {
    const known = Object.keys(this.directions);
    if (known.includes(name)) return this.directions[name];
    throw new Error(`This model has the directions ${known.join(", ") || "(none)"}. Received: “${name}”.`);
  }

  /** Returns `{negative_elbo, distortion, rate}` in nats; an image always has the same score. */
  score(image) {
    const rows = image.length / product(this.info.event_shape);
    return this.run("score", { image, seed: new Int32Array(2), index: new Int32Array(rows) });
  }

  /** Returns the percentage of ordinary images with a lower score, 0 to 100; null if the file has no quantiles. */
  percentile(negativeElbo) {
    const quantiles = this.info.score?.quantiles;
    if (!quantiles) return null;
    if (negativeElbo < quantiles[0][1]) return 0;
    for (let i = 1; i < quantiles.length; i++) {
      const [[p0, v0], [p1, v1]] = [quantiles[i - 1], quantiles[i]];
      if (negativeElbo < v1) return 100 * (p0 + ((p1 - p0) * (negativeElbo - v0)) / (v1 - v0));
    }
    return 100;
  }

  /** Returns the p-value of a score: an ordinary image has p <= alpha with a probability of at most alpha, for every
   * alpha. It is (1 + #{scores of n ordinary images >= score}) / (n + 1); null if the file has no such scores. */
  pValue(negativeElbo) {
    const known = this.info.score?.calibration;
    if (!known) return null;
    return (1 + known.filter((score) => score >= negativeElbo).length) / (known.length + 1);
  }

  /** Runs an endpoint on any number of rows, split into the largest batches that fit; remaining rows are padded. */
  async run(endpoint, inputs) {
    const spec = this.info.signatures[endpoint];
    if (!spec) throw new Error(`This model has no '${endpoint}'.`);
    const width = (tensor) => product(tensor.shape.slice(1));
    const batched = Object.keys(inputs).filter((name) => spec.inputs[name].shape[0] === "B");
    const rows = inputs[batched[0]].length / width(spec.inputs[batched[0]]);
    if (!Number.isInteger(rows) || rows < 1) throw new Error(`'${endpoint}' requires rows. Received: ${rows}.`);
    if (spec.inputs.condition) {
      inputs = { condition: repeated(this.condition, this.info.condition.size, rows), ...inputs };
    }
    const outputs = {};
    for (const [name, tensor] of Object.entries(spec.outputs)) outputs[name] = new Float32Array(rows * width(tensor));
    for (let first = 0; first < rows; ) {
      const size = this.batchSizes.find((batch) => batch <= rows - first) ?? this.batchSizes.at(-1);
      const count = Math.min(size, rows - first);
      const feed = {};
      for (const [name, tensor] of Object.entries(spec.inputs)) {
        const fixed = tensor.shape[0] !== "B";
        const data = fixed ? inputs[name] : piece(inputs[name], first, count, size, width(tensor));
        feed[name] = [data, [fixed ? tensor.shape[0] : size, ...tensor.shape.slice(1)]];
      }
      const results = await this.#inTurn(`${endpoint}_${size}`, feed);
      for (const [name, tensor] of Object.entries(spec.outputs)) {
        outputs[name].set(results[name].subarray(0, count * width(tensor)), first * width(tensor));
      }
      first += count;
    }
    return outputs;
  }

  /** Uses the GPU for signatures whose results there are the same to one of 256 levels; returns whether there are any.
   * The file at `url` has signatures of this model. `gpu.on` switches the GPU off and on. */
  async accelerate(url) {
    if (!this.loaded.hasGpu) return false;
    const [low, high] = this.info.value_range;
    const unit = Math.min(...(this.info.features ?? []).map(({ scale }) => scale), high - low);
    for (const signature of await this.ask("accelerate", await download(url))) {
      const same = await this.ask("agrees", { signature, tolerance: unit / 255 });
      this.gpu[same ? "signatures" : "different"].push(signature);
    }
    return (this.gpu.on = this.gpu.signatures.length > 0);
  }

  /** Runs one signature at a time, to measure its time. */
  #inTurn(signature, feed) {
    const timed = async () => {
      const started = performance.now();
      const results = await this.#runOnce(signature, feed);
      if (signature === `decode_${this.batchSizes.at(-1)}`) {
        this.decodeTimes = [...this.decodeTimes.slice(-100), performance.now() - started];
      }
      return results;
    };
    const turn = this.last.then(timed);
    this.last = turn.catch(() => {});
    return turn;
  }

  async #runOnce(signature, feed) {
    if (this.gpu.on && this.gpu.signatures.includes(signature)) {
      try {
        return await this.ask("run", { signature, feed, gpu: true });
      } catch (error) {
        console.warn(error); // a GPU may become unavailable
        this.gpu = { on: false, signatures: [], different: [] };
      }
    }
    return this.ask("run", { signature, feed });
  }
}

/** Returns the high and the low word of a 64-bit seed. */
export function seedWords(seed) {
  const value = BigInt(seed);
  if (value < -(2n ** 63n) || value >= 2n ** 64n) throw new RangeError("A seed has at most 64 bits.");
  return Int32Array.of(Number(BigInt.asIntN(32, value >> 32n)), Number(BigInt.asIntN(32, value)));
}

export function product(numbers) {
  return numbers.reduce((a, b) => a * b, 1);
}

/** Returns a condition of `size` numbers for each row; a class has 1 at its index and 0 elsewhere. */
function repeated(condition, size, rows) {
  const number = typeof condition === "number" ? (i) => Number(i === condition) : (i) => condition[i];
  return Float32Array.from({ length: rows * size }, (_, i) => number(i % size));
}

/** Returns rows `first` to `first + count`; the last row is repeated up to `size` rows. */
function piece(data, first, count, size, width) {
  const part = data.slice(first * width, (first + count) * width);
  if (count === size) return part;
  const padded = new data.constructor(size * width);
  for (let row = 0; row < size; row++) {
    const from = Math.min(row, count - 1) * width;
    padded.set(part.subarray(from, from + width), row * width);
  }
  return padded;
}
