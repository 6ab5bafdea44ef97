// All spheres in space, drawn with three.js; without WebGL a message takes their place.

const Spheres = (() => {
  const { data, spheres, h, look, on, state, select, isDrawn } = Core;
  const { tomogram } = data;
  const size = tomogram.shape.map((n) => n * tomogram.voxel);
  const spot = (at) => at.map((value, axis) => (value + 0.5) * tomogram.voxel - size[axis] / 2);
  let view = null;

  function build(box) {
    const canvas = h("canvas"), wanted = { antialias: true, alpha: true };
    // Asked first, as three.js complains aloud.
    const context = canvas.getContext("webgl2", wanted);
    if (!context) throw new Error("no context");
    const renderer = new THREE.WebGLRenderer({ canvas, context, ...wanted });
    const scene = new THREE.Scene(), camera = new THREE.PerspectiveCamera(35, 1, 1, 100000);
    // Without a graphics card every triangle counts.
    const fine = spheres.length > 300 ? [18, 12] : [28, 20];
    const balls = new THREE.InstancedMesh(new THREE.SphereGeometry(1, ...fine), new THREE.MeshLambertMaterial(), Math.max(1, spheres.length));
    const halo = new THREE.Mesh(new THREE.SphereGeometry(1, 28, 20), new THREE.MeshBasicMaterial({ side: THREE.BackSide }));
    const edges = new THREE.LineSegments(new THREE.EdgesGeometry(new THREE.BoxGeometry(...size)), new THREE.LineBasicMaterial());
    const sun = new THREE.DirectionalLight(0xffffff, 2.2);
    sun.position.set(-0.4, 0.8, 1);
    camera.add(sun);
    scene.add(camera, new THREE.AmbientLight(0xffffff, 1.5), balls, halo, edges);
    const controls = new THREE.OrbitControls(camera, renderer.domElement);
    const letters = ["x", "y", "z"].map((text) => h("span", { class: "axis" }, text));
    renderer.domElement.tabIndex = 0;
    renderer.domElement.setAttribute("role", "application");
    renderer.domElement.setAttribute("aria-label", "All spheres; drag or use the arrow keys to turn, plus and minus to zoom, click to select");
    box.replaceChildren(renderer.domElement, ...letters);
    return { box, renderer, scene, camera, balls, halo, edges, controls, letters, shown: [], asked: false };
  }

  function home() {
    // So far off that the whole volume fits into the picture, whatever its proportions.
    const reach = Math.hypot(...size), half = (view.camera.fov * Math.PI) / 360;
    const narrow = Math.min(half, Math.atan(Math.tan(half) * view.camera.aspect));
    view.camera.position.set(0.42, -0.5, 1).normalize().multiplyScalar((0.45 * reach) / Math.sin(narrow));
    view.camera.near = reach / 200;
    view.camera.far = 12 * reach;
    view.controls.target.set(0, 0, 0);
    view.controls.update();
  }

  function fill() {
    if (!view) return;
    const matrix = new THREE.Matrix4(), colour = new THREE.Color();
    view.shown = spheres.filter(isDrawn);
    view.balls.count = view.shown.length;
    view.shown.forEach((one, i) => {
      const r = one.r * (state.colour === "change" && !one.change ? 0.4 : 1); // what did not change hides nothing
      matrix.makeScale(r, r, r).setPosition(...spot(one.at));
      view.balls.setMatrixAt(i, matrix);
      view.balls.setColorAt(i, colour.set(look(one).colour));
    });
    view.balls.instanceMatrix.needsUpdate = true;
    if (view.balls.instanceColor) view.balls.instanceColor.needsUpdate = true;
    view.balls.computeBoundingSphere();
    const one = state.selected;
    view.halo.visible = Boolean(one);
    if (one) {
      view.halo.position.set(...spot(one.at));
      view.halo.scale.setScalar(one.r * 1.18);
    }
    ask();
  }

  // Drawn when something changed, not all the time.
  function ask() {
    if (!view || view.asked) return;
    view.asked = true;
    requestAnimationFrame(() => {
      view.asked = false;
      const text = getComputedStyle(document.body).color;
      view.edges.material.color.set(text);
      view.edges.material.opacity = 0.45;
      view.edges.material.transparent = true;
      view.halo.material.color.set(text);
      view.renderer.render(view.scene, view.camera);
      const ends = [[size[0] / 2, -size[1] / 2, -size[2] / 2], [-size[0] / 2, size[1] / 2, -size[2] / 2], [-size[0] / 2, -size[1] / 2, size[2] / 2]];
      ends.forEach((end, axis) => {
        const seen = new THREE.Vector3(...end).multiplyScalar(1.06).project(view.camera);
        view.letters[axis].style.left = `${(seen.x + 1) * 50}%`;
        view.letters[axis].style.top = `${(1 - seen.y) * 50}%`;
      });
    });
  }

  function resize() {
    const { clientWidth: width, clientHeight: height } = view.box;
    if (!width || !height) return;
    view.renderer.setPixelRatio(Math.min(2, window.devicePixelRatio));
    view.renderer.setSize(width, height);
    view.camera.aspect = width / height;
    view.camera.updateProjectionMatrix();
    ask();
  }

  function pick(event) {
    const frame = view.renderer.domElement.getBoundingClientRect();
    const pointer = new THREE.Vector2(((event.clientX - frame.left) / frame.width) * 2 - 1, 1 - ((event.clientY - frame.top) / frame.height) * 2);
    const ray = new THREE.Raycaster();
    view.camera.updateMatrixWorld();
    ray.setFromCamera(pointer, view.camera);
    const [hit] = ray.intersectObject(view.balls);
    return hit ? view.shown[hit.instanceId] : null;
  }

  function turn(right, up) {
    const arm = view.camera.position.clone().sub(view.controls.target);
    const side = new THREE.Vector3().crossVectors(view.camera.up, arm).normalize();
    const steep = arm.angleTo(view.camera.up);
    arm.applyAxisAngle(view.camera.up, right);
    if (steep + up > 0.1 && steep + up < Math.PI - 0.1) arm.applyAxisAngle(side, up);
    view.camera.position.copy(view.controls.target).add(arm);
    view.controls.update();
  }

  function zoom(factor) {
    const arm = view.camera.position.clone().sub(view.controls.target).multiplyScalar(1 / factor);
    view.camera.position.copy(view.controls.target).add(arm);
    view.controls.update();
  }

  function listen() {
    const canvas = view.renderer.domElement;
    let down = null;
    canvas.addEventListener("pointerdown", (event) => (down = [event.clientX, event.clientY]));
    canvas.addEventListener("pointerup", (event) => {
      if (down && Math.hypot(event.clientX - down[0], event.clientY - down[1]) < 4) select(pick(event));
      down = null;
    });
    // The wheel zooms once the picture is clicked; until then the page scrolls.
    view.controls.enableZoom = false;
    canvas.addEventListener("wheel", (event) => {
      if (document.activeElement !== canvas && !event.ctrlKey) return;
      event.preventDefault();
      zoom(event.deltaY < 0 ? 1.12 : 1 / 1.12);
    }, { passive: false });
    canvas.addEventListener("keydown", (event) => {
      const actions = {
        ArrowLeft: () => turn(0.12, 0), ArrowRight: () => turn(-0.12, 0), ArrowUp: () => turn(0, 0.12), ArrowDown: () => turn(0, -0.12),
        "+": () => zoom(1.12), "=": () => zoom(1.12), "-": () => zoom(1 / 1.12), 0: home,
      };
      if (event.ctrlKey || event.metaKey || event.altKey || !actions[event.key]) return;
      event.preventDefault();
      event.stopPropagation();
      actions[event.key]();
    });
    view.controls.addEventListener("change", ask);
    canvas.addEventListener("webglcontextlost", (event) => { event.preventDefault(); fail(view.box); });
    new ResizeObserver(resize).observe(view.box);
  }

  function fail(box) {
    view = null;
    box.classList.add("failed");
    box.replaceChildren(h("p", { class: "quiet" }, "The spheres cannot be shown in space: this browser has no WebGL. ",
      "Everything else works without it."));
  }

  on("start", () => {
    const box = h("div", { class: "space3d", id: "canvas3d" });
    const hint = h("span", { class: "quiet" });
    const tell = () => (hint.textContent = `drag to turn, click to select${state.colour === "change" ? "; unchanged ones small" : ""}`);
    on("colour", tell);
    tell();
    const reset = h("button", { type: "button", title: "As at the beginning (0)", onclick: () => { if (view) home(); } }, "reset");
    document.getElementById("spheres").append(
      h("div", { class: "heading" }, h("h2", {}, "Spheres"), hint, reset), box);
    // Last of all, when the browser has nothing else to do: the rest of the page is there at once.
    const idle = window.requestIdleCallback || ((start) => setTimeout(start, 50));
    requestAnimationFrame(() => setTimeout(() => idle(() => {
      try {
        view = build(box);
        resize();
        home();
        listen();
        fill();
      } catch (error) {
        console.info(`no WebGL: ${error.message}`);
        fail(box);
      }
      box.setAttribute("data-ready", view ? "yes" : "no");
    }, { timeout: 2000 })));
  });
  on("drawn", fill);
  on("theme", ask);
  return { shown: () => (view ? view.shown.length : null), spot: project, camera: () => view && view.camera.position.toArray() };

  // Where a sphere is on the picture, pixels of its box.
  function project(one) {
    view.camera.updateMatrixWorld();
    const seen = new THREE.Vector3(...spot(one.at)).project(view.camera);
    return [((seen.x + 1) / 2) * view.box.clientWidth, ((1 - seen.y) / 2) * view.box.clientHeight];
  }
})();
