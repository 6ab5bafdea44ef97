// Planes of the tomogram with the circles in which spheres cut them: xy through z, xz through y.

const Slices = (() => {
  const { data, images, spheres, STATUS, MODES, h, svg, look, place, nm, jpeg, pixel, on, state, set, select, isDrawn } = Core;
  const [nx, ny, nz] = data.tomogram.shape;
  const PLANES = {
    xy: { across: 2, up: 1, height: ny, depth: nz, letter: "z" },
    xz: { across: 1, up: 2, height: nz, depth: ny, letter: "y" },
  };
  let plane = "xy", at = 0, zoom = null, shownPicture = "";
  const picture = svg("image", { x: -0.5, y: -0.5, width: nx, preserveAspectRatio: "none" });
  const circles = svg("g", { class: "circles" });
  const stage = svg("svg", { class: "stage", tabindex: 0, role: "application", "aria-label": "Plane of the tomogram; page up and page down change it, plus and minus zoom, arrow keys move" }, picture, circles);
  const slider = h("input", { type: "range", min: 0, step: 1, id: "slider", "aria-label": "Plane", oninput: () => go(Number(slider.value)) });
  const label = h("output", { for: "slider", class: "planeLabel" });
  const caption = h("p", { class: "quiet caption" });
  const bar = h("div", { class: "scale", "aria-hidden": "true" }, h("i"), h("span"));
  const segment = h("div", { class: "segments", role: "group", "aria-label": "Plane" }, Object.keys(PLANES).map((name) =>
    h("button", { type: "button", "data-plane": name, title: `Show ${name} planes (key X)`, onclick: () => turn(name) }, name)));

  const planes = () => images()[plane];
  const kind = () => PLANES[plane];
  const nearest = (value) => {
    const all = planes().at;
    return all.reduce((best, position, i) => (Math.abs(position - value) < Math.abs(all[best] - value) ? i : best), 0);
  };

  function go(index) {
    at = Math.min(planes().at.length - 1, Math.max(0, index));
    draw();
  }
  const step = (by) => go(at + by);

  function turn(name = plane === "xy" ? "xz" : "xy") {
    plane = name;
    zoom = null;
    slider.max = planes().at.length - 1;
    const one = state.selected;
    const busiest = () => {
      const { across } = kind();
      const cut = planes().at.map((z) => spheres.filter((s) => s.counts && Math.abs(s.at[across] - z) < s.rv).length);
      return cut.indexOf(Math.max(...cut));
    };
    go(one ? nearest(one.at[kind().across]) : busiest());
  }

  // An image is put in place once it is decoded, so that nothing flickers.
  function showPicture(text) {
    if (text === shownPicture) return;
    shownPicture = text;
    const source = jpeg(text), decoded = new Image();
    decoded.src = source;
    const put = () => { if (shownPicture === text) picture.setAttribute("href", source); };
    if (picture.hasAttribute("href")) decoded.decode().then(put, put);
    else put();
  }

  function draw() {
    const { height, letter, depth } = kind(), here = planes().at[at];
    slider.value = at;
    slider.setAttribute("aria-valuetext", `${letter} ${pixel(here)} of ${depth}`);
    label.replaceChildren(h("b", {}, `${letter} ${pixel(here)}`), ` of ${depth}`);
    label.title = `As 3dmod numbers ${plane === "xy" ? "sections" : "rows"}, from 1`;
    picture.setAttribute("height", height);
    picture.setAttribute("y", -0.5);
    showPicture(planes().images[at]);
    for (const button of segment.children) button.setAttribute("aria-pressed", String(button.dataset.plane === plane));
    drawCircles();
    frame();
  }

  function drawCircles() {
    const { across, up, height } = kind(), here = planes().at[at];
    const drawn = [];
    let count = 0;
    for (const one of spheres) {
      const square = one.rv ** 2 - (one.at[across] - here) ** 2;
      if (square <= 0 || !isDrawn(one)) continue;
      if (one.counts) count += 1;
      const [cx, cy] = [one.at[0], height - 1 - one.at[up]], r = Math.sqrt(square);
      const { colour, dash } = look(one);
      const line = { stroke: colour, "stroke-dasharray": dash || null };
      const group = svg("g", { class: one === state.selected ? "sphere chosen" : "sphere", "data-row": one.row, onclick: () => select(one) },
        svg("title", {}, `${one.kind === "vesicle" ? "#" : ""}${one.name} ${one.status}, radius ${nm(one.r)}${one.why ? `: ${one.why}` : ""}`),
        one === state.selected ? svg("circle", { cx, cy, r, class: "halo" }) : null,
        svg("circle", { cx, cy, r, class: "hit" }),
        plane === "xz" ? Card.outline(cx, cy, r, 1, line) : svg("circle", { cx, cy, r, ...line }));
      drawn.push(group);
    }
    circles.replaceChildren(...drawn);
    const { low, high, axis, source } = data.tilts;
    const wedge = axis === "y"
      ? `Missing wedge: with tilts from ${low}° to ${high}° (${source}), membranes that face up or down are not seen; those arcs are faint.`
      : "The tilt axis is along x: the missing wedge lies in the yz planes.";
    caption.textContent = `${Core.several(count, "vesicle")} in this plane, the mean of ${images().slab} planes. `
      + (plane === "xz" ? wedge : "x to the right, y up, as in 3dmod.");
  }

  // --- the part that is seen

  function whole() {
    return { x: -0.5, y: -0.5, w: nx, h: kind().height };
  }

  function frame() {
    const view = zoom || whole();
    stage.setAttribute("viewBox", `${view.x} ${view.y} ${view.w} ${view.h}`);
    stage.style.aspectRatio = `${nx} / ${plane === "xy" ? ny : Math.max(nz, nx / 3)}`;
    requestAnimationFrame(scale);
  }

  function scale() {
    const matrix = stage.getScreenCTM();
    if (!matrix) return;
    const perNm = matrix.a / data.tomogram.voxel, wanted = stage.clientWidth * 0.22 / perNm;
    const power = 10 ** Math.floor(Math.log10(wanted));
    const length = [5, 2, 1].map((n) => n * power).find((n) => n <= wanted) || power;
    bar.firstChild.style.width = `${length * perNm}px`;
    bar.lastChild.textContent = `${length} nm`;
  }

  function zoomBy(factor, x, y) {
    const old = zoom || whole(), full = whole();
    const w = Math.min(full.w, Math.max(20, old.w / factor)), share = w / old.w;
    const cx = x ?? old.x + old.w / 2, cy = y ?? old.y + old.h / 2;
    zoom = w >= full.w ? null : inside({ x: cx - (cx - old.x) * share, y: cy - (cy - old.y) * share, w, h: old.h * share });
    frame();
  }

  function inside(view) {
    const full = whole();
    view.x = Math.min(Math.max(view.x, full.x), full.x + full.w - view.w);
    view.y = Math.min(Math.max(view.y, full.y), full.y + full.h - view.h);
    return view;
  }

  function move(dx, dy) {
    if (!zoom) return;
    zoom = inside({ ...zoom, x: zoom.x + dx * zoom.w, y: zoom.y + dy * zoom.h });
    frame();
  }

  function spot(event) {
    return new DOMPoint(event.clientX, event.clientY).matrixTransform(stage.getScreenCTM().inverse());
  }

  let dragged = null;
  stage.addEventListener("pointerdown", (event) => {
    if (zoom && event.button === 0) dragged = { ...spot(event).toJSON(), id: event.pointerId, far: false };
  });
  stage.addEventListener("pointermove", (event) => {
    if (!dragged) return;
    const now = spot(event), [dx, dy] = [dragged.x - now.x, dragged.y - now.y];
    if (!dragged.far && Math.hypot(dx, dy) < 0.01 * zoom.w) return;
    if (!dragged.far) stage.setPointerCapture(dragged.id);
    dragged.far = true;
    move(dx / zoom.w, dy / zoom.h);
  });
  for (const end of ["pointerup", "pointercancel"]) stage.addEventListener(end, () => (dragged = null));
  stage.addEventListener("wheel", (event) => {
    if (document.activeElement !== stage && !event.ctrlKey) return; // the page scrolls until the plane is clicked
    event.preventDefault();
    if (event.ctrlKey) {
      const { x, y } = spot(event);
      zoomBy(event.deltaY < 0 ? 1.25 : 0.8, x, y);
    } else step(event.deltaY < 0 ? 1 : -1);
  }, { passive: false });
  stage.addEventListener("dblclick", (event) => { const { x, y } = spot(event); zoomBy(2, x, y); });
  stage.addEventListener("keydown", (event) => {
    const actions = {
      PageUp: () => step(1), PageDown: () => step(-1), "+": () => zoomBy(1.25), "=": () => zoomBy(1.25), "-": () => zoomBy(0.8),
      0: () => { zoom = null; frame(); },
      ArrowLeft: () => move(-0.1, 0), ArrowRight: () => move(0.1, 0), ArrowUp: () => move(0, -0.1), ArrowDown: () => move(0, 0.1),
    };
    if (event.ctrlKey || event.metaKey || event.altKey || !actions[event.key]) return;
    event.preventDefault();
    event.stopPropagation();
    actions[event.key]();
  });

  function tools() {
    const button = (text, title, onclick) => h("button", { type: "button", title, "aria-label": title, onclick }, text);
    const rejected = spheres.filter((one) => one.kind === "vesicle" && one.status === "rejected").length;
    return [
      h("div", { class: "bar-row" }, segment,
        button("−", "Plane before (page down)", () => step(-1)), slider, button("+", "Next plane (page up)", () => step(1)), label),
      h("div", { class: "bar-row" },
        h("label", {}, "Colours: ", h("select", { id: "colours", onchange: (event) => set("colour", event.target.value) },
          Object.entries(MODES).map(([mode, text]) => h("option", { value: mode, selected: mode === state.colour }, text)))),
        h("label", { class: "check" }, h("input", { type: "checkbox", id: "rejected", onchange: (event) => set("rejected", event.target.checked) }), ` rejected (${rejected})`),
        h("label", { class: "check" }, h("input", { type: "checkbox", id: "circles", checked: true, onchange: (event) => set("circles", event.target.checked) }), " circles"),
        h("span", { class: "space" }),
        button("⊖", "Zoom out (−)", () => zoomBy(0.8)), button("⊕", "Zoom in (+)", () => zoomBy(1.25)),
        button("fit", "Show the whole plane (0)", () => { zoom = null; frame(); })),
    ];
  }

  function key() {
    const list = h("ul", { class: "legend key", id: "key" });
    const fill = () => {
      const kinds = state.colour === "agree" ? Core.AGREE : state.colour === "change" ? Core.CHANGE : STATUS;
      if (state.colour === "score") {
        const stops = [0, 0.25, 0.5, 0.75, 1].map((v) => Core.ramp(v)).join(", ");
        list.replaceChildren(h("li", {}, "score 0 ", h("span", { class: "ramp", style: `background:linear-gradient(90deg, ${stops})` }), " 1"));
        return;
      }
      const field = { agree: "agree", change: "change", status: "status" }[state.colour];
      const there = Object.keys(kinds).filter((name) => spheres.some((one) => one[field] === name));
      list.replaceChildren(...there.map((name) => h("li", { title: kinds[name].text },
        svg("svg", { viewBox: "0 0 26 8", width: 26, height: 8, "aria-hidden": "true" }, svg("line", { x1: 1, x2: 25, y1: 4, y2: 4, stroke: kinds[name].colour, "stroke-width": 2.5, "stroke-dasharray": kinds[name].dash || null })),
        ` ${name}`)));
    };
    on("colour", fill);
    fill();
    return list;
  }

  // Shows a vesicle: the plane through its centre.
  function show(one) {
    go(nearest(one.at[kind().across]));
    if (!zoom) return;
    const full = whole();
    zoom = inside({ ...zoom, x: one.at[0] - zoom.w / 2, y: full.h - 1 - one.at[kind().up] - zoom.h / 2 });
    frame();
  }

  on("start", () => {
    document.getElementById("slices").append(h("h2", {}, "Slices"), ...tools(),
      h("div", { class: "viewport" }, stage, bar), key(), caption);
    turn("xy");
    new ResizeObserver(scale).observe(stage);
  });
  on("selected", (one) => { if (one) show(one); else drawCircles(); });
  on("drawn", (what) => {
    document.getElementById("rejected").checked = state.rejected;
    document.getElementById("circles").checked = state.circles;
    document.getElementById("colours").value = state.colour;
    document.body.classList.toggle("bare", !state.circles);
    if (what !== "selected") drawCircles();
  });
  return { step, turn, show, place: () => ({ plane, index: planes().at[at], z: at }) };
})();
