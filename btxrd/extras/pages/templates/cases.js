"use strict";
// The address is the state: `#<image id>?<filters and order>`. Whatever is done here changes the
// address, and `show` makes the page what the address says; so a link restores what was seen.

const data = JSON.parse(document.getElementById("data").textContent);
const cases = data.columns.image_id.map((_, place) => Object.fromEntries(
  Object.entries(data.columns).map(([name, values]) => [name, values[place]])));
const byId = new Map(cases.map((one) => [one.image_id, one]));
const CHUNK = 120; // cards that are made at a time

const at = (id) => document.getElementById(id);
const form = document.querySelector("form"), dialog = document.querySelector("dialog");
const stem = (id) => id.replace(/\.\w+$/, "");
const picture = (id) => `${data.folder}/${encodeURIComponent(data.pictures[id] ?? id)}`;
const share = (p) => p === null ? "–" : p < 0.001 ? "< 0.001" : p > 0.999 ? "> 0.999" : p.toFixed(3);
const number = (value) => value.toLocaleString("en-GB", { maximumFractionDigits: 3 });
const said = (one) => one.outcome === "right"
  ? `${one.true}, called ${one.predicted}` : `${one.true}, called ${one.predicted}: wrong`;

// The address

function state() {
  const [name, query] = location.hash.slice(1).split(/\?(.*)/s);
  let id = name;
  try { id = decodeURIComponent(name); } catch { /* typed by hand: taken as it stands */ }
  return { id, query: new URLSearchParams(query ?? "") };
}

const address = (id, query) => `#${encodeURIComponent(id)}?${query}`;

function go(id, query) {
  history.replaceState(null, "", address(id, query));
  show();
}

const find = (name) => byId.get(name) ?? cases.find((one) => stem(one.image_id) === name);

// The grid

let chosen = [], made = 0, drawnFor = null;

function choose(query) {
  const wanted = [...query].filter(([name]) => name in data.columns);
  const part = (query.get("id") ?? "").toLowerCase();
  const found = cases.filter((one) => wanted.every(([name, value]) => String(one[name]) === value)
    && one.image_id.toLowerCase().includes(part));
  const [column, direction] = (query.get("order") ?? "").split(":");
  if (!(column in data.columns)) return found;
  const sign = direction === "down" ? -1 : 1;
  return found.sort((a, b) => sign * (a[column] - b[column])); // stable: ties stay in the id's order
}

function card(one, query) {
  const item = at("card").content.cloneNode(true), link = item.querySelector("a");
  link.href = address(one.image_id, query);
  link.dataset.id = one.image_id;
  link.classList.add(one.outcome);
  link.querySelector("img").src = picture(one.image_id);
  link.querySelector("img").alt = `Picture of ${stem(one.image_id)}`;
  link.querySelector(".id").textContent = stem(one.image_id);
  const called = link.querySelector(".called");
  called.textContent = `${said(one)} (${share(one[`p_${one.predicted}`])})`;
  return item;
}

function more() {
  const cards = chosen.slice(made, made + CHUNK).map((one) => card(one, drawnFor));
  made += cards.length;
  at("grid").append(...cards);
}

// A chunk further whenever the end of the grid comes near: thousands of cards at once are slow.
const watcher = new IntersectionObserver((entries) => {
  if (!entries.some((entry) => entry.isIntersecting) || made >= chosen.length) return;
  more();
  watcher.unobserve(at("end"));
  watcher.observe(at("end")); // it may still be near
}, { rootMargin: "1000px" });

function showGrid(query) {
  for (const field of form.elements) field.value = query.get(field.name) ?? "";
  chosen = choose(query);
  made = 0;
  drawnFor = String(query);
  at("grid").replaceChildren();
  more();
  at("count").textContent = `${number(chosen.length)} of ${number(cases.length)} images`;
}

// The large view

let current = null;

function showCase(one) {
  current = one;
  const place = chosen.indexOf(one);
  at("name").textContent = stem(one.image_id);
  at("place").textContent = place < 0 ? "not among the filtered" : `${number(place + 1)} of ${number(chosen.length)}`;
  at("previous").disabled = place === 0;
  at("next").disabled = place === chosen.length - 1;
  at("picture").src = picture(one.image_id);
  at("picture").alt = `${stem(one.image_id)}: ${said(one)}`;
  at("verdict").textContent = said(one);
  at("verdict").className = one.outcome;
  at("chances").tBodies[0].replaceChildren(...data.classes.map((name) => chance(one, name)));
  at("facts").replaceChildren(...Object.entries(data.facts).flatMap(([name, title]) =>
    [element("dt", title), element("dd", known(one[name]))]));
  showKin(one);
  showSources(one);
  if (!dialog.open) dialog.showModal();
  at("name").focus({ preventScroll: true });
}

const known = (value) => typeof value === "number" ? number(value) : value ?? "not said";

function element(tag, text) {
  const found = document.createElement(tag);
  found.textContent = text;
  return found;
}

function chance(one, name) {
  const row = document.createElement("tr");
  row.append(element("td", name === one.true ? `${name} (true)` : name));
  for (const column of [`p_${name}`, `calibrated_${name}`]) {
    const cell = element("td", share(one[column]));
    cell.style.setProperty("--share", one[column] ?? 0);
    cell.style.setProperty("--bar", `var(--${name.toLowerCase()})`);
    row.append(cell);
  }
  return row;
}

function showKin(one) {
  at("alone").hidden = one.relatives.length > 0;
  at("kin").querySelector("ul").replaceChildren(...one.relatives.map(([id, part, distance]) => {
    const item = at("relative").content.cloneNode(true), link = item.querySelector("a");
    const other = byId.get(id);
    link.href = other ? address(id, drawnFor) : picture(id);
    if (!other) link.target = "_blank";
    link.querySelector("img").src = picture(id);
    link.querySelector("img").alt = `Picture of ${stem(id)}`;
    link.querySelector(".id").textContent = stem(id);
    const bits = distance === null ? "" : `, duplicate (${distance} of 64 bits differ)`;
    link.querySelector(".part").textContent = `in ${part}${bits}`.replace("in not used", "not used");
    link.querySelector(".part").classList.toggle("train", part.includes("train"));
    link.querySelector(".called").textContent = other ? said(other) : data.others[id];
    return item;
  }));
}

// Outline and heat map

const mapOf = (file, source, one) => file.sources[source]?.maps[one.image_id];

function showSources(one) {
  const file = heatmaps.find((f) => Object.keys(f.sources).some((s) => mapOf(f, s, one)));
  const names = file ? Object.keys(file.sources).filter((s) => mapOf(file, s, one)) : [];
  const kept = at("source").value;
  at("source").replaceChildren(...names.map((name) => element("option", name)));
  if (names.includes(kept)) at("source").value = kept;
  at("choose-source").hidden = names.length < 2;
  at("show-heat").disabled = !file;
  at("show-outline").disabled = !one.outline;
  overlay();
}

function origin(file, source) {
  if (source !== "network") return `Heat map: ${source}, of ${file.run}.`;
  return `Heat map: ${file.method}, for the class that ${file.run} predicts; the warmer, the more the `
    + "place spoke for it, within this image.";
}

function whyNone() {
  if (!data.heatmaps.length) return "Heat maps are made for the runs of a study only.";
  if (!heatmaps.length) return "Heat maps are not there yet: notebook 05 makes them.";
  return heatmaps.find((file) => file.why)?.why ?? "No heat map was made of this image.";
}

function overlay() {
  const drawn = at("outline"), path = drawn.querySelector("path"), heat = at("heat");
  drawn.setAttribute("viewBox", `0 0 ${data.units} ${data.units}`);
  path.setAttribute("d", at("show-outline").checked ? current.outline : "");
  at("picture").classList.toggle("inverted", at("invert").checked);
  const source = at("source").value, file = heatmaps.find((f) => mapOf(f, source, current));
  const outline = current.outline ? "Outline: the annotated lesion." : "No lesion is annotated.";
  at("about").textContent = `${outline} ${file ? origin(file, source) : whyNone()}`;
  heat.hidden = !at("show-heat").checked || !file;
  if (heat.hidden) return;
  const bytes = Uint8Array.from(atob(mapOf(file, source, current)), (c) => c.charCodeAt(0));
  paint(heat, bytes, file.sources[source].shape);
}

// As notebook 05 draws it: scaled to its own extremes, enlarged bilinearly, the more opaque the hotter.
function paint(canvas, levels, [height, width]) {
  const lowest = Math.min(...levels), span = Math.max(...levels) - lowest || 1;
  const between = (place, size) => Math.min(Math.max(place, 0), size - 1);
  const level = (y, x) => (levels[between(y, height) * width + between(x, width)] - lowest) / span;
  const side = canvas.width, context = canvas.getContext("2d"), image = context.createImageData(side, side);
  for (let place = 0; place < side * side; place += 1) {
    const y = (Math.floor(place / side) + 0.5) * height / side - 0.5;
    const x = (place % side + 0.5) * width / side - 0.5;
    const [top, left] = [Math.floor(y), Math.floor(x)], [down, right] = [y - top, x - left];
    const heat = (1 - down) * ((1 - right) * level(top, left) + right * level(top, left + 1))
      + down * ((1 - right) * level(top + 1, left) + right * level(top + 1, left + 1));
    image.data.set([...data.colours[Math.round(255 * heat)], 255 * 0.6 * heat], 4 * place);
  }
  context.putImageData(image, 0, 0);
}

// What the reader does

function step(by) {
  const next = chosen[chosen.indexOf(current) + by];
  if (next) go(next.image_id, drawnFor);
}

function show() {
  const { id, query } = state();
  if (String(query) !== drawnFor) showGrid(query);
  const one = id ? find(id) : undefined;
  if (id && !one) at("count").textContent = `There is no test image ${id} here.`;
  if (one) showCase(one);
  else if (dialog.open) dialog.close();
}

form.addEventListener("input", () => {
  const query = new URLSearchParams([...new FormData(form)].filter(([, value]) => value));
  go("", query);
});
form.addEventListener("submit", (event) => event.preventDefault());
at("previous").addEventListener("click", () => step(-1));
at("next").addEventListener("click", () => step(1));
at("close").addEventListener("click", () => dialog.close());
dialog.addEventListener("close", () => {
  if (state().id) go("", drawnFor);
  const last = current && at("grid").querySelector(`[data-id="${CSS.escape(current.image_id)}"]`);
  last?.focus();
});
for (const id of ["show-outline", "show-heat", "invert", "source"]) at(id).addEventListener("input", overlay);
const SWITCHES = { o: "show-outline", h: "show-heat", i: "invert" };
dialog.addEventListener("keydown", (event) => {
  if (event.target.tagName === "SELECT" || event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.key === "ArrowLeft") step(-1);
  if (event.key === "ArrowRight") step(1);
  if (event.key.toLowerCase() in SWITCHES) at(SWITCHES[event.key.toLowerCase()]).click();
});
let touched = null;
const stack = document.querySelector(".stack");
stack.addEventListener("touchstart", (event) => { touched = event.changedTouches[0].clientX; }, { passive: true });
stack.addEventListener("touchend", (event) => {
  const moved = event.changedTouches[0].clientX - touched;
  if (Math.abs(moved) > 60) step(moved > 0 ? -1 : 1);
});
window.addEventListener("hashchange", show);

at("choice").open = innerWidth > 700; // on a phone the pictures come first
show();
watcher.observe(at("end"));
