// Elements, pictures and drawings of a fit. Text stays text: nothing here parses HTML.

const SVG = "http://www.w3.org/2000/svg";
const PICTURES = ["photograph", "before", "now", "side"];
const LABELS = { photograph: "photograph", before: `fit as of “${page.before}”`, now: "fit now", side: "from the side" };

function make(tag, attributes = {}, ...children) {
  const element = ["svg", "line", "circle", "rect", "g"].includes(tag)
    ? document.createElementNS(SVG, tag)
    : document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value !== null && value !== undefined && value !== false) element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children);
  return element;
}

// The data: addresses of a row's pictures by what they show, or null if it is not pictured. Read when first asked for.
function picturesOf(row) {
  const element = document.getElementById(`pictures-${columns.dataset[row]}-${columns.sample[row]}`);
  return element && JSON.parse(element.textContent);
}

let jointSteps = null;
function jointsOf(row) {
  const { count, steps_per_px: steps, missing, base64 } = page.joints;
  if (!jointSteps) {
    const text = atob(base64);
    const bytes = new Uint8Array(text.length);
    for (let i = 0; i < text.length; i += 1) bytes[i] = text.charCodeAt(i);
    jointSteps = new Int16Array(bytes.buffer);
  }
  const at = (place) => {
    const value = jointSteps[row * 7 * count + place];
    return value === missing ? null : value / steps;
  };
  const points = (first, width) =>
    Array.from({ length: count }, (_, j) => {
      const point = Array.from({ length: width }, (_, k) => at(first + j * width + k));
      return point.includes(null) ? null : point;
    });
  return { keypoints: points(0, 2), now: points(2 * count, 3), before: points(5 * count, 2) };
}

function bonesOf(points, kind) {
  const lines = page.bones
    .filter(([a, b]) => points[a] && points[b])
    .map(([a, b, side]) => {
      const [p, q] = [points[a], points[b]];
      return make("line", { x1: p[0], y1: p[1], x2: q[0], y2: q[1], class: `bone ${side}` });
    });
  return make("g", { class: kind }, ...lines);
}

function dotsOf(points) {
  const dots = points.flatMap((point, joint) =>
    point ? [make("circle", { cx: point[0], cy: point[1], r: 2.4, class: `dot ${page.joints.sides[joint]}` })] : [],
  );
  return make("g", { class: "keypoints" }, ...dots);
}

// The square around the crop that pictures show, in the crop's pixels.
function viewBox() {
  const side = page.joints.crop_px * page.surroundings;
  const corner = (page.joints.crop_px - side) / 2;
  return `${corner} ${corner} ${side} ${side}`;
}

function keypointsOver(row) {
  const { keypoints } = jointsOf(row);
  return make("svg", { viewBox: viewBox(), class: "over", "aria-hidden": "true" }, bonesOf(keypoints, "keypoints"), dotsOf(keypoints));
}

// Of a row that is not pictured: its joints from the front, or turned by 90° about the vertical.
function drawingOf(row, kind) {
  const { keypoints, now, before } = jointsOf(row);
  const middle = page.joints.crop_px / 2;
  const turned = now.map((p) => p && [middle + p[2], p[1]]);
  const layers = {
    photograph: [bonesOf(keypoints, "keypoints"), dotsOf(keypoints)],
    before: [bonesOf(before, "body before"), dotsOf(keypoints)],
    now: [bonesOf(now, "body now"), dotsOf(keypoints)],
    side: [bonesOf(turned, "body now")],
  };
  return make("svg", { viewBox: viewBox(), class: "drawing", role: "img", "aria-label": altOf(row, kind) }, ...layers[kind]);
}

function altOf(row, kind) {
  return `${titleOf(row)}: ${kind === "photograph" && !picturesOf(row) ? "keypoints" : LABELS[kind]}`;
}

// What a row can show: of its pictures, or else of its drawings.
function shownKinds(row) {
  const pictures = picturesOf(row);
  if (pictures) return PICTURES.filter((kind) => pictures[kind]);
  if (!hasFit(row)) return ["photograph"];
  return PICTURES.filter((kind) => kind !== "before" || columns.score_before[row] !== null);
}

// One panel; over a photograph the keypoints are a separate drawing, so that they can be hidden.
function panel(row, kind) {
  const pictures = picturesOf(row);
  const parts = pictures
    ? [make("img", { src: pictures[kind], alt: altOf(row, kind) }), ...(kind === "side" ? [] : [keypointsOver(row)])]
    : [drawingOf(row, kind)];
  return make("span", { class: `panel ${kind}` }, ...parts);
}

function describe(row) {
  const change = columns.change[row];
  const unit = scoreIsMm ? " mm" : "";
  const parts = [];
  if (hasFit(row)) {
    const was = change === null || change === 0 ? "" : `${plain(columns.score_before[row])} → `;
    parts.push(`${scoreIsMm ? "expected error" : "score"} ${was}${plain(columns.score[row])}${unit}`);
    parts.push(`loss ${plain(columns.loss[row])} px²`, `${page.sources[columns.source[row]]} fit`);
  }
  if (page.reasons[columns.reason[row]] !== "valid") parts.push(page.reasons[columns.reason[row]]);
  return parts.join(" · ");
}
