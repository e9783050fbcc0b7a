// The Covariate shift tab. Names from event files are data: they become text nodes here, and
// figures come with their texts escaped for Plotly. Nothing is ever parsed as HTML.

const POLL = 5000; // ms between looks for something new
const OVERALL = ["heat_map", "worst_layers", "compared"];
const OF_LAYER = ["percentiles", "ridge"];
const OTHERS = ["gradient_shift", "landscape", "statistics_gap"];
const NEEDED = {
  gradient_shift: "gradient_shift", landscape: "beta_smoothness", statistics_gap: "mean_gap",
  percentiles: "percentile_50",
};

// `place` is the site of the row that was clicked, for the figures of its layer.
const chosen = {runs: null, measure: "", site: "", layer: "", place: "", dark: false};
const page = {};
let state = null;
let plotly = null; // the promise of Plotly's script
let drawing = 0; // the number of the newest draw; an older one stops where it is
let whole = false; // whether every figure stands, so that a layer's alone can be drawn anew
let asking = 0; // the number of the newest request for the state; what an older one finds is old
let waiting = false; // whether its answer is still to come

export async function render() {
  build();
  watchTheme();
  // The script takes as long as the first figure, which is asked for meanwhile.
  plotly = loaded("./plotly.js");
  plotly.catch(() => {}); // each figure says so
  await refresh(true);
  setInterval(() => { if (page.poll.checked && !document.hidden) refresh(false); }, POLL);
}

function element(tag, properties = {}, ...children) {
  const made = Object.assign(document.createElement(tag), properties);
  made.append(...children);
  return made;
}

function build() {
  document.documentElement.lang = "en";
  document.head.append(element("link", {rel: "stylesheet", href: "./tab.css"}));
  page.runs = element("fieldset", {}, element("legend", {textContent: "Runs"}));
  page.measure = element("select", {id: "measure"});
  page.site = element("select", {id: "site"});
  page.layer = element("select", {id: "layer"});
  page.poll = element("input", {type: "checkbox", checked: true, id: "poll"});
  page.refresh = element("button", {type: "button", textContent: "Refresh", id: "refresh"});
  page.status = element("p", {className: "note", id: "status"});
  page.main = element("main");
  const controls = element("aside", {}, page.runs,
    element("label", {}, "Measure", page.measure),
    element("label", {}, "Site", page.site),
    element("label", {}, "Layer", page.layer),
    element("label", {}, page.poll, " Follow the training"), page.refresh, page.status);
  controls.setAttribute("aria-label", "What is shown");
  document.body.append(element("div", {className: "kbn"}, controls, page.main));
  for (const name of ["measure", "site", "layer"]) {
    page[name].addEventListener("change", () => {
      chosen[name] = page[name].value;
      chosen.place = "";
      name === "layer" ? drawLayer() : refresh(true);
    });
  }
  page.refresh.addEventListener("click", () => refresh(true));
}

function loaded(source) {
  return new Promise((resolve, reject) => {
    const script = element("script", {src: source, onload: resolve});
    script.onerror = () => reject(new Error(`${source} was not served; TensorBoard's own output ` +
      "says why."));
    document.head.append(script);
  });
}

function watchTheme() {
  let outer = null;
  try { outer = window.parent.document.body; } catch { /* another origin */ }
  const look = () => {
    const dark = outer ? outer.classList.contains("dark-mode") : false;
    document.documentElement.classList.toggle("dark", dark);
    const changed = dark !== chosen.dark;
    chosen.dark = dark;
    if (changed && state) draw();
  };
  if (outer) new MutationObserver(look).observe(outer, {attributeFilter: ["class"]});
  look();
}

async function ask(path, extra = {}) {
  const query = new URLSearchParams();
  for (const run of chosen.runs ?? []) query.append("run", run);
  for (const [key, value] of Object.entries(extra)) if (value) query.set(key, value);
  const answer = await fetch(`./${path}?${query}`);
  const content = await answer.json();
  if (content && content.error) throw new Error(content.error);
  return content;
}

async function refresh(always) {
  if (waiting && !always) return;
  const number = ++asking;
  waiting = true;
  try {
    const found = await ask("state", {measure: chosen.measure});
    if (number !== asking) return;
    waiting = false;
    const same = state && JSON.stringify(found) === JSON.stringify(state);
    state = found;
    page.status.textContent = `Looked at ${new Date().toLocaleTimeString()}`;
    if (same && !always) return;
    fill();
    await draw();
  } catch (error) {
    if (number !== asking) return;
    waiting = false;
    state = null; // so that the next look draws, whatever it finds
    page.status.textContent = "";
    page.main.replaceChildren(told(`The tab cannot be drawn: ${error.message}`));
  }
}

function told(text) {
  const made = element("p", {className: "error", textContent: text});
  made.setAttribute("role", "alert");
  return made;
}

function fill() {
  // Where none of the chosen runs is there any more, all are shown.
  if (chosen.runs?.length && !chosen.runs.some(run => state.runs.includes(run))) chosen.runs = null;
  const boxes = state.runs.map(run => {
    const checked = chosen.runs === null || chosen.runs.includes(run);
    const box = element("input", {type: "checkbox", checked, value: run});
    box.addEventListener("change", () => {
      const checked = [...page.runs.querySelectorAll("input:checked")].map(one => one.value);
      chosen.runs = checked.length === state.runs.length ? null : checked; // those to come too
      refresh(true);
    });
    return element("label", {}, box, " ", run === "." ? "(the folder itself)" : run);
  });
  keepFocus(page.runs, () => page.runs.replaceChildren(
    element("legend", {textContent: `Runs (${state.runs.length})`}), ...boxes));
  options(page.measure, state.measures.map(one => [one.name, one.name, one.text]), state.measure);
  options(page.site, [["", "inputs, where there are"], ...state.sites.map(site => [site, site])],
    chosen.site);
  options(page.layer, [["", "all layers"], ...state.layers.map(layer => [layer, layer])],
    chosen.layer);
  chosen.measure = page.measure.value;
  chosen.site = page.site.value;
  chosen.layer = page.layer.value;
}

function keepFocus(holder, change) {
  const focused = holder.contains(document.activeElement) ? document.activeElement.value : null;
  change();
  if (focused === null) return;
  for (const box of holder.querySelectorAll("input")) if (box.value === focused) box.focus();
}

function options(select, entries, value) {
  select.replaceChildren(...entries.map(([key, text, title]) =>
    element("option", {value: key, textContent: text, title: title ?? ""})));
  select.value = entries.some(([key]) => key === value) ? value : entries[0]?.[0] ?? "";
  select.disabled = entries.length === 0;
}

async function draw() {
  const number = ++drawing;
  whole = false;
  const parts = [];
  if (state.skipped.length) parts.push(list("What could not be read", state.skipped, "skipped"));
  if (!state.runs.length) {
    page.main.replaceChildren(...parts, ...empty());
    document.body.dataset.drawn = String(number);
    return;
  }
  if (chosen.runs !== null && !chosen.runs.length) {
    page.main.replaceChildren(...parts, element("p", {textContent: "No run is chosen."}));
    document.body.dataset.drawn = String(number);
    return;
  }
  const names = [...OVERALL, ...OF_LAYER, ...OTHERS].filter(has);
  // What stands there stays until the new one is drawn, so that the page does not jump.
  parts.push(document.getElementById("verdict") ?? list("In words", [], "verdict"));
  parts.push(...names.map(name => document.getElementById(name) ?? holder(name)));
  page.main.replaceChildren(...parts);
  for (const name of names) {
    if (number !== drawing) return;
    await drawFigure(name, number);
    if (name === names[0]) {
      performance.mark("kbn:first-draw");
      await say();
    }
  }
  if (number !== drawing) return;
  whole = true;
  performance.mark("kbn:all-drawn");
  document.body.dataset.drawn = String(number);
}

async function say() {
  const points = page.main.querySelector("#verdict ul");
  try {
    const sentences = await ask("verdict");
    points.replaceChildren(...sentences.map(text => element("li", {textContent: text})));
  } catch (error) {
    points.replaceChildren(told(error.message));
  }
}

function has(name) {
  if (name === "ridge") return state.histograms;
  return !(name in NEEDED) || state.measures.some(one => one.name === NEEDED[name]);
}

function empty() {
  const others = state.foreign ? ` ${state.foreign} runs of others are here.` : "";
  return [
    element("h2", {textContent: "Nothing was recorded here yet"}),
    element("p", {textContent: `Add a callback to fit, with this log directory, and its records ` +
      `appear here while the model trains.${others}`}),
    element("pre", {textContent: state.hint}),
  ];
}

function list(title, sentences, id) {
  const points = sentences.map(text => element("li", {textContent: text}));
  return element("section", {id}, element("h2", {textContent: title}),
    element("ul", {}, ...points));
}

function holder(name) {
  const plot = element("div", {className: "plot"});
  plot.setAttribute("role", "img");
  plot.setAttribute("aria-label", state.figures[name].title);
  return element("section", {id: name},
    element("h2", {textContent: state.figures[name].title}),
    element("p", {className: "note"}), plot);
}

function explain(name) {
  const measure = state.measures.find(one => one.name === chosen.measure);
  const more = OVERALL.includes(name) && measure ? ` ${measure.name}: ${measure.text}` : "";
  return state.figures[name].text + more;
}

async function drawFigure(name, number) {
  const section = document.getElementById(name);
  const plot = section.querySelector(".plot");
  section.querySelector(".note").textContent = explain(name);
  try {
    if (name === "ridge" && !chosen.layer) {
      instead(plot, element("p", {textContent: "Choose a layer, here or by a click on a row of " +
        "the heat map."}));
      return;
    }
    const {measure, layer, dark} = chosen;
    const site = chosen.site || (OF_LAYER.includes(name) || name === "compared" ? chosen.place : "");
    const figure = await ask("figure", {name, measure, site, layer, dark: dark ? "1" : ""});
    await plotly;
    if (number !== drawing) return;
    const isNew = !plot.classList.contains("js-plotly-plot");
    if (isNew) plot.replaceChildren();
    await Plotly.react(plot, figure.data, figure.layout, {responsive: true, displaylogo: false});
    if (isNew && name === "heat_map") plot.on("plotly_click", picked);
  } catch (error) {
    if (number === drawing) instead(plot, told(error.message));
  }
}

function instead(plot, content) {
  window.Plotly?.purge(plot);
  plot.classList.remove("js-plotly-plot");
  plot.replaceChildren(content);
}

function picked(event) {
  const [point] = event.points;
  const place = point.data.meta?.[point.pointIndex?.[0] ?? point.pointNumber?.[0]];
  if (!place || !state.layers.includes(place[0])) return; // the model is no layer
  [chosen.layer, chosen.place] = place;
  page.layer.value = chosen.layer;
  drawLayer();
}

async function drawLayer() {
  if (!whole) await draw(); // with the layer's figures
  else await drawOfLayer();
  document.getElementById("percentiles")?.scrollIntoView({behavior: "smooth"});
}

async function drawOfLayer() {
  const number = ++drawing;
  for (const name of ["compared", ...OF_LAYER, "gradient_shift", "statistics_gap"].filter(has)) {
    if (number !== drawing) return;
    await drawFigure(name, number);
  }
  if (number === drawing) document.body.dataset.drawn = String(number);
}
