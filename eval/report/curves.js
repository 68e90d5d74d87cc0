/** Lines over training steps; the words below read them off at a step. A line is {name, tone, points}. */
class Lines extends Chart {
  /** x is [low, high, logarithmic], y likewise. */
  draw(lines, y, title, smooth) {
    const raw = lines.map(({ points }) => points);
    const steps = raw.flatMap((points) => points.map(([step]) => step));
    const last = steps.reduce((a, b) => Math.max(a, b));
    this.frame([0, last, false], y, ["step", title], "group");
    this.shown = lines;
    this.lines = raw.map((points) => (smooth ? smoothed(points) : points));
    lines.forEach((line, i) => {
      const group = draw("g", { class: `tone-${line.tone}` });
      if (this.lines[i] !== raw[i]) group.append(draw("path", { class: "raw", d: this.path(raw[i]) }));
      if (raw[i].length > 1) group.append(draw("path", { class: "line", d: this.path(this.lines[i]) }));
      else group.append(draw("circle", { class: "mark", cx: this.x.at(raw[i][0][0]), cy: this.y.at(raw[i][0][1]), r: 4 }));
      this.svg.append(group);
    });
    this.cursor = draw("line", { class: "cursor", y1: this.box.top, y2: this.box.bottom, visibility: "hidden" });
    this.svg.append(this.cursor);
    this.steps = [...new Set(steps)].sort((a, b) => a - b);
    this.listen();
    this.read(this.steps.length - 1, false);
  }

  path(points) {
    return points.map(([step, value], i) => `${i ? "L" : "M"}${this.x.at(step)} ${this.y.at(value)}`).join("");
  }

  listen() {
    this.svg.setAttribute("tabindex", 0);
    const follow = (event) => {
      const place = event.clientX - this.svg.getBoundingClientRect().left;
      const distance = this.steps.map((step) => Math.abs(this.x.at(step) - place));
      this.read(distance.indexOf(Math.min(...distance)), true);
    };
    this.svg.addEventListener("pointermove", follow);
    this.svg.addEventListener("pointerdown", follow);
    this.svg.addEventListener("keydown", (event) => {
      const move = { ArrowLeft: -1, ArrowRight: 1, Home: -Infinity, End: Infinity }[event.key];
      if (!move) return;
      event.preventDefault();
      this.read(Math.max(0, Math.min(this.steps.length - 1, this.chosen + move)), true);
    });
  }

  /** The figures at the i-th step; a line that has ended by then shows its last one. */
  read(i, marked) {
    this.chosen = i;
    const step = this.steps[i];
    this.cursor.setAttribute("visibility", marked ? "visible" : "hidden");
    for (const end of ["x1", "x2"]) this.cursor.setAttribute(end, this.x.at(step));
    const words = this.shown.map((line, which) => {
      const [at, value] = this.lines[which].findLast(([other]) => other <= step) ?? [null, null];
      const label = `${line.name}: ${number(value)}${at !== null && at !== step ? ` at ${at}` : ""}`;
      return [", ", element("span", { class: `tone-${line.tone}` }, element("i", { class: "swatch" }), label)];
    });
    this.say(`step ${step}`, ...words.flat());
  }
}

/** A figure of every stage over its training. */
class Curves extends Lines {
  constructor(root, data) {
    super(root, "training curves; left and right arrow choose a step");
    this.stages = data.stages;
    const names = [...new Set(this.stages.flatMap((stage) => Object.keys(stage.points)))];
    this.option("curve").append(...names.map((name) => element("option", {}, name)));
    const first = names.find((name) => name === "student/loss");
    if (first) this.option("curve").value = first;
  }

  update() {
    const name = this.option("curve").value;
    if (!this.width || !name) return;
    const stages = this.stages.filter((stage) => stage.points[name]);
    const lines = stages.map((stage) => ({ ...stage, points: stage.points[name] }));
    const values = lines.flatMap(({ points }) => points.map(([, value]) => value));
    const least = values.reduce((a, b) => Math.min(a, b));
    const most = values.reduce((a, b) => Math.max(a, b));
    this.option("log").disabled = least <= 0;
    const bent = least > 0 && this.option("log").checked;
    this.draw(lines, [least, most, bent], name, this.option("smooth").checked);
  }
}

/** A few lines that belong together, on a scale of their own, with dashed guides and a band behind them. */
class Picture extends Lines {
  constructor(root, data) {
    super(root, `${data.label}; left and right arrow choose a step`);
    this.data = data;
    if (data.small) this.least = 170;
  }

  update() {
    if (!this.width) return;
    const { lines, range, title, smooth, guides, band } = this.data;
    this.draw(lines, [...range, false], title, smooth);
    const { left, right } = this.box;
    const first = this.svg.querySelector("g");
    if (band) {
      const [top, bottom] = [this.y.at(band.high), this.y.at(band.low)];
      const box = { class: "band", x: left, width: right - left, y: top, height: bottom - top };
      first.before(draw("rect", box));
      this.svg.append(draw("text", { class: "floor-name", x: right - 4, y: top + 15, "text-anchor": "end" }, band.name));
    }
    for (const { name, value } of guides) {
      const at = this.y.at(value);
      first.before(draw("line", { class: "floor", x1: left, x2: right, y1: at, y2: at }));
      this.svg.append(draw("text", { class: "floor-name", x: left + 4, y: at + 15 }, `${name} ${round(value)}`));
    }
  }
}

/** A moving average that does not hold on to its first value. */
function smoothed(points) {
  let [sum, weight] = [0, 0];
  return points.map(([step, value]) => {
    sum = 0.85 * sum + 0.15 * value;
    weight = 0.85 * weight + 0.15;
    return [step, sum / weight];
  });
}
