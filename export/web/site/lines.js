// Series as lines on a canvas.

export const [WIDTH, HEIGHT] = [480, 240];
export const RATIO = WIDTH / HEIGHT;
// Petroff 2021, arXiv:2107.02270: colours chosen for people with any colour vision.
const COLORS = ["#3f90da", "#ffa90e", "#bd1f01", "#94a4a2", "#832db6", "#a96b59", "#e76300", "#b9ac70", "#717581", "#92dadd"];
const REACH = 3.5; // scales above and below the location of a feature

export const colorOf = (feature) => COLORS[feature % COLORS.length];

export function isSeries(info) {
  return info.event_shape.length === 2;
}

/** Returns name, location and scale of each feature; without them in the file, those of the axis −3.5 to 3.5. */
export function featuresOf(info) {
  const plain = (_, i) => ({ name: `feature ${i}`, location: 0, scale: 1 });
  return info.features ?? Array.from({ length: info.event_shape[1] }, plain);
}

/** Draws series number `index` of an array of series `(N, T, F)`: a line for each feature, in units of its scale. */
export function paintSeries(canvas, info, series, index = 0) {
  const [steps, width] = info.event_shape;
  if (canvas.width !== WIDTH || canvas.height !== HEIGHT) [canvas.width, canvas.height] = [WIDTH, HEIGHT];
  const context = canvas.getContext("2d");
  context.clearRect(0, 0, WIDTH, HEIGHT);
  context.lineWidth = canvas.clientWidth && canvas.clientWidth < WIDTH / 3 ? 5 : 2.5; // of a thumbnail, or not
  context.lineJoin = "round";
  featuresOf(info).forEach(({ location, scale }, f) => {
    context.strokeStyle = colorOf(f);
    context.beginPath();
    for (let t = 0; t < steps; t++) {
      const place = (series[(index * steps + t) * width + f] - location) / scale;
      const x = steps > 1 ? (t * WIDTH) / (steps - 1) : WIDTH / 2;
      context.lineTo(x, (HEIGHT / 2) * (1 - Math.max(-1, Math.min(1, place / REACH))));
    }
    context.stroke();
  });
}
