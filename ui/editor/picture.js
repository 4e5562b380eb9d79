// A picture that can be drawn on: what the editors of masks (mask.js) and of points (points.js) have in common. The page
// joins this file with one of them. What an editor knows is `data`; what it tells the page is one value under "changed".
// Coordinates are pixels of the picture.

const REACH = 18; // CSS pixels around a point, or a polygon's first corner, within which it is meant

function mount(Kind, { data, parentElement, setTriggerValue }) {
  let root = parentElement.querySelector(".editor");
  if (!root) {
    root = part(parentElement, "div", "editor");
    root.editor = new Kind(root);
  }
  root.editor.tell = (value) => setTriggerValue("changed", value);
  root.editor.take(data);
}

class Editor {
  constructor(root) {
    this.bar = part(root, "div", "bar");
    this.stage = part(root, "div", "stage");
    this.photo = part(this.stage, "img", "photo");
    this.photo.alt = "";
    this.photo.draggable = false;
    this.hint = part(root, "p", "hint");
    this.hint.setAttribute("aria-live", "polite");
    this.version = -1;
    new ResizeObserver(() => this.width && this.draw()).observe(this.stage);
    this.build();
  }

  // What the page says counts when it is about something else, or newer than what was made here.
  take(data) {
    if (data.subject === this.subject && data.version <= this.version) return;
    Object.assign(this, { subject: data.subject, version: data.version, width: data.width, height: data.height });
    this.photo.src = data.image;
    this.stage.style.aspectRatio = `${data.width} / ${data.height}`;
    this.stage.style.maxWidth = `${Math.round((620 * data.width) / data.height)}px`;
    this.adopt(data);
    this.draw();
  }

  // The page is told after `wait` milliseconds without a further change.
  changed(value, wait = 0) {
    this.version += 1;
    this.draw();
    clearTimeout(this.telling);
    const told = { version: this.version, subject: this.subject, ...value };
    this.telling = setTimeout(() => this.tell(told), wait);
  }

  button(text, title, press) {
    const made = part(this.bar, "button", "");
    made.type = "button";
    made.textContent = text;
    made.title = title;
    made.onclick = press;
    return made;
  }

  get scale() {
    return this.width / (this.stage.clientWidth || 1);
  }

  at(event) {
    const box = this.stage.getBoundingClientRect();
    const place = (now, start, length, most) => Math.min(most, Math.max(0, ((now - start) / length) * most));
    return [place(event.clientX, box.left, box.width, this.width), place(event.clientY, box.top, box.height, this.height)];
  }

  // Where the arrow keys lead from a place; with Shift five times as far.
  led(event, [x, y]) {
    const way = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key];
    if (!way) return null;
    const step = (Math.max(this.width, this.height) / 100) * (event.shiftKey ? 5 : 1);
    return [within(x + way[0] * step, this.width), within(y + way[1] * step, this.height)];
  }
}

function part(parent, name, kind) {
  const made = document.createElement(name);
  if (kind) made.className = kind;
  return parent.appendChild(made);
}

function within(value, most) {
  return Math.min(most, Math.max(0, value));
}

function round(value) {
  return Math.round(value * 10) / 10;
}
