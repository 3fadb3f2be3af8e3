// One fit, large: its pictures, its numbers, its neighbours, and its address.

function openFit(row) {
  view.open = row;
  showFit();
  if (!$("detail").open) $("detail").showModal();
  history.replaceState(null, "", `#fit=${titleOf(row)}`);
}

function showFit() {
  const row = view.open;
  const kinds = shownKinds(row);
  const kind = kinds.includes(view.kind) ? view.kind : kinds[0];
  const place = view.rows.indexOf(row);
  $("detail-title").textContent = titleOf(row);
  $("detail-place").textContent = place < 0 ? "" : `${(place + 1).toLocaleString("en")} of ${view.rows.length.toLocaleString("en")}`;
  $("stage").replaceChildren(panel(row, kind));
  $("stage").classList.toggle("bare", !view.keypoints);
  $("thumbnails").replaceChildren(
    ...kinds.map((name) => {
      const label = make("span", {}, `${PICTURES.indexOf(name) + 1} ${picturesOf(row) || name !== "photograph" ? LABELS[name] : "keypoints"}`);
      const button = make("button", { type: "button", "aria-pressed": String(name === kind), "data-kind": name }, panel(row, name), label);
      button.addEventListener("click", () => showKind(name));
      return button;
    }),
  );
  $("detail-note").textContent = picturesOf(row) ? "" : "Not among the pictured samples: drawn from its keypoints and joints.";
  $("numbers").replaceChildren(...factsOf(row).flatMap(([term, text]) => [make("dt", {}, term), make("dd", {}, text)]));
  $("previous-fit").disabled = place <= 0;
  $("next-fit").disabled = place < 0 || place + 1 >= view.rows.length;
  $("keypoints").setAttribute("aria-pressed", view.keypoints);
}

function factsOf(row) {
  const c = (name) => columns[name][row];
  const was = (name, unit) => {
    const [before, now] = [c(`${name}_before`), c(name)];
    if (before === now) return `${plain(now)}${unit}, as before`;
    return before === null ? `${plain(now)}${unit}` : `${plain(before)} → ${plain(now)}${unit}`;
  };
  const facts = [["image", c("image")], ["in its data set", c("name")], ["validity", page.reasons[c("reason")]]];
  if (hasFit(row)) {
    const run = page.runs[c("run")];
    facts.push(
      [scoreIsMm ? "expected error" : "score", was("score", scoreIsMm ? " mm" : "")],
      ["loss", was("loss", " px²")],
      ["made by", page.sources[c("source")] + (run ? `, run ${run}` : "") + (c("step") ? `, step ${c("step")}` : "")],
      ["best start", page.starts[c("start")]],
      ["improvements", String(c("improvements"))],
      ["share of joints seen", plain(c("coverage"), 2)],
      ["cost of the priors", `${plain(c("prior_cost"))} px²`],
      ["iterations", String(c("iterations"))],
    );
  }
  const kinds = page.kinds.filter((_, bit) => c("kinds") & (1 << bit));
  if (kinds.length) facts.push(["pictured as", kinds.join(", ")]);
  return facts;
}

function showKind(kind) {
  view.kind = kind;
  showFit();
  $("thumbnails").querySelector('[aria-pressed="true"]')?.focus();
}

function step(by) {
  const row = view.rows[view.rows.indexOf(view.open) + by];
  if (row === undefined) return;
  openFit(row);
  view.cursor = view.rows.indexOf(row);
}

function detailKeys(event) {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  const kind = PICTURES[Number(event.key) - 1];
  if (event.key === "ArrowRight") step(1);
  else if (event.key === "ArrowLeft") step(-1);
  else if (event.key.toLowerCase() === "k") toggleKeypoints();
  else if (kind && shownKinds(view.open).includes(kind)) showKind(kind);
  else return;
  event.preventDefault();
}

function toggleKeypoints() {
  view.keypoints = !view.keypoints;
  showFit();
}

function openFromAddress() {
  const wanted = decodeURIComponent(location.hash).replace("#fit=", "");
  const row = location.hash.startsWith("#fit=") ? everyRow.find((r) => titleOf(r) === wanted) : undefined;
  if (row !== undefined) openFit(row);
}
