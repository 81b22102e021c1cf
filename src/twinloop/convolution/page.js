"use strict";
const data = JSON.parse(document.getElementById("data").textContent);
const SVG = "http://www.w3.org/2000/svg";
const original = JSON.stringify(data.image);
// The image is layer 0; the activations of conv1 are layer 1, and so on.
const activations = [data.image];
const chosen = { layer: 0, filter: 0, row: 0, column: 0 };
const byId = (id) => document.getElementById(id);
const element = (tag, className = "", textContent = "") =>
  Object.assign(document.createElement(tag), { className, textContent });
const sizeOf = (layer) => {
  const maps = activations[layer];
  return { filters: maps.length, rows: maps[0].length, columns: maps[0][0].length };
};

// One activation, and the windows and kernels whose products it sums.
function sumAt(layer, filter, row, column) {
  const { weight, bias, stride, padding, relu } = data.layers[layer - 1];
  const below = activations[layer - 1];
  let total = bias[filter];
  const parts = weight[filter].map((kernel, channel) => {
    let sum = 0;
    const window = kernel.map((line, i) => line.map((number, j) => {
      const y = row * stride[0] - padding[0] + i, x = column * stride[1] - padding[1] + j;
      const pixel = below[channel][y]?.[x];
      sum += (pixel ?? 0) * number;
      return pixel;
    }));
    total += sum;
    return { window, kernel, sum };
  });
  return { parts, bias: bias[filter], total, value: relu ? Math.max(0, total) : total };
}

function forward() {
  data.layers.forEach(({ weight, size }, index) => {
    const [rows, columns] = size;
    activations[index + 1] = weight.map((_, filter) =>
      Array.from({ length: rows }, (_, row) =>
        Array.from({ length: columns }, (_, column) =>
          sumAt(index + 1, filter, row, column).value)));
  });
}

// The positions in every previous layer, as "row,column", that an activation depends on.
function receptiveField(layer, row, column) {
  const fields = [];
  let places = new Set([`${row},${column}`]);
  for (let index = layer; index > 0; index--) {
    const { weight, stride, padding } = data.layers[index - 1];
    const { rows, columns } = sizeOf(index - 1);
    const sources = new Set();
    for (const place of places) {
      const [y, x] = place.split(",").map(Number);
      for (let i = 0; i < weight[0][0].length; i++)
        for (let j = 0; j < weight[0][0][0].length; j++) {
          const v = y * stride[0] - padding[0] + i, u = x * stride[1] - padding[1] + j;
          if (v >= 0 && v < rows && u >= 0 && u < columns) sources.add(`${v},${u}`);
        }
    }
    fields[index - 1] = places = sources;
  }
  return fields;
}

const shade = (share) => {
  const weak = Math.round(255 * (1 - Math.min(1, Math.abs(share))));
  return share >= 0 ? `rgb(255 ${70 + weak * 0.725} ${60 + weak * 0.765})`
    : `rgb(${60 + weak * 0.765} ${110 + weak * 0.57} 255)`;
};
const grey = (pixel) => `rgb(${[0, 0, 0].fill(Math.round(255 * (1 - pixel))).join(" ")})`;
const layerName = (layer) => layer ? data.layers[layer - 1].name : "image";

function build() {
  activations.forEach((maps, layer) => {
    const { filters, rows, columns } = sizeOf(layer);
    const box = element("div", "layer");
    const title = element("b", "", layerName(layer) + " ");
    title.append(element("span", "", `${filters}×${rows}×${columns}`));
    const holder = element("div", "maps");
    maps.forEach((map, filter) => {
      const svg = document.createElementNS(SVG, "svg");
      const width = layer ? Math.max(26, Math.min(92, columns * 8)) : 300 / Math.min(filters, 3);
      svg.setAttribute("viewBox", `0 0 ${columns} ${rows}`);
      svg.setAttribute("width", width);
      svg.setAttribute("height", width * rows / columns);
      svg.dataset.layer = layer;
      svg.dataset.filter = filter;
      map.forEach((line, row) => line.forEach((_, column) => {
        const rect = document.createElementNS(SVG, "rect");
        rect.setAttribute("x", column);
        rect.setAttribute("y", row);
        // Slightly over 1, to avoid white seams between neighbours.
        rect.setAttribute("width", 1.02);
        rect.setAttribute("height", 1.02);
        rect.dataset.place = `${row},${column}`;
        rect.append(document.createElementNS(SVG, "title"));
        svg.append(rect);
      }));
      holder.append(svg);
    });
    box.append(title, holder);
    byId("layers").append(box);
  });
}

function paint() {
  activations.forEach((maps, layer) => {
    const largest = Math.max(...maps.flat(2).map(Math.abs)) || 1;
    for (const svg of document.querySelectorAll(`svg[data-layer="${layer}"]`))
      for (const rect of svg.children) {
        const [row, column] = rect.dataset.place.split(",").map(Number);
        const number = maps[svg.dataset.filter][row][column];
        rect.setAttribute("fill", layer ? shade(number / largest) : grey(number));
        rect.firstChild.textContent = number.toFixed(5);
      }
  });
  const logits = activations.at(-1).map((map) => map[0][0]);
  const top = Math.max(...logits);
  const powers = logits.map((logit) => Math.exp(logit - top));
  const all = powers.reduce((a, b) => a + b);
  byId("classes").replaceChildren(...powers.flatMap((power, index) => {
    const track = element("div"), bar = element("div", "bar");
    bar.style.width = `${100 * power / all}%`;
    track.append(bar);
    return [element("span", power === 1 ? "best" : "", data.classes[index]), track,
      element("span", "numbers probability", (power / all).toFixed(5))];
  }));
}

function gridOf(numbers, colour) {
  const grid = element("div", "grid");
  grid.style.gridTemplateColumns = `repeat(${numbers[0].length}, 1fr)`;
  for (const number of numbers.flat()) {
    const padding = number === undefined;
    const cell = element("span", padding ? "pad" : "", padding ? "0" : number.toFixed(4));
    if (!padding) cell.style.background = colour(number);
    grid.append(cell);
  }
  return grid;
}

function show() {
  const { layer, filter, row, column } = chosen;
  const fields = receptiveField(layer, row, column);
  for (const svg of document.querySelectorAll("#layers svg")) {
    const field = fields[svg.dataset.layer];
    const own = +svg.dataset.layer === layer && +svg.dataset.filter === filter;
    svg.classList.toggle("dim", field !== undefined);
    svg.classList.toggle("chosen", own);
    for (const rect of svg.children) {
      rect.classList.toggle("lit", field !== undefined && field.has(rect.dataset.place));
      rect.classList.toggle("on", own && rect.dataset.place === `${row},${column}`);
    }
  }
  const value = activations[layer][filter][row][column];
  const size = fields[0] ? `, from ${fields[0].size} pixels` : "";
  byId("what").textContent = `${layerName(layer)}, ${layer ? "filter" : "channel"} ${filter + 1}, `
    + `row ${row + 1}, column ${column + 1}${size}`;
  const number = element("span", "", value.toFixed(5));
  number.id = "value";
  byId("pixel").style.display = layer ? "none" : "flex";
  byId("pixel").querySelector("input").value = value;
  byId("total").replaceChildren(number);
  byId("parts").replaceChildren();
  if (layer) showSum(layer, sumAt(layer, filter, row, column));
}

// The sum of an activation: each window of the previous layer times its kernel, and the bias.
function showSum(layer, sum) {
  const products = sum.total - sum.bias, sign = sum.bias < 0 ? "−" : "+";
  const text = `${products.toFixed(4)} ${sign} bias ${Math.abs(sum.bias).toFixed(4)} = `
    + `${sum.total.toFixed(4)}` + (data.layers[layer - 1].relu ? ", after the ReLU " : "  ");
  byId("total").prepend(text, element("br"));
  const kernels = sum.parts.flatMap((part) => part.kernel.flat());
  const windows = sum.parts.flatMap((part) => part.window.flat().map((pixel) => pixel ?? 0));
  const [strongest, brightest] = [kernels, windows].map((all) => Math.max(...all.map(Math.abs)) || 1);
  byId("parts").replaceChildren(...sum.parts.map((part, channel) => {
    const line = element("div", "part");
    line.append(element("span", "label", `${layer > 1 ? "map" : "channel"} ${channel + 1}`),
      gridOf(part.window, (n) => shade(0.6 * n / brightest)), element("span", "sign", "×"),
      gridOf(part.kernel, (n) => shade(0.6 * n / strongest)), element("span", "sign", "="),
      element("span", "sum", part.sum.toFixed(4)));
    return line;
  }));
}

const clamp = (number, size) => Math.max(0, Math.min(size - 1, number));
function choose(change) {
  Object.assign(chosen, change);
  chosen.layer = clamp(chosen.layer, activations.length);
  const { filters, rows, columns } = sizeOf(chosen.layer);
  chosen.filter = clamp(chosen.filter, filters);
  chosen.row = clamp(chosen.row, rows);
  chosen.column = clamp(chosen.column, columns);
  show();
}
function toLayer(step) {
  const layer = clamp(chosen.layer + step, activations.length);
  const [from, to] = [sizeOf(chosen.layer), sizeOf(layer)];
  // Keep the same part of the image selected.
  choose({ layer, row: Math.floor((chosen.row + 0.5) * to.rows / from.rows),
    column: Math.floor((chosen.column + 0.5) * to.columns / from.columns) });
}
const move = (rows, columns) =>
  choose({ row: chosen.row + rows, column: chosen.column + columns });
const toFilter = (step) => choose({ filter: chosen.filter + step });
function setPixel(pixel) {
  data.image[chosen.filter][chosen.row][chosen.column] = pixel;
  forward();
  paint();
  show();
}

byId("layers").addEventListener("click", (event) => {
  const rect = event.target.closest("rect");
  if (!rect) return;
  const [row, column] = rect.dataset.place.split(",").map(Number);
  const { layer, filter } = rect.parentNode.dataset;
  choose({ layer: +layer, filter: +filter, row, column });
});
byId("live").addEventListener("keydown", (event) => {
  if (event.target.tagName === "INPUT" || event.ctrlKey || event.metaKey || event.altKey) return;
  const actions = {
    ArrowUp: () => event.shiftKey ? toLayer(-1) : move(-1, 0),
    ArrowDown: () => event.shiftKey ? toLayer(1) : move(1, 0),
    ArrowLeft: () => move(0, -1),
    ArrowRight: () => move(0, 1),
    PageUp: () => toFilter(-1),
    PageDown: () => toFilter(1),
  };
  if (!actions[event.key]) return;
  event.preventDefault();
  actions[event.key]();
});
for (const button of document.querySelectorAll("button[data-move]"))
  button.addEventListener("click", () => move(...button.dataset.move.split(",").map(Number)));
for (const button of document.querySelectorAll("button[data-filter]"))
  button.addEventListener("click", () => toFilter(+button.dataset.filter));
for (const button of document.querySelectorAll("button[data-layer]"))
  button.addEventListener("click", () => toLayer(+button.dataset.layer));
byId("pixel").querySelector("input")
  .addEventListener("input", (event) => setPixel(Number(event.target.value)));
byId("reset").addEventListener("click", () => {
  activations[0] = data.image = JSON.parse(original);
  forward();
  paint();
  show();
});

forward();
build();
paint();
choose({ layer: Math.min(2, data.layers.length),
  row: sizeOf(Math.min(2, data.layers.length)).rows >> 1,
  column: sizeOf(Math.min(2, data.layers.length)).columns >> 1 });
