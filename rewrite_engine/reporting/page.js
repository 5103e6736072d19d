"use strict";
const data = JSON.parse(document.getElementById("data").textContent);
const byId = (id) => document.getElementById(id);
const rows = [...document.querySelectorAll(".r")];
document.documentElement.classList.add("on");

/* --- drawings: placed when the page was written, drawn when they are looked at --- */
const NS = "http://www.w3.org/2000/svg";
function make(tag, attributes, text) {
  const element = document.createElementNS(NS, tag);
  for (const key in attributes) element.setAttribute(key, attributes[key]);
  if (text !== undefined) element.textContent = text;
  return element;
}
function curve(points) {
  let path = `M${points[0]} ${points[1]}`;
  for (let i = 2; i < points.length; i += 2) {
    const [x0, y0, x1, y1] = points.slice(i - 2, i + 2);
    const middle = (y0 + y1) / 2;
    path += `C${x0} ${middle} ${x1} ${middle} ${x1} ${y1}`;
  }
  return path;
}
function shortened(name, width) {
  const fits = Math.floor((width - 12) / 6.1);
  return name.length <= fits ? name : "…" + name.slice(1 - fits);
}
function draw(figure, [shape, names]) {
  const [width, height, nodes, edges] = data.shapes[shape];
  const fitting = Math.min(1, (figure.clientWidth - 24) / width, (figure.clientHeight - 12) / height);
  const fit = fitting >= 0.7 ? fitting : 0.8;  // what cannot be read in one look is scrolled
  const svg = make("svg", { width: width * fit, height: height * fit,
    viewBox: `0 0 ${width} ${height}`, role: "img" });
  for (const points of edges) svg.append(make("path", { d: curve(points) }));
  nodes.forEach(([x, y, w, label, kind], i) => {
    const group = make("g", { class: kind });
    group.append(make("rect", { x: x - w / 2, y: y - 19, width: w, height: 38, rx: 7 }));
    group.append(make("text", { x, y: y - 2 }, label));
    group.append(make("text", { x, y: y + 12, class: "s" }, shortened(names[i], w)));
    group.append(make("title", {}, names[i]));
    const row = rowOf(names[i]);
    if (row) {
      group.classList.add("link");
      group.addEventListener("click", () => reveal(row));
    }
    svg.append(group);
  });
  figure.querySelector("svg")?.remove();
  figure.append(svg);
}
let rowsByName;
function rowOf(name) {
  rowsByName ??= new Map(rows.flatMap((row) =>
    [...row.querySelectorAll("b")].map((b) => [b.textContent.slice(1), row])));
  return rowsByName.get(name);
}
let revealed;
function reveal(row, top = innerHeight / 2) {
  row.closest("details").open = true;
  revealed = row;
  approach(row, top, 5);
}
/* Blocks of rows have their height only once they come into view: look again, and again. */
function approach(row, top, tries) {
  const off = row.getBoundingClientRect().top - top;
  if (row !== revealed || Math.abs(off) < 2 || !tries) return;
  scrollBy({ top: off });
  requestAnimationFrame(() => approach(row, top, tries - 1));
}

/* --- step through the rewrites --- */
let now = -1;
const items = [...document.querySelectorAll("nav li[data-k]")];
function show(index, scroll = true) {
  if (!data.rewrites.length) return;
  now = (index + data.rewrites.length) % data.rewrites.length;
  const { rule, at, place, before, after } = data.rewrites[now];
  byId("rule").textContent = rule;
  byId("where").textContent = `at %${at} · ${place}`;
  byId("count").textContent = `${now + 1} / ${data.rewrites.length}`;
  byId("picture").classList.remove("closed");
  draw(byId("before"), before);
  draw(byId("after"), after);
  document.querySelectorAll(".now").forEach((each) => each.classList.remove("now"));
  items[now]?.classList.add("now");
  items[now]?.scrollIntoView({ block: "nearest" });
  const mine = rows.filter((row) => row.dataset.k === String(now + 1));
  mine.forEach((row) => row.classList.add("now"));
  if (scroll && mine.length) reveal(mine[0], byId("stage").getBoundingClientRect().bottom + 40);
}
byId("next")?.addEventListener("click", () => show(now + 1));
byId("back")?.addEventListener("click", () => show(now - 1));
byId("fold")?.addEventListener("click", () => byId("picture").classList.toggle("closed"));
document.addEventListener("click", (event) => {
  const link = event.target.closest("a[data-k]");
  if (!link) return;
  event.preventDefault();
  show(Number(link.dataset.k) - 1, link.closest("nav") !== null);
});
addEventListener("resize", () => { if (now >= 0) show(now, false); });

/* --- search --- */
let texts, found = [], hit = -1;
function search(words) {
  texts ??= rows.map((row) => row.textContent.toLowerCase());
  const wanted = words.trim().toLowerCase();
  found = wanted ? rows.filter((_, i) => texts[i].includes(wanted)) : [];
  hit = -1;
  if (found.length) step(1); else mark();
  if (wanted && !found.length) byId("hits").textContent = "not found";
}
function step(by) {
  if (!found.length) return;
  hit = (hit + by + found.length) % found.length;
  mark();
  reveal(found[hit]);
}
function mark() {
  document.querySelectorAll(".hit").forEach((row) => row.classList.remove("hit"));
  found[hit]?.classList.add("hit");
  byId("hits").textContent = found.length ? `${hit + 1} of ${found.length}` : "";
}
const box = byId("search");
let waiting;
box.addEventListener("input", () => {
  clearTimeout(waiting);
  waiting = setTimeout(() => search(box.value), 120);
});
box.form.addEventListener("submit", (event) => {
  event.preventDefault();
  if (found.length) step(1); else search(box.value);
});

/* --- keys and colours --- */
function turn() {
  const root = document.documentElement;
  const dark = root.dataset.theme ? root.dataset.theme === "dark"
    : matchMedia("(prefers-color-scheme: dark)").matches;
  root.dataset.theme = dark ? "light" : "dark";
}
byId("theme").addEventListener("click", turn);
const KEYS = { "/": () => box.select(), ArrowRight: () => show(now + 1), j: () => show(now + 1),
  ArrowLeft: () => show(now - 1), k: () => show(now - 1), t: turn,
  p: () => byId("fold")?.click(), n: () => step(1), N: () => step(-1) };
addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.key === "Escape") { box.value = ""; search(""); box.blur(); return; }
  if (event.target === box || !KEYS[event.key]) return;
  event.preventDefault();
  KEYS[event.key]();
});
show(0, false);
