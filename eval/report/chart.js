/** Makes an SVG element. */
function draw(tag, attributes = {}, ...children) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  made.append(...children);
  return made;
}

/** Three digits that count, as the tables write them. */
function number(value) {
  if (value === null || value === undefined) return "–";
  const size = Math.abs(value);
  if (size >= 100) return Math.round(value).toLocaleString("en");
  return (size && size < 1e-4 ? value.toExponential(2) : value.toPrecision(3)).replaceAll("-", "−");
}

/** A round value at an axis, or a count. */
const round = (value) => (Math.abs(value) >= 100 ? number(value) : String(Number(value.toPrecision(3))).replaceAll("-", "−"));

/** A value -> a pixel; `ticks` are round values in between. */
class Scale {
  constructor(low, high, from, to, logarithmic) {
    this.log = logarithmic;
    this.bend = logarithmic ? Math.log10 : (value) => value;
    const [a, b] = [this.bend(low), this.bend(high)];
    const room = 0.06 * (b - a || Math.abs(a) || 1);
    Object.assign(this, { a: a - room, b: b + room, from, to });
  }

  at(value) {
    return this.from + ((this.bend(value) - this.a) / (this.b - this.a)) * (this.to - this.from);
  }

  get ticks() {
    return this.log && this.b - this.a > 1 ? this.logTicks() : this.evenTicks();
  }

  evenTicks() {
    const [low, high] = this.log ? [10 ** this.a, 10 ** this.b] : [this.a, this.b];
    const rough = (high - low) / 5;
    const power = 10 ** Math.floor(Math.log10(rough));
    const step = [1, 2, 5, 10].find((times) => times * power >= rough) * power;
    const first = Math.ceil(low / step);
    const found = [];
    for (let i = first; i * step <= high; i++) found.push(Number((i * step).toPrecision(12)));
    return found;
  }

  logTicks() {
    const found = [];
    for (let power = Math.floor(this.a); power <= this.b; power++)
      for (const times of this.b - this.a > 3 ? [1] : [1, 2, 5]) found.push(times * 10 ** power);
    return found.filter((value) => Math.log10(value) >= this.a && Math.log10(value) <= this.b);
  }
}

/** What all charts share: a drawing as wide as there is room, with axes and a line of words below. */
class Chart {
  constructor(root, label) {
    this.root = root;
    this.label = label;
    this.drawing = part(root, "show", "drawing");
    this.width = 0;
    this.least = 260; // pixels of height
    new ResizeObserver(([entry]) => {
      if (Math.round(entry.contentRect.width) === this.width) return;
      this.width = Math.round(entry.contentRect.width);
      this.update();
    }).observe(this.drawing);
    root.addEventListener("change", () => this.update());
  }

  option(name) {
    return part(this.root, "do", name);
  }

  say(...words) {
    part(this.root, "show", "readout").replaceChildren(...words);
  }

  /** An empty drawing with axes. x and y are [low, high, logarithmic]; a title stands at the end of each axis. */
  frame(x, y, titles, role) {
    const height = Math.round(Math.max(this.least, Math.min(440, this.width * 0.5)));
    const box = { left: 52, right: this.width - 12, top: 28, bottom: height - 46 };
    this.x = new Scale(x[0], x[1], box.left, box.right, x[2]);
    this.y = new Scale(y[0], y[1], box.bottom, box.top, y[2]);
    this.box = box;
    this.svg = draw("svg", { viewBox: `0 0 ${this.width} ${height}`, height, role, "aria-label": this.label });
    const named = (title, [, , bent]) => (bent ? `${title}, log scale` : title);
    const text = (x, y, anchor, words) => draw("text", { x, y, "text-anchor": anchor }, words);
    for (const value of this.y.ticks) {
      const at = this.y.at(value);
      this.svg.append(draw("line", { class: "grid", x1: box.left, x2: box.right, y1: at, y2: at }));
      this.svg.append(draw("line", { class: "axis", x1: box.left - 5, x2: box.left, y1: at, y2: at }));
      this.svg.append(text(box.left - 9, at + 4, "end", round(value)));
    }
    let free = -Infinity; // pixel from which the next label does not touch the last one
    for (const value of this.x.ticks) {
      const at = this.x.at(value);
      this.svg.append(draw("line", { class: "axis", x1: at, x2: at, y1: box.bottom, y2: box.bottom + 5 }));
      if (at < free) continue;
      this.svg.append(text(at, box.bottom + 20, "middle", round(value)));
      free = at + 44;
    }
    this.svg.append(draw("line", { class: "axis", x1: box.left, x2: box.right, y1: box.bottom, y2: box.bottom }));
    this.svg.append(draw("line", { class: "axis", x1: box.left, x2: box.left, y1: box.top, y2: box.bottom }));
    this.svg.append(text(box.left - 8, 12, "start", named(titles[1], y)));
    this.svg.append(text(box.right, height - 6, "end", `${named(titles[0], x)} →`));
    this.drawing.replaceChildren(this.svg);
  }
}

const COSTS = {
  total_seconds: "seconds per clip",
  denoise_seconds: "seconds of denoising per clip",
  evaluations: "evaluations of the network per clip",
};

/** A metric of every model against what a clip costs. */
class Plot extends Chart {
  constructor(root, data) {
    super(root, "quality against latency");
    this.data = data;
    this.chosen = null;
    const costs = Object.keys(COSTS).filter((cost) => data.models.some((model) => model.x[cost]));
    this.option("metric").append(...data.metrics.map(({ name }) => element("option", {}, name)));
    this.option("cost").append(...costs.map((cost) => element("option", { value: cost }, COSTS[cost])));
  }

  update() {
    const metric = this.data.metrics.find(({ name }) => name === this.option("metric").value);
    const cost = this.option("cost").value;
    if (!metric || !this.width) return;
    const there = (model) => Number.isFinite(model.y[metric.name]?.value);
    const points = this.data.models.filter((model) => there(model) && model.x[cost]);
    const floors = this.floors(metric.name);
    const marks = points.flatMap(({ y }) => ["value", "low", "high"].map((end) => y[metric.name][end]));
    const values = [...marks, ...floors.map(([, value]) => value)].filter(Number.isFinite);
    const better = metric.better ? `${metric.better} is better` : "";
    part(this.root, "show", "about").textContent = [metric.about, better].filter(Boolean).join("; ");
    if (!points.length) {
      this.drawing.replaceChildren();
      return this.say(`No model has both ${metric.name} and ${COSTS[cost] ?? "a cost"}.`);
    }
    const xs = points.map((model) => model.x[cost]);
    const positive = values.every((value) => value > 0);
    this.option("log").disabled = !positive;
    const bent = positive && this.option("log").checked;
    const arrow = { lower: " ↓", higher: " ↑" }[metric.better] ?? "";
    const x = [Math.min(...xs), Math.max(...xs), true];
    this.frame(x, [Math.min(...values), Math.max(...values), bent], [COSTS[cost], metric.name + arrow], "group");
    this.taken = [];
    const groups = points.map((model) => this.point(model, metric, cost));
    for (const [name, value] of floors) this.floor(name, value);
    this.svg.append(...groups);
    for (const model of points) this.svg.append(this.name(model, metric.name, cost));
  }

  /** Real clips of their own cost nothing: they are a line, as is the floor of the metric itself. */
  floors(metric) {
    const real = this.data.models.filter((model) => model.role === "real" && Number.isFinite(model.y[metric]?.value));
    const found = real.map((model) => [model.name, model.y[metric].value]);
    const floors = new Set(this.data.models.map((model) => model.y[metric]?.floor).filter(Number.isFinite));
    for (const floor of floors) if (!found.some(([, value]) => value === floor)) found.push(["floor", floor]);
    return found;
  }

  floor(name, value) {
    const at = this.y.at(value);
    this.svg.append(draw("line", { class: "floor", x1: this.box.left, x2: this.box.right, y1: at, y2: at }));
    const { left, right } = this.box;
    const ends = [[right, "end"], [left, "start"], [(left + right) / 2, "middle"]];
    const places = ends.flatMap(([x, anchor]) => [[x, at - 6, anchor], [x, at + 16, anchor]]);
    this.svg.append(this.place(`${name} ${number(value)}`, places, "floor-name"));
  }

  /** A text at the first of some places [x, y, anchor] where it covers nothing; else at the last of them. */
  place(words, places, name) {
    const width = 7 * words.length;
    const boxes = places.map(([x, y, anchor]) => {
      const left = x - { start: 0, middle: width / 2, end: width }[anchor];
      return { left, right: left + width, top: y - 11, bottom: y + 3 };
    });
    const { left, right } = this.box;
    const free = (box) =>
      box.left >= left - 10 && box.right <= right + 10 && box.top >= 14 &&
      !this.taken.some((o) => box.left < o.right && o.left < box.right && box.top < o.bottom && o.top < box.bottom);
    const at = boxes.findIndex(free);
    const [x, y, anchor] = places.at(at);
    this.taken.push(boxes.at(at));
    return draw("text", { class: name, x, y, "text-anchor": anchor }, words);
  }

  point(model, metric, cost) {
    const figure = model.y[metric.name];
    const [x, y] = [this.x.at(model.x[cost]), this.y.at(figure.value)];
    const words = this.words(model, metric, cost);
    const group = draw("g", { class: `point tone-${model.tone}`, tabindex: 0, role: "button", "aria-label": words });
    if (Number.isFinite(figure.low) && Number.isFinite(figure.high)) {
      const [low, high] = [this.y.at(figure.low), this.y.at(figure.high)];
      this.taken.push({ left: x - 6, right: x + 6, top: high - 2, bottom: low + 2 });
      group.append(draw("line", { class: "whisker", x1: x, x2: x, y1: low, y2: high }));
      for (const end of [low, high])
        group.append(draw("line", { class: "whisker", x1: x - 5, x2: x + 5, y1: end, y2: end }));
    }
    group.append(draw("circle", { class: "ring", cx: x, cy: y, r: 11 }));
    this.taken.push({ left: x - 9, right: x + 9, top: y - 9, bottom: y + 9 });
    const square = { class: "mark", x: x - 6, y: y - 6, width: 12, height: 12, rx: 1.5 };
    const circle = { class: "mark", cx: x, cy: y, r: 6.5 };
    group.append(model.role === "teacher" ? draw("rect", square) : draw("circle", circle));
    group.append(draw("circle", { class: "hit", cx: x, cy: y, r: 20 }));
    const choose = () => {
      this.svg.querySelector(".chosen")?.classList.remove("chosen");
      group.classList.add("chosen");
      this.say(words);
    };
    for (const event of ["pointerenter", "focus", "click"]) group.addEventListener(event, choose);
    return group;
  }

  /** The label of a point: beside it, else beyond the ends of its interval. */
  name(model, metric, cost) {
    const { value, low, high } = model.y[metric];
    const [x, y] = [this.x.at(model.x[cost]), this.y.at(value)];
    const [above, below] = [this.y.at(high ?? value) - 12, this.y.at(low ?? value) + 20];
    const places = [[x + 13, y + 4, "start"], [x - 13, y + 4, "end"]];
    for (const further of [0, 16, 32])
      for (const anchor of ["middle", "start", "end"])
        places.push([x, above - further, anchor], [x, below + further, anchor]);
    return this.place(model.name, places, "name");
  }

  words(model, metric, cost) {
    const { value, low, high, num, unit } = model.y[metric.name];
    const range = Number.isFinite(low) && Number.isFinite(high) ? ` (95 %: ${number(low)} to ${number(high)})` : "";
    const count = num ? `, ${num} clips` : "";
    const figure = `${metric.name} ${number(value)}${unit ? ` ${unit}` : ""}${range}${count}`;
    const paid = cost === "evaluations" ? round(model.x[cost]) : number(model.x[cost]);
    return `${model.name}: ${figure}; ${paid} ${COSTS[cost]}`;
  }
}
