// Caches all files of the page for offline use, under a name that changes with any file.

const FILES = ["@FILES@"];
const PREFIX = `kvae ${self.registration.scope} `; // other pages on this host have their own caches
const CACHE = `${PREFIX}@VERSION@`;

// A browser requires one of LiteRT's two builds, 9 MB each: with relaxed SIMD, if it can compile this, or without.
const RELAXED_SIMD = [
  0, 97, 115, 109, 1, 0, 0, 0, 1, 5, 1, 96, 0, 1, 123, 3, 2, 1, 0, 10, 15, 1, 13, 0, 65, 1, 253, 15, 65, 2, 253, 15, 253,
  128, 2, 11,
];
const OTHER_BUILD = WebAssembly.validate(new Uint8Array(RELAXED_SIMD)) ? "_compat_internal" : "_wasm_internal";

self.addEventListener("install", (event) => {
  const keep = async (cache, name) => {
    // "no-cache" asks the server for new files; otherwise a page could mix two versions.
    const response = await fetch(name, { cache: "no-cache" });
    if (!response.ok) throw new Error(`${name} answers ${response.status}`);
    // Some hosts redirect index.html to ./, and browsers refuse redirected responses for a page.
    await cache.put(name, response.redirected ? new Response(response.body, response) : response);
  };
  const wanted = FILES.filter((name) => !name.includes(OTHER_BUILD));
  const keepAll = async () => {
    const cache = await caches.open(CACHE);
    await Promise.all(wanted.map((name) => keep(cache, name)));
    await self.skipWaiting();
  };
  event.waitUntil(keepAll());
});

self.addEventListener("activate", (event) => {
  const old = (name) => name.startsWith(PREFIX) && name !== CACHE;
  const tidy = async () => Promise.all((await caches.keys()).filter(old).map((name) => caches.delete(name)));
  event.waitUntil(tidy().then(() => self.clients.claim()));
});

self.addEventListener("fetch", (event) => {
  const url = new URL(event.request.url);
  if (event.request.method !== "GET" || url.origin !== self.location.origin) return;
  if (url.pathname.endsWith("/")) url.pathname += "index.html";
  url.search = "";
  const answer = async () => (await (await caches.open(CACHE)).match(url)) ?? fetch(event.request);
  event.respondWith(answer());
});
