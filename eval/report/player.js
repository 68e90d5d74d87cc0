/** Finds one of the page's parts: `part(root, "show", "frame")` has data-show="frame". */
const part = (root, kind, name) => root.querySelector(`[data-${kind}="${name}"]`);

/** Makes an element; text and attributes are never read as HTML. */
function element(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  made.append(...children);
  return made;
}

/** The next of some events, or a while: a browser may hold back events of a clip that it has no room to load. */
const next = (target, ...events) =>
  new Promise((resolve) => {
    const timer = setTimeout(resolve, 3000);
    for (const name of events) target.addEventListener(name, () => (clearTimeout(timer), resolve()), { once: true });
  });

/**
 * Clips of several models that show the same moment. One clock leads; the videos play by themselves and are kept to
 * it: they start together from the same frame, run a little faster or slower when they drift, and all wait when one
 * cannot follow. At rest all stand in the middle of the same frame.
 */
class Player {
  constructor(root, clipSet) {
    this.root = root;
    this.clipSet = clipSet;
    this.frame = 1 / clipSet.fps; // seconds
    this.length = clipSet.frames * this.frame;
    this.prompt = 0;
    this.at = 0; // seconds; where the clock stood at `since`
    this.speed = 1;
    this.turn = this.choices = 0; // of everything that waits, only the newest goes on
    this.running = false;
    this.seen = false;
    this.wanted = !matchMedia("(prefers-reduced-motion: reduce)").matches;
    this.screens = clipSet.models.map((model) => this.screen(model));
    part(root, "show", "screens").append(...this.screens.map((screen) => screen.figure));
    this.scrub = part(root, "do", "scrub");
    this.scrub.max = clipSet.frames - 1;
    this.listen();
    this.choose(0);
  }

  screen(model) {
    const { width, height } = this.clipSet;
    const video = element("video", { "aria-label": `clip of ${model.name}`, preload: "auto", playsinline: "" });
    video.muted = true;
    video.disableRemotePlayback = true;
    const none = element("div", { class: "none" }, "no clip of this prompt");
    for (const box of [video, none]) box.style.aspectRatio = `${width} / ${height}`;
    const swatch = element("i", { class: "swatch" });
    const caption = element("figcaption", {}, swatch, model.name, element("small", {}, model.detail));
    const small = Math.min(width, height) <= 160;
    const figure = element("figure", { class: `screen tone-${model.tone}${small ? " pixels" : ""}` }, video, none, caption);
    video.addEventListener("error", () => {
      if (!video.hasAttribute("src")) return;
      none.textContent = "this browser cannot play this clip";
      this.show(video, none, false);
    });
    return { model, video, none, figure };
  }

  show(video, none, there) {
    video.hidden = !there;
    video.style.display = there ? "" : "none";
    none.style.display = there ? "none" : "";
  }

  listen() {
    const on = (name, event, act) => part(this.root, "do", name).addEventListener(event, act);
    on("play", "click", () => this.toggle());
    on("previous", "click", () => this.choose(this.prompt - 1));
    on("next", "click", () => this.choose(this.prompt + 1));
    on("speed", "change", (event) => {
      this.speed = Number(event.target.value);
      if (this.running) this.begin(this.time());
    });
    on("scrub", "input", () => {
      this.wanted = false;
      this.stand(Number(this.scrub.value));
    });
    document.addEventListener("visibilitychange", () => this.refresh());
    new IntersectionObserver(([entry]) => {
      this.seen = entry.isIntersecting;
      this.refresh();
    }).observe(part(this.root, "show", "screens"));
  }

  /** Clips that can be played now. */
  get live() {
    return this.screens.map((screen) => screen.video).filter((video) => !video.hidden && video.readyState > 0);
  }

  time() {
    return this.running ? this.at + ((performance.now() - this.since) / 1000) * this.speed : this.at;
  }

  index(time) {
    return Math.max(0, Math.min(this.clipSet.frames - 1, Math.floor(time / this.frame + 1e-6)));
  }

  toggle() {
    this.wanted = !this.wanted;
    this.refresh();
  }

  /** Plays or rests, as wanted and as it can be seen. */
  refresh() {
    const play = this.wanted && this.seen && !document.hidden && !this.loading;
    if (play && !this.running) this.begin(this.at);
    if (!play) this.stand(this.index(this.time()));
    part(this.root, "do", "play").textContent = this.wanted ? "Pause" : "Play";
  }

  async choose(prompt) {
    const count = this.clipSet.prompts.length;
    this.prompt = (prompt + count) % count;
    this.hold(0);
    this.loading = true;
    part(this.root, "show", "count").textContent = `Prompt ${this.prompt + 1} of ${count}`;
    part(this.root, "show", "prompt").textContent = this.clipSet.prompts[this.prompt];
    this.tell();
    const choice = ++this.choices;
    await Promise.all(this.screens.map((screen) => this.load(screen)));
    if (choice !== this.choices) return;
    this.loading = false;
    this.refresh();
  }

  /** Not a data: address, which some phones do not play, but the same bytes as a file of the page's own. */
  async load({ model, video, none }) {
    if (video.src) URL.revokeObjectURL(video.src);
    video.removeAttribute("src");
    const clip = model.clips[this.prompt];
    this.show(video, none, clip !== null);
    if (clip === null) return;
    const bytes = Uint8Array.from(atob(clip), (letter) => letter.charCodeAt(0));
    video.src = URL.createObjectURL(new Blob([bytes], { type: "video/mp4" }));
    await next(video, "loadedmetadata", "error");
  }

  hold(at) {
    this.running = false;
    this.at = at;
    for (const { video } of this.screens) video.pause();
    return ++this.turn;
  }

  async seek(video, time) {
    if (Math.abs(video.currentTime - time) < 1e-4 && !video.seeking) return;
    const done = next(video, "seeked", "error", "emptied");
    video.currentTime = time;
    await done;
  }

  /** Everything stands in the middle of a frame. */
  async stand(index) {
    this.hold(index * this.frame);
    this.tell();
    part(this.root, "do", "play").textContent = this.wanted ? "Pause" : "Play";
    await Promise.all(this.live.map((video) => this.seek(video, (index + 0.5) * this.frame)));
  }

  /** All wait for each other at `at` seconds, then start. */
  async begin(at) {
    const turn = this.hold(at);
    await Promise.all(this.live.map((video) => this.seek(video, at)));
    if (turn !== this.turn) return;
    const live = this.live;
    for (const video of live) video.playbackRate = this.speed;
    try {
      await Promise.all(live.map((video) => video.play()));
    } catch {
      if (turn === this.turn) this.wanted = false; // a browser that plays nothing unasked
      if (turn === this.turn) this.refresh();
      return;
    }
    if (turn !== this.turn || !live.length) return;
    this.running = true;
    this.at = live.reduce((sum, video) => sum + video.currentTime, 0) / live.length;
    this.since = performance.now();
    requestAnimationFrame(() => this.tick(turn));
  }

  tick(turn) {
    if (turn !== this.turn) return;
    const time = this.time();
    if (time >= this.length) return void this.begin(0);
    for (const video of this.live) {
      if (time > video.duration - this.frame) continue; // it has ended, or is about to
      const behind = time - video.currentTime;
      if (Math.abs(behind) > 1.5 * this.frame) return void this.begin(time);
      const nudge = Math.abs(behind) < this.frame / 10 ? 0 : Math.max(-0.5, Math.min(0.5, 4 * behind));
      video.playbackRate = this.speed * (1 + nudge);
    }
    this.tell();
    requestAnimationFrame(() => this.tick(turn));
  }

  tell() {
    const index = this.index(this.time());
    this.scrub.value = index;
    this.scrub.setAttribute("aria-valuetext", `frame ${index + 1} of ${this.clipSet.frames}`);
    part(this.root, "show", "frame").textContent = `frame ${index + 1} of ${this.clipSet.frames}`;
  }
}
