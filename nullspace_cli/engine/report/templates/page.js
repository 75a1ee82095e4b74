"use strict";
document.documentElement.classList.add("live");

const ZOOMS = [0.25, 0.5, 1, 2, 3, 4, 6, 8, 12, 16, 24, 32];
const FLICKER = 600; // milliseconds; no more than three flashes a second

class Viewer {
  constructor(gallery) {
    this.gallery = gallery;
    this.articles = [...gallery.querySelectorAll("article.image")];
    this.zoom = null; // as large as there is room for
    this.at = 0.5; // the divider, as a share of what is seen
    this.timer = null;
    gallery.addEventListener("click", (event) => this.clicked(event));
    gallery.addEventListener("input", (event) => {
      if (event.target.type === "range") this.divide(event.target.value / 1000);
    });
    for (const stage of gallery.querySelectorAll(".stage")) {
      stage.addEventListener("scroll", () => this.cut());
      if (!stage.closest(".pair")) continue;
      stage.addEventListener("pointerdown", (event) => this.drag(stage, event));
      stage.addEventListener("pointermove", (event) => event.buttons && this.drag(stage, event));
    }
    this.open(0);
  }

  get article() { return this.articles[this.index]; }
  get view() { return this.article.querySelector(".view.open"); }
  get pair() { return this.view.classList.contains("pair"); }
  get stage() { return this.view.querySelector(".stage"); }
  get sheet() { return this.view.querySelector(".sheet"); }
  get size() {
    const image = this.sheet.querySelector("img");
    return [Number(image.getAttribute("width")), Number(image.getAttribute("height"))];
  }

  // Which image, and which of its views

  open(index) {
    if (index < 0 || index >= this.articles.length) return;
    const wanted = this.index === undefined ? 0 : this.shownView();
    this.index = index;
    this.articles.forEach((article, i) => article.classList.toggle("open", i === index));
    for (const row of this.gallery.querySelectorAll("tr[data-image]")) {
      if (row.dataset.image === this.article.id) {
        row.setAttribute("aria-current", "true");
        const list = row.closest(".list");
        const [top, bottom] = [row.offsetTop - 48, row.offsetTop + row.offsetHeight];
        if (top < list.scrollTop) list.scrollTop = top;
        if (bottom > list.scrollTop + list.clientHeight) list.scrollTop = bottom - list.clientHeight;
      } else row.removeAttribute("aria-current");
    }
    this.gallery.querySelector(".place").textContent = `${index + 1} of ${this.articles.length}`;
    this.button("previous").disabled = index === 0;
    this.button("next").disabled = index === this.articles.length - 1;
    this.show(Math.min(wanted, this.article.querySelectorAll(".view").length - 1));
  }

  shownView() { return [...this.article.querySelectorAll(".view")].indexOf(this.view); }

  show(number) {
    const views = this.article.querySelectorAll(".view");
    if (number >= views.length) return;
    this.flicker(false);
    views.forEach((view, i) => view.classList.toggle("open", i === number));
    this.article.querySelectorAll(".tabs button").forEach((button, i) => {
      button.setAttribute("aria-pressed", String(i === number));
    });
    this.button("flicker").disabled = !this.pair;
    this.zoom = null;
    this.fit();
  }

  button(name) { return this.gallery.querySelector(`[data-do="${name}"]`); }

  // Zoom

  get fitting() {
    const [width, height] = this.size;
    const style = getComputedStyle(this.view);
    const room = this.view.clientWidth - parseFloat(style.paddingLeft) - parseFloat(style.paddingRight);
    const scale = Math.min(room / width, Math.max(240, 0.68 * innerHeight) / height);
    return scale > 1 ? Math.floor(scale) : scale;
  }

  fit() {
    const [, height] = this.size;
    this.stage.style.height = `${Math.max(160, Math.round(height * this.fitting))}px`;
    this.resize();
  }

  resize(anchor = null) {
    const [width, height] = this.size;
    const scale = this.zoom ?? this.fitting;
    this.sheet.style.width = `${width * scale}px`;
    this.sheet.style.height = `${height * scale}px`;
    this.sheet.classList.toggle("small", scale < 1);
    this.gallery.querySelector(".zoom").textContent = `${Math.round(scale * 100)}%`;
    if (anchor) {
      this.stage.scrollLeft = anchor[0] * this.stage.scrollWidth - this.stage.clientWidth / 2;
      this.stage.scrollTop = anchor[1] * this.stage.scrollHeight - this.stage.clientHeight / 2;
    }
    this.cut();
  }

  scale(step) {
    const now = this.zoom ?? this.fitting;
    const next = step > 0 ? ZOOMS.find((z) => z > now + 1e-6) : ZOOMS.findLast((z) => z < now - 1e-6);
    if (next === undefined) return;
    const stage = this.stage;
    const middle = [
      (stage.scrollLeft + stage.clientWidth / 2) / stage.scrollWidth,
      (stage.scrollTop + stage.clientHeight / 2) / stage.scrollHeight,
    ];
    this.zoom = next;
    this.resize(middle);
  }

  // The divider

  divide(at) {
    this.at = Math.min(1, Math.max(0, at));
    this.flicker(false);
    this.cut();
  }

  cut() {
    if (!this.pair) return;
    const [stage, sheet] = [this.stage.getBoundingClientRect(), this.sheet.getBoundingClientRect()];
    const left = Math.max(stage.left, sheet.left);
    const right = Math.min(stage.left + this.stage.clientWidth, sheet.right);
    const share = sheet.width ? (left + this.at * (right - left) - sheet.left) / sheet.width : this.at;
    this.sheet.style.setProperty("--cut", `${100 * share}%`);
    this.view.querySelector("input").value = Math.round(1000 * this.at);
  }

  drag(stage, event) {
    if (event.button > 0) return;
    const [outer, inner] = [stage.getBoundingClientRect(), this.sheet.getBoundingClientRect()];
    const left = Math.max(outer.left, inner.left);
    const right = Math.min(outer.left + stage.clientWidth, inner.right);
    if (event.type === "pointerdown" && event.pointerType === "mouse") event.preventDefault();
    if (event.clientY > outer.top + stage.clientHeight) return; // the scroll bar
    stage.focus({ preventScroll: true });
    this.divide((event.clientX - left) / (right - left));
  }

  // One after the other

  flicker(on = this.timer === null && this.sheet.dataset.only === undefined) {
    clearInterval(this.timer);
    this.timer = null;
    this.button("flicker").setAttribute("aria-pressed", String(on));
    if (!on || !this.pair) return this.only(null);
    this.only(0);
    this.timer = setInterval(() => this.only(1 - Number(this.sheet.dataset.only)), FLICKER);
  }

  toggle() {
    // Whoever wants little motion gets one change for each press.
    if (!this.pair) return;
    if (!matchMedia("(prefers-reduced-motion: reduce)").matches) return this.flicker();
    this.only(this.sheet.dataset.only === "0" ? 1 : 0);
  }

  only(which) {
    if (which === null) delete this.sheet.dataset.only;
    else this.sheet.dataset.only = which;
    this.view.querySelectorAll(".divider span").forEach((name, i) => name.classList.toggle("now", i === which));
  }

  // What is asked for

  clicked(event) {
    Viewer.current = this;
    const button = event.target.closest("button");
    if (button?.dataset.view) return this.show(Number(button.dataset.view));
    if (button?.dataset.do) return this.act(button.dataset.do);
    const row = event.target.closest("tr[data-image]");
    if (!row) return;
    event.preventDefault();
    this.reveal(row.dataset.image);
  }

  reveal(id) {
    const index = this.articles.findIndex((article) => article.id === id);
    if (index < 0) return;
    this.open(index);
    const viewer = this.gallery.querySelector(".viewer");
    const box = viewer.getBoundingClientRect();
    if (box.top < 0 || box.top > innerHeight / 2) viewer.scrollIntoView();
  }

  act(name) {
    if (name === "previous") this.open(this.index - 1);
    if (name === "next") this.open(this.index + 1);
    if (name === "in") this.scale(1);
    if (name === "out") this.scale(-1);
    if (name === "fit") { this.zoom = null; this.resize(); }
    if (name === "flicker") this.toggle();
  }
}

const KEYS = { j: "next", k: "previous", "+": "in", "=": "in", "-": "out", "0": "fit", " ": "flicker" };

function pressed(event, viewers) {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  const focused = document.activeElement?.closest(".gallery");
  const viewer = viewers.find((one) => one.gallery === focused) ?? Viewer.current;
  if (!viewer) return;
  Viewer.current = viewer;
  if (event.key === " " && event.target.closest("button, a, input:not([type=range])")) return;
  if (event.key === "ArrowLeft" || event.key === "ArrowRight") {
    if (!viewer.pair || event.target.closest(".scroll")) return;
    const step = (event.key === "ArrowLeft" ? -1 : 1) * (event.shiftKey ? 0.1 : 0.02);
    viewer.divide(viewer.at + step);
  } else if (KEYS[event.key]) viewer.act(KEYS[event.key]);
  else if (/^[1-9]$/.test(event.key)) viewer.show(Number(event.key) - 1);
  else if (event.key === "Escape") viewer.flicker(false);
  else return;
  event.preventDefault();
}

document.addEventListener("DOMContentLoaded", () => {
  const galleries = [...document.querySelectorAll(".gallery")].filter((one) => one.querySelector("article"));
  const viewers = galleries.map((gallery) => new Viewer(gallery));
  Viewer.current = viewers[0];
  document.addEventListener("keydown", (event) => pressed(event, viewers));
  addEventListener("resize", () => viewers.forEach((viewer) => viewer.fit()));
  const follow = () => viewers.forEach((viewer) => viewer.reveal(location.hash.slice(1)));
  addEventListener("hashchange", follow);
  if (location.hash) follow();
});
