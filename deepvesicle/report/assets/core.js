// What all parts of the page share: the data, small helpers, colours, and the state with its listeners.
// Text from the data only ever becomes text nodes and attributes, never markup.

const Core = (() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  let pictures = null;
  const images = () => (pictures = pictures || JSON.parse(document.getElementById("images").textContent));

  // Okabe and Ito's colours, which are told apart with any kind of colour vision; the same as in the IMOD model.
  const STATUS = {
    refined: { colour: "#009E73", dash: "", mark: "●", text: "fitted, and like the others" },
    manual: { colour: "#56B4E9", dash: "", mark: "◆", text: "placed, changed or accepted by a person" },
    doubtful: { colour: "#E69F00", dash: "6 3", mark: "▲", text: "counts, but something is unusual: look at it" },
    proposed: { colour: "#CC79A7", dash: "", mark: "■", text: "from the network's mask alone, not fitted" },
    rejected: { colour: "#D55E00", dash: "1.5 3", mark: "✕", text: "no vesicle; keeps its row and its reason" },
  };
  const AGREE = {
    found: { colour: "#009E73", dash: "", mark: "●", text: "in the truth, and found" },
    false: { colour: "#D55E00", dash: "6 3", mark: "✕", text: "found, but not in the truth" },
    missed: { colour: "#56B4E9", dash: "1.5 3", mark: "◇", text: "in the truth, but not found" },
    ignored: { colour: "#9AA0A6", dash: "", mark: "○", text: "counts neither for nor against" },
  };
  const CHANGE = {
    added: { colour: "#009E73", dash: "", mark: "+", text: "was no vesicle before" },
    removed: { colour: "#D55E00", dash: "1.5 3", mark: "−", text: "was a vesicle before" },
    moved: { colour: "#56B4E9", dash: "", mark: "→", text: "the centre is elsewhere" },
    resized: { colour: "#E69F00", dash: "", mark: "↔", text: "the radius is another" },
    "moved and resized": { colour: "#CC79A7", dash: "", mark: "⤢", text: "centre and radius are others" },
    judged: { colour: "#F0E442", dash: "", mark: "⚖", text: "the same sphere with another status" },
  };
  const PLAIN = "#9AA0A6";
  const RAMP = [[213, 94, 0], [240, 228, 66], [86, 180, 233]]; // vermilion, yellow, sky blue

  const spheres = data.spheres;
  const reported = { vesicle: "", missed: "truth ", removed: "earlier " };
  spheres.forEach((one, row) => {
    one.row = row;
    one.name = `${reported[one.kind]}${one.id}`;
    one.counts = one.kind === "vesicle" && ["refined", "doubtful", "manual"].includes(one.status);
  });

  function create(element, attributes, children) {
    for (const [name, value] of Object.entries(attributes || {})) {
      if (value === null || value === undefined || value === false) continue;
      if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
      else if (name === "value") element.value = value;
      else element.setAttribute(name, value === true ? "" : value);
    }
    for (const child of children.flat(Infinity)) {
      if (child !== null && child !== undefined && child !== false) element.append(child);
    }
    return element;
  }
  const h = (tag, attributes, ...children) => create(document.createElement(tag), attributes, children);
  const svg = (tag, attributes, ...children) =>
    create(document.createElementNS("http://www.w3.org/2000/svg", tag), attributes, children);

  const fixed = (value, digits = 1) =>
    value === null || value === undefined || !Number.isFinite(value) ? "–" : value.toFixed(digits).replace("-", "−");
  const nm = (value, digits = 1) => (fixed(value, digits) === "–" ? "–" : `${fixed(value, digits)} nm`);
  const share = (value) => (value !== null && value < 0.001 ? (value === 0 ? "0" : value.toExponential(0)) : fixed(value, 2));
  const several = (number, thing) => `${number} ${thing}${number === 1 ? "" : "s"}`;
  // 3dmod numbers pixels and sections from 1.
  const pixel = (value) => Math.round(value) + 1;
  const place = (one) => `x ${pixel(one.at[0])}, y ${pixel(one.at[1])}, z ${pixel(one.at[2])}`;
  const jpeg = (text) => `data:image/jpeg;base64,${text}`;

  function ramp(value) {
    if (value === null || value === undefined) return PLAIN;
    const at = Math.min(1, Math.max(0, value)) * (RAMP.length - 1);
    const low = Math.min(Math.floor(at), RAMP.length - 2);
    const mixed = RAMP[low].map((part, i) => Math.round(part + (at - low) * (RAMP[low + 1][i] - part)));
    return `rgb(${mixed.join(", ")})`;
  }

  // How a sphere is drawn, by what the user wants the colours to tell.
  const MODES = { status: "status", score: "score" };
  if (data.agreement) MODES.agree = "agreement with the truth";
  if (data.changes) MODES.change = "change since before";
  function look(one, mode = state.colour) {
    const line = STATUS[one.status] || STATUS.refined;
    if (mode === "agree") return AGREE[one.agree] || { colour: PLAIN, dash: line.dash };
    if (one.kind === "missed") return AGREE.missed;
    if (mode === "change") return CHANGE[one.change] || { colour: PLAIN, dash: line.dash };
    if (one.kind === "removed") return CHANGE.removed;
    return mode === "score" ? { colour: ramp(one.score), dash: line.dash } : line;
  }

  const listeners = {};
  const on = (event, heard) => (listeners[event] = listeners[event] || []).push(heard);
  const emit = (event, value) => (listeners[event] || []).forEach((heard) => heard(value));
  // With a truth or an earlier table, that is what the report was asked for.
  const firstMode = data.agreement ? "agree" : data.changes ? "change" : "status";
  const state = { selected: null, colour: firstMode, rejected: false, circles: true };
  function set(name, value) {
    if (state[name] === value) return;
    state[name] = value;
    emit(name, value);
    emit("drawn", name);
  }
  const select = (one) => set("selected", one);
  // Rejected ones are many, and hide the others: they are drawn when asked for, or selected.
  const isDrawn = (one) => state.rejected || one.status !== "rejected" || one.kind !== "vesicle" || one === state.selected
    || (state.colour === "change" && one.change === "removed");

  // A browser may refuse to keep anything for files: then nothing is kept.
  const kept = {
    get(key) {
      try { return window.localStorage.getItem(key); } catch { return null; }
    },
    put(key, value) {
      try {
        if (value === null) window.localStorage.removeItem(key);
        else window.localStorage.setItem(key, value);
        return true;
      } catch { return false; }
    },
  };

  let toastTimer = 0;
  function toast(...children) {
    const box = document.getElementById("toast");
    box.replaceChildren(...children);
    box.classList.add("shown");
    clearTimeout(toastTimer);
    toastTimer = setTimeout(() => box.classList.remove("shown"), 9000);
  }

  return {
    data, images, spheres, STATUS, AGREE, CHANGE, MODES, PLAIN, h, svg, fixed, nm, share, several, pixel, place, jpeg,
    ramp, look, on, emit, state, set, select, isDrawn, kept, toast,
  };
})();
