"use strict";
// What comes from a run is text: it is set as textContent or as an attribute, and never read as HTML.
// A row is a picture, a class and an area; it has a cell in each job (one job: a run, several: a sweep).

const $ = (id) => document.getElementById(id);
const { jobs, columns, drawn, words, aspect, paired, meanings } = JSON.parse($("page").textContent);
const rows = [...document.querySelectorAll("script[id^=rows]")].flatMap((block) => JSON.parse(block.textContent));
const place = Object.fromEntries(columns.map((name, k) => [name, k]));
const number = (cell, name) => cell.values[place[name]] ?? null;
const FIXED = ["target", "requested_area", "value_before", "value_after", "value_complement", "value_reference", "value_normalised", "area", "passes", "forwards", "seconds"];
const metrics = columns.filter((name) => !FIXED.includes(name));
const isPart = (name) => metrics.some((other) => name.startsWith(`${other}_`)); // of a metric: shown with all numbers of a row

function make(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  made.append(...children);
  return made;
}

// ---- numbers, as mpx.pictures.text and mpx.tasks write them

const { quantity, bounded } = jobs[0]; // of the values: what the network's output is read as, and whether it is in [0,1]
const word = quantity === "probability" ? "p" : quantity;
const value = (v) => (v === null ? "–" : !bounded ? short(v) : v > 0 && v < 0.0005 ? "<0.001" : v.toFixed(3));
const percent = (a) => (a === null ? "–" : `${(100 * a).toFixed(1)} %`);
function short(x) {
  if (x === null) return "–";
  if (Number.isInteger(x) || Math.abs(x) >= 100) return x.toFixed(0);
  return x !== 0 && Math.abs(x) < 0.0005 ? x.toExponential(1) : Math.abs(x) >= 1 ? x.toPrecision(3) : x.toFixed(3);
}
const normalised = (v) => (v < 0 ? "below the reference" : v > 1 ? "above the photo" : short(v)); // no better than perfect
const written = { area: percent, requested_area: percent, value_before: value, value_after: value, value_complement: value, value_reference: value, value_normalised: normalised };
const rounded = (x) => `${x > 0 && x < 0.001 ? "<0.1" : Number((100 * x).toPrecision(2))} %`; // as sentences have it

const kept = (j) => (jobs[j].game === "preservation" ? ["kept", "deleted"] : ["deleted", "kept"]);

// ---- pictures: a block of JSON for each cell, read when it is looked at and forgotten after

const whole = (block) => block && (block.nextSibling || document.readyState !== "loading"); // else it is being read

function stored(r, j) {
  const block = $(`d${r}-${j}`);
  return whole(block) ? JSON.parse(block.textContent) : null;
}

async function decoded(base64) {
  const image = new Image();
  image.src = `data:image/jpeg;base64,${base64}`;
  await image.decode();
  return image;
}

async function opened(data) {
  const names = ["perturbed", "complement", "pair", "frames", "final"].filter((name) => name in data);
  const [photo, ...others] = await Promise.all(
    [JSON.parse($(data.photo).textContent), ...names.map((name) => data[name])].map(decoded));
  const width = photo.naturalWidth, height = photo.naturalHeight;
  const view = { data, photo, width, height, last: data.iterations.length - 1 };
  names.forEach((name, k) => { view[name] = others[k]; });
  view.pixels = pixels(photo, width, height);
  return view;
}

// What a mask perturbs fully, where the two perturbed pictures are blends of it and the photo: their sum less the photo.
// Then they follow the mask of any iteration; `follows` says whether they do so at the last one.
function blended(view, frame, name) {
  const heat = saliency(view, frame, true), photo = view.pixels, image = new ImageData(view.width, view.height), out = image.data;
  const keeps = (name === "complement") !== (view.game === "preservation"); // the evidence
  for (let k = 0; k < out.length; k++) {
    if (k % 4 === 3) { out[k] = 255; continue; }
    const reference = view.ends.perturbed[k] + view.ends.complement[k] - photo[k], evidence = heat[k] / 255;
    out[k] = keeps ? evidence * photo[k] + (1 - evidence) * reference : evidence * reference + (1 - evidence) * photo[k];
  }
  return image;
}

function prepare(view, game) {
  view.game = game;
  if (!view.perturbed || !view.complement || view.last < 1) return;
  view.ends = { perturbed: pixels(view.perturbed, view.width, view.height), complement: pixels(view.complement, view.width, view.height) };
  const made = blended(view, view.last, "perturbed").data, end = view.ends.perturbed;
  let error = 0;
  for (let k = 0; k < made.length; k++) error += Math.abs(made[k] - end[k]);
  view.follows = error / made.length < 4; // of 255
}

function pixels(image, width, height, top = 0, tall = image.naturalHeight) {
  const canvas = make("canvas", { width, height });
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.imageSmoothingQuality = "high";
  context.drawImage(image, 0, top, image.naturalWidth, tall, 0, 0, width, height);
  return context.getImageData(0, 0, width, height).data;
}

// the saliency (RGBA, all the same) of a recorded iteration; the last one is kept at the photo's size, its mask is not
function saliency(view, frame, mask = false) {
  if (frame === view.last && !mask) return pixels(view.final, view.width, view.height);
  const tall = view.frames.naturalHeight / (view.last + 1);
  return pixels(view.frames, view.width, view.height, frame * tall, tall);
}

// mpx.pictures.colours.overlay at strength 1, the photo at 0; returns the area
function overlay(canvas, view, frame, strength) {
  const { width, height } = view, heat = saliency(view, frame), photo = view.pixels;
  const image = new ImageData(width, height), out = image.data, line = outline(heat, width, height);
  let sum = 0;
  for (let k = 0; k < out.length; k += 4) {
    const at = line[k / 4], level = heat[k] / 255;
    const grey = drawn.LIFT + ((1 - drawn.LIFT) * (0.299 * photo[k] + 0.587 * photo[k + 1] + 0.114 * photo[k + 2])) / 255;
    const opacity = OPACITIES[heat[k]], shade = drawn.SHADE + drawn.LIGHT * grey;
    for (let c = 0; c < 3; c++) {
      const colour = at ? 2 - at : grey + opacity * (Math.min(1, ORANGE[c] * shade) - grey);
      out[k + c] = (1 - strength) * photo[k + c] + strength * 255 * colour;
    }
    out[k + 3] = 255;
    sum += level;
  }
  canvas.width = width;
  canvas.height = height;
  canvas.getContext("2d").putImageData(image, 0, 0);
  return sum / (width * height);
}

const ORANGE = [1, 3, 5].map((at) => parseInt(drawn.ORANGE.slice(at, at + 2), 16) / 255);
const OPACITIES = Array.from({ length: 256 }, (_, level) => drawn.OPACITY * (level / 255) ** drawn.STEEPNESS);

// the line round what is at least one half: 1 on the white edge, 2 on the black one, 0 elsewhere
function outline(heat, width, height) {
  const line = new Uint8Array(width * height);
  if (Math.max(width, height) < drawn.LEAST_SIDE) return line;
  const inside = (k) => heat[4 * k] >= 255 * drawn.HALF;
  const compare = (k, other) => {
    if (inside(k) === inside(other)) return;
    line[k] = inside(k) ? 1 : 2;
    line[other] = inside(k) ? 2 : 1;
  };
  for (let y = 0, k = 0; y < height; y++) {
    for (let x = 0; x < width; x++, k++) {
      if (x + 1 < width) compare(k, k + 1);
      if (y + 1 < height) {
        compare(k, k + width);
        if (x + 1 < width) compare(k, k + width + 1);
        if (x) compare(k, k + width - 1);
      }
    }
  }
  return line;
}

function paint(canvas, view, what) {
  if (what === "saliency") return overlay(canvas, view, view.last, 1);
  canvas.width = view.width;
  canvas.height = view.height;
  if (view[what]) canvas.getContext("2d").drawImage(view[what], 0, 0);
}

// ---- the gallery: cards are made as the end comes near, pictures painted where they are seen

const gallery = $("gallery"), cards = new Map(), waiting = new Set(), seen = new Set();
let order = [], shown = 0;

function card(r) {
  const row = rows[r], cells = make("div", { class: "cells" });
  row.cells.forEach((cell, j) => cells.append(cell && cell.values ? small(r, j) : absent(j, cell)));
  const name = make("div", { class: "name", title: `${row.class} – ${row.image}` }, make("b", {}, row.class));
  const asked = row.requested_area === null ? "" : ` · area ${percent(row.requested_area)} requested`;
  name.append(make("span", { class: "faint" }, row.image + asked));
  const made = make("li", { class: "card" });
  made.append(...(jobs.length > 1 ? [name, cells] : [cells, name, ...facts(r, 0)]));
  return made;
}

function small(r, j) {
  const cell = rows[r].cells[j], frame = make("a", { class: "frame", href: `#${address(r, j)}` });
  const canvas = make("canvas", { "aria-hidden": "true" });
  frame.setAttribute("aria-label", `${rows[r].class}, ${rows[r].image}${jobs.length > 1 ? `, ${jobs[j].name}` : ""}`);
  frame.style.aspectRatio = aspect;
  frame.append(make("span"), canvas);
  canvas.at = [r, j];
  watcher.observe(canvas);
  const made = make("div", { class: "cell" });
  if (jobs.length > 1) made.append(label(j));
  made.append(frame, meter(cell));
  if (jobs.length > 1) made.append(...facts(r, j));
  return made;
}

function absent(j, cell) {
  const frame = make("div", { class: "frame" }, make("span", {}, cell?.reason ?? jobs[j].fault ?? "not in this job"));
  frame.style.aspectRatio = aspect;
  return make("div", { class: "cell" }, label(j), frame);
}

const axes = (j) => jobs[j].name.replaceAll(/,(?=[^,[\]]*=)/g, "\n"); // a line for each thing that the sweep varies
const lines = Math.max(...jobs.map((_, j) => axes(j).split("\n").length));

function label(j) {
  const made = make("div", { class: "job", title: jobs[j].name }, axes(j));
  made.style.minHeight = `${1.35 * lines}em`;
  return made;
}

function meter(cell) {
  if (!bounded) return ""; // a bar needs a range
  const bar = make("div", { class: "meter", title: `${quantity} before (light) and after (dark)` });
  for (const name of ["value_before", "value_after"]) {
    const part = make("i");
    part.style.width = `${100 * (number(cell, name) ?? 0)}%`;
    bar.append(part);
  }
  return bar;
}

function verdict(cell) {
  return make("span", { class: cell.success ? "good" : "bad", title: meanings[cell.verdict] ?? "" }, cell.verdict);
}

function facts(r, j) {
  const cell = rows[r].cells[j];
  const line = (left, right, kind = "", title = left) =>
    make("div", { class: `line ${kind}`, title }, make("span", {}, left), typeof right === "string" ? make("span", {}, right) : right);
  const change = `${value(number(cell, "value_before"))} → ${value(number(cell, "value_after"))}`;
  return [
    ...(word === "p" ? [line(`p ${change}`, verdict(cell))] : [line(word, verdict(cell)), line(change, "")]), // a long word fills a line
    line("area", percent(number(cell, "area"))),
    ...metrics.filter((name) => number(cell, name) !== null && !isPart(name)).map((name) => line(words[name][0], short(number(cell, name)), "small", words[name][1])),
  ];
}

const watcher = new IntersectionObserver((entries) => {
  for (const { target, isIntersecting } of entries) {
    if (isIntersecting) seen.add(target), show(target);
    else seen.delete(target), waiting.delete(target), (target.width = target.height = 0);
  }
}, { rootMargin: "300px" });

async function show(canvas) {
  const data = stored(...canvas.at), what = $("picture").value, said = canvas.previousSibling;
  if (!data?.photo) {
    if (document.readyState === "loading") waiting.add(canvas);
    else said.textContent = "no picture stored";
    return;
  }
  try {
    const view = await opened(data);
    if (!seen.has(canvas) || what !== $("picture").value) return; // it has left meanwhile
    said.textContent = view[what] || what === "saliency" ? "" : "not a picture";
    paint(canvas, view, what);
    if (!performance.getEntriesByName("first picture").length) performance.mark("first picture");
  } catch {
    said.textContent = "damaged picture";
  }
}

function retry() {
  const those = [...waiting];
  waiting.clear();
  those.forEach(show);
}
const timer = setInterval(() => (retry(), document.readyState !== "loading" && clearInterval(timer)), 50);

function grow() {
  const next = order.slice(shown, shown + 60);
  shown += next.length;
  gallery.append(...next.map((r) => cards.get(r) ?? (cards.set(r, card(r)), cards.get(r))));
}
new IntersectionObserver((entries) => entries[0].isIntersecting && grow(), { rootMargin: "1500px" }).observe($("end"));

// ---- filters and sorting

const mean = (values) => values.reduce((a, b) => a + b, 0) / (values.length || NaN);
const over = (value) => (row) => mean(row.cells.filter((c) => c?.values).map(value).filter((x) => x !== null));
const lost = (cell, j) => (jobs[j].game === "preservation" ? 1 - number(cell, "value_normalised") : number(cell, "value_normalised"));
const SORTS = {
  "order of the run": [null, 1],
  "drop": [over((c) => number(c, "value_before") - number(c, "value_after")), -1],
  area: [over((c) => number(c, "area")), 1],
  class: [(row) => row.class, 1],
  name: [(row) => row.image, 1],
  failure: [(row) => mean(row.cells.map((c, j) => (c?.values && number(c, "value_normalised") !== null ? lost(c, j) : null)).filter((x) => x !== null)), -1],
  ...Object.fromEntries(metrics.map((name) => [name, [over((c) => number(c, name)), -1]])),
};
const compare = new Intl.Collator(undefined, { numeric: true }).compare;
let direction = 1;

function arrange() {
  const words = $("find").value.toLowerCase().split(/\s+/).filter(Boolean), which = $("which").value;
  const success = which && which === "works";
  const [key] = SORTS[$("sort").value];
  order = rows.map((_, r) => r).filter((r) => {
    const text = `${rows[r].image} ${rows[r].class}`.toLowerCase();
    return words.every((word) => text.includes(word)) && (!which || rows[r].cells.some((c) => c?.success === success));
  });
  if (key) {
    const values = new Map(order.map((r) => [r, key(rows[r])]));
    const missing = (r) => Number.isNaN(values.get(r)); // at the end, whatever the direction
    order.sort((a, b) => {
      const [x, y] = [values.get(a), values.get(b)];
      if (missing(a) || missing(b)) return missing(a) - missing(b);
      return direction * (typeof x === "string" ? compare(x, y) : x - y);
    });
  } else if (direction < 0) order.reverse();
  $("turn").textContent = direction > 0 ? "↑ rising" : "↓ falling";
  $("count").textContent = `${order.length} of ${rows.length}`;
  shown = 0;
  gallery.replaceChildren(...(order.length ? [] : [make("li", { class: "none" }, "No row matches.")]));
  grow();
}

for (const name of Object.keys(SORTS)) $("sort").append(make("option", { value: name }, words[name]?.[0] ?? name));
$("tools").addEventListener("submit", (event) => event.preventDefault());
$("find").addEventListener("input", arrange);
$("which").addEventListener("change", arrange);
$("sort").addEventListener("change", () => ((direction = SORTS[$("sort").value][1]), arrange()));
$("turn").addEventListener("click", () => ((direction = -direction), arrange()));
$("picture").addEventListener("change", () => seen.forEach(show));

// ---- one picture: its address is its name, behind it the job's

const dialog = $("detail");
let here = null; // {r, j, views, canvases, charts}

const address = (r, j) => [rows[r].name, ...(jobs.length > 1 ? [jobs[j].name] : [])].map(encodeURIComponent).join("/");
const addresses = new Map(rows.flatMap((row, r) => row.cells.flatMap((c, j) => (c?.values ? [[address(r, j), [r, j]]] : []))));

async function open(r, j) {
  stop();
  const cells = rows[r].cells, visit = { r, j, views: [], canvases: [], perturbed: {}, charts: [] };
  const share = here?.r === r ? $("iteration").value / Math.max(1, $("iteration").max) : 1;
  const old = here;
  here = visit;
  $("class").textContent = rows[r].class;
  $("image").textContent = rows[r].image + (jobs.length > 1 ? ` · ${jobs[j].name}` : "");
  if (!dialog.open) dialog.showModal(), dialog.focus(); // so that the arrows turn pages
  const same = old?.r === r;
  const views = await Promise.all(cells.map(async (cell, k) => {
    if (same && old.views[k]) return old.views[k];
    const data = cell?.values && stored(r, k);
    const one = data && data.photo ? await opened(data).catch(() => null) : null;
    if (one) prepare(one, jobs[k].game);
    return one;
  }));
  if (here !== visit) return;
  visit.views = views;
  const view = views[j], data = view?.data ?? stored(r, j);
  $("sentence").replaceChildren(...sentence(r, j, data));
  figures(visit);
  $("sliders").hidden = !view;
  $("sliders").style.display = view ? "" : "none";
  if (view) {
    $("wipe").parentElement.style.display = view.perturbed ? "" : "none";
    $("iteration").parentElement.style.display = view.last ? "" : "none";
    $("iteration").max = view.last;
    $("iteration").value = Math.round(share * view.last);
  }
  charts(visit, data);
  $("numbers").replaceChildren(...columns.filter((name) => number(cells[j], name) !== null).map((name) =>
    make("tr", { title: words[name][1] }, make("th", { scope: "row" }, words[name][0]), make("td", {}, (written[name] ?? short)(number(cells[j], name))))));
  draw();
}

function figures(visit) {
  const { r, j, views } = visit, cell = rows[r].cells[j], view = views[j], sweep = jobs.length > 1;
  const first = make("div"), rest = sweep ? make("div") : first; // a sweep's evidence has a line of its own
  const figure = (where, picture, ...caption) => where.append(make("figure", {}, picture, make("figcaption", {}, ...caption)));
  const image = (name, text, p) => {
    if (!view?.[name]) return;
    view[name].alt = `${rows[r].class}, ${text}`;
    const canvas = name === "perturbed" || name === "complement" ? make("canvas", { role: "img" }) : view[name];
    const said = make("span", {}, text + (p === undefined ? "" : ` · ${word}\u00a0${value(p)}`));
    if (canvas !== view[name]) Object.assign(canvas, { said, text, p }), (visit.perturbed[name] = canvas);
    figure(rest, canvas, said, ...answers(view.data.answers?.[name] ?? []));
  };
  image("photo", "photo", number(cell, "value_before"));
  views.forEach((one, k) => {
    if (!one) return;
    const canvas = make("canvas", { role: "img" }), said = make("span");
    canvas.said = said;
    visit.canvases[k] = canvas;
    const pick = make("button", { type: "button", "aria-pressed": k === j }, axes(k));
    pick.addEventListener("click", () => (location.hash = address(r, k)));
    figure(first, canvas, ...(sweep ? [pick, said] : [said]));
  });
  image("pair", "orange: evidence of this class, blue: of the other");
  const [under, opposite] = kept(j);
  image("perturbed", `evidence ${under}`, number(cell, "value_after"));
  image("complement", `evidence ${opposite}`, number(cell, "value_complement"));
  $("views").replaceChildren(...new Set([first, rest]));
}

function draw() {
  const { r, j, views, canvases, perturbed, charts } = here, strength = $("opacity").value / 100, view = views[j];
  $("strength").textContent = `${$("opacity").value} %`;
  if (!view) return;
  const frame = Number($("iteration").value), { iterations } = view.data;
  $("iterated").textContent = `${iterations[frame]} of ${iterations[view.last]} (${frame === view.last ? "saliency" : "mask"})`;
  $("iteration").setAttribute("aria-valuetext", `iteration ${$("iterated").textContent}`);
  views.forEach((one, k) => {
    if (!one) return;
    const f = view.last ? Math.round((frame / view.last) * one.last) : one.last; // an explainer stands beside finished masks
    const found = overlay(canvases[k], one, f, strength);
    const area = f === one.last ? number(rows[r].cells[k], "area") : found;
    canvases[k].said.textContent = `evidence · area\u00a0${percent(area)} · ${word}\u00a0${value(one.data.values[f])}`;
    canvases[k].setAttribute("aria-label", `${rows[r].class}, ${canvases[k].said.textContent}`);
  });
  for (const [name, canvas] of Object.entries(perturbed)) perturbedAt(view, frame, name, canvas);
  charts.forEach((move) => move(iterations[frame]));
}

// the perturbed picture of an iteration, and from the left as much of the photo as the slider says
function perturbedAt(view, frame, name, canvas) {
  const { text, p, said } = canvas, moves = view.follows && frame !== view.last;
  const known = !moves ? p : name === "perturbed" ? view.data.values[frame] : undefined;
  const when = !view.last || view.follows ? "" : " at the end"; // an explainer has no iterations
  Object.assign(canvas, { width: view.width, height: view.height });
  const context = canvas.getContext("2d"), left = Math.round((view.width * $("wipe").value) / 100);
  if (moves) context.putImageData(blended(view, frame, name), 0, 0);
  else context.drawImage(view[name], 0, 0);
  if (left) {
    context.drawImage(view.photo, 0, 0, left, view.height, 0, 0, left, view.height);
    context.fillStyle = "#fff";
    context.fillRect(left - 1, 0, 2, view.height);
  }
  const list = canvas.parentElement.querySelector(".answers");
  if (list) list.style.visibility = moves ? "hidden" : ""; // they are those of the end
  said.textContent = text + when + (known === undefined || known === null ? "" : ` · ${word}\u00a0${value(known)}`);
  canvas.setAttribute("aria-label", said.textContent);
}

// the highest answers, each over a bar of its value
function answers(list) {
  if (!list.length) return [];
  const made = make("ol", { class: "answers" });
  for (const [name, x, isTarget] of list) {
    const bar = make("i"), line = make("li", isTarget ? { class: "target" } : {}, bar, make("span", {}, name), make("span", {}, value(x)));
    bar.style.width = `${100 * Math.min(1, Math.max(0, x ?? 0))}%`;
    made.append(line);
  }
  return [made];
}

// what the mask of a row does, in a sentence; an explainer's does nothing
function sentence(r, j, data) {
  const cell = rows[r].cells[j], job = jobs[j], target = make("i", {}, rows[r].class), text = (x) => (quantity === "probability" ? rounded(x) : value(x));
  const [before, after, alone, area] = ["value_before", "value_after", "value_complement", "area"].map((name) => number(cell, name));
  if (!job.is_learnt || [before, after, area].includes(null)) return [meanings[cell.verdict] ?? ""];
  const of = quantity === "probability" ? [target] : [`the ${quantity} of `, target];
  const all = job.game === "preservation";
  const goes = text(before) === text(after) ? `stays at ${text(after)}` : `${after < before ? "falls" : "rises"} from ${text(before)} to ${text(after)}`;
  const told = all ? [`Keep ${rounded(area)} of the photo, ${job.verb.toLowerCase()} the rest${job.with}, and `] : [`${job.verb} ${rounded(area)} of the photo${job.with}, and `];
  told.push(...of, ` ${goes}`);
  const first = data?.answers?.perturbed?.[0];
  if (first) told.push(first[2] ? "; the network still says " : "; the network now says ", make("i", {}, first[0]));
  told.push(".");
  if (["dual", "product"].includes(job.game) && alone !== null) told.push(` With nothing but this evidence it is ${text(alone)}.`);
  if (meanings[cell.verdict]) told.push(make("b", { class: cell.success ? "good" : "bad" }, ` ${cell.verdict}: `), meanings[cell.verdict]);
  return told;
}

// ---- curves

const SVG = "http://www.w3.org/2000/svg";
const COLOURS = 6;

function charts(visit, data) {
  $("charts").replaceChildren();
  if (!data?.curves) return;
  const names = Object.keys(data.curves), outcome = names.filter((n) => n === "value" || n === "area");
  if (outcome.length && bounded) chart(visit, `${quantity} and area`, outcome, data, [0, 1], outcome[0] === "value");
  else outcome.forEach((name) => chart(visit, name === "value" ? quantity : name, [name], data, undefined, name === "value"));
  const terms = names.filter((n) => !outcome.includes(n));
  if (terms.length) chart(visit, "objective", terms, data);
}

function chart(visit, title, names, data, range, dots) {
  const at = data.at, values = names.flatMap((name) => data.curves[name]).filter((y) => y !== null);
  if (!values.length) return;
  let [low, high] = range ?? [Math.min(0, ...values), Math.max(0, ...values)];
  if (low === high) high = low + 1;
  const end = Math.max(1, data.iterations?.at(-1) ?? at.at(-1)), x = (i) => (100 * i) / end;
  const y = (v) => (100 * (high - v)) / (high - low);
  const svg = document.createElementNS(SVG, "svg");
  svg.setAttribute("viewBox", "0 0 100 100");
  svg.setAttribute("preserveAspectRatio", "none");
  svg.setAttribute("role", "img");
  svg.setAttribute("aria-label", `${title} over ${end} iterations: ${names.join(", ")}`);
  const path = (d, kind) => {
    const made = document.createElementNS(SVG, "path");
    made.setAttribute("d", d);
    made.setAttribute("class", kind);
    svg.append(made);
    return made;
  };
  path([0, 50, 100].map((at) => `M0 ${at}H100M${at} 0V100`).join(""), "grid");
  const legend = make("div", { class: "legend" }), tell = [];
  names.forEach((name, k) => {
    const ys = data.curves[name];
    path(ys.map((v, i) => (v === null ? "" : `${i && ys[i - 1] !== null ? "L" : "M"}${x(at[i])} ${y(v)}`)).join(""), `c${k % COLOURS}`);
    const said = make("b");
    legend.append(make("span", { class: `c${k % COLOURS}` }, `— ${name} `, said));
    tell.push((now) => {
      if (dots && name === "value") said.textContent = value(data.values[data.iterations.indexOf(now)]); // the caption's number
      else said.textContent = short(ys[at.findLastIndex((step) => step <= now)]); // step n, counted from 0, sees the mask after n
    });
  });
  if (dots) {
    const colour = `c${names.indexOf("value") % COLOURS}`;
    path(data.values.map((v, i) => (v === null ? "" : `M${x(data.iterations[i])} ${y(v)}h0`)).join(""), `dots ${colour}`);
    legend.append(make("span", { class: colour }, "• without augmentations, as the number says"));
  }
  const line = path("", "now");
  const ticks = (kind, texts) => make("div", { class: kind }, ...texts.map((text) => make("span", {}, text)));
  const plot = make("div", { class: "plot" }, ticks("ticks", [high, (high + low) / 2, low].map(short)), svg);
  const below = ticks("scale", [...new Set([0, Math.round(end / 2), end])].map(String));
  $("charts").append(make("div", { class: "chart" }, make("div", { class: "title" }, title), plot, below, make("div", { class: "title" }, "iteration"), legend));
  visit.charts.push((now) => (line.setAttribute("d", `M${x(now)} 0V100`), tell.forEach((say) => say(now))));
}

// ---- moving through it

let playing = null;
function stop() {
  clearInterval(playing);
  playing = null;
  $("play").textContent = "play";
}
$("play").addEventListener("click", () => {
  if (playing) return stop();
  const slider = $("iteration");
  if (slider.value === slider.max) slider.value = 0;
  $("play").textContent = "stop";
  playing = setInterval(() => {
    slider.value = Number(slider.value) + 1;
    draw();
    if (slider.value === slider.max) stop();
  }, 140);
});
$("wipe").value = 0;
for (const name of ["iteration", "opacity", "wipe"]) $(name).addEventListener("input", () => (name === "iteration" && stop(), draw()));

function step(by) {
  const next = order[(order.indexOf(here.r) + by + order.length) % order.length];
  if (next === undefined) return;
  const j = rows[next].cells[here.j]?.values ? here.j : rows[next].cells.findIndex((c) => c?.values);
  history.replaceState(null, "", `#${address(next, j)}`);
  open(next, j);
}
$("previous").addEventListener("click", () => step(-1));
$("next").addEventListener("click", () => step(1));
$("close").addEventListener("click", () => dialog.close());
dialog.addEventListener("click", (event) => event.target === dialog && dialog.close()); // on the backdrop
dialog.addEventListener("close", () => {
  stop();
  here = null;
  history.replaceState(null, "", location.pathname + location.search);
});
dialog.addEventListener("keydown", (event) => {
  if (event.target.type !== "range" && ["ArrowLeft", "ArrowRight"].includes(event.key)) step(event.key === "ArrowLeft" ? -1 : 1);
});

function follow() {
  const there = addresses.get(location.hash.slice(1));
  if (there) whole($(`d${there[0]}-${there[1]}`)) || document.readyState !== "loading" ? open(...there) : setTimeout(follow, 50);
  else if (dialog.open) dialog.close();
}
addEventListener("hashchange", follow);

for (const part of [gallery, $("views")]) part.classList.toggle("sweep", jobs.length > 1);
const fates = new Set(jobs.map((_, j) => kept(j).join()));
["perturbed", "complement"].forEach((name, k) => {
  $("picture").querySelector(`[value=${name}]`).textContent = fates.size > 1 ? name : `evidence ${kept(0)[k]}`;
});
if (paired) $("picture").prepend(make("option", { value: "pair", selected: "" }, "both classes"));
arrange();
follow();
