// The user's verdicts: kept in this browser while the page is used, saved as JSON for `deepvesicle fix --review`.

const Review = (() => {
  const { data, spheres, on, emit, toast, kept, h, several } = Core;
  const KEY = `deepvesicle review ${data.tomogram.name} ${data.table} ${data.made}`;
  const byId = new Map(spheres.filter((one) => one.kind === "vesicle").map((one) => [one.id, one]));
  const verdicts = new Map();
  const stem = (data.table || data.tomogram.name).replace(/\.[^.]*$/, "").replace(/_vesicles$/, "");
  const fileName = `${stem}_review.json`;

  const of = (one) => (one && one.kind === "vesicle" ? verdicts.get(one.id) || "" : "");
  const canJudge = (one) => Boolean(one) && one.kind === "vesicle";

  function judge(one, verdict) {
    if (!canJudge(one)) return;
    if (verdict && of(one) !== verdict) verdicts.set(one.id, verdict);
    else verdicts.delete(one.id);
    remember();
    emit("verdict", one);
  }

  function counts() {
    const all = [...verdicts.values()];
    return { keep: all.filter((v) => v === "keep").length, reject: all.filter((v) => v === "reject").length };
  }

  function asJson() {
    const decisions = [...verdicts].sort((a, b) => a[0] - b[0]).map(([id, decision]) => {
      const [x, y, z] = byId.get(id).at;
      return { id, decision, centre_vox: { x, y, z } };
    });
    return {
      format: "deepvesicle review",
      version: 1,
      tomogram: { name: data.tomogram.name, shape_xyz: data.tomogram.shape, voxel_nm: data.tomogram.voxel },
      table: data.table,
      saved: new Date().toISOString(),
      decisions,
    };
  }

  function save() {
    const url = URL.createObjectURL(new Blob([JSON.stringify(asJson(), null, 1) + "\n"], { type: "application/json" }));
    h("a", { href: url, download: fileName }).click();
    setTimeout(() => URL.revokeObjectURL(url), 10000);
    const model = `${stem}_vesicles.mod`;
    toast(
      h("strong", {}, `${several(verdicts.size, "verdict")} saved as ${fileName}.`), " Apply with",
      h("code", {}, `deepvesicle fix ${data.tomogram.name} ${model} --review ${fileName}`),
    );
  }

  async function load(file) {
    try {
      const content = JSON.parse(await file.text());
      if (content.format !== "deepvesicle review") throw new Error("it is no review");
      const shape = content.tomogram.shape_xyz;
      if (shape.some((n, axis) => n !== data.tomogram.shape[axis])) throw new Error("it is of another tomogram");
      const known = content.decisions.filter((one) => byId.has(one.id) && ["keep", "reject"].includes(one.decision));
      known.forEach((one) => verdicts.set(one.id, one.decision));
      remember();
      emit("verdict", null);
      const left = content.decisions.length - known.length;
      toast(`${several(known.length, "verdict")} loaded${left ? `, ${left} of vesicles that are not in this report left out` : ""}.`);
    } catch (error) {
      toast(h("strong", {}, `${file.name} cannot be used:`), ` ${error.message}`);
    }
  }

  function clear() {
    verdicts.clear();
    remember();
    emit("verdict", null);
  }

  const remember = () => kept.put(KEY, verdicts.size ? JSON.stringify([...verdicts]) : null);
  function recall() {
    try {
      for (const [id, verdict] of JSON.parse(kept.get(KEY) || "[]")) if (byId.has(id)) verdicts.set(id, verdict);
    } catch { verdicts.clear(); }
    if (verdicts.size) emit("verdict", null);
  }

  on("start", recall);
  return { of, canJudge, judge, counts, save, load, clear, asJson, fileName };
})();
