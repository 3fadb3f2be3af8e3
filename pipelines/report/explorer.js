// The part of the page in which fits are filtered, sorted and viewed.

const CARDS = 12;
const ROW_PX = 34;
const MOST_PRINTED = 200;
const $ = (id) => document.getElementById(id);
const view = { rows: [], first: 0, cursor: 0, table: false, open: null, kind: "now", keypoints: true, printing: false };

const tableColumns = [
  { name: "dataset", label: "data set", text: (row) => page.datasets[columns.dataset[row]] },
  { name: "sample", label: "sample", number: true, text: (row) => String(columns.sample[row]) },
  { name: "score", label: scoreIsMm ? "error, mm" : "score", number: true, text: (row) => plain(columns.score[row]) },
  { name: "change", label: "change", number: true, text: (row) => plain(columns.change[row], 2) },
  { name: "loss", label: "loss, px²", number: true, text: (row) => plain(columns.loss[row]) },
  { name: "coverage", label: "seen", number: true, text: (row) => plain(columns.coverage[row], 2) },
  { name: "source", label: "made by", text: (row) => page.sources[columns.source[row]] },
  { name: "improvements", label: "improved", number: true, text: (row) => String(columns.improvements[row]) },
  { name: "reason", label: "validity", text: (row) => page.reasons[columns.reason[row]] },
  { name: "image", label: "image", text: (row) => columns.image[row] },
];

// ---- filters ----

const refreshers = []; // each shows the present state in one control

function addFacet(facet) {
  if (valueCounts(facet, everyRow).filter((count) => count).length < 2 && facet.name !== "kinds") return;
  const boxes = facet.words.map((word, value) => {
    const box = make("input", { type: "checkbox", name: facet.name, value });
    const count = make("span", { class: "count" });
    box.addEventListener("change", () => {
      if (box.checked) facet.ticked.add(value);
      else facet.ticked.delete(value);
      update();
    });
    return { box, count, label: make("label", {}, box, make("span", {}, word), count) };
  });
  refreshers.push(() => {
    const counts = valueCounts(facet, chosenRows(facet));
    boxes.forEach(({ box, count, label }, value) => {
      box.checked = facet.ticked.has(value);
      count.textContent = counts[value].toLocaleString("en");
      label.hidden = !counts[value] && !box.checked;
    });
  });
  $("filters").append(make("fieldset", { class: "facet" }, make("legend", {}, facet.label), ...boxes.map((b) => b.label)));
}

function addRange(range) {
  if (!range.bins) return;
  const bars = Array.from({ length: range.bins.count }, (_, x) => [
    make("rect", { x, width: 0.9, class: "all" }),
    make("rect", { x, width: 0.9, class: "chosen" }),
  ]);
  const chart = make("svg", { viewBox: "0 0 40 12", preserveAspectRatio: "none", "aria-hidden": "true" }, ...bars.flat());
  const [low, high] = ["low", "high"].map((end) => {
    const input = make("input", { type: "number", step: "any", "aria-label": `${range.label}, ${end === "low" ? "from" : "to"}` });
    input.addEventListener("change", () => {
      range[end] = Number.isFinite(input.valueAsNumber) ? input.valueAsNumber : null;
      update();
    });
    return input;
  });
  brush(chart, range);
  const whole = binCounts(range, everyRow);
  const most = Math.max(...whole);
  const height = (count) => (count ? Math.max(12 * Math.sqrt(count / most), 0.4) : 0);
  refreshers.push(() => {
    const counts = binCounts(range, chosenRows());
    bars.forEach(([all, chosen], place) => {
      for (const [bar, count] of [[all, whole[place]], [chosen, counts[place]]]) {
        bar.setAttribute("y", 12 - height(count));
        bar.setAttribute("height", height(count));
      }
    });
    low.value = range.low ?? "";
    high.value = range.high ?? "";
    low.placeholder = plain(range.bins.edge(0), 2);
    high.placeholder = plain(range.bins.edge(range.bins.count), 2);
  });
  const bounds = make("div", { class: "bounds" }, low, "to", high);
  $("filters").append(make("fieldset", { class: "range", "data-name": range.name }, make("legend", {}, range.label), chart, bounds));
}

// Dragging over a histogram sets its bounds; a click without a drag clears them.
function brush(chart, range) {
  const placeOf = (event) => {
    const box = chart.getBoundingClientRect();
    return Math.min(1, Math.max(0, (event.clientX - box.left) / box.width)) * range.bins.count;
  };
  const rounded = (place) => Number(range.bins.edge(place).toPrecision(3));
  let from = null;
  chart.addEventListener("pointerdown", (event) => {
    from = placeOf(event);
    chart.setPointerCapture(event.pointerId);
  });
  chart.addEventListener("pointerup", (event) => {
    if (from === null) return;
    const [a, b] = [from, placeOf(event)].sort((x, y) => x - y);
    [range.low, range.high] = b - a < 0.5 ? [null, null] : [rounded(a), rounded(b)];
    from = null;
    update();
  });
}

function clearFilters() {
  for (const facet of facets) facet.ticked.clear();
  for (const range of ranges) range.low = range.high = null;
  search.text = $("search").value = "";
  update();
}

// ---- results ----

function update() {
  view.rows = sorted(chosenRows());
  view.first = view.cursor = 0;
  for (const refresh of refreshers) refresh();
  $("found").textContent = `${view.rows.length.toLocaleString("en")} of ${everyRow.length.toLocaleString("en")} samples`;
  $("table-scroll").scrollTop = 0;
  showResults();
}

function showResults() {
  $("cards").hidden = $("pager").hidden = view.table;
  $("table-scroll").hidden = !view.table;
  $("show-cards").setAttribute("aria-pressed", !view.table);
  $("show-table").setAttribute("aria-pressed", view.table);
  $("sort").value = order.name;
  $("descending").setAttribute("aria-pressed", order.descending);
  if (view.table) showTable();
  else showCards();
}

function showCards() {
  const shown = view.rows.slice(view.first, view.first + CARDS);
  $("cards").replaceChildren(...shown.map(card));
  if (!shown.length) $("cards").append(make("p", { class: "soft" }, "No sample passes these filters."));
  const last = view.first + shown.length;
  $("place").textContent = shown.length ? `${view.first + 1}–${last} of ${view.rows.length.toLocaleString("en")}` : "";
  $("previous-page").disabled = view.first === 0;
  $("next-page").disabled = last >= view.rows.length;
}

function card(row) {
  const kinds = shownKinds(row);
  const button = make(
    "button",
    { type: "button", class: "fit", "data-fit": titleOf(row) },
    make("span", { class: `strip of-${kinds.length}` }, ...kinds.map((kind) => panel(row, kind))),
    make("strong", {}, titleOf(row)),
    make("span", { class: "facts" }, describe(row)),
  );
  button.addEventListener("click", () => openFit(row));
  return button;
}

// Only the rows in sight exist; two empty rows keep the place of the others.
function showTable() {
  const scroll = $("table-scroll");
  const first = view.printing ? 0 : Math.max(0, Math.floor(scroll.scrollTop / ROW_PX) - 8);
  const count = view.printing ? MOST_PRINTED : Math.ceil(scroll.clientHeight / ROW_PX) + 16;
  const last = Math.min(view.rows.length, first + count);
  const spacer = (rows) => make("tr", { class: "spacer", "aria-hidden": "true" }, make("td", { style: `height: ${rows * ROW_PX}px` }));
  const reached = view.cursor >= first && view.cursor < last ? view.cursor : first; // by the Tab key
  const body = view.rows.slice(first, last).map((row, i) => tableRow(row, first + i, first + i === reached));
  const focused = $("table-body").contains(document.activeElement);
  $("table-body").replaceChildren(spacer(view.printing ? 0 : first), ...body, spacer(view.printing ? 0 : view.rows.length - last));
  if (focused) focusRow();
  $("table").setAttribute("aria-rowcount", view.rows.length + 1);
  for (const heading of $("table-head").children) {
    const sortedBy = heading.dataset.name === order.name;
    heading.setAttribute("aria-sort", sortedBy ? (order.descending ? "descending" : "ascending") : "none");
  }
}

function focusRow() {
  $("table-body").querySelector('[tabindex="0"]')?.focus({ preventScroll: true });
}

function tableRow(row, place, reached) {
  const cells = tableColumns.map(({ number, text }) => make("td", { class: number ? "number" : null, title: text(row) }, text(row)));
  const line = make("tr", { tabindex: reached ? 0 : -1, "data-fit": titleOf(row), "aria-rowindex": place + 2 }, ...cells);
  line.addEventListener("click", () => openFit(row));
  return line;
}

function moveCursor(place) {
  view.cursor = Math.min(Math.max(place, 0), view.rows.length - 1);
  const scroll = $("table-scroll");
  const top = view.cursor * ROW_PX;
  const height = scroll.clientHeight - ROW_PX; // the heading covers one row
  if (top < scroll.scrollTop) scroll.scrollTop = top;
  else if (top + ROW_PX > scroll.scrollTop + height) scroll.scrollTop = top + ROW_PX - height;
  showTable();
  focusRow();
}

function tableKeys(event) {
  const line = event.target.closest("tbody tr");
  if (!line) return;
  view.cursor = line.getAttribute("aria-rowindex") - 2;
  const page = Math.floor($("table-scroll").clientHeight / ROW_PX) - 2;
  const moves = { ArrowDown: 1, ArrowUp: -1, PageDown: page, PageUp: -page, Home: -Infinity, End: Infinity };
  if (event.key in moves) moveCursor(view.cursor + moves[event.key]);
  else if (event.key === "Enter") openFit(view.rows[view.cursor]);
  else return;
  event.preventDefault();
}

function sortBy(name) {
  // Another column begins with what one looks for first: numbers from the highest, words from A.
  const number = tableColumns.find((column) => column.name === name)?.number ?? true;
  order.descending = order.name === name ? !order.descending : number && !["sample", "picked"].includes(name);
  order.name = name;
  update();
}

// ---- start ----

function saveList() {
  const address = URL.createObjectURL(new Blob([asCsv(view.rows)], { type: "text/csv" }));
  make("a", { href: address, download: "fits.csv" }).click();
  setTimeout(() => URL.revokeObjectURL(address), 1000);
}

function listen() {
  const clicks = {
    "show-cards": () => { view.table = false; showResults(); },
    "show-table": () => { view.table = true; showResults(); },
    "previous-page": () => { view.first = Math.max(0, view.first - CARDS); showResults(); },
    "next-page": () => { view.first += CARDS; showResults(); },
    descending: () => { order.descending = !order.descending; update(); },
    clear: clearFilters,
    save: saveList,
    "previous-fit": () => step(-1),
    "next-fit": () => step(1),
    keypoints: toggleKeypoints,
    "close-fit": () => $("detail").close(),
  };
  for (const [id, action] of Object.entries(clicks)) $(id).addEventListener("click", action);
  $("search").addEventListener("input", () => { search.text = $("search").value.trim().toLowerCase(); update(); });
  $("sort").addEventListener("change", () => sortBy($("sort").value));
  $("table-scroll").addEventListener("scroll", () => requestAnimationFrame(showTable));
  $("table-scroll").addEventListener("keydown", tableKeys);
  $("detail").addEventListener("keydown", detailKeys);
  $("detail").addEventListener("click", (event) => { if (event.target === $("detail")) $("detail").close(); });
  $("detail").addEventListener("close", () => {
    history.replaceState(null, "", location.pathname + location.search);
    if (view.table) moveCursor(view.cursor);
  });
  addEventListener("hashchange", openFromAddress);
  addEventListener("beforeprint", () => { view.printing = true; showResults(); });
  addEventListener("afterprint", () => { view.printing = false; showResults(); });
  document.addEventListener("keydown", (event) => {
    if (event.key !== "/" || event.target.matches("input, select") || $("detail").open) return;
    event.preventDefault();
    $("search").focus();
  });
}

function start() {
  $("sort").append(make("option", { value: "picked" }, "pictured first"));
  for (const { name, label, number } of tableColumns) {
    const button = make("button", { type: "button" }, label);
    button.addEventListener("click", () => sortBy(name));
    $("table-head").append(make("th", { scope: "col", "data-name": name, class: number ? "number" : null }, button));
    $("sort").append(make("option", { value: name }, label));
  }
  facets.forEach(addFacet);
  ranges.forEach(addRange);
  listen();
  if (matchMedia("(min-width: 1000px)").matches) $("filter-box").open = true;
  update();
  openFromAddress();
}

start();
