// One vesicle: its central planes with the sphere's circle, its profile, its numbers, and the verdict.

const Card = (() => {
  const { data, images, spheres, STATUS, AGREE, CHANGE, h, svg, fixed, nm, share, place, jpeg, look, state } = Core;
  const profiles = data.profiles;
  const mean = profiles ? meanProfile() : null;
  const span = profiles ? profileSpan() : [0, 1];

  function meanProfile() {
    const rows = profiles.rows.filter((row, i) => row && spheres[i].counts);
    return profiles.nm.map((_, i) => {
      const values = rows.map((row) => row[i]).filter((v) => v !== null);
      return values.length ? values.reduce((sum, v) => sum + v, 0) / values.length : null;
    });
  }

  function profileSpan() {
    const values = profiles.rows.filter(Boolean).flat().filter((v) => v !== null).sort((a, b) => a - b);
    return values.length ? [values[Math.floor(values.length * 0.01)], values[Math.floor((values.length - 1) * 0.99)]] : [0, 1];
  }

  // Circles of a sphere in a view: `axis` 2 is the xy plane through its centre, 1 the xz plane.
  function circles(one, field, axis, left) {
    const scale = 50 / field, [up, across] = axis === 2 ? [1, 2] : [2, 1];
    const spot = (at) => [left + 50 + (at[0] - one.at[0]) * scale, 50 - (at[up] - one.at[up]) * scale];
    const drawn = [];
    for (const other of spheres) {
      if (other === one || !(other.counts || other.kind === "missed")) continue;
      const off = other.at[across] - one.at[across], square = other.rv ** 2 - off ** 2;
      if (square <= 0 || Math.abs(other.at[0] - one.at[0]) > 2 * field + other.rv) continue;
      if (Math.abs(other.at[up] - one.at[up]) > 2 * field + other.rv) continue;
      const [cx, cy] = spot(other.at);
      drawn.push(svg("circle", { cx, cy, r: Math.sqrt(square) * scale, class: "other" }));
    }
    if (one.was) {
      const [cx, cy] = spot(one.was);
      drawn.push(svg("circle", { cx, cy, r: one.was[3] * scale, class: "was" }));
    }
    const { colour, dash } = look(one);
    drawn.push(...outline(left + 50, 50, one.rv * scale, axis, { stroke: colour, "stroke-dasharray": dash || null, class: "own" }));
    return drawn;
  }

  // Where the tomogram was not tilted far enough, tops and bottoms are not seen: their arcs are faint in xz.
  function outline(cx, cy, r, axis, line) {
    if (axis === 2 || data.tilts.axis !== "y") return [svg("circle", { cx, cy, r, ...line })];
    const edge = (Math.min(Math.abs(data.tilts.low), Math.abs(data.tilts.high)) * Math.PI) / 180;
    const arc = (from, to) => {
      const [x0, y0, x1, y1] = [cx + r * Math.cos(from), cy - r * Math.sin(from), cx + r * Math.cos(to), cy - r * Math.sin(to)];
      return `M${x0} ${y0}A${r} ${r} 0 ${to - from > Math.PI ? 1 : 0} 0 ${x1} ${y1}`;
    };
    const seen = arc(-edge, edge) + arc(Math.PI - edge, Math.PI + edge);
    const hidden = arc(edge, Math.PI - edge) + arc(Math.PI + edge, 2 * Math.PI - edge);
    return [svg("path", { d: hidden, ...line, class: `${line.class || ""} unseen` }), svg("path", { d: seen, ...line })];
  }

  function views(one) {
    const picture = images().views[one.row], field = images().field[one.row];
    const words = `Central planes xy and xz of vesicle ${one.name}`;
    if (!picture) return h("p", { class: "quiet views none" }, "No picture: the file would be too large.");
    const clip = `clip${one.row}${state.selected === one ? "s" : ""}`;
    return svg("svg", { viewBox: "0 0 201 100", class: "views", role: "img", "aria-label": words },
      svg("clipPath", { id: `${clip}a` }, svg("rect", { x: 0, y: 0, width: 100, height: 100 })),
      svg("clipPath", { id: `${clip}b` }, svg("rect", { x: 101, y: 0, width: 100, height: 100 })),
      [[0, 2, "a", "xy"], [101, 1, "b", "xz"]].map(([left, axis, part, name]) =>
        svg("g", { "clip-path": `url(#${clip}${part})` },
          svg("image", { href: jpeg(picture), x: axis === 2 ? 0 : 1, y: 0, width: 200, height: 100, preserveAspectRatio: "none" }),
          svg("g", { class: "circles" }, circles(one, field, axis, left)),
          svg("text", { x: left + 4, y: 11, class: "plane" }, name))));
  }

  const WIDTH = 200, HEIGHT = 44;
  function path(values) {
    const [low, high] = span, from = profiles.nm[0], to = profiles.nm[profiles.nm.length - 1];
    let text = "", pen = "M";
    values.forEach((value, i) => {
      if (value === null) { pen = "M"; return; }
      const x = ((profiles.nm[i] - from) / (to - from)) * WIDTH;
      const y = HEIGHT - 3 - ((Math.min(Math.max(value, low), high) - low) / (high - low || 1)) * (HEIGHT - 6);
      text += `${pen}${x.toFixed(1)} ${y.toFixed(1)}`;
      pen = "L";
    });
    return text;
  }

  function sparkline(one) {
    const own = profiles && one.kind === "vesicle" ? profiles.rows[one.row] : null;
    if (!own) return null;
    const from = profiles.nm[0], to = profiles.nm[profiles.nm.length - 1], edge = ((0 - from) / (to - from)) * WIDTH;
    const inner = one.t ? edge - (one.t / (to - from)) * WIDTH : edge;
    return svg("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, class: "spark", preserveAspectRatio: "none", role: "img",
      "aria-label": `Radial profile of vesicle ${one.name} and the mean of all` },
    svg("title", {}, "Mean grey value from the inside (left) to the outside; thin: mean of all vesicles; band: the membrane"),
    svg("rect", { x: inner, y: 0, width: Math.max(0, edge - inner), height: HEIGHT, class: "band" }),
    svg("line", { x1: edge, x2: edge, y1: 0, y2: HEIGHT, class: "edge" }),
    svg("path", { d: path(mean), class: "mean" }), svg("path", { d: path(own), stroke: look(one).colour, class: "profile" }));
  }

  function badge(kinds, kind, shown = kind) {
    if (!kinds[kind]) return null;
    return h("span", { class: "badge", title: kinds[kind].text, style: `--tint:${kinds[kind].colour}` },
      h("i", {}, kinds[kind].mark), shown);
  }

  function facts(one) {
    const pairs = [
      ["radius", one.sr === null ? nm(one.r, 2) : `${fixed(one.r, 2)} ± ${nm(one.sr, 2)}`, "To the outer edge of the membrane, with one sigma"],
      ["membrane", nm(one.t, 2), "Thickness of the membrane"],
      ["score", fixed(one.score, 2), "How probable it is that this is a vesicle, 0 to 1"],
      ["p", share(one.p), "How like the others it is: chi-square p of the Mahalanobis distance of radius, thickness and membrane density"],
    ];
    return h("dl", { class: "facts" }, pairs.map(([name, value, hint]) => h("div", { title: hint }, h("dt", {}, name), h("dd", {}, value))));
  }

  function head(one) {
    return h("header", {},
      h("b", { class: "id" }, one.kind === "vesicle" ? `#${one.id}` : one.name),
      one.kind === "vesicle" ? badge(STATUS, one.status) : null,
      badge(AGREE, one.agree), badge(CHANGE, one.change),
      one.cut ? h("span", { class: "badge plain", title: "A face of the tomogram cuts it" }, "cut") : null);
  }

  function buttons(one) {
    if (!Review.canJudge(one)) return null;
    const verdict = Review.of(one);
    const button = (what, text, key) => h("button", {
      type: "button", class: what, "aria-pressed": String(verdict === what), title: `${text} this vesicle (key ${key})`,
      onclick: (event) => { event.stopPropagation(); Review.judge(one, what); },
    }, h("i", { "aria-hidden": "true" }, what === "keep" ? "✓" : "✕"), ` ${text}`);
    return h("div", { class: "verdict", role: "group", "aria-label": `Verdict on vesicle ${one.id}` },
      button("keep", "Keep", "K"), button("reject", "Reject", "R"));
  }

  function content(one) {
    const reason = one.why || one.changeNote;
    return [
      head(one), views(one), sparkline(one), facts(one),
      h("p", { class: "where", title: "Pixels and section as 3dmod numbers them, from 1" }, `3dmod: ${place(one)}`),
      one.changeNote && one.changeNote !== one.why ? h("p", { class: "why" }, `${one.change}: ${one.changeNote}`) : null,
      one.why ? h("p", { class: "why" }, one.why) : reason ? null : h("p", { class: "why quiet" }, "nothing unusual"),
      buttons(one),
    ];
  }

  return { content, outline, mean, span };
})();
