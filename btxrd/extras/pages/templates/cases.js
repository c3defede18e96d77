"use strict";
// The address is the state: `#<image id>?<filters and order>`. Whatever is done here changes the
// address, and `show` makes the page what the address says; so a link restores what was seen.

const at = (id) => document.getElementById(id);
const data = JSON.parse(at("data").textContent), { cases } = data;
const byId = new Map(cases.map((one) => [one.image_id, one]));
const form = document.querySelector("form"), dialog = document.querySelector("dialog");

const stem = (id) => id.replace(/\.\w+$/, "");
const picture = (row) => `${data.pictures}/${row}.jpeg`;
const number = (value) => value.toLocaleString("en-GB", { maximumFractionDigits: 3 });
const share = (p) => p === null ? "–" : p < 0.001 ? "< 0.001" : p > 0.999 ? "> 0.999" : p.toFixed(3);
const said = (one) => `${one.true}, called ${one.predicted}${one.outcome === "wrong" ? ": wrong" : ""}`;

function element(tag, text) {
  return Object.assign(document.createElement(tag), { textContent: text });
}

function card(id, row, text) {
  const item = document.querySelector("template").content.cloneNode(true).firstElementChild;
  Object.assign(item.querySelector("img"), { src: picture(row), alt: `Picture of ${stem(id)}` });
  item.querySelector("strong").textContent = stem(id);
  item.querySelector("span").textContent = text;
  return item;
}

for (const one of cases) {
  one.card = card(one.image_id, one.row, `${said(one)} (${share(one[`p_${one.predicted}`])})`);
  one.link = one.card.querySelector("a");
  one.link.classList.add(one.outcome);
}

let query = null, chosen = [], current = null;

const address = (id, choice = query) => `#${encodeURIComponent(id)}?${choice}`;

function showGrid() {
  for (const field of form.elements) field.value = query.get(field.name) ?? "";
  const { id = "", order = "", ...wanted } = Object.fromEntries(query);
  chosen = cases.filter((one) => one.image_id.toLowerCase().includes(id.toLowerCase())
    && Object.entries(wanted).every(([name, value]) => String(one[name]) === value));
  const [column, direction] = order.split(":"), sign = direction === "down" ? -1 : 1;
  if (column) chosen.sort((a, b) => sign * (a[column] - b[column])); // ties stay in order
  for (const one of chosen) one.link.href = address(one.image_id);
  at("grid").replaceChildren(...chosen.map((one) => one.card));
  at("count").textContent = `${number(chosen.length)} of ${number(cases.length)} images`;
}

function showCase() {
  const place = chosen.indexOf(current), name = stem(current.image_id);
  at("name").textContent = name;
  at("place").textContent =
    place < 0 ? "not among the filtered" : `${number(place + 1)} of ${number(chosen.length)}`;
  at("previous").disabled = place === 0;
  at("next").disabled = place === chosen.length - 1;
  Object.assign(at("picture"), { src: picture(current.row), alt: `${name}: ${said(current)}` });
  Object.assign(at("verdict"), { textContent: said(current), className: current.outcome });
  at("chances").replaceChildren(...data.classes.map((name) => {
    const row = element("tr", "");
    const predicted = current[`p_${name}`], calibrated = current[`calibrated_${name}`];
    row.append(...[name, share(predicted), share(calibrated)].map((text) => element("td", text)));
    return row;
  }));
  at("facts").replaceChildren(...data.facts.flatMap(([column, title]) => {
    const value = current[column] ?? "not said";
    return [element("dt", title), element("dd", typeof value === "number" ? number(value) : value)];
  }));
  at("alone").hidden = current.relatives.length > 0;
  at("kin").replaceChildren(...current.relatives.map(relative));
  const sources = heatmaps.flatMap(sourcesOf), kept = at("source").value;
  at("source").replaceChildren(...sources.map((source) => element("option", source)));
  if (sources.includes(kept)) at("source").value = kept;
  overlay();
  if (!dialog.open) dialog.showModal();
  at("name").focus({ preventScroll: true });
}

function relative({ relative: id, row, part, distance, trained, ...one }) {
  const bits = distance === null ? "" : `, duplicate (${distance} of 64 bits differ)`;
  const other = byId.get(id);
  const item = card(id, row, `${part}${bits}: ${other ? said(other) : one.class}`);
  item.querySelector("a").href = other ? address(id) : picture(row);
  item.querySelector("a").classList.toggle("train", trained);
  return item;
}

const sourcesOf = ({ maps }) => Object.keys(maps).filter((source) => current.image_id in maps[source]);

function overlay() {
  const source = at("source").value;
  const file = heatmaps.find((one) => sourcesOf(one).includes(source));
  at("choose-source").hidden = at("source").length < 2;
  at("show-heat").disabled = !file;
  at("heat").hidden = !file || !at("show-heat").checked;
  if (file) at("heat").src = file.maps[source][current.image_id];
  at("show-outline").disabled = !current.outline;
  at("outline").setAttribute("d", at("show-outline").checked ? current.outline : "");
  at("picture").classList.toggle("inverted", at("invert").checked);
  const outline = current.outline ? "Outline: the annotated lesion." : "No lesion is annotated.";
  const why = heatmaps.find((one) => one.why)?.why
    ?? "There is no heat map: notebook 05 makes them for the runs of a study.";
  const heat = file && (source === "network" ? `${file.method}, for the class that ${file.run} predicts; `
    + "the warmer, the more the place spoke for it, within this image" : `${source}, of ${file.run}`);
  at("about").textContent = `${outline} ${heat ? `Heat map: ${heat}.` : why}`;
}

function show() {
  const [, name, choice] = location.hash.match(/^#?([^?]*)\??(.*)$/);
  const before = String(query), id = decodeURIComponent(name);
  query = new URLSearchParams(choice);
  if (String(query) !== before) showGrid();
  const found = byId.get(id) ?? cases.find((one) => stem(one.image_id) === id);
  if (id && !found) at("count").textContent = `There is no test image ${id} here.`;
  current = found ?? current;
  if (found) showCase();
  else dialog.close();
}

function go(id, choice) {
  history.replaceState(null, "", address(id, choice));
  show();
}

function step(by) {
  const next = chosen[chosen.indexOf(current) + by];
  if (next) go(next.image_id);
}

form.addEventListener("input", () => {
  const filled = [...new FormData(form)].filter(([, value]) => value);
  go("", new URLSearchParams(filled));
});
form.addEventListener("submit", (event) => event.preventDefault());
at("previous").addEventListener("click", () => step(-1));
at("next").addEventListener("click", () => step(1));
at("close").addEventListener("click", () => dialog.close());
dialog.addEventListener("close", () => {
  go("");
  current.link.focus();
});
dialog.addEventListener("input", overlay);
const SWITCHES = { o: "show-outline", h: "show-heat", i: "invert" };
dialog.addEventListener("keydown", (event) => {
  if (event.target.tagName === "SELECT" || event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.key === "ArrowLeft") step(-1);
  if (event.key === "ArrowRight") step(1);
  at(SWITCHES[event.key.toLowerCase()])?.click();
});
addEventListener("hashchange", show);

at("choice").open = innerWidth > 700; // on a phone the pictures come first
show();
