// The page of `headstart serve`. Every name of a file, class or model is set as text, never as HTML.

const IMAGES_A_REQUEST = 4; // A request is short, so that progress shows and others get their turn.
const BARS = { most: 10, least: 3, above: 0.001 }; // further classes on request
const BUSY_TRIES = 8;
const LONGEST_WAIT = 30; // seconds
const MULTIPART_BYTES = 1024; // The most that a form adds for one file; long names add to it.
const IMAGE_ENDINGS = /\.(avif|bmp|gif|hei[cf]|jfif|jpe?g|mpo|p[bgnp]m|png|tga|tiff?|webp)$/i;

const $ = (id) => document.getElementById(id);
const make = (tag, properties = {}, ...children) => {
  const element = Object.assign(document.createElement(tag), properties);
  element.append(...children);
  return element;
};
const say = (words) => { $("status").textContent = words; };
const counted = (count, one, many = `${one}s`) => `${count.toLocaleString("en")} ${count === 1 ? one : many}`;
const megabytes = (bytes, round) => `${round(bytes / 1e5) / 10} MB`;
const share = (value, digits = 1) => `${(100 * value).toFixed(digits)}\u00a0%`;
// No network is so sure of itself that 100 % would be true.
const percent = (value) => value >= 0.9995 ? "> 99.9\u00a0%" : value < 0.0005 ? "< 0.1\u00a0%" : share(value);

// Its message is a sentence for the user; `away`: the server did not answer at all.
class Problem extends Error {
  constructor(words, away = false) {
    super(words);
    this.away = away;
  }
}
// The server's remarks begin small and end without a stop, as a terminal's do.
const sentence = (words) => words.charAt(0).toUpperCase() + words.slice(1) + (/[.!?]$/.test(words) ? "" : ".");

let models = [], limits, model; // the last one: chosen
let token = remembered(), asking; // the last one: a promise of a token
let shown; // the item in the large view
let rows = [], leftOut = 0; // the items in the table, and how many files of dropped folders are no images
let running; // an AbortController while the table's images are sent

// --- The server ---

// A browser that keeps nothing refuses its storage: the token is asked for again then.
function remembered(given) {
  try {
    if (given) sessionStorage.setItem("token", given);
    return sessionStorage.getItem("token");
  } catch {
    return given;
  }
}

async function ask(address, { signal, ...options } = {}) {
  for (let tries = 1; ; tries++) {
    const used = token;
    let answer;
    try {
      answer = await fetch(address, { ...options, signal, headers: used ? { Authorization: `Bearer ${used}` } : {} });
    } catch (error) {
      if (signal?.aborted) throw error;
      throw new Problem("The server did not answer. Check that it runs and that you are online, then try again.", true);
    }
    if (answer.ok) return answer;
    if (answer.status === 401) {
      if (used === token) await newToken(used);
    } else if (answer.status === 503 && tries < BUSY_TRIES) {
      const seconds = Math.min(Math.max(Number(answer.headers.get("Retry-After")) || 1, 0.2), LONGEST_WAIT);
      say("The server is busy. The page tries again by itself.");
      document.body.classList.add("busy"); // The words can be seen, too.
      await pause(seconds, signal).finally(() => document.body.classList.remove("busy"));
    } else {
      const content = await answer.json().catch(() => ({}));
      throw new Problem(content.error ? sentence(content.error) : `The server answered with an error (status ${answer.status}).`);
    }
  }
}

const pause = (seconds, signal) => new Promise((resolve, reject) => {
  const timer = setTimeout(resolve, 1000 * seconds);
  signal?.addEventListener("abort", () => { clearTimeout(timer); reject(signal.reason); });
});

function newToken(refused) {
  $("refused").textContent = refused ? "The server did not accept this token." : "";
  return asking ??= new Promise((resolve) => {
    $("token").hidden = false;
    $("secret").value = "";
    $("secret").focus();
    $("token").onsubmit = (event) => {
      event.preventDefault();
      token = $("secret").value;
      remembered(token);
      $("token").hidden = true;
      asking = undefined;
      resolve();
    };
  });
}

async function load() {
  const found = await (await ask("/models")).json();
  ({ models, limits } = found);
  model = models.find((one) => one.name === model?.name) ?? models[0];
  drawModel();
}

// Fills in `answer` or `error` of each item. Throws what concerns no single image: an abort, and no answer at all.
async function classify(items, signal) {
  const asked = model, sent = [], parts = [];
  for (const item of items) {
    try { // Read first: a file that was moved or forbidden would look like a server that does not answer.
      parts.push(new Blob([await item.file.arrayBuffer()], { type: "application/octet-stream" }));
      sent.push(item);
    } catch {
      item.error = "The browser could not read this file. Choose it again.";
    }
  }
  if (!sent.length) return;
  let body = parts[0];
  if (parts.length > 1) {
    body = new FormData();
    parts.forEach((part, place) => body.append("image", part, sent[place].name));
  }
  try {
    const answer = await ask(`/predict?model=${encodeURIComponent(asked.name)}`, { method: "POST", body, signal });
    const { predictions, version } = await answer.json();
    if (asked.name !== model.name) return; // Another model was chosen meanwhile, and asked too.
    if (predictions.length !== sent.length) throw new Problem("The server answered for another number of images.");
    predictions.forEach((one, place) => {
      if (one.error) sent[place].error = sentence(one.error);
      else sent[place].answer = { ...one, model: asked.name, version };
    });
    if (version !== asked.version) await load(); // A newer run took its place.
  } catch (error) {
    if (signal?.aborted || error.away) throw error;
    for (const item of sent) item.error = error instanceof Problem ? error.message : "The page could not read the server's answer.";
  }
}

// --- Images ---

// An item: { file, name, url, answer, error, heat, row }.
function newItem(file, name = file.webkitRelativePath || file.name || "image") {
  const item = { file, name, url: URL.createObjectURL(file) };
  check(item);
  return item;
}

function check(item) {
  Object.assign(item, { answer: undefined, error: undefined });
  if (item.file.size === 0) item.error = "The file is empty.";
  else if (item.file.size > limits.bytes) {
    item.error = `The file has ${megabytes(item.file.size, Math.ceil)}. This server takes at most ${megabytes(limits.bytes, Math.floor)}: save the image smaller.`;
  }
}

function release(item) {
  if (!item || item === shown || rows.includes(item)) return;
  URL.revokeObjectURL(item.url);
  forgetHeat(item);
}

function forgetHeat(item) {
  if (item.heat) URL.revokeObjectURL(item.heat.url);
  item.heat = undefined;
  item.hot = false;
}

const wordsOf = (others) => others ? `${counted(others, "file is no image and was", "files are no images and were")} left out.` : "";

function add(items, others = 0) {
  if (!limits) return;
  if (items.length > 1) leftOut += others; // The table says so.
  problem(items.length > 1 ? "" : wordsOf(others) || (items.length ? "" : "There was no image in it. Choose a file, or copy an image and paste it."));
  if (items.length === 1) single(items[0]);
  else if (items.length) several(items);
}

function problem(words) {
  $("problem").textContent = words;
  if (words) $("problem").scrollIntoView({ block: "nearest" });
}

// Files, and the image files in folders, of something dropped.
async function dropped(transfer) {
  const files = [...transfer.files];
  const entries = [...transfer.items].map((item) => item.webkitGetAsEntry?.()).filter(Boolean);
  if (!entries.some((entry) => entry.isDirectory)) return add(files.map((file) => newItem(file)));
  const found = [];
  let others = 0;
  async function walk(entry, top) {
    if (entry.isFile) {
      const file = await new Promise((resolve, reject) => entry.file(resolve, reject));
      if (top || file.type.startsWith("image/") || IMAGE_ENDINGS.test(file.name)) found.push(newItem(file, entry.fullPath.slice(1)));
      else others++;
    } else {
      const reader = entry.createReader();
      for (;;) {
        const part = await new Promise((resolve, reject) => reader.readEntries(resolve, reject));
        if (!part.length) break;
        for (const one of part) await walk(one, false);
      }
    }
  }
  for (const entry of entries) await walk(entry, true);
  add(found, others);
}

// --- One image ---

async function single(item) {
  show(item);
  if (!item.error) {
    try {
      await classify([item]);
    } catch (error) {
      item.error = error.message;
    }
  }
  if (shown !== item) return;
  drawResult();
  say("");
  reveal("result", "verdict");
}

// Moves the focus to a heading, and scrolls so that as much as possible of its section can be seen.
function reveal(section, heading) {
  $(heading).focus({ preventScroll: true });
  $(section).scrollIntoView({ block: $(section).offsetHeight > innerHeight ? "start" : "nearest" });
}

function show(item) {
  const before = shown;
  shown = item;
  if (before !== item) release(before);
  $("result").hidden = false;
  document.body.classList.add("used");
  drawResult();
}

function drawResult() {
  const item = shown, { answer, error, heat, hot } = item;
  const image = $("image"), source = hot ? heat.url : item.url;
  if (image.getAttribute("src") !== source) {
    image.className = "";
    image.src = source;
  }
  image.alt = hot ? `Heat map over ${item.name}` : item.name;
  $("name").textContent = item.name;
  $("heat").hidden = !answer;
  $("heat").textContent = hot ? "Hide the heat map" : "Show the heat map";
  $("heat").setAttribute("aria-disabled", "false");
  heatWords(hot ? `The image as the model saw it, in colour where it saw evidence for ${heat.class}. Bright yellow is the strongest evidence, and grey is none. Method: ${heat.method}.`
    : answer ? "The heat map shows where the model saw evidence. The first one takes some seconds." : "");
  $("back").hidden = !item.row;
  $("verdict").className = answer || error ? "" : "waiting";
  $("verdict").replaceChildren(error ? "No answer" : !answer ? "Looking\u2009\u2026" : answer.rejected ? "Not sure" : make("bdi", { textContent: answer.class }));
  $("words").className = error ? "error" : "";
  $("words").replaceChildren(...(error ? [error] : answer ? verdict(answer) : []));
  drawBars(answer);
}

function verdict({ probabilities, probability, rejected, unlike }) {
  const strange = unlike ? " The image is unlike the training images." : "";
  if (!rejected) return [`with a probability of ${percent(probability)}${strange && "."}${strange}`];
  const [[name]] = Object.entries(probabilities).sort((a, b) => b[1] - a[1]);
  return ["The likeliest class is ", make("bdi", { textContent: name }), ` with ${percent(probability)}. This server wants at least ${share(model.reject_below, 0)}. The image may show something else.${strange}`];
}

function drawBars(answer, all = false) {
  const classes = Object.entries(answer?.probabilities ?? {}).sort((a, b) => b[1] - a[1]);
  const likely = classes.filter(([, value]) => value >= BARS.above).length;
  const most = all ? classes.length : Math.max(Math.min(likely, BARS.most), BARS.least);
  $("bars").className = answer?.rejected ? "unsure" : "";
  $("bars").replaceChildren(...classes.slice(0, most).map(([name, value]) => {
    const bar = make("i", { ariaHidden: "true" });
    bar.style.setProperty("--share", `${100 * value}%`);
    return make("li", {}, make("bdi", { textContent: name }), make("span", { textContent: percent(value) }), bar);
  }));
  const more = classes.length - most;
  $("more").hidden = more <= 0;
  $("more").textContent = counted(more, "more class", "more classes");
  $("more").onclick = () => {
    drawBars(answer, true);
    const next = $("bars").children[most];
    next.tabIndex = -1;
    next.focus();
  };
}

const heatWords = (words) => { $("heat-words").textContent = words; };

async function toggleHeat() {
  const item = shown, asked = model;
  if ($("heat").getAttribute("aria-disabled") === "true") return;
  if (!item.heat) {
    $("heat").setAttribute("aria-disabled", "true");
    $("heat").textContent = "Computing the heat map\u2009\u2026";
    say("Computing the heat map. The first one takes some seconds.");
    try {
      const answer = await ask(`/explain?model=${encodeURIComponent(asked.name)}`, { method: "POST", body: new Blob([item.file], { type: "application/octet-stream" }) });
      const header = (name) => decodeURIComponent(answer.headers.get(name) ?? "");
      const heat = { class: header("X-Class"), method: header("X-Method"), url: URL.createObjectURL(await answer.blob()) };
      if (asked.name !== model.name || (shown !== item && !rows.includes(item))) return URL.revokeObjectURL(heat.url);
      item.heat = heat;
    } catch (error) {
      if (shown !== item) return;
      drawResult();
      heatWords(error.message);
      return say(error.message);
    }
    if (shown !== item) return;
  }
  item.hot = !item.hot;
  drawResult();
  say(item.hot ? `Heat map shown. ${$("heat-words").textContent}` : "Heat map hidden.");
}

// --- Several images ---

function several(items) {
  for (const item of items) {
    const thumbnail = make("img", { src: item.url, alt: "", loading: "lazy", decoding: "async", width: 44, height: 44 });
    const open = make("button", { type: "button" }, thumbnail, make("span", {}, make("bdi", { textContent: item.name })));
    open.onclick = () => {
      show(item);
      reveal("result", "verdict");
    };
    item.row = make("tr", {}, make("th", { scope: "row" }, open));
    drawRow(item);
  }
  rows.push(...items);
  $("rows").append(...items.map((item) => item.row));
  $("batch").hidden = false;
  document.body.classList.add("used");
  drawBatch();
  reveal("batch", "batch-title");
  if (!running) work();
}

function drawRow(item) {
  const { answer, error } = item;
  const cells = [];
  if (answer) {
    const bar = make("span", { className: "bar", textContent: percent(answer.probability) });
    bar.style.setProperty("--share", `${100 * answer.probability}%`);
    const remarks = [answer.rejected && "not sure", answer.unlike && "unlike the training images"].filter(Boolean);
    cells.push(make("td", {}, make("bdi", { textContent: answer.class }), ...(remarks.length ? [make("small", { textContent: remarks.join(", ") })] : [])));
    cells.push(make("td", { className: "number" }, bar));
  } else cells.push(make("td", { colSpan: 2, className: error ? "error" : "note", textContent: error ?? "waiting" }));
  item.row.replaceChildren(item.row.firstChild, ...cells);
  if (item === shown) drawResult();
}

const waiting = () => rows.filter((item) => !item.answer && !item.error);

function drawBatch(words = "") {
  const left = waiting().length, failed = rows.filter((item) => item.error).length;
  $("batch-title").textContent = counted(rows.length, "image");
  $("progress").max = rows.length || 1;
  $("progress").value = rows.length - left;
  $("progress").hidden = !left;
  const done = left ? `${rows.length - left} of ${rows.length} done.` : "All done.";
  $("batch-words").textContent = [done, failed && `${counted(failed, "has", "have")} no answer.`, wordsOf(leftOut), words].filter(Boolean).join(" ");
  $("stop").hidden = !left;
  $("stop").textContent = running ? "Cancel" : "Go on";
  $("save").hidden = left === rows.length;
}

function nextRequest() {
  const request = [];
  let bytes = 0;
  for (const item of waiting()) {
    bytes += item.file.size + MULTIPART_BYTES + 3 * item.name.length;
    if (request.length && (bytes > limits.bytes || request.length >= Math.min(IMAGES_A_REQUEST, limits.images))) break;
    request.push(item);
  }
  return request;
}

async function work() {
  const own = running = new AbortController();
  let words = "";
  try {
    for (let request; (request = nextRequest()).length;) {
      drawBatch();
      await classify(request, own.signal);
      if (running !== own) return;
      request.forEach(drawRow);
    }
  } catch (error) {
    if (running !== own) return;
    words = own.signal.aborted ? "Cancelled." : error.message;
  }
  running = undefined;
  drawBatch(words);
  say($("batch-words").textContent);
}

function stopOrGoOn() {
  if (running) running.abort();
  else work();
}

function clearTable() {
  const before = rows;
  running?.abort();
  running = undefined;
  rows = [];
  leftOut = 0;
  for (const item of before) {
    item.row = undefined;
    release(item);
  }
  $("rows").replaceChildren();
  $("batch").hidden = true;
  if (shown) drawResult();
  $("choose").focus();
  say("The table is empty.");
}

// RFC 4180. An apostrophe keeps a spreadsheet from taking a cell for a formula.
function cell(value) {
  const text = String(value ?? "").replace(/^(?=[=+\-@\t\r])/, "'");
  return /[",\r\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
}

function save() {
  const lines = [["image", "class", "probability", "rejected", "unlike", "error", "model", "version"]];
  for (const { name, answer, error } of rows) {
    lines.push([name, answer?.class, answer?.probability, answer?.rejected, answer?.unlike, answer ? "" : error ?? "not sent", answer?.model, answer?.version]);
  }
  const text = lines.map((line) => `${line.map(cell).join(",")}\r\n`).join("");
  download(new Blob(["\ufeff", text], { type: "text/csv" }), "predictions.csv"); // The mark tells Excel that it is UTF-8.
  say("Saved as predictions.csv.");
}

function download(blob, name) {
  const url = URL.createObjectURL(blob);
  make("a", { href: url, download: name }).click();
  setTimeout(() => URL.revokeObjectURL(url), 10_000); // The browser reads it after the click.
}

// --- The model ---

function question(classes) {
  const listed = `${classes.slice(0, -1).join(", ")} or ${classes.at(-1)}?`;
  return classes.length <= 5 && listed.length <= 40 ? listed : `Which of ${classes.length.toLocaleString("en")} classes?`;
}

function drawModel() {
  const of = model, { classes, interval, test_images, image } = of;
  document.title = `${of.name} \u2013 Headstart`;
  $("choice").hidden = models.length < 2;
  $("models").replaceChildren(...models.map(({ name }) => make("option", { value: name, textContent: name, selected: name === of.name })));
  $("kicker").textContent = models.length < 2 ? of.name : "";
  $("title").replaceChildren(make("bdi", { textContent: question(classes) }));
  $("limits").textContent = `One image or many. Up to ${Math.floor(limits.bytes / 1e6) || megabytes(limits.bytes, Math.floor)}${limits.bytes >= 1e6 ? " MB" : ""} and ${Math.floor(limits.pixels / 1e6)} million pixels each.`;
  $("figures").replaceChildren(...[
    ["Accuracy", share(of.accuracy), `of ${counted(test_images, "test image")} are classified correctly. With 95\u00a0% confidence, the true accuracy lies between ${share(interval[0])} and ${share(interval[1])}`],
    ["Calibration error", `${(100 * of.calibration_error).toFixed(1)} points`, "how far its probabilities are from how often it is right, on average. At 0 points, 80 of 100 answers given with 80\u00a0% are right"],
    ["Trained on", of.trained_on, `${counted(classes.length, "class", "classes")}, seen at ${image.width} × ${image.height} pixels`],
    ["Network", of.backbone, `recipe ${of.recipe}, version ${of.version}`],
  ].map(([name, value, remark]) => make("div", {}, make("dt", { textContent: name }),
    make("dd", {}, make("b", { textContent: value, className: value.length > 16 ? "long" : "" }), make("span", { textContent: remark })))));
  $("caution").textContent = "These figures hold for images like those in training. The model knows only its own classes: it gives one of them to every image, "
    + (of.reject_below > 0 ? `and the page says \u201cnot sure\u201d where the probability is below ${share(of.reject_below, 0)}.` : "also to an image of something else.");
  $("report").hidden = !of.report;
  $("report").textContent = token ? "Save the report of its training" : "Read the report of its training";
  $("report").href = of.report ?? "";
  $("classes-title").textContent = classes.length === 1 ? "Its class" : `All ${classes.length.toLocaleString("en")} classes`;
  $("classes").replaceChildren(...classes.map((name) => make("li", {}, make("bdi", { textContent: name }))));
  $("curl").textContent = `curl --data-binary @image.jpg ${token ? '-H "Authorization: Bearer TOKEN" ' : ""}"${location.origin}/predict?model=${encodeURIComponent(of.name)}"`;
  for (const id of ["header", "work", "footer"]) $(id).hidden = false;
  drawExamples(of);
}

// A token is sent with requests of this script alone, so that an <img> with their address would stay empty.
async function drawExamples(of) {
  const found = await Promise.all(of.examples.map(async (one) => {
    const blob = await (await ask(one.image)).blob().catch(() => undefined);
    return blob && { blob, class: one.class };
  }).map((one) => one.catch(() => undefined)));
  if (of !== model) return;
  for (const old of $("examples").querySelectorAll("img")) URL.revokeObjectURL(old.src);
  $("examples").replaceChildren(...found.filter(Boolean).map(({ blob, class: name }, place) => {
    const image = make("img", { src: URL.createObjectURL(blob), alt: `Example ${place + 1}:`, width: 88, height: 88 });
    const button = make("button", { type: "button", title: name }, image, make("bdi", { textContent: name }));
    button.onclick = () => add([newItem(blob, `example ${place + 1}, labelled ${name}`)]);
    return make("li", {}, button);
  }));
  $("try").hidden = !found.some(Boolean);
}

async function chooseModel() {
  model = models.find((one) => one.name === $("models").value);
  running?.abort();
  running = undefined;
  for (const item of new Set([...rows, ...(shown ? [shown] : [])])) {
    forgetHeat(item);
    check(item);
    if (item.row) drawRow(item);
  }
  const item = shown;
  if (rows.length) work();
  drawModel();
  if (!item) return;
  drawResult();
  if (!rows.includes(item) && !item.error) {
    await classify([item]).catch((error) => { item.error = error.message; });
    if (shown !== item) return;
    drawResult();
    say(`${$("verdict").textContent} ${$("words").textContent}`);
  }
}

async function saveReport(event) {
  if (!token) return;
  event.preventDefault(); // A link carries no token.
  try {
    download(await (await ask(model.report)).blob(), `${model.name} report.html`);
  } catch (error) {
    problem(error.message);
  }
}

// --- What the user does ---

for (const id of ["files", "camera"]) {
  $(id).onchange = () => {
    const files = [...$(id).files];
    $(id).value = ""; // so that the same file can be chosen again
    add(files.map((file) => newItem(file)));
  };
}
$("choose").onclick = () => $("files").click();
$("photograph").onclick = () => $("camera").click();
$("heat").onclick = toggleHeat;
$("back").onclick = () => shown.row.querySelector("button").focus();
$("stop").onclick = stopOrGoOn;
$("save").onclick = save;
$("clear").onclick = clearTable;
$("models").onchange = chooseModel;
$("report").onclick = saveReport;
// Kinds that the server reads and this browser does not show, such as TIFF.
addEventListener("error", ({ target }) => target instanceof HTMLImageElement && target.classList.add("unseeable"), true);

addEventListener("dragover", (event) => {
  event.preventDefault(); // A file that is dropped beside the area would replace the page.
  document.body.classList.add("dragging");
});
addEventListener("dragleave", (event) => { if (!event.relatedTarget) document.body.classList.remove("dragging"); });
addEventListener("drop", (event) => {
  event.preventDefault();
  document.body.classList.remove("dragging");
  if (limits) dropped(event.dataTransfer).catch(() => problem("The browser could not read what was dropped."));
});
addEventListener("paste", (event) => {
  if (event.target instanceof HTMLInputElement || !limits) return;
  add([...event.clipboardData.files].map((file) => newItem(file)));
});

load().catch((error) => {
  problem(error instanceof Problem ? error.message : "The page could not read the server's answer. Load the page again.");
});
