"use strict";
// Texts of inputs and models are hostile: they only ever become textContent.
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const NO_ANSWER = data.unparseable;
  const ROW_HEIGHT = 40;
  const MARGIN_ROWS = 12;
  // row: [number, text, truth, teacher, asked, [answer per model], raw output, trained on, sure,
  //       [role and content of each turn before the text]]
  const [NUMBER, TEXT, TRUTH, TEACHER, ASKED, ANSWERS, RAW, TRAINED, SURE, HISTORY] = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9];
  const hasLabels = data.labels.length > 0;

  const element = (id) => document.getElementById(id);
  const make = (tag, text, className) => {
    const node = document.createElement(tag);
    if (text !== undefined) node.textContent = text;
    if (className) node.className = className;
    return node;
  };
  const [model, search, truth, answer, who, list, detail, count] = [
    "model", "search", "truth", "answer", "who", "list", "detail", "count",
  ].map(element);
  // Labels are chosen by their own filter; texts are searched with the inputs.
  const searched = (row) => (data.labels.length ? [row[TEXT]] : [row[TEXT], row[TRUTH], ...row[ANSWERS]]);
  const folded = data.rows.map((row) => searched(row).filter(Boolean).join("\n").toLowerCase());
  const leaking = new Set(data.leaks.map((at) => data.rows[at]));
  const sheet = make("div");
  list.append(sheet);
  let shown = [];
  let selected = 0;

  const answerOf = (row) => row[ANSWERS][Number(model.value)];
  const shownAnswer = (row) => answerOf(row) ?? NO_ANSWER;
  // Generated text is not right or wrong by being the same.
  const isJudged = (row) => data.judged && row[TRUTH] !== null;
  const isRight = (row) => isJudged(row) && answerOf(row) === row[TRUTH];
  const isWrong = (row) => isJudged(row) && answerOf(row) !== row[TRUTH];
  const teacherRight = (row) => row[ASKED] && row[TEACHER] === row[TRUTH];
  const WHO = {
    any: () => true,
    wrong: isWrong,
    right: isRight,
    only_model_wrong: (row) => isWrong(row) && teacherRight(row),
    only_teacher_wrong: (row) => isRight(row) && row[ASKED] && !teacherRight(row),
    both_wrong: (row) => isWrong(row) && row[ASKED] && !teacherRight(row),
    no_answer: (row) => answerOf(row) === null,
    disagree: (row) => row[ASKED] && answerOf(row) !== row[TEACHER],
    leaks: (row) => leaking.has(row),
    short: (row) => row[TRUTH] !== null && 2 * (answerOf(row) ?? "").length < row[TRUTH].length,
    long: (row) => row[TRUTH] !== null && (answerOf(row) ?? "").length > 2 * row[TRUTH].length,
  };

  function filter() {
    const wanted = search.value.trim().toLowerCase();
    const matches = WHO[who.value];
    shown = [];
    data.rows.forEach((row, at) => {
      if (truth.value && row[TRUTH] !== truth.value) return;
      if (answer.value && shownAnswer(row) !== answer.value) return;
      if (!matches(row)) return;
      if (wanted && !folded[at].includes(wanted)) return;
      shown.push(row);
    });
    selected = 0;
    list.scrollTop = 0;
    count.textContent = `${shown.length} of ${data.rows.length} inputs`;
    sheet.style.height = `${shown.length * ROW_HEIGHT}px`;
    markMatrix();
    draw();
  }

  // Only the rows in sight exist: 10,000 of them would take seconds to lay out.
  function draw() {
    const first = Math.max(0, Math.floor(list.scrollTop / ROW_HEIGHT) - MARGIN_ROWS);
    const fitting = Math.ceil(list.clientHeight / ROW_HEIGHT) + 2 * MARGIN_ROWS;
    const last = Math.min(shown.length, first + fitting);
    const rows = [];
    for (let at = first; at < last; at += 1) rows.push(drawRow(shown[at], at));
    sheet.replaceChildren(...rows);
    if (shown.length) list.setAttribute("aria-activedescendant", `row-${selected}`);
    else list.removeAttribute("aria-activedescendant");
    drawDetail();
  }

  function drawRow(row, at) {
    const node = make("div", undefined, "row");
    node.id = `row-${at}`;
    node.setAttribute("role", "option");
    node.setAttribute("aria-selected", String(at === selected));
    node.setAttribute("aria-setsize", String(shown.length));
    node.setAttribute("aria-posinset", String(at + 1));
    node.style.top = `${at * ROW_HEIGHT}px`;
    const state = isRight(row) ? "right" : isWrong(row) ? "wrong" : "";
    const mark = make("span", state === "right" ? "✓" : state === "wrong" ? "✗" : "·", state);
    mark.setAttribute("aria-label", state || "not judged");
    const given = hasLabels ? `${row[TRUTH] ?? "-"} → ${shownAnswer(row)}` : shownAnswer(row);
    const labels = make("span", given, "labels");
    labels.title = hasLabels ? "true label → answer" : "answer";
    const text = make("bdi", row[TEXT], "text");
    text.dir = "auto";
    node.append(mark, labels, text);
    node.addEventListener("click", () => select(at));
    return node;
  }

  function select(at) {
    if (!shown.length) return;
    selected = Math.max(0, Math.min(shown.length - 1, at));
    const top = selected * ROW_HEIGHT;
    if (top < list.scrollTop) list.scrollTop = top;
    const bottom = top + ROW_HEIGHT - list.clientHeight;
    if (bottom > list.scrollTop) list.scrollTop = bottom;
    draw();
  }

  function drawDetail() {
    const row = shown[selected];
    if (!row) {
      detail.replaceChildren(make("p", "No input matches these filters.", "soft"));
      return;
    }
    const text = make("p", row[TEXT], "text");
    text.dir = "auto";
    const table = make("table");
    const line = (name, value, right) => {
      const tr = make("tr");
      tr.append(make("th", name), make("td", value, right === null ? "" : right ? "right" : "wrong"));
      table.append(tr);
    };
    line(hasLabels ? "true label" : data.judged ? "truth" : "reference", row[TRUTH] ?? "unknown", null);
    if (row[ASKED]) line("teacher, in the dataset", row[TEACHER] ?? NO_ANSWER, isJudged(row) ? teacherRight(row) : null);
    data.models.forEach((name, at) => {
      line(name, row[ANSWERS][at] ?? NO_ANSWER, isJudged(row) ? row[ANSWERS][at] === row[TRUTH] : null);
    });
    if (row[SURE] !== null) line(`confidence of ${data.models[data.raw_model]}`, `${(100 * row[SURE]).toFixed(1)} %`, null);
    const before = row[HISTORY].map(([role, content]) => {
      const turn = make("p", `${role}: ${content}`, "soft turn");
      turn.dir = "auto";
      return turn;
    });
    const parts = [make("p", `Input ${row[NUMBER] + 1}${row[TRAINED] ? ", used for training" : ""}`, "soft"), ...before, text, table];
    if (row[RAW]) parts.push(make("h3", `Complete output of ${data.models[data.raw_model]}`), make("pre", row[RAW]));
    detail.replaceChildren(...parts);
  }

  function drawMatrix() {
    if (!hasLabels) return;
    const names = [...data.labels, NO_ANSWER];
    const counts = new Map();
    const totals = new Map();
    for (const row of data.rows) {
      if (row[TRUTH] === null) continue;
      const key = JSON.stringify([row[TRUTH], shownAnswer(row)]);
      counts.set(key, (counts.get(key) ?? 0) + 1);
      totals.set(row[TRUTH], (totals.get(row[TRUTH]) ?? 0) + 1);
    }
    const head = make("tr");
    head.append(make("th", "true ↓ answer →"), ...names.map((name) => make("th", name)), make("th", "total"));
    const rows = data.labels.filter((name) => totals.has(name)).map((name) => {
      const tr = make("tr");
      tr.append(make("th", name));
      for (const other of names) tr.append(matrixCell(name, other, counts, totals.get(name)));
      tr.append(make("td", String(totals.get(name)), "none"));
      return tr;
    });
    element("matrix").replaceChildren(head, ...rows);
  }

  function matrixCell(name, other, counts, total) {
    const number = counts.get(JSON.stringify([name, other])) ?? 0;
    const td = make("td", number ? undefined : "·", number ? "" : "none");
    if (!number) return td;
    const button = make("button", String(number));
    button.type = "button";
    button.dataset.truth = name;
    button.dataset.answer = other;
    button.title = `${number} of ${total} inputs with the true label ${name} were answered ${other}`;
    const shade = 0.15 + 0.55 * (number / total);
    button.style.background = `rgba(var(${name === other ? "--cell" : "--miss"}), ${shade})`;
    button.addEventListener("click", () => {
      const again = truth.value === name && answer.value === other;
      truth.value = again ? "" : name;
      answer.value = again ? "" : other;
      who.value = "any";
      filter();
      if (!again) element("errors").scrollIntoView({ block: "start" });
    });
    td.append(button);
    return td;
  }

  function markMatrix() {
    for (const button of document.querySelectorAll("#matrix button")) {
      const pressed = button.dataset.truth === truth.value && button.dataset.answer === answer.value;
      button.setAttribute("aria-pressed", String(pressed));
    }
  }

  const KEYS = {
    ArrowDown: () => selected + 1,
    ArrowUp: () => selected - 1,
    PageDown: () => selected + 10,
    PageUp: () => selected - 10,
    Home: () => 0,
    End: () => shown.length - 1,
  };
  list.addEventListener("keydown", (event) => {
    if (!KEYS[event.key] || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault();
    select(KEYS[event.key]());
  });
  document.addEventListener("keydown", (event) => {
    if (event.key !== "/" || /^(INPUT|SELECT|TEXTAREA)$/.test(event.target.tagName)) return;
    event.preventDefault();
    search.focus();
  });
  list.addEventListener("scroll", () => requestAnimationFrame(draw));
  window.addEventListener("resize", () => requestAnimationFrame(draw));
  search.addEventListener("input", filter);
  for (const control of [truth, answer, who]) control.addEventListener("change", filter);
  model.addEventListener("change", () => { drawMatrix(); filter(); });
  element("clear").addEventListener("click", () => {
    [search.value, truth.value, answer.value, who.value] = ["", "", "", "any"];
    filter();
    search.focus();
  });

  data.models.forEach((name, at) => model.append(new Option(name, String(at))));
  data.labels.forEach((name) => truth.append(new Option(name, name)));
  [...data.labels, NO_ANSWER].forEach((name) => answer.append(new Option(name, name)));
  model.value = String(data.raw_model);
  // Errors first; where there are none, an empty list would say nothing.
  if (data.rows.some(isWrong)) who.value = "wrong";
  drawMatrix();
  filter();
  document.body.dataset.ready = "true";
})();
