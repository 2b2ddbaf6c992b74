// Runs the model in a thread of its own, with LiteRT.js: on the CPU, and on the GPU what comes out the same there.
//
// It is asked `{id, task, input}` and answers `{id, output}` or `{id, problem}`. kvae.js starts it, and sets `base`:
// the address of the page's folder. It is no module: LiteRT.js loads its WebAssembly with importScripts.

// LiteRT logs everything as an error. What it merely notes is for those who ask for details.
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
  /** Loads LiteRT.js; whether there is a GPU for it. */
  async runtime() {
    litert = await import(`${base}litert/index.js`);
    await litert.loadLiteRt(`${base}litert`);
    return litert.getWebGpuDevice() !== null;
  },

  /** Compiles the bytes of a file for the CPU; what the file says about itself. */
  async compile(bytes) {
    onCpu = await litert.loadAndCompile(bytes, { accelerator: "wasm" });
    return JSON.parse(new TextDecoder().decode((await run(onCpu, "info", {})).json));
  },

  /** The outputs `{name: array}` of a signature; `feed` is `{name: [array, shape]}`. */
  run({ signature, feed, gpu }) {
    return run(gpu ? onGpu : onCpu, signature, feed);
  },

  /** Compiles the bytes of a file for the GPU; the names of its signatures, none if the GPU doesn't take them all. */
  async accelerate(bytes) {
    onGpu = await litert.loadAndCompile(bytes, { accelerator: "webgpu", gpuOptions: { precision: "fp32" } });
    return onGpu.isFullyAccelerated ? Object.keys(onGpu.signatures) : [];
  },

  /** Whether a signature's results on the GPU are those on the CPU, to `tolerance`. */
  async agrees({ signature, tolerance }) {
    const details = onGpu.signatures[signature].getInputDetails();
    const feed = Object.fromEntries(details.map(({ name, shape }) => [name, [wave(shape), shape]]));
    const [wanted, found] = [await run(onCpu, signature, feed), await run(onGpu, signature, feed)];
    const near = (value, other) => Math.abs(value - other) <= tolerance * Math.max(1, Math.abs(value));
    return Object.entries(wanted).every(([name, values]) => values.every((value, i) => near(value, found[name][i])));
  },
};

/** Numbers in [0, 1] in which no row is like another. */
function wave(shape) {
  const size = shape.reduce((a, b) => a * b, 1);
  return Float32Array.from({ length: size }, (_, i) => 0.5 + 0.5 * Math.sin(1.7 * i));
}

/** Tensors live in the runtime's memory: each one has to be deleted. */
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

// One task after the other: the runtime is no place for two at a time.
let last = Promise.resolve();
addEventListener("message", ({ data: { id, task, input } }) => {
  last = last
    .then(() => TASKS[task](input))
    .then(
      (output) => postMessage({ id, output }),
      (error) => postMessage({ id, problem: error?.message ?? String(error) }),
    );
});
