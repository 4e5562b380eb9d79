// Moving, adding and removing points.

const POINTS = { 1: ["positive", "#009E73"], 0: ["negative", "#D55E00"], "-1": ["neutral", "#8c959f"] };
const HINTS = {
  points: "Drag a point. With keys: Tab to a point, arrows move it, Delete takes it away.",
  add: "Press where the new point belongs.",
};
const SVG = "http://www.w3.org/2000/svg";

export default (component) => mount(PointEditor, component);

class PointEditor extends Editor {
  build() {
    this.points = [];
    this.svg = this.stage.appendChild(document.createElementNS(SVG, "svg"));
    this.svg.classList.add("over");
    this.adds = [1, 0].map((label) =>
      this.button(`Add ${POINTS[label][0]}`, "Then press on the picture", () => this.adding(this.add === label ? null : label)),
    );
    this.remove = this.button("Remove point", "Take the chosen point away (Delete)", () => this.removed());
    this.reset = this.button("Reset points", "Back to the map's own points", () => this.changed({ points: null }));
    this.stage.onpointerdown = (event) => this.pressed(event);
    this.stage.onpointermove = (event) => this.moved(event);
    this.stage.onpointerup = this.stage.onpointercancel = () => this.lifted();
    this.adding(null);
  }

  adopt(data) {
    this.points = data.points.map((point) => [...point]);
    this.own = data.own;
    this.chosen = null;
    this.held = null;
  }

  adding(label) {
    this.add = label;
    this.adds.forEach((button, i) => button.setAttribute("aria-pressed", label === [1, 0][i]));
    this.hint.textContent = label === null ? HINTS.points : HINTS.add;
  }

  pressed(event) {
    if (event.button) return;
    const place = this.at(event);
    const away = this.points.map(([x, y]) => Math.hypot(x - place[0], y - place[1]));
    const nearest = away.indexOf(Math.min(...away));
    if (this.add !== null) {
      this.points.push([...place.map(round), this.add]);
      this.chosen = this.points.length - 1;
      this.adding(null);
      this.made();
    } else if (nearest >= 0 && away[nearest] < REACH * this.scale) {
      event.preventDefault();
      this.stage.setPointerCapture(event.pointerId);
      this.chosen = nearest;
      this.held = { from: this.points[nearest].slice() };
      this.draw();
      this.svg.children[nearest].focus({ preventScroll: true });
    }
  }

  moved(event) {
    if (!this.held) return;
    this.points[this.chosen].splice(0, 2, ...this.at(event).map(round));
    this.draw();
  }

  lifted() {
    if (!this.held) return;
    const { from } = this.held;
    this.held = null;
    if (from[0] !== this.points[this.chosen][0] || from[1] !== this.points[this.chosen][1]) {
      this.made();
    }
  }

  made(wait) {
    this.own = false;
    this.changed({ points: this.points }, wait);
  }

  removed() {
    if (this.chosen === null) return;
    this.points.splice(this.chosen, 1);
    this.chosen = null;
    this.made();
  }

  typed(event, number) {
    const led = this.led(event, this.points[number]);
    if (!led && event.key !== "Delete" && event.key !== "Backspace") return;
    event.preventDefault();
    event.stopPropagation();
    this.chosen = number;
    if (!led) return this.removed();
    this.points[number].splice(0, 2, ...led.map(round));
    this.made(300);
  }

  draw() {
    this.svg.setAttribute("viewBox", `0 0 ${this.width} ${this.height}`);
    this.remove.disabled = this.chosen === null;
    this.reset.disabled = this.own;
    const marks = this.points.map((point, number) => this.mark(number));
    while (this.svg.children.length > marks.length) this.svg.lastChild.remove();
    marks.forEach((mark, number) => mark.setAttribute("data-number", number));
  }

  // Marks are kept from one drawing to the next: one that has the focus keeps it.
  mark(number) {
    const [x, y, label] = this.points[number];
    const [name, colour] = POINTS[label];
    let mark = this.svg.children[number];
    if (!mark) {
      mark = this.svg.appendChild(document.createElementNS(SVG, "g"));
      mark.setAttribute("tabindex", "0");
      mark.setAttribute("role", "button");
      mark.onkeydown = (event) => this.typed(event, number);
      mark.onfocus = () => {
        this.chosen = number;
        this.draw();
      };
      for (const kind of ["hand", "edge", "face"]) mark.appendChild(document.createElementNS(SVG, "path")).classList.add(kind);
    }
    mark.setAttribute("aria-label", `${name} point at ${Math.round(x)}, ${Math.round(y)}`);
    mark.setAttribute("class", `${name}${number === this.chosen ? " chosen" : ""}`);
    mark.setAttribute("transform", `translate(${x} ${y}) scale(${this.scale})`);
    mark.children[0].setAttribute("d", circle(REACH * 0.8));
    const form = { positive: circle(6.5), negative: "M-5,-5L5,5M-5,5L5,-5", neutral: "M0,-7L7,0L0,7L-7,0Z" }[name];
    mark.children[1].setAttribute("d", form);
    mark.children[2].setAttribute("d", form);
    Object.assign(mark.children[2].style, { stroke: colour, fill: name === "negative" ? "none" : colour });
    return mark;
  }
}

function circle(radius) {
  return `M${-radius},0a${radius},${radius} 0 1,0 ${2 * radius},0a${radius},${radius} 0 1,0 ${-2 * radius},0`;
}
