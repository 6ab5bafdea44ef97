// Distributions over all vesicles, drawn with Observable Plot: radii, profiles, and who is unlike the others.

const Plots = (() => {
  const { data, spheres, STATUS, h, svg, nm, share, ramp, on, state, select } = Core;
  const vesicles = spheres.filter((one) => one.kind === "vesicle");
  const counted = vesicles.filter((one) => one.counts);
  const MOST_LINES = 400, LEAST_P = 1e-4, HEIGHT = 300; // the height that style.css keeps free
  const drawings = [];

  // `field` is what is drawn over the radius, in scatter plots.
  function panel(kind, title, hint, draw, field = null) {
    const box = h("div", { class: "plot", id: `plot-${kind}` });
    drawings.push({ box, draw, kind, field, width: 0 });
    return h("article", { class: "panel" }, h("h2", { title: hint }, title), box, h("p", { class: "quiet caption" }, hint, field ? scaleOfP() : null));
  }

  const base = (width) => ({
    width, height: HEIGHT, marginLeft: 46, marginBottom: 38, marginTop: 26,
    style: { background: "transparent", fontSize: "12px" },
  });
  const nothing = (text) => h("p", { class: "quiet empty" }, text);
  const label = (one) => `#${one.id} ${one.status}\nradius ${nm(one.r, 2)}, membrane ${nm(one.t, 2)}\nscore ${Core.fixed(one.score, 2)}, p ${share(one.p)}`;

  function edges(values) {
    const low = Math.min(...values), high = Math.max(...values);
    const width = [0.25, 0.5, 1, 2, 5, 10, 20, 50].find((w) => (high - low) / w <= 40) || 100;
    const first = Math.floor(low / width), last = Math.floor(high / width) + 1;
    return Array.from({ length: last - first + 1 }, (_, i) => (first + i) * width);
  }

  function radii(width) {
    if (!counted.length) return nothing("There are no vesicles.");
    const kinds = Object.keys(STATUS).filter((kind) => counted.some((one) => one.status === kind));
    const middle = Summary.quantile(counted.map((one) => one.r).sort((a, b) => a - b), 0.5);
    return PLOT.plot({
      ...base(width),
      x: { label: "outer radius, nm", labelAnchor: "center", labelArrow: "none" },
      y: { label: "vesicles", grid: true, labelArrow: "none" },
      color: { domain: kinds, range: kinds.map((kind) => STATUS[kind].colour) },
      marks: [
        PLOT.rectY(counted, PLOT.binX({ y: "count" }, { x: { value: "r", thresholds: edges(counted.map((one) => one.r)) }, fill: "status", order: kinds, insetLeft: 0.5, insetRight: 0.5, tip: true })),
        PLOT.ruleY([0]),
        PLOT.ruleX([middle], { stroke: "currentColor", strokeDasharray: "4 3" }),
        PLOT.text([middle], { x: (d) => d, frameAnchor: "top", dy: -14, text: () => `median ${nm(middle)}`, stroke: "var(--panel)", strokeWidth: 4, fill: "currentColor" }),
      ],
    });
  }

  function profiles(width) {
    const known = data.profiles ? counted.filter((one) => data.profiles.rows[one.row]) : [];
    if (!known.length) return nothing("No profiles were measured.");
    const every = Math.ceil(known.length / MOST_LINES), offsets = data.profiles.nm;
    const points = known.filter((_, i) => i % every === 0).flatMap((one) =>
      data.profiles.rows[one.row].map((y, i) => ({ x: offsets[i], y, z: one.id })));
    const spread = offsets.map((x, i) => {
      const values = known.map((one) => data.profiles.rows[one.row][i]).filter((v) => v !== null);
      const mean = Card.mean[i], sd = Math.sqrt(values.reduce((sum, v) => sum + (v - mean) ** 2, 0) / Math.max(1, values.length - 1));
      return { x, mean, low: mean - sd, high: mean + sd };
    }).filter((d) => d.mean !== null);
    const [low, high] = Card.span, room = 0.12 * (high - low);
    const thickness = Summary.quantile(known.map((one) => one.t).filter((t) => t !== null).sort((a, b) => a - b), 0.5);
    return PLOT.plot({
      ...base(width), clip: true,
      x: { label: "distance from the outer edge, nm (negative: inside)", labelAnchor: "center", labelArrow: "none" },
      y: { label: "grey value, SD", domain: [low - room, high + room], labelArrow: "none" },
      marks: [
        Number.isFinite(thickness) ? PLOT.rectX([{ a: -thickness, b: 0 }], { x1: "a", x2: "b", fill: "currentColor", fillOpacity: 0.08 }) : null,
        PLOT.line(points, { x: "x", y: "y", z: "z", stroke: "currentColor", strokeOpacity: Math.min(0.3, Math.max(0.05, 12 / known.length)), strokeWidth: 0.8, clip: true }),
        PLOT.areaY(spread, { x: "x", y1: "low", y2: "high", fill: "#0072B2", fillOpacity: 0.18, clip: true }),
        PLOT.line(spread, { x: "x", y: "mean", stroke: "var(--accent)", strokeWidth: 2.5, clip: true }),
        PLOT.ruleX([0], { stroke: "currentColor", strokeDasharray: "4 3" }),
      ],
    });
  }

  function scatter(field, title) {
    return (width) => {
      const known = vesicles.filter((one) => one.p !== null && one[field] !== null && (state.rejected || one.counts));
      if (!known.length) return nothing("Not measured: the table has no such column.");
      const depth = (one) => 1 - Math.log10(Math.max(one.p, LEAST_P)) / Math.log10(LEAST_P);
      const sorted = [...known].sort((a, b) => b.p - a.p); // the unlike ones on top
      const plot = PLOT.plot({
        ...base(width),
        x: { label: "outer radius, nm", labelAnchor: "center", labelArrow: "none", grid: true },
        y: { label: title, grid: true, labelArrow: "none" },
        symbol: { legend: false },
        marks: [
          PLOT.dot(sorted, { x: "r", y: field, r: 3.4, fill: (one) => ramp(depth(one)), stroke: "var(--dot-edge)", strokeWidth: 0.7 }),
          PLOT.tip(sorted, PLOT.pointer({ x: "r", y: field, title: label, maxRadius: 20 })),
        ],
      });
      plot.addEventListener("click", () => { if (plot.value) select(plot.value); });
      return plot;
    };
  }

  // The selected vesicle stands out in each plot, without drawing all of it again.
  function mark(drawing, figure) {
    figure.querySelectorAll(".chosenMark").forEach((old) => old.remove());
    const one = state.selected, plot = figure.querySelector("svg[class^=plot]") || figure;
    if (!one || !plot.scale) return;
    const [x, y] = [plot.scale("x"), plot.scale("y")];
    if (drawing.field && one[drawing.field] !== null && one.p !== null) {
      plot.append(svg("circle", { class: "chosenMark", cx: x.apply(one.r), cy: y.apply(one[drawing.field]), r: 7, fill: "none", stroke: "currentColor", "stroke-width": 2 }));
    } else if (drawing.kind === "radius" && one.counts) {
      plot.append(svg("path", { class: "chosenMark", d: `M${x.apply(one.r)} ${y.apply(0) + 1}l-5 9h10z`, fill: "currentColor" }));
    } else if (drawing.kind === "profile" && one.kind === "vesicle" && data.profiles.rows[one.row]) {
      const [low, high] = y.domain, clamped = (v) => Math.min(high, Math.max(low, v));
      const points = data.profiles.rows[one.row].map((v, i) => [data.profiles.nm[i], v]).filter(([, v]) => v !== null);
      plot.append(svg("path", { class: "chosenMark", fill: "none", stroke: Core.look(one).colour, "stroke-width": 2.2,
        d: points.map(([at, v], i) => `${i ? "L" : "M"}${x.apply(at).toFixed(1)} ${y.apply(clamped(v)).toFixed(1)}`).join("") }));
    }
  }

  function paint(drawing) {
    const width = Math.floor(drawing.box.clientWidth);
    if (width < 50) return;
    drawing.width = width;
    const figure = drawing.draw(width);
    drawing.box.replaceChildren(figure);
    mark(drawing, figure);
  }

  function scaleOfP() {
    const stops = [1, 0.75, 0.5, 0.25, 0].map(ramp).reverse().join(", ");
    return h("span", { class: "ramp-line" }, "p ≤ 10⁻⁴ ", h("span", { class: "ramp", style: `background:linear-gradient(90deg, ${stops})` }), " 1");
  }

  on("start", () => {
    document.getElementById("plots").append(
      panel("radius", "Radii", "Outer edge of the membrane; vesicles that count.", radii),
      panel("profile", "Radial profiles", "Thin: each vesicle; thick: their mean, with one SD; grey band: the membrane's median thickness.", profiles),
      panel("thickness", "Radius and membrane thickness", "How like the others each vesicle is: p, as colour. Click one to select it.", scatter("t", "membrane thickness, nm"), "t"),
      panel("density", "Radius and membrane density", "Mean grey value of the membrane against its surroundings, in SD of a voxel; dark is low.", scatter("density", "membrane density, SD"), "density"));
    // Drawn when they come into view, and again when their width changes.
    const near = new IntersectionObserver((entries) => entries.forEach((entry) => {
      const drawing = drawings.find((one) => one.box === entry.target);
      if (entry.isIntersecting && !drawing.width) paint(drawing);
    }), { rootMargin: "300px" });
    const wide = new ResizeObserver((entries) => entries.forEach((entry) => {
      const drawing = drawings.find((one) => one.box === entry.target);
      if (drawing.width && Math.abs(drawing.width - Math.floor(entry.contentRect.width)) > 1) paint(drawing);
    }));
    drawings.forEach(({ box }) => { near.observe(box); wide.observe(box); });
  });
  on("selected", () => drawings.filter((one) => one.width).forEach((one) => mark(one, one.box.firstElementChild)));
  on("rejected", () => drawings.filter((one) => one.width && one.field).forEach(paint));
  on("colour", () => drawings.filter((one) => one.width).forEach((one) => mark(one, one.box.firstElementChild)));
  return { edges };
})();
