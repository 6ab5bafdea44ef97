// The head, the selected vesicle, the keys, and light or dark; then everything starts.

const Main = (() => {
  const { data, h, on, emit, state, set, select, kept, toast, several } = Core;
  const THEME = "deepvesicle report theme";
  const KEYS = [
    ["→ or N, ← or P", "next and previous vesicle of the gallery"],
    ["K", "keep the selected vesicle, and go on"],
    ["R", "reject it, and go on"],
    ["U", "take the verdict back"],
    ["G", "from the gallery to the planes, and back"],
    ["C", "circles on and off"],
    ["J", "rejected vesicles on and off in planes and in space"],
    [". and ,", "next and previous plane (page up and page down where a plane has the focus)"],
    ["X", "planes xy or xz"],
    ["F", "filter by id or words"],
    ["S", "save the verdicts"],
    ["T", "light or dark"],
    ["Esc", "select nothing"],
  ];

  const isDark = () => (document.documentElement.dataset.theme || (matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light")) === "dark";
  function paintTheme(wanted) {
    if (wanted) document.documentElement.dataset.theme = wanted;
    document.getElementById("theme").textContent = isDark() ? "☀" : "☾";
    emit("theme", isDark());
  }
  function turnTheme() {
    const wanted = isDark() ? "light" : "dark";
    kept.put(THEME, wanted);
    paintTheme(wanted);
  }

  const saveButton = h("button", { type: "button", id: "save", class: "primary", title: "Save the verdicts as JSON (key S)", onclick: save });
  function save() {
    const { keep, reject } = Review.counts();
    if (keep + reject) Review.save();
    else toast("There is no verdict yet: keep or reject vesicles in the gallery first.");
  }
  function tellVerdicts() {
    const { keep, reject } = Review.counts();
    saveButton.textContent = keep + reject ? `Save ${several(keep + reject, "verdict")}` : "Save verdicts";
    saveButton.title = `${keep} kept, ${reject} rejected: save them as JSON (key S)`;
    saveButton.classList.toggle("waiting", keep + reject > 0);
  }

  const file = h("input", { type: "file", accept: ".json,application/json", hidden: true, id: "loaded",
    onchange: () => { if (file.files.length) Review.load(file.files[0]); file.value = ""; } });

  function head() {
    const link = (name, text) => h("a", { href: `#${name}` }, text);
    document.getElementById("top").append(
      h("h1", {}, data.tomogram.name, h("small", {}, data.table ? ` ${data.table}` : "")),
      h("nav", { "aria-label": "Parts of the report" }, link("summary", "Summary"), link("look", "Slices"), link("plots", "Plots"), link("gallery", "Gallery")),
      h("span", { class: "space" }), file,
      h("button", { type: "button", id: "load", title: "Go on with verdicts that were saved earlier", onclick: () => file.click() }, "Load verdicts"), saveButton,
      h("button", { type: "button", id: "theme", "aria-label": "Light or dark (key T)", title: "Light or dark (key T)", onclick: turnTheme }),
      h("button", { type: "button", "aria-label": "Keys (key ?)", title: "Keys (key ?)", id: "keys", onclick: help }, "?"));
    document.getElementById("foot").append(`deepvesicle ${data.version}, made ${data.made.slice(0, 16).replace("T", " ")} UTC. `,
      "Lengths are in nm; places are pixels and sections as 3dmod numbers them, from 1; radii go to the outer edge of the membrane.");
  }

  function help() {
    const box = document.getElementById("help");
    if (!box.childElementCount) {
      box.append(h("h2", {}, "Keys"), h("table", {}, h("tbody", {}, KEYS.map(([key, text]) => h("tr", {}, h("td", {}, h("kbd", {}, key)), h("td", {}, text))))),
        h("p", { class: "quiet" }, "In planes and in space: arrow keys move or turn, + and − zoom, 0 shows all. The wheel works once the picture is clicked."),
        h("form", { method: "dialog" }, h("button", { autofocus: true }, "Close")));
    }
    if (box.open) box.close();
    else box.showModal();
  }

  function showSelected() {
    const box = document.getElementById("selected"), one = state.selected;
    if (!one) {
      box.classList.add("empty");
      box.replaceChildren(h("h2", {}, "Selected vesicle"), h("p", { class: "quiet" }, "Click a circle, a sphere, a dot or a card; or press N to go through the gallery."));
      return;
    }
    box.classList.remove("empty");
    box.setAttribute("data-verdict", Review.of(one));
    box.replaceChildren(
      h("div", { class: "heading" }, h("h2", {}, "Selected vesicle"),
        h("button", { type: "button", title: "Show its card (key G)", onclick: () => Gallery.show(one) }, "in the gallery")),
      ...Card.content(one).filter(Boolean));
  }

  // From the gallery to the planes and back.
  function swap() {
    const look = document.getElementById("look"), one = state.selected;
    const above = document.getElementById("gallery").getBoundingClientRect().top > window.innerHeight / 2;
    if (above && one) Gallery.show(one);
    else if (above) document.getElementById("gallery").scrollIntoView();
    else look.scrollIntoView();
  }

  const ACTIONS = {
    n: () => Gallery.go(1), p: () => Gallery.go(-1), ArrowRight: () => Gallery.go(1), ArrowLeft: () => Gallery.go(-1),
    k: () => Gallery.judge("keep"), r: () => Gallery.judge("reject"), u: () => Gallery.judge(""),
    g: swap, c: () => set("circles", !state.circles), j: () => set("rejected", !state.rejected),
    ".": () => Slices.step(1), ",": () => Slices.step(-1), x: () => Slices.turn(), f: () => Gallery.focusSearch(), "/": () => Gallery.focusSearch(),
    s: save, t: turnTheme, "?": help, Escape: () => select(null),
  };
  function onKey(event) {
    const typed = event.target.closest?.("input, select, textarea, dialog");
    if (event.ctrlKey || event.metaKey || event.altKey || event.defaultPrevented) return;
    if (typed) {
      if (event.key === "Escape" && typed.id === "search") typed.blur();
      if (typed.type !== "checkbox") return;
    }
    const action = ACTIONS[event.key.length === 1 ? event.key.toLowerCase() : event.key];
    if (!action) return;
    event.preventDefault();
    action();
  }

  on("verdict", (one) => { tellVerdicts(); if (!one || one === state.selected) showSelected(); });
  on("selected", showSelected);
  on("colour", showSelected);
  on("start", () => {
    head();
    tellVerdicts();
    showSelected();
    paintTheme(kept.get(THEME));
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => paintTheme());
    document.addEventListener("keydown", onKey);
  });
  emit("start");
  document.body.setAttribute("data-ready", "yes");
  return { help };
})();
