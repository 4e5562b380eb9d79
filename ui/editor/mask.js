// Painting a mask: shapes, drawn one after the other, of which each adds or takes away.

const LONGEST = 900; // pixels of the longer side of the canvas
const HINTS = {
  brush: "Drag over the object. With keys: arrows move, Space puts the brush down and lifts it.",
  polygon: "Set corners around the object; close it at the first one. With keys: arrows move, Space sets, Enter closes.",
};

export default (component) => mount(MaskEditor, component);

class MaskEditor extends Editor {
  build() {
    this.tool = "brush";
    this.shapes = [];
    this.corners = [];
    this.canvas = part(this.stage, "canvas", "over");
    this.lines = part(this.stage, "canvas", "over");
    this.stage.classList.add("draws");
    this.stage.tabIndex = 0;
    this.stage.setAttribute("role", "application");
    this.stage.setAttribute("aria-label", "The picture, to draw a mask on");
    this.brush = this.button("Brush", "Paint with a round brush", () => this.choose("brush"));
    this.polygon = this.button("Polygon", "Set corners around the object", () => this.choose("polygon"));
    this.eraser = this.button("Erase", "Take away instead of adding", () => this.choose(this.tool, !this.erase));
    const label = part(this.bar, "label", "");
    label.append("Size");
    this.size = part(label, "input", "");
    Object.assign(this.size, { type: "range", min: 1, max: 20, value: 5, ariaLabel: "Size of the brush" });
    this.close = this.button("Close shape", "Join the last corner with the first", () => this.closed());
    this.undo = this.button("Undo", "Take back the last step (Ctrl+Z)", () => this.back());
    this.clear = this.button("Clear", "Begin anew", () => this.cleared());
    this.stage.onpointerdown = (event) => this.pressed(event);
    this.stage.onpointermove = (event) => this.moved(event);
    this.stage.onpointerup = this.stage.onpointercancel = () => this.lifted();
    this.stage.onpointerleave = () => this.pointed(null);
    this.stage.ondblclick = () => this.closed();
    this.stage.onkeydown = (event) => this.typed(event);
    this.stage.onblur = () => this.lifted();
    this.choose("brush");
  }

  adopt(data) {
    const side = Math.min(1, LONGEST / Math.max(this.width, this.height));
    for (const canvas of [this.canvas, this.lines]) {
      canvas.width = Math.max(1, Math.round(this.width * side));
      canvas.height = Math.max(1, Math.round(this.height * side));
    }
    this.shapes = data.shapes;
    this.corners = [];
    this.stroke = null;
    this.cursor = [this.width / 2, this.height / 2];
    this.base = null;
    if (data.base) {
      const base = new Image();
      base.onload = () => {
        this.base = base;
        this.draw();
      };
      base.src = data.base;
    }
  }

  choose(tool, erase = this.erase || false) {
    this.lifted();
    if (tool !== this.tool) this.corners = [];
    Object.assign(this, { tool, erase });
    this.brush.setAttribute("aria-pressed", tool === "brush");
    this.polygon.setAttribute("aria-pressed", tool === "polygon");
    this.eraser.setAttribute("aria-pressed", erase);
    this.hint.textContent = HINTS[tool];
    if (this.width) this.draw();
  }

  get radius() {
    return (Math.max(this.width, this.height) * this.size.value) / 200;
  }

  pressed(event) {
    if (event.button) return;
    this.stage.focus({ preventScroll: true, focusVisible: false });
    this.keys = false;
    const place = this.at(event);
    if (this.tool === "polygon") return this.corner(place);
    this.stage.setPointerCapture(event.pointerId);
    this.begin(place);
  }

  moved(event) {
    this.keys = false;
    this.pointed(this.at(event));
    if (this.stroke) this.extend(this.pointer);
  }

  pointed(place) {
    this.pointer = place;
    if (this.width) this.draw();
  }

  begin(place) {
    this.stroke = { tool: "brush", erase: this.erase, radius: round(this.radius), at: place.map(round) };
    this.draw();
  }

  // Corners of a stroke stand a third of its radius apart at least: less is not to be seen.
  extend(place) {
    const at = this.stroke.at;
    if (Math.hypot(place[0] - at.at(-2), place[1] - at.at(-1)) < Math.max(this.scale, this.stroke.radius / 3)) return;
    at.push(...place.map(round));
    this.draw();
  }

  lifted() {
    if (!this.stroke) return;
    const made = this.stroke;
    this.stroke = null;
    this.shapes = [...this.shapes, made];
    this.changed({ shapes: this.shapes });
  }

  corner(place) {
    const [x, y] = this.corners;
    if (this.corners.length >= 6 && Math.hypot(place[0] - x, place[1] - y) < REACH * this.scale) return this.closed();
    this.corners.push(...place.map(round));
    this.draw();
  }

  closed() {
    if (this.tool !== "polygon" || this.corners.length < 6) return;
    this.shapes = [...this.shapes, { tool: "polygon", erase: this.erase, radius: 0, at: this.corners }];
    this.corners = [];
    this.changed({ shapes: this.shapes });
  }

  back() {
    if (this.corners.length) {
      this.corners.splice(-2);
      return this.draw();
    }
    if (!this.shapes.length) return;
    this.shapes = this.shapes.slice(0, -1);
    this.changed({ shapes: this.shapes });
  }

  cleared() {
    this.corners = [];
    this.shapes = [];
    this.base = null;
    this.changed({ shapes: [], cleared: true });
  }

  typed(event) {
    const led = this.led(event, this.cursor);
    const known = { " ": 1, Enter: 1, Escape: 1 }[event.key] || led || (event.key === "z" && (event.ctrlKey || event.metaKey));
    if (!known) return;
    event.preventDefault();
    event.stopPropagation();
    this.keys = true;
    if (led) {
      this.cursor = led;
      if (this.stroke) this.extend(led);
    } else if (event.key === "z") this.back();
    else if (event.key === "Enter") this.closed();
    else if (event.key === "Escape") this.corners = [];
    else if (this.tool === "polygon") this.corner(this.cursor);
    else if (this.stroke) this.lifted();
    else this.begin(this.cursor);
    this.draw();
  }

  draw() {
    const made = this.shapes.length || this.corners.length;
    this.undo.disabled = !made;
    this.clear.disabled = !made && !this.base;
    this.close.hidden = this.tool !== "polygon";
    this.close.disabled = this.corners.length < 6;
    this.size.parentElement.hidden = this.tool !== "brush";
    const { width, height } = this.canvas;
    const mask = document.createElement("canvas");
    Object.assign(mask, { width, height });
    const pen = mask.getContext("2d");
    if (this.base) pen.drawImage(this.base, 0, 0, width, height);
    pen.scale(width / this.width, height / this.height);
    for (const shape of this.stroke ? [...this.shapes, this.stroke] : this.shapes) trace(pen, shape);
    shown(this.canvas, mask);
    this.helpers();
  }

  // What isn't part of the mask: an unfinished polygon, the brush at the pointer or the keyboard's cursor.
  helpers() {
    const pen = this.lines.getContext("2d");
    const unit = this.lines.width / this.width;
    pen.setTransform(unit, 0, 0, unit, 0, 0);
    pen.clearRect(0, 0, this.width, this.height);
    const place = this.keys ? this.cursor : this.pointer;
    const wide = this.scale;
    for (const [colour, line] of [["#1f2328", 4 * wide], ["#ffffff", 2 * wide]]) {
      Object.assign(pen, { strokeStyle: colour, lineWidth: line, fillStyle: colour });
      const corners = this.corners.length && place ? [...this.corners, ...place] : this.corners;
      pen.beginPath();
      for (let i = 0; i < corners.length; i += 2) pen.lineTo(corners[i], corners[i + 1]);
      pen.stroke();
      for (let i = 0; i < this.corners.length; i += 2) disc(pen, this.corners[i], this.corners[i + 1], line + wide);
      if (!place) continue;
      pen.beginPath();
      if (this.tool === "brush") pen.arc(...place, Math.max(this.radius, 2 * wide), 0, 7);
      if (this.keys) cross(pen, place, 9 * wide);
      pen.stroke();
    }
  }
}

function cross(pen, [x, y], reach) {
  pen.moveTo(x - reach, y);
  pen.lineTo(x + reach, y);
  pen.moveTo(x, y - reach);
  pen.lineTo(x, y + reach);
}

function disc(pen, x, y, radius) {
  pen.beginPath();
  pen.arc(x, y, radius, 0, 7);
  pen.fill();
}

function trace(pen, { tool, erase, radius, at }) {
  pen.globalCompositeOperation = erase ? "destination-out" : "source-over";
  Object.assign(pen, { fillStyle: "#56B4E9", strokeStyle: "#56B4E9", lineWidth: 2 * radius, lineCap: "round", lineJoin: "round" });
  pen.beginPath();
  for (let i = 0; i < at.length; i += 2) pen.lineTo(at[i], at[i + 1]);
  if (tool === "polygon") pen.fill("evenodd");
  else if (at.length > 2) pen.stroke();
  else disc(pen, at[0], at[1], radius);
}

// The mask as a pale surface with an edge that shows on any photo: white, and dark around it.
function shown(canvas, mask) {
  const { width, height } = canvas;
  const pen = canvas.getContext("2d");
  const grown = (reach) => {
    for (let i = 0; i < 16; i++) pen.drawImage(mask, reach * Math.cos((i * Math.PI) / 8), reach * Math.sin((i * Math.PI) / 8));
  };
  const filled = (colour) => {
    pen.globalCompositeOperation = "source-in";
    pen.fillStyle = colour;
    pen.fillRect(0, 0, width, height);
    pen.globalCompositeOperation = "source-over";
  };
  pen.globalCompositeOperation = "source-over";
  pen.clearRect(0, 0, width, height);
  grown(3);
  filled("#1f2328");
  const ring = document.createElement("canvas");
  Object.assign(ring, { width, height });
  ring.getContext("2d").drawImage(canvas, 0, 0);
  pen.clearRect(0, 0, width, height);
  grown(1.6);
  filled("#ffffff");
  const edge = document.createElement("canvas");
  Object.assign(edge, { width, height });
  const over = edge.getContext("2d");
  over.drawImage(ring, 0, 0);
  over.drawImage(canvas, 0, 0);
  over.globalCompositeOperation = "destination-out";
  over.drawImage(mask, 0, 0);
  pen.clearRect(0, 0, width, height);
  pen.globalAlpha = 0.5;
  pen.drawImage(mask, 0, 0);
  pen.globalAlpha = 1;
  pen.drawImage(edge, 0, 0);
}
