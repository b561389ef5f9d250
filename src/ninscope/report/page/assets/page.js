// What the page does by itself: draw its charts, show and save its tables. It reads nothing but this file.
"use strict";
(() => {
  const byId = (id) => document.getElementById(id);

  // ---- what is stored in the page
  const unpack = async (id) => {
    const bytes = Uint8Array.from(atob(byId(id).textContent), (character) => character.charCodeAt(0));
    const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
    return new Response(stream).text();
  };
  const unpacked = new Map();
  const once = (id, read) => {
    if (!unpacked.has(id)) unpacked.set(id, unpack(id).then(read));
    return unpacked.get(id);
  };
  const save = (name, type, text) => {
    const link = document.createElement("a");
    const address = URL.createObjectURL(new Blob([text], { type }));
    link.href = address;
    link.download = name;
    link.click();
    setTimeout(() => URL.revokeObjectURL(address), 10000);
  };

  // ---- charts
  const figures = [...document.querySelectorAll("figure[data-chart]")];
  const views = new Map();
  const drawings = new Map();

  // Rows of its own for every chart: Vega writes into them.
  const rowsOf = (columns) => {
    const names = Object.keys(columns);
    const lists = names.map((name) => {
      const { texts, which } = columns[name];
      return which ? which.map((place) => texts[place]) : columns[name];
    });
    const count = names.length ? lists[0].length : 0;
    const rows = new Array(count);
    for (let number = 0; number < count; number += 1) {
      const row = {};
      for (let column = 0; column < names.length; column += 1) row[names[column]] = lists[column][number];
      rows[number] = row;
    }
    return rows;
  };

  // A slider goes over numbers of steps (charts.py: step_slider); what stands beside it is the step itself.
  const tellSteps = (figure, view) => {
    const { signals } = view.getState({ signals: (name) => /Steps$/.test(name), data: () => false });
    for (const slider of figure.querySelectorAll(".controls input[type=range]")) {
      const steps = signals[`${slider.name}Steps`];
      if (!steps) continue;
      const told = document.createElement("output");
      const tell = (_, number) => {
        told.textContent = steps[number].toLocaleString("en");
        slider.setAttribute("aria-valuetext", `step ${told.textContent}`);
      };
      slider.nextElementSibling.replaceWith(told); // Vega's own, which shows the number
      view.addSignalListener(slider.name, tell);
      tell(slider.name, view.signal(slider.name));
    }
  };

  const drawNow = async (figure) => {
    const canvas = figure.querySelector(".canvas");
    const description = canvas.getAttribute("aria-label");
    try {
      const { spec, data } = (await once("specs", JSON.parse)).charts[figure.dataset.chart];
      const datasets = {};
      for (const name of data) {
        if (byId(name)) datasets[name] = rowsOf(await once(name, JSON.parse));
      }
      const result = await vegaEmbed(canvas, { ...spec, datasets }, {
        mode: "vega-lite",
        ast: true, // expressions are interpreted: the page's policy forbids eval
        renderer: "svg",
        actions: false,
        defaultStyle: false,
        bind: figure.querySelector(".controls"),
        tooltip: { disableDefaultStyle: true },
      });
      views.set(figure, result.view);
      tellSteps(figure, result.view);
      // Vega takes the description away, and has a screen reader go through every tick and entry of a legend.
      canvas.setAttribute("role", "img");
      canvas.setAttribute("aria-label", description);
      canvas.removeAttribute("aria-roledescription");
      figure.dataset.state = "drawn";
      const drawing = figure.querySelector(".drawing");
      if (drawing.scrollWidth > drawing.clientWidth) drawing.tabIndex = 0;
    } catch (error) {
      figure.dataset.state = "failed";
      canvas.textContent = `This chart could not be drawn: ${error.message}`;
      console.error(`chart ${figure.dataset.chart}:`, error);
    }
  };
  // One after the other, so that the page answers meanwhile.
  let last = Promise.resolve();
  const draw = (figure) => {
    if (!drawings.has(figure)) {
      last = last.then(() => drawNow(figure));
      drawings.set(figure, last);
    }
    return drawings.get(figure);
  };
  const drawAll = () => Promise.all(figures.map(draw));

  const observer = new IntersectionObserver((entries) => {
    for (const entry of entries) {
      if (entry.isIntersecting) {
        observer.unobserve(entry.target);
        draw(entry.target);
      }
    }
  }, { rootMargin: "800px 0px" });

  const colour = (colours) => (text, name) => colours[name] ?? "#000";
  const saveChart = async (figure) => {
    await draw(figure);
    const view = views.get(figure);
    if (!view) return;
    const { colours } = await once("specs", JSON.parse);
    const svg = (await view.toSVG()).replace(/var\(--([\w-]+)\)/g, colour(colours));
    const ground = svg.replace(/^(<svg[^>]*>)/, `$1<rect width="100%" height="100%" fill="${colours.paper}"/>`);
    save(`${figure.dataset.chart}.svg`, "image/svg+xml", ground);
  };
  for (const figure of figures) {
    observer.observe(figure);
    figure.querySelector(".controls").addEventListener("submit", (event) => event.preventDefault());
    figure.querySelector(".save").addEventListener("click", () => saveChart(figure));
  }

  // The rest is drawn when there is time for it, so that it is there on paper and for who searches the page.
  const whenIdle = window.requestIdleCallback ?? ((work) => setTimeout(work, 50));
  const drawNext = () => {
    const next = figures.find((figure) => !drawings.has(figure));
    if (next) draw(next).then(() => whenIdle(drawNext));
    else drawAll().then(() => { document.documentElement.dataset.drawn = "all"; });
  };

  // ---- paper
  const closed = [];
  const openDetails = () => {
    for (const details of document.querySelectorAll("details:not([open])")) {
      details.open = true;
      closed.push(details);
    }
  };
  window.addEventListener("beforeprint", () => {
    openDetails();
    drawAll();
  });
  window.addEventListener("afterprint", () => {
    while (closed.length) closed.pop().open = false;
  });
  byId("print").addEventListener("click", async () => {
    await drawAll();
    window.print();
  });

  // ---- tables
  const choice = byId("table-choice");
  const status = byId("table-status");

  // RFC 4180: fields in quotes may hold commas, line ends and doubled quotes.
  const parsedCsv = (text) => {
    const rows = [];
    let row = [];
    let position = 0;
    while (position < text.length) {
      let field;
      if (text[position] === '"') {
        let end = text.indexOf('"', position + 1);
        while (text[end + 1] === '"') end = text.indexOf('"', end + 2);
        field = text.slice(position + 1, end).replaceAll('""', '"');
        position = end + 1;
      } else {
        const start = position;
        while (position < text.length && text[position] !== "," && text[position] !== "\n") position += 1;
        field = text.slice(start, position);
      }
      row.push(field);
      if (text[position] !== ",") {
        rows.push(row);
        row = [];
      } else if (position + 1 === text.length) row.push("");
      position += 1;
    }
    return rows;
  };

  const shown = (value) => (Number.isInteger(value) ? String(value) : String(Number(value.toPrecision(6))));
  const escaped = (text) => text.replace(/[&<>"']/g, (character) => `&#${character.charCodeAt(0)};`);
  // As pandas writes one: "007" and "0x10" are names, and what has more digits than a number here keeps, as 2 to the 62, stays text.
  const isNumber = (text) => {
    if (text === "") return true;
    if (!/^-?(0|[1-9][0-9]*)(\.[0-9]+)?(e[+-]?[0-9]+)?$/.test(text)) return false;
    return /[.e]/.test(text) ? Number.isFinite(Number(text)) : Number.isSafeInteger(Number(text));
  };

  // A run's or model's name that is the same, or said again, in each row says nothing.
  const isIdle = (name, column, names, rows) =>
    (name === "run" && byId("table-view").dataset.runs === "1") ||
    (name === "label" && rows.every((row) => row[column] === row[names.indexOf("model")]));

  const tableOf = (names, filtered) => {
    const table = document.createElement("table");
    const head = table.createTHead();
    const titles = head.insertRow();
    const filters = head.insertRow();
    filters.className = "filters";
    filters.dataset.dtOrder = "disable"; // these cells sort nothing
    names.forEach((name, column) => {
      const title = document.createElement("th");
      title.scope = "col";
      title.textContent = name;
      titles.append(title);
      const cell = document.createElement("td");
      const input = document.createElement("input");
      input.type = "search";
      input.setAttribute("aria-label", `Filter ${name}`);
      input.placeholder = "filter";
      input.addEventListener("input", () => filtered(column, input.value));
      cell.append(input);
      filters.append(cell);
    });
    return table;
  };

  // Long messages in a narrow column would make rows as high as a screen.
  const wrapped = (rows, column) => (rows.some((row) => String(row[column]).length > 150) ? "wrapped long" : "wrapped");

  const show = async (anchor, name) => {
    status.textContent = `Reading ${name} …`;
    const view = byId("table-view");
    const [names, ...rows] = parsedCsv(await unpack(`${anchor}-csv`));
    if (choice.value !== anchor) return; // another was chosen meanwhile
    const numeric = names.map((_, column) => rows.length > 0 && rows.every((row) => isNumber(row[column])));
    for (const row of rows) {
      numeric.forEach((isNumeric, column) => {
        if (isNumeric) row[column] = row[column] === "" ? null : Number(row[column]);
      });
    }
    const table = tableOf(names, (column, text) => data.column(column).search(text).draw());
    table.setAttribute("aria-label", `Table ${name}`);
    view.replaceChildren(table);
    const data = jQuery(table).DataTable({
      data: rows,
      columns: names.map((title, column) => ({
        type: numeric[column] ? "num" : "string",
        visible: !isIdle(title, column, names, rows),
        className: title === "message" || title === "warning" ? wrapped(rows, column) : "",
        // Every cell is text: what came from a checkpoint is never taken for HTML. For filtering, too, DataTables parses
        // what has an "&".
        render: (value, purpose) => {
          if (numeric[column]) {
            if (purpose !== "display" && purpose !== "filter") return value === null ? -Infinity : value;
            return value === null ? "" : purpose === "display" ? shown(value) : String(value);
          }
          return purpose === "display" || purpose === "filter" ? escaped(value) : value;
        },
      })),
      order: [],
      titleRow: 0,
      pageLength: 10,
      lengthMenu: [10, 25, 100],
      autoWidth: false,
      language: {
        search: "Search all columns",
        lengthMenu: "Rows a page _MENU_",
        info: "Rows _START_ to _END_ of _TOTAL_",
        infoEmpty: "No rows",
        infoFiltered: "(of _MAX_ in all)",
        zeroRecords: "No row matches.",
        emptyTable: "This table has no rows.",
      },
    });
    const box = view.querySelector(".dt-layout-table");
    box.tabIndex = 0;
    box.setAttribute("role", "region");
    box.setAttribute("aria-label", `Table ${name}, scrolls sideways`);
    status.textContent = "";
    view.dataset.table = name;
  };
  const showChosen = () => {
    const option = choice.selectedOptions[0];
    if (!option) return;
    show(option.value, option.dataset.name).catch((error) => {
      status.textContent = `The table could not be shown: ${error.message}`;
      console.error(error);
    });
  };
  choice.addEventListener("change", showChosen);
  const first = [...choice.options].find((option) => option.dataset.name === "emergence");
  if (first) choice.value = first.value;
  // Below a chart: a table that it is drawn from is shown; without scripts the link leads to its download.
  for (const link of document.querySelectorAll(".sources a")) {
    link.addEventListener("click", () => {
      const anchor = link.hash.slice(1);
      if (![...choice.options].some((option) => option.value === anchor)) return;
      choice.value = anchor;
      link.href = "#tables";
      setTimeout(() => { link.href = `#${anchor}`; });
      tablesObserver.disconnect();
      showChosen();
    });
  }
  const tablesObserver = new IntersectionObserver((entries) => {
    if (entries.some((entry) => entry.isIntersecting)) {
      tablesObserver.disconnect();
      showChosen();
    }
  }, { rootMargin: "800px 0px" });
  tablesObserver.observe(byId("tables"));

  for (const button of document.querySelectorAll("button.download")) {
    button.addEventListener("click", async () => {
      save(`${button.dataset.name}.csv`, "text/csv", await unpack(`${button.dataset.table}-csv`));
    });
  }

  // On a narrow screen the contents would push the verdict off it.
  if (window.matchMedia("(max-width: 69.99rem)").matches) document.querySelector(".contents details").open = false;
  window.addEventListener("load", () => whenIdle(drawNext));
})();
