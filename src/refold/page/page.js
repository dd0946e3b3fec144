"use strict";
const facts = JSON.parse(document.getElementById("facts").textContent);
const details = document.getElementById("details");
const panels = [...document.querySelectorAll(".panel")].map((figure) => {
  const view = figure.querySelector(".view");
  const svg = view.querySelector("svg");
  return {
    key: figure.dataset.panel, figure, view, sheet: svg.parentElement, svg, scale: 1,
    width: svg.viewBox.baseVal.width, height: svg.viewBox.baseVal.height,
    boxes: [...svg.querySelectorAll(".box")], current: 0,
  };
});

/* Zooming: the picture is made larger or smaller, and the view scrolls so that the point (x, y) of the view stays where it is. The sheet
   that it lies on takes its size; the picture itself is only transformed, so that its text is not laid out again. */
function zoom(panel, scale, x = panel.view.clientWidth / 2, y = panel.view.clientHeight / 2) {
  const next = Math.min(4, Math.max(0.02, scale));
  const before = panel.svg.getBoundingClientRect();
  const frame = panel.view.getBoundingClientRect();
  const right = (frame.left + x - before.left) / panel.scale;
  const down = (frame.top + y - before.top) / panel.scale;
  panel.scale = next;
  panel.svg.style.transform = `scale(${next})`;
  panel.sheet.style.width = `${panel.width * next}px`;
  panel.sheet.style.height = `${panel.height * next}px`;
  const after = panel.svg.getBoundingClientRect();
  panel.view.scrollLeft += after.left + right * next - (frame.left + x);
  panel.view.scrollTop += after.top + down * next - (frame.top + y);
}

function fit(panel) {
  zoom(panel, Math.min(panel.view.clientWidth / panel.width, panel.view.clientHeight / panel.height, 1));
}

const ZOOMS = {
  in: (panel) => zoom(panel, panel.scale * 1.4),
  out: (panel) => zoom(panel, panel.scale / 1.4),
  fit,
  full: (panel) => zoom(panel, 1),
};
const KEYS = { "+": "in", "=": "in", "-": "out", "0": "fit", "1": "full" };

function show(panel, number) {
  const frame = panel.view.getBoundingClientRect();
  const box = panel.boxes[number].getBoundingClientRect();
  panel.view.scrollTop += box.top + box.height / 2 - frame.top - frame.height / 2;
  panel.view.scrollLeft += box.left + box.width / 2 - frame.left - frame.width / 2;
}

function element(tag, text, parent, name) {
  const made = document.createElement(tag);
  if (text !== undefined) made.textContent = text;
  if (name) made.className = name;
  parent?.append(made);
  return made;
}

function pairs(list) {
  const made = element("dl", undefined, details);
  for (const [name, value] of list) {
    if (value === undefined || value === null || value === "") continue;
    element("dt", name, made);
    element("dd", value, made);
  }
}

const spaced = (number) => number.toLocaleString("en-US");

/* A number in three digits, as the tables have it. */
function short(number) {
  if (typeof number !== "number") return number;
  const [digits, power] = number.toExponential(2).split("e").map(Number);
  if (power >= -4 && power < 3) return String(Number(number.toPrecision(3)));
  return `${digits}e${power < 0 ? "-" : "+"}${String(Math.abs(power)).padStart(2, "0")}`;
}

const change = (fold, name) => `${spaced(fold.before[name])} → ${spaced(fold.after[name])}`;

function tellFold(number) {
  const fold = facts.folds[number];
  const proof = facts.certificate?.regions[number];
  element("h3", `Fold ${number + 1}: ${fold.name}`, details);
  element("p", "What went into it:", details, "muted");
  element("pre", fold.branches.join("\n"), details).tabIndex = 0;
  pairs([
    ["became", fold.became.join(" + ")],
    ["by", fold.laws.join(" and ")],
    ["operators", change(fold, "operators")],
    ["multiply-adds", change(fold, "multiply_adds")],
    ["weights", change(fold, "weights")],
    ["residual", proof && `${short(proof.residual)} in float64`],
    ["allowed", proof && short(proof.bound)],
    ["of its bound", proof && short(proof.ratio)],
  ]);
}

function tellBox(box) {
  element("h3", `${box.operation}: ${box.name}`, details);
  const refusal = facts.refusals.find((one) => one.node === box.name || (box.place && one.node === box.place));
  pairs([
    ["output", box.shape],
    ["reads", box.reads.join(", ")],
    ["parameters", box.sources.join(", ")],
    ["not folded", refusal && refusal.fact],
    ["by the law", refusal && refusal.law],
    ["remedy", refusal && refusal.remedy],
  ]);
}

function choose(fold, panel, number) {
  for (const one of panels) {
    one.boxes.forEach((box, at) => {
      const told = facts.drawing[one.key][at];
      box.classList.toggle("lit", fold === null ? one === panel && at === number : told.folds.includes(fold));
    });
    const first = one.boxes.findIndex((box) => box.classList.contains("lit"));
    if (one !== panel && first >= 0) show(one, first);
  }
  details.replaceChildren();
  if (fold === null) tellBox(facts.drawing[panel.key][number]);
  else tellFold(fold);
  details.scrollTop = 0;
}

function chooseBox(panel, number) {
  goTo(panel, number);
  choose(facts.drawing[panel.key][number].folds[0] ?? null, panel, number);
}

/* One box of a picture can be reached with Tab; the arrow keys go on from there. */
function goTo(panel, number) {
  panel.boxes[panel.current]?.setAttribute("tabindex", "-1");
  panel.current = number;
  panel.boxes[number].setAttribute("tabindex", "0");
}

const STEPS = { ArrowDown: 1, ArrowRight: 1, ArrowUp: -1, ArrowLeft: -1 };

function onKey(panel, event) {
  const last = panel.boxes.length - 1;
  if (event.ctrlKey || event.metaKey || event.altKey || last < 0) return;
  if (event.key in KEYS) ZOOMS[KEYS[event.key]](panel);
  else if (event.key === "Enter" || event.key === " ") chooseBox(panel, panel.current);
  else if (event.key in STEPS || event.key === "Home" || event.key === "End") {
    const wanted = event.key === "Home" ? 0 : event.key === "End" ? last : panel.current + STEPS[event.key];
    goTo(panel, Math.min(last, Math.max(0, wanted)));
    panel.boxes[panel.current].focus({ preventScroll: true });
    show(panel, panel.current);
  } else return;
  event.preventDefault();
}

/* A mouse drags the picture, two fingers zoom it; one finger scrolls the view, which the browser does by itself. */
function onPointers(panel) {
  const { view } = panel;
  const fingers = new Map();
  let from = null;
  let moved = false;
  const gap = () => {
    const [one, other] = [...fingers.values()];
    return Math.hypot(one.x - other.x, one.y - other.y);
  };
  view.addEventListener("pointerdown", (event) => {
    moved = false;
    if (event.pointerType === "touch") fingers.set(event.pointerId, { x: event.clientX, y: event.clientY });
    else if (event.button === 0) from = { x: event.clientX, y: event.clientY, left: view.scrollLeft, top: view.scrollTop };
  });
  window.addEventListener("pointermove", (event) => {
    if (from && event.buttons === 0) end(event);
    if (fingers.has(event.pointerId)) {
      const before = fingers.size === 2 ? gap() : 0;
      fingers.set(event.pointerId, { x: event.clientX, y: event.clientY });
      if (before > 0) zoom(panel, (panel.scale * gap()) / before);
    } else if (from) {
      if (Math.hypot(event.clientX - from.x, event.clientY - from.y) > 4) moved = true;
      if (!moved) return;
      view.classList.add("dragging");
      view.scrollLeft = from.left - (event.clientX - from.x);
      view.scrollTop = from.top - (event.clientY - from.y);
    }
  });
  const end = (event) => {
    fingers.delete(event.pointerId);
    from = null;
    view.classList.remove("dragging");
  };
  window.addEventListener("pointerup", end);
  window.addEventListener("pointercancel", end);
  view.addEventListener("click", (event) => {
    const box = event.target.closest(".box");
    if (box && !moved) chooseBox(panel, panel.boxes.indexOf(box));
  });
  view.addEventListener("wheel", (event) => {
    if (!event.ctrlKey && !event.metaKey) return;
    event.preventDefault();
    const frame = view.getBoundingClientRect();
    zoom(panel, panel.scale * Math.exp(-event.deltaY / 300), event.clientX - frame.left, event.clientY - frame.top);
  }, { passive: false });
}

for (const panel of panels) {
  if (panel.boxes.length) goTo(panel, 0);
  panel.figure.addEventListener("keydown", (event) => {
    if (!event.target.closest("button")) onKey(panel, event);
  });
  for (const button of panel.figure.querySelectorAll("[data-zoom]")) button.addEventListener("click", () => ZOOMS[button.dataset.zoom](panel));
  onPointers(panel);
  zoom(panel, Math.min(1, panel.view.clientWidth / panel.width), 0, 0);
}
for (const button of document.querySelectorAll("[data-fold]")) {
  button.addEventListener("click", () => {
    choose(Number(button.dataset.fold), null, null);
    document.getElementById("network").scrollIntoView();
  });
}
document.documentElement.dataset.ready = "yes";
