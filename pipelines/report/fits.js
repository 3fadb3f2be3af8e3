// The fits, as columns of the page's data; a row is an index into them. The selection and its order.

const page = JSON.parse(document.getElementById("data").textContent);
const columns = page.columns;
const everyRow = Array.from(columns.sample.keys());
const scoreIsMm = page.score.every((rule) => rule === "expected-error-mm");
const scoreName = scoreIsMm ? "Expected error, mm" : "Score";

// A facet is a column of few values; with nothing ticked it filters nothing. `bits`: a row may have several values.
const facets = [
  { name: "dataset", label: "Data set", words: page.datasets },
  { name: "reason", label: "Validity", words: page.reasons },
  { name: "source", label: "Made by", words: page.sources },
  { name: "changed", label: `Since “${page.before}”`, words: page.changes },
  { name: "start", label: "Best start", words: page.starts },
  { name: "run", label: "Run", words: page.runs.map((run) => run || "not known") },
  { name: "kinds", label: "Pictured as", words: page.kinds, bits: true },
].map((facet) => ({ ...facet, ticked: new Set() }));

const logarithmic = { to: (v) => Math.log(Math.max(v, 1e-3)), from: Math.exp };
const linear = { to: (v) => v, from: (v) => v };
const bothSigns = { to: Math.asinh, from: Math.sinh };

// A range is a column of numbers, with its histogram; bounds of null let everything through.
const ranges = [
  { name: "score", label: scoreName, scale: logarithmic },
  { name: "loss", label: "Loss, px²", scale: logarithmic },
  { name: "change", label: scoreIsMm ? "Change, mm" : "Change of score", scale: bothSigns },
  { name: "coverage", label: "Share of joints seen", scale: linear },
].map((range) => ({ ...range, low: null, high: null, bins: binsOf(range) }));

const search = { text: "" };
const order = { name: "picked", descending: false };
// What the page begins with: the random ones, as they are the most representative, then all others that are pictured.
columns.picked = columns.kinds.map((kinds) => (kinds & (1 << page.kinds.indexOf("random")) ? 0 : kinds ? 1 : 2));

function binsOf({ name, scale }) {
  const values = columns[name];
  const known = everyRow.filter((row) => values[row] !== null);
  if (!known.length) return null;
  let first = Infinity;
  let last = -Infinity;
  for (const row of known) {
    first = Math.min(first, scale.to(values[row]));
    last = Math.max(last, scale.to(values[row]));
  }
  if (last - first < 1e-9) return null; // there is nothing to choose from
  const count = 40;
  const of = new Int8Array(everyRow.length).fill(-1);
  for (const row of known) {
    of[row] = Math.min(count - 1, Math.floor((count * (scale.to(values[row]) - first)) / (last - first)));
  }
  return { count, of, edge: (place) => scale.from(first + ((last - first) * place) / count) };
}

function passesFacet(facet, row) {
  if (!facet.ticked.size) return true;
  const value = columns[facet.name][row];
  return facet.bits ? [...facet.ticked].some((bit) => value & (1 << bit)) : facet.ticked.has(value);
}

function passesRange(range, row) {
  if (range.low === null && range.high === null) return true;
  const value = columns[range.name][row];
  return value !== null && (range.low === null || value >= range.low) && (range.high === null || value <= range.high);
}

function passesSearch(row) {
  return !search.text || titleOf(row).includes(search.text) || wordsOf(row).includes(search.text);
}

// Rows that pass all filters, without regard to `besides`, a facet or a range: what ticking it could still find.
function chosenRows(besides = null) {
  const tests = [
    ...facets.filter((f) => f !== besides && f.ticked.size).map((f) => (row) => passesFacet(f, row)),
    ...ranges
      .filter((r) => r !== besides && (r.low !== null || r.high !== null))
      .map((r) => (row) => passesRange(r, row)),
    ...(search.text ? [passesSearch] : []),
  ];
  return tests.length ? everyRow.filter((row) => tests.every((test) => test(row))) : everyRow;
}

// A copy in order: rows without a value come last in both directions, and equal ones keep the order of their samples.
function sorted(rows) {
  const values = columns[order.name];
  const words = facets.find((facet) => facet.name === order.name)?.words;
  const value = words ? (row) => words[values[row]] : (row) => values[row];
  const sign = order.descending ? -1 : 1;
  return [...rows].sort((a, b) => {
    const [x, y] = [value(a), value(b)];
    if (x === null || y === null) return (x === null) - (y === null) || a - b;
    return x < y ? -sign : x > y ? sign : a - b;
  });
}

function valueCounts(facet, rows) {
  const counts = new Array(facet.words.length).fill(0);
  for (const row of rows) {
    const value = columns[facet.name][row];
    if (!facet.bits) counts[value] += 1;
    else for (let bit = 0; bit < counts.length; bit += 1) counts[bit] += (value >> bit) & 1;
  }
  return counts;
}

function binCounts(range, rows) {
  const counts = new Array(range.bins.count).fill(0);
  for (const row of rows) if (range.bins.of[row] >= 0) counts[range.bins.of[row]] += 1;
  return counts;
}

function titleOf(row) {
  return `${page.datasets[columns.dataset[row]]}/${columns.sample[row]}`;
}

function wordsOf(row) {
  return `${columns.image[row]} ${columns.name[row]}`.toLowerCase();
}

function hasFit(row) {
  return columns.loss[row] !== null;
}

function plain(value, digits = 3) {
  if (value === null || value === undefined) return "–";
  if (Math.abs(value) >= 1000) return Math.round(value).toLocaleString("en");
  return String(Number(value.toPrecision(digits)));
}

function asCsv(rows) {
  const names = ["dataset", "sample", "image", "name", "reason", "source", "score", "score_before", "loss", "loss_before"];
  const words = { dataset: page.datasets, reason: page.reasons, source: page.sources };
  const cell = (name, row) => {
    const value = words[name] ? words[name][columns[name][row]] : columns[name][row];
    return value === null ? "" : `"${String(value).replaceAll('"', '""')}"`;
  };
  return [names.join(","), ...rows.map((row) => names.map((name) => cell(name, row)).join(","))].join("\n") + "\n";
}
