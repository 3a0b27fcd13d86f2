// Sorting, searching and paging of the page of dialogues. Without it all rows are there, in one order.
"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const byId = (id) => document.getElementById(id);
  const list = byId("rows");
  const rows = Array.from(list.children, (article, place) => {
    const id = article.id.slice("row-".length);
    return { id, place, article, text: null, ...data.rows[id] };
  });
  const pagers = Array.from(document.querySelectorAll("nav.pages"));
  let order = [];
  let page = 0;

  const chosen = () => ({
    metric: Number(byId("metric").value || 0),
    first: Number(byId("first").value || 0),
    second: Number(byId("second").value || 0),
  });
  const score = (row, variant, metric) => row.scores[variant]?.[metric] ?? 0;
  const gap = (row, now) => score(row, now.first, now.metric) - score(row, now.second, now.metric);
  const points = (value) => `${value > 0 ? "+" : value < 0 ? "−" : "±"}${Math.abs(value).toFixed(1)}`;

  const orders = {
    difference: (now) => (a, b) => Math.abs(gap(b, now)) - Math.abs(gap(a, now)),
    win: (now) => (a, b) => gap(b, now) - gap(a, now),
    loss: (now) => (a, b) => gap(a, now) - gap(b, now),
    low: (now) => (a, b) => score(a, now.first, now.metric) - score(b, now.first, now.metric),
    flags: (now) => (a, b) => b.flags[now.first] - a.flags[now.first],
    row: () => (a, b) => Number(a.id) - Number(b.id),
  };
  const filters = {
    all: () => true,
    win: (row, now) => gap(row, now) > 0,
    loss: (row, now) => gap(row, now) < 0,
    flags: (row, now) => row.flags[now.first] > 0,
  };

  function contains(row, wanted) {
    row.text ??= row.article.textContent.toLowerCase();
    return row.text.includes(wanted);
  }

  function arrange() {
    const now = chosen();
    const wanted = byId("find").value.trim().toLowerCase();
    const kept = filters[byId("show").value];
    order = rows.filter((row) => kept(row, now) && (!wanted || contains(row, wanted)));
    const compare = orders[byId("order").value](now);
    order.sort((a, b) => compare(a, b) || a.place - b.place);
    tell(now);
  }

  function tell(now) {
    const [first, second] = [data.variants[now.first], data.variants[now.second]];
    const gaps = rows.map((row) => gap(row, now));
    const better = gaps.filter((value) => value > 0).length;
    const worse = gaps.filter((value) => value < 0).length;
    byId("tally").textContent = data.metrics.length
      ? `By ${data.metrics[now.metric]}, ${first} is better than ${second} in ${better}, worse in ${worse} and equal ` +
        `in ${rows.length - better - worse} of ${rows.length} dialogues.`
      : "";
  }

  function dress(row, now) {
    const value = gap(row, now);
    const place = row.article.querySelector(".gap");
    if (data.metrics.length) {
      const number = document.createElement("strong");
      number.textContent = points(value);
      place.replaceChildren(
        `${data.variants[now.first]} against ${data.variants[now.second]}: `, number,
        ` points of ${data.metrics[now.metric]}`,
      );
    }
    row.article.querySelector("details").open = byId("open").checked;
    const answers = Array.from(row.article.querySelectorAll(".answer")).slice(-data.variants.length);
    answers.forEach((answer, at) => answer.classList.toggle("chosen", at === now.first || at === now.second));
  }

  function draw() {
    const pages = Math.max(1, Math.ceil(order.length / data.perPage));
    page = Math.min(Math.max(page, 0), pages - 1);
    const start = page * data.perPage;
    const shown = order.slice(start, start + data.perPage);
    const now = chosen();
    shown.forEach((row) => dress(row, now));
    list.replaceChildren(...shown.map((row) => row.article));
    for (const pager of pagers) {
      pager.hidden = false;
      pager.querySelector("p").textContent = order.length
        ? `${start + 1}–${start + shown.length} of ${order.length}, page ${page + 1} of ${pages}`
        : "No dialogue is like that.";
      pager.querySelector("[data-step='-1']").disabled = page === 0;
      pager.querySelector("[data-step='1']").disabled = page === pages - 1;
    }
  }

  function restart() {
    page = 0;
    arrange();
    draw();
  }

  // A link to a row turns to its page; a row that is filtered out is shown all the same.
  function follow() {
    const id = /^#row-(\d+)$/.exec(location.hash)?.[1];
    if (id === undefined || !rows.some((row) => row.id === id)) return;
    if (!order.some((row) => row.id === id)) {
      byId("show").value = "all";
      byId("find").value = "";
      arrange();
    }
    page = Math.floor(order.findIndex((row) => row.id === id) / data.perPage);
    draw();
    byId(`row-${id}`).scrollIntoView();
  }

  const form = byId("controls");
  form.hidden = false;
  form.addEventListener("submit", (event) => event.preventDefault());
  form.addEventListener("change", restart);
  byId("find").addEventListener("input", restart);
  for (const pager of pagers) {
    pager.addEventListener("click", (event) => {
      const step = Number(event.target.dataset?.step || 0);
      if (!step) return;
      page += step;
      draw();
      pagers[0].scrollIntoView({ block: "start" });
      if (event.target.disabled) pager.querySelector("button:not(:disabled)")?.focus();
    });
  }
  window.addEventListener("hashchange", follow);
  restart();
  follow();
})();
