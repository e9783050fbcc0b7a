// The Covariate shift tab. Names from event files are only inserted as text nodes, and the texts
// of figures are already escaped for Plotly. Nothing is parsed as HTML.

const POLL = 5000; // ms between requests for new data

// `place` is the site of the row that was clicked, for the figures of its layer.
const chosen = {runs: null, measure: "", site: "", layer: "", place: "", dark: false};
const page = {};
let state = null;
let plotly = null; // the promise of Plotly's script
let drawing = 0; // the number of the latest draw; older draws stop
let whole = false; // whether every figure is drawn, so that a new layer needs only its figures
let asking = 0; // the number of the latest request for the state; older answers are ignored
let waiting = false; // whether its answer has not arrived yet

export async function render() {
  build();
  watchTheme();
  // Loading the script takes as long as the first figure, so both are requested at the same time.
  plotly = loaded("./plotly.js");
  plotly.catch(() => {}); // each figure shows the error
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
    element("label", {}, page.poll, " Update during training"), page.refresh, page.status);
  controls.setAttribute("aria-label", "Controls");
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
    script.onerror = () => reject(new Error(`${source} could not be loaded; see the output of ` +
      "TensorBoard."));
    document.head.append(script);
  });
}

function watchTheme() {
  let outer = null;
  try { outer = window.parent.document.body; } catch { /* another origin */ }
  const apply = () => {
    const dark = outer ? outer.classList.contains("dark-mode") : false;
    document.documentElement.classList.toggle("dark", dark);
    const changed = dark !== chosen.dark;
    chosen.dark = dark;
    if (changed && state) draw();
  };
  if (outer) new MutationObserver(apply).observe(outer, {attributeFilter: ["class"]});
  apply();
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
    page.status.textContent = `Updated at ${new Date().toLocaleTimeString()}`;
    if (same && !always) return;
    fill();
    await draw();
  } catch (error) {
    if (number !== asking) return;
    waiting = false;
    state = null; // so that the next answer is always drawn
    page.status.textContent = "";
    page.main.replaceChildren(warning(`The tab cannot be drawn: ${error.message}`));
  }
}

function warning(text) {
  const made = element("p", {className: "error", textContent: text});
  made.setAttribute("role", "alert");
  return made;
}

function fill() {
  // If none of the chosen runs exists any more, show all runs.
  if (chosen.runs?.length && !chosen.runs.some(run => state.runs.includes(run))) chosen.runs = null;
  const boxes = state.runs.map(run => {
    const checked = chosen.runs === null || chosen.runs.includes(run);
    const box = element("input", {type: "checkbox", checked, value: run});
    box.addEventListener("change", () => {
      const checked = [...page.runs.querySelectorAll("input:checked")].map(one => one.value);
      chosen.runs = checked.length === state.runs.length ? null : checked; // null: new runs too
      refresh(true);
    });
    return element("label", {}, box, " ", state.names[run]);
  });
  keepFocus(page.runs, () => page.runs.replaceChildren(
    element("legend", {textContent: `Runs (${state.runs.length})`}), ...boxes));
  options(page.measure, state.measures.map(one => [one.name, one.name, one.text]), state.measure);
  options(page.site, [["", "inputs (default)"], ...state.sites.map(site => [site, site])],
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
  const figures = state.figures;
  // Keep each old figure until the new one is drawn, so that the page does not jump.
  parts.push(document.getElementById("verdict") ?? list("Findings", [], "verdict"));
  parts.push(...figures.map(figure => document.getElementById(figure.name) ?? holder(figure)));
  page.main.replaceChildren(...parts);
  for (const figure of figures) {
    if (number !== drawing) return;
    await drawFigure(figure, number);
    if (figure === figures[0]) {
      performance.mark("kbn:first-draw");
      await showFindings();
    }
  }
  if (number !== drawing) return;
  whole = true;
  performance.mark("kbn:all-drawn");
  document.body.dataset.drawn = String(number);
}

async function showFindings() {
  const points = page.main.querySelector("#verdict ul");
  try {
    const sentences = await ask("verdict");
    points.replaceChildren(...sentences.map(text => element("li", {textContent: text})));
  } catch (error) {
    points.replaceChildren(warning(error.message));
  }
}

function empty() {
  const others = state.foreign ? ` This folder contains ${state.foreign} other runs.` : "";
  return [
    element("h2", {textContent: "Nothing was recorded here yet"}),
    element("p", {textContent: `Pass a callback with this log directory to fit. Its records ` +
      `appear here while the model trains.${others}`}),
    element("pre", {textContent: state.hint}),
  ];
}

function list(title, sentences, id) {
  const points = sentences.map(text => element("li", {textContent: text}));
  return element("section", {id}, element("h2", {textContent: title}),
    element("ul", {}, ...points));
}

function holder({name, title}) {
  const plot = element("div", {className: "plot"});
  plot.setAttribute("role", "img");
  plot.setAttribute("aria-label", title);
  return element("section", {id: name},
    element("h2", {textContent: title}),
    element("p", {className: "note"}), plot);
}

function caption({text, options}) {
  const measure = state.measures.find(one => one.name === chosen.measure);
  return options.includes("measure") && measure ? `${text} ${measure.name}: ${measure.text}` : text;
}

// Returns the request for a figure: its name and the chosen values of its options.
function query({name, options}) {
  const {measure, layer, dark} = chosen;
  const site = chosen.site || (options.includes("layer") ? chosen.place : "");
  const given = Object.entries({measure, layer, site}).filter(([key]) => options.includes(key));
  return {name, ...Object.fromEntries(given), dark: dark ? "1" : ""};
}

async function drawFigure(wanted, number) {
  const section = document.getElementById(wanted.name);
  const plot = section.querySelector(".plot");
  section.querySelector(".note").textContent = caption(wanted);
  try {
    if (wanted.required.includes("layer") && !chosen.layer) {
      instead(plot, element("p", {textContent: "Choose a layer from the list, or click on a row " +
        "of the heat map."}));
      return;
    }
    const figure = await ask("figure", query(wanted));
    await plotly;
    if (number !== drawing) return;
    const isNew = !plot.classList.contains("js-plotly-plot");
    if (isNew) plot.replaceChildren();
    await Plotly.react(plot, figure.data, figure.layout, {responsive: true, displaylogo: false});
    if (isNew) plot.on("plotly_click", picked);
  } catch (error) {
    if (number === drawing) instead(plot, warning(error.message));
  }
}

function instead(plot, content) {
  window.Plotly?.purge(plot);
  plot.classList.remove("js-plotly-plot");
  plot.replaceChildren(content);
}

// Chooses the layer of the row that was clicked; only rows of layers have `meta`.
function picked(event) {
  const [point] = event.points;
  const place = point.data.meta?.[point.pointIndex?.[0] ?? point.pointNumber?.[0]];
  if (!place || !state.layers.includes(place[0])) return; // the model is not a layer
  [chosen.layer, chosen.place] = place;
  page.layer.value = chosen.layer;
  drawLayer();
}

async function drawLayer() {
  if (!whole) await draw(); // this includes the layer's figures
  else await drawOfLayer();
  const first = state.figures.find(figure => figure.group === "layer");
  if (first) document.getElementById(first.name)?.scrollIntoView({behavior: "smooth"});
}

async function drawOfLayer() {
  const number = ++drawing;
  for (const figure of state.figures.filter(figure => figure.options.includes("layer"))) {
    if (number !== drawing) return;
    await drawFigure(figure, number);
  }
  if (number === drawing) document.body.dataset.drawn = String(number);
}
