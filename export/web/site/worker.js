// Runs the model in a separate thread with LiteRT.js, on the CPU and (signatures with the same results) on the GPU.
//
// It receives `{id, task, input}` and sends `{id, output}` or `{id, problem}`. kvae.js starts it and sets `base`, the
// address of the page's folder. It is not a module, because LiteRT.js loads its WebAssembly with importScripts.

// LiteRT logs everything as an error. Move notes to the debug level.
const NOTE = /^(INFO|WARNING): |^Failed to create default WebGPU device/;
for (const level of ["error", "warn"]) {
  const say = console[level].bind(console);
  console[level] = (...what) => (NOTE.test(what[0]) ? console.debug : say)(...what);
}

self.Module = { locateFile: (name) => `${base}litert/${name}` };
let litert = null;
let onCpu = null; // compiled models
let onGpu = null;

const TASKS = {
  /** Loads LiteRT.js; returns whether it has a GPU. */
  async runtime() {
    litert = await import(`${base}litert/index.js`);
    await litert.loadLiteRt(`${base}litert`);
    return litert.getWebGpuDevice() !== null;
  },

  /** Compiles the bytes of a file for the CPU; returns its `info`. */
  async compile(bytes) {
    onCpu = await litert.loadAndCompile(bytes, { accelerator: "wasm" });
    return JSON.parse(new TextDecoder().decode((await run(onCpu, "info", {})).json));
  },

  /** Returns the outputs `{name: array}` of a signature; `feed` is `{name: [array, shape]}`. */
  run({ signature, feed, gpu }) {
    return run(gpu ? onGpu : onCpu, signature, feed);
  },

  /** Compiles the bytes of a file for the GPU; returns its signatures, none if the GPU can't run all. */
  async accelerate(bytes) {
    onGpu = await litert.loadAndCompile(bytes, { accelerator: "webgpu", gpuOptions: { precision: "fp32" } });
    return onGpu.isFullyAccelerated ? Object.keys(onGpu.signatures) : [];
  },

  /** Returns whether a signature has the same results on GPU and CPU, to `tolerance`. */
  async agrees({ signature, tolerance }) {
    const details = onGpu.signatures[signature].getInputDetails();
    const feed = Object.fromEntries(details.map(({ name, shape }) => [name, [wave(shape), shape]]));
    const [wanted, found] = [await run(onCpu, signature, feed), await run(onGpu, signature, feed)];
    const near = (value, other) => Math.abs(value - other) <= tolerance * Math.max(1, Math.abs(value));
    return Object.entries(wanted).every(([name, values]) => values.every((value, i) => near(value, found[name][i])));
  },
};

/** Returns numbers in [0, 1] with different rows. */
function wave(shape) {
  const size = shape.reduce((a, b) => a * b, 1);
  return Float32Array.from({ length: size }, (_, i) => 0.5 + 0.5 * Math.sin(1.7 * i));
}

/** Runs a signature. Tensors are in the runtime's memory: each must be deleted. */
async function run(compiled, signature, feed) {
  const tensors = {};
  let results = {};
  try {
    for (const [name, [data, shape]] of Object.entries(feed)) tensors[name] = new litert.Tensor(data, [...shape]);
    results = await compiled.run(signature, tensors);
    const arrays = {};
    for (const [name, tensor] of Object.entries(results)) arrays[name] = await tensor.data();
    return arrays;
  } finally {
    for (const tensor of [...Object.values(tensors), ...Object.values(results)]) tensor.delete();
  }
}

// Run one task at a time, because the runtime can't run two.
let last = Promise.resolve();
addEventListener("message", ({ data: { id, task, input } }) => {
  last = last
    .then(() => TASKS[task](input))
    .then(
      (output) => postMessage({ id, output }),
      (error) => postMessage({ id, problem: error?.message ?? String(error) }),
    );
});
