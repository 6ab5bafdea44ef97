// The head of the page: what was found, in which tomogram, by what.

const Summary = (() => {
  const { data, spheres, STATUS, AGREE, CHANGE, h, fixed, nm, several, on } = Core;
  const counted = spheres.filter((one) => one.counts);

  function quantile(sorted, q) {
    const at = (sorted.length - 1) * q, low = Math.floor(at);
    return sorted[low] + (at - low) * ((sorted[low + 1] ?? sorted[low]) - sorted[low]);
  }

  function figure(title, value, detail, hint) {
    return h("div", { class: "figure", title: hint }, h("dt", {}, title), h("dd", {}, value, h("small", {}, detail)));
  }

  function figures() {
    const { tomogram, run } = data;
    const radii = counted.map((one) => one.r).sort((a, b) => a - b);
    const mean = radii.reduce((sum, r) => sum + r, 0) / radii.length;
    const sd = Math.sqrt(radii.reduce((sum, r) => sum + (r - mean) ** 2, 0) / Math.max(1, radii.length - 1));
    const [nx, ny, nz] = tomogram.shape;
    const cut = counted.filter((one) => one.cut).length;
    const size = tomogram.shape.map((n) => fixed(n * tomogram.voxel, 0)).join(" × ");
    return h("dl", { class: "figures" },
      figure("vesicles", String(counted.length), cut ? `${cut} cut by a face of the volume` : "refined, doubtful and manual"),
      radii.length
        ? figure("outer radius, median", nm(quantile(radii, 0.5)), `5–95 %: ${fixed(quantile(radii, 0.05))} to ${nm(quantile(radii, 0.95))}`, "To the outer edge of the membrane")
        : figure("outer radius", "–", "no vesicles"),
      radii.length ? figure("mean ± SD", nm(mean, 2), `± ${nm(sd, 2)}, n = ${radii.length}`) : null,
      figure("voxel size", nm(tomogram.voxel, 3).replace(/0+ nm$/, " nm").replace(". nm", " nm"), tomogram.invert ? "contrast turned" : "dense is dark"),
      figure("tomogram", `${nx} × ${ny} × ${nz}`, `voxels (x, y, z); ${size} nm`),
      run && run.model ? figure("network", run.model, run.modelHash ? `sha256 ${run.modelHash}…` : "") : null,
    );
  }

  function bar(title, kinds, ofSphere, extra) {
    const numbers = Object.keys(kinds).map((kind) => [kind, spheres.filter((one) => ofSphere(one) === kind).length]);
    const present = numbers.filter(([, count]) => count);
    return h("div", { class: "bar" },
      h("h3", {}, title),
      h("div", { class: "stack", role: "img", "aria-label": present.map(([kind, count]) => `${count} ${kind}`).join(", ") },
        present.map(([kind, count]) => h("span", { style: `flex-grow:${count};background:${kinds[kind].colour}`, title: `${count} ${kind}` }))),
      h("ul", { class: "legend" }, present.map(([kind, count]) =>
        h("li", { title: kinds[kind].text }, h("i", { style: `color:${kinds[kind].colour}` }, kinds[kind].mark), h("b", {}, String(count)), ` ${kind}`)),
        extra));
  }

  function bars() {
    const { agreement, changes } = data;
    const score = agreement && h("li", { class: "plain" },
      `F1 ${fixed(agreement.f1, 3)}, precision ${fixed(agreement.precision, 3)}, recall ${fixed(agreement.recall, 3)}; `
      + `centres ${nm(agreement.delta_c_nm, 2)} off, radii ${agreement.radius_bias_nm > 0 ? "+" : ""}${nm(agreement.radius_bias_nm, 2)} (SD ${nm(agreement.radius_sd_nm, 2)})`);
    const unchanged = changes && h("li", { class: "plain" }, `${counted.filter((one) => !one.change).length} unchanged`);
    return h("div", { class: "bars" },
      bar("Status", STATUS, (one) => (one.kind === "vesicle" ? one.status : ""),
        data.unfitted ? h("li", { class: "plain" }, several(data.unfitted, "mark") + " could not be fitted") : null),
      agreement ? bar("Against the truth", AGREE, (one) => one.agree, score) : null,
      changes ? bar("Changed since the earlier table", CHANGE, (one) => one.change, unchanged) : null);
  }

  function table(rows, head) {
    return h("table", {}, h("thead", {}, h("tr", {}, head.map((text) => h("th", { scope: "col" }, text)))),
      h("tbody", {}, rows.map((row) => h("tr", { class: row[2] === true ? "changed" : null },
        row.slice(0, head.length).map((cell) => h("td", {}, String(cell)))))));
  }

  function details() {
    const { run, tilts } = data;
    if (!run) return h("p", { class: "run quiet" }, "No run record was given: settings and model are not known.");
    const changed = run.settings.filter((row) => row[2]).length;
    const notes = [...data.tomogram.notes, ...run.notes, `tilts taken: ${tilts.low} to ${tilts.high} degrees about ${tilts.axis} (${tilts.source})`];
    return h("details", { class: "run" },
      h("summary", {}, `Run: ${run.command}${run.after ? ` after ${run.after}` : ""}`
        + `, ${run.ended.slice(0, 16).replace("T", " ")} UTC; `
        + (changed ? `${several(changed, "setting")} not the default` : "all settings the defaults")),
      h("p", {}, h("code", {}, run.line)),
      h("div", { class: "columns" },
        h("div", {}, h("h3", {}, "Settings"), table(run.settings, ["setting", "value"])),
        h("div", {}, h("h3", {}, "Files"), table(run.inputs, ["input", "path", "sha256"]),
          h("h3", {}, "Versions"), table(run.versions, ["program", "version"])),
        h("div", {}, h("h3", {}, "Notes"), h("ul", {}, [...new Set(notes)].map((note) => h("li", {}, note))))));
  }

  on("start", () => {
    const warnings = data.run ? data.run.warnings : [];
    document.getElementById("summary").append(
      h("article", { class: "panel" },
        warnings.map((text) => h("p", { class: "note warning" }, h("b", {}, "Warning: "), text)),
        figures(), bars(), details()));
  });
  return { quantile };
})();
