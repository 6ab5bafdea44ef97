// Every vesicle as a card: sorted by doubt, filtered, judged with the mouse or the keyboard.

const Gallery = (() => {
  const { data, spheres, STATUS, AGREE, CHANGE, h, on, state, select, look, several } = Core;
  const CHUNK = 24;
  const ORDERS = {
    doubt: ["doubt, the most doubtful first", (a, b) => b.doubt - a.doubt],
    score: ["score, the lowest first", (a, b) => (a.score ?? 2) - (b.score ?? 2)],
    p: ["p, the most unlike first", (a, b) => (a.p ?? 2) - (b.p ?? 2)],
    small: ["radius, the smallest first", (a, b) => a.r - b.r],
    large: ["radius, the largest first", (a, b) => b.r - a.r],
    z: ["z, from below", (a, b) => a.at[2] - b.at[2]],
    id: ["id", (a, b) => a.id - b.id],
  };
  // Groups of switches: what is off is left out.
  const VERDICTS = { open: { text: "without a verdict", mark: "○" }, keep: { text: "kept", mark: "✓" }, reject: { text: "rejected here", mark: "✕" } };
  const GROUPS = [
    { name: "status", title: "Status", kinds: STATUS, of: (one) => (one.kind === "vesicle" ? one.status : "") },
    data.agreement && { name: "agree", title: "Truth", kinds: AGREE, of: (one) => one.agree || "", rest: "not compared" },
    data.changes && { name: "change", title: "Change", kinds: CHANGE, of: (one) => one.change || "", rest: "unchanged" },
    { name: "verdict", title: "Verdict", kinds: VERDICTS, of: (one) => Review.of(one) || "open", live: true },
  ].filter(Boolean);
  const off = new Map(GROUPS.map((group) => [group.name, new Set()]));
  const limits = { score: [null, null], r: [null, null] };
  let words = "", order = "doubt", passed = [], made = 0;
  const cards = new Map();
  const grid = h("div", { class: "cards", id: "cards", role: "list" });
  const tail = h("div", { class: "tail", "aria-hidden": "true" });
  const count = h("output", { class: "count", id: "count" });
  const search = h("input", { type: "search", id: "search", placeholder: "id or words of the reason", "aria-label": "Filter by id or words of the reason (key F)",
    oninput: () => { words = search.value.trim().toLowerCase(); refresh(); } });

  function hasWords(one) {
    if (!words) return true;
    if (/^#?\d+$/.test(words)) return String(one.id) === words.replace("#", "");
    const text = `${one.name} ${one.status} ${one.why} ${one.changeNote || ""} ${one.kind}`.toLowerCase();
    return words.split(/\s+/).every((word) => text.includes(word));
  }

  function within(value, [low, high]) {
    if (low === null && high === null) return true;
    return value !== null && (low === null || value >= low) && (high === null || value <= high);
  }

  const passes = (one) =>
    GROUPS.every((group) => !off.get(group.name).has(group.of(one)))
    && within(one.score, limits.score) && within(one.r, limits.r) && hasWords(one);

  function refresh() {
    passed = spheres.filter(passes).sort((a, b) => ORDERS[order][1](a, b) || a.row - b.row);
    cards.clear();
    grid.replaceChildren();
    made = 0;
    more();
    tell();
    fillSwitches();
  }

  function tell() {
    const { keep, reject } = Review.counts();
    count.textContent = `${passed.length} of ${spheres.length} shown`;
    count.title = `${keep} kept, ${reject} rejected`;
  }

  function more() {
    const next = passed.slice(made, made + CHUNK);
    made += next.length;
    grid.append(...next.map(card));
    tail.hidden = made >= passed.length;
  }

  function card(one) {
    const box = h("article", { class: "card", id: `card${one.row}`, tabindex: -1, role: "listitem", "data-row": one.row, onclick: () => select(one) });
    cards.set(one.row, box);
    fill(one);
    return box;
  }

  function fill(one) {
    const box = cards.get(one.row);
    if (!box) return;
    const focused = box.contains(document.activeElement) && document.activeElement !== box ? document.activeElement.className : "";
    box.replaceChildren(...Card.content(one).filter(Boolean));
    box.classList.toggle("chosen", state.selected === one);
    box.setAttribute("data-verdict", Review.of(one));
    box.style.setProperty("--tint", look(one).colour);
    box.tabIndex = state.selected === one || (!state.selected && one === passed[0]) ? 0 : -1;
    if (focused) box.querySelector(`button.${focused}`)?.focus({ preventScroll: true });
  }

  // Whether the user is looking at the gallery; who looks at planes stays there, and sees the selected vesicle beside.
  const isSeen = () => grid.getBoundingClientRect().top < window.innerHeight * 0.8;

  // Makes sure that a vesicle's card is there, and shows it.
  function show(one) {
    if (!passed.includes(one)) {
      reset();
      Core.toast("The filters were cleared to show it.");
    }
    while (!cards.has(one.row) && made < passed.length) more();
    const box = cards.get(one.row);
    box.focus({ preventScroll: true });
    const bar = document.querySelector(".tools").offsetHeight + 60, seen = box.getBoundingClientRect();
    if (seen.top < bar || seen.bottom > window.innerHeight) window.scrollBy({ top: seen.top - bar });
  }

  function go(by) {
    if (!passed.length) return;
    const here = passed.indexOf(state.selected);
    const to = here < 0 ? 0 : Math.min(passed.length - 1, Math.max(0, here + by));
    select(passed[to]);
    if (isSeen()) show(passed[to]);
  }

  // A verdict by key goes on to the next one, so that a queue can be worked through.
  function judge(verdict) {
    const one = state.selected;
    if (!Review.canJudge(one)) return;
    const here = passed.indexOf(one), next = passed[here + 1];
    Review.judge(one, verdict);
    if (verdict && Review.of(one) && next && here >= 0) {
      select(next);
      if (isSeen()) show(next);
    }
  }

  function reset() {
    off.forEach((kinds) => kinds.clear());
    for (const name of Object.keys(limits)) limits[name] = [null, null];
    words = search.value = "";
    document.querySelectorAll(".range input").forEach((input) => (input.value = ""));
    refresh();
  }

  const switches = h("div", { class: "switches" });
  function fillSwitches() {
    const held = document.activeElement?.dataset?.switch;
    switches.replaceChildren(...GROUPS.map((group) => {
      const names = [...Object.keys(group.kinds), ...(group.rest ? [""] : [])];
      const numbers = names.map((name) => [name, spheres.filter((one) => group.of(one) === name).length]);
      return h("div", { class: "group", role: "group", "aria-label": group.title }, h("span", { class: "quiet" }, group.title),
        numbers.filter(([, n]) => n || group.live).map(([name, n]) => {
          const kind = group.kinds[name] || { mark: "○", text: group.rest };
          const text = group.live ? kind.text : name || group.rest;
          return h("button", { type: "button", class: "chip", "data-switch": `${group.name} ${name}`, "aria-pressed": String(!off.get(group.name).has(name)), title: `${kind.text}; Alt-click shows these alone`,
            style: kind.colour ? `--tint:${kind.colour}` : null, onclick: (event) => toggle(group, name, names, event.altKey) },
          h("i", {}, kind.mark), ` ${text} `, h("b", {}, String(n)));
        }));
    }));
    if (held) switches.querySelector(`[data-switch="${held}"]`)?.focus({ preventScroll: true });
  }

  function toggle(group, name, names, alone) {
    const hidden = off.get(group.name);
    if (alone) {
      hidden.clear();
      names.filter((other) => other !== name).forEach((other) => hidden.add(other));
    } else if (!hidden.delete(name)) hidden.add(name);
    refresh();
  }

  function range(name, title, unit, step) {
    const input = (end, hint) => h("input", { type: "number", step, placeholder: hint, "aria-label": `${title}, ${hint}`, id: `${name}-${hint}`,
      oninput: (event) => { limits[name][end] = event.target.value === "" ? null : Number(event.target.value); refresh(); } });
    return h("span", { class: "range" }, h("span", { class: "quiet" }, title), input(0, "least"), "–", input(1, "most"), unit);
  }

  function tools() {
    return h("div", { class: "tools" },
      h("div", { class: "bar-row" }, h("h2", {}, "Gallery"), count, search,
        range("score", "score", "", 0.05), range("r", "radius", "nm", 1),
        h("label", {}, h("span", { class: "quiet" }, "sort by "), h("select", { id: "order", onchange: (event) => { order = event.target.value; refresh(); } },
          Object.entries(ORDERS).map(([name, [text]]) => h("option", { value: name }, text)))),
        h("button", { type: "button", id: "reset", title: "Show all", onclick: reset }, "show all")),
      switches);
  }

  on("start", () => {
    document.getElementById("gallery").append(tools(), grid, tail);
    const near = new IntersectionObserver((entries) => {
      if (!entries.some((entry) => entry.isIntersecting) || made >= passed.length) return;
      more();
      near.unobserve(tail); // an end that is still near after that is told again
      near.observe(tail);
    }, { rootMargin: "1200px" });
    near.observe(tail);
    refresh();
  });
  let before = null;
  on("selected", (one) => {
    if (before) fill(before);
    if (one) fill(one);
    before = one;
  });
  on("colour", () => { for (const row of cards.keys()) fill(spheres[row]); });
  on("verdict", (one) => {
    if (one) fill(one);
    else refresh();
    fillSwitches();
    tell();
  });
  return { go, judge, show, reset, focusSearch: () => { search.scrollIntoView({ block: "center" }); search.focus(); }, shown: () => passed.length, ids: () => passed.map((one) => one.name) };
})();
