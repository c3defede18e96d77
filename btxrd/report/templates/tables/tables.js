// Lets every table of btxrd.report.tables be sorted, filtered and copied, those that a notebook
// shows later too. Without it they are whole, only still.
const FILTERED_FROM = 13; // rows

const LATEX = {
  "\\": "\\textbackslash{}", "~": "\\textasciitilde{}", "^": "\\textasciicircum{}",
  "<": "$<$", ">": "$>$", "≤": "$\\leq$", "≥": "$\\geq$", "±": "$\\pm$", "×": "$\\times$",
  "→": "$\\rightarrow$", "★": "$\\star$", "−": "$-$", "–": "--",
  ...Object.fromEntries([..."&%$#_{}"].map((sign) => [sign, `\\${sign}`])),
};
const inLatex = (text) => [...text].map((sign) => LATEX[sign] ?? sign).join("");
const inLine = (row) => row.map((text) => text.replace(/\s+/g, " "));
const inCsv = (text) => (/[",\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text);

const FORMATS = {
  CSV: (rows) => rows.map((row) => row.map(inCsv).join(",")).join("\n"),
  Markdown: ([head, ...rows]) =>
    [head, head.map(() => "---"), ...rows]
      .map((row) => `| ${inLine(row).map((text) => text.replaceAll("|", "\\|")).join(" | ")} |`)
      .join("\n"),
  LaTeX: (rows, numeric) => {
    const [head, ...lines] = rows.map((row) => `${inLine(row).map(inLatex).join(" & ")} \\\\`);
    const columns = numeric.map((isNumber) => (isNumber ? "r" : "l")).join("");
    return [
      `\\begin{tabular}{${columns}}`, "\\toprule", head, "\\midrule", ...lines, "\\bottomrule",
      "\\end{tabular}",
    ].join("\n");
  },
};

// No value is the last one in either direction.
const collator = new Intl.Collator("en", { numeric: true });
const compared = (sign) => (a, b) => {
  if (a === "" || b === "") return (a === "") - (b === "");
  return sign * (Number(a) - Number(b) || collator.compare(a, b));
};

// What the library is packed in: pages stay small.
async function unpacked(id) {
  const text = atob(document.getElementById(id).textContent);
  const packed = new Blob([Uint8Array.from(text, (sign) => sign.charCodeAt(0))]);
  const stream = packed.stream().pipeThrough(new DecompressionStream("gzip"));
  const code = new Blob([await new Response(stream).blob()], { type: "text/javascript" });
  return (await import(URL.createObjectURL(code))).default;
}

// A page from the file system may have no clipboard of its own.
async function copied(text) {
  try {
    await navigator.clipboard.writeText(text);
  } catch {
    const area = document.body.appendChild(document.createElement("textarea"));
    area.value = text;
    area.select();
    document.execCommand("copy");
    area.remove();
  }
}

function element(name, properties) {
  return Object.assign(document.createElement(name), properties);
}

function copyTools(table) {
  const said = element("span", { role: "status" });
  const head = () => table.columns().header().toArray().map((cell) => cell.textContent.trim());
  const shown = { search: "applied", order: "applied" };
  const rows = () =>
    table.rows(shown).nodes().toArray()
      .map((row) => [...row.cells].map((cell) => cell.textContent));
  const buttons = Object.entries(FORMATS).map(([name, format]) =>
    element("button", {
      type: "button", textContent: name, title: `Copy this table as ${name}`,
      async onclick() {
        const numeric = table.columns().header().toArray()
          .map((cell) => cell.classList.contains("number"));
        await copied(format([head(), ...rows()], numeric));
        said.textContent = "copied";
        setTimeout(() => (said.textContent = ""), 2000);
      },
    }),
  );
  const choice = element("span", { hidden: true });
  choice.append(...buttons);
  const open = element("button", { type: "button", textContent: "copy", ariaExpanded: "false" });
  open.onclick = () => {
    choice.hidden = !choice.hidden;
    open.ariaExpanded = String(!choice.hidden);
  };
  return [said, open, choice];
}

function filterTools(table) {
  const said = element("span", { role: "status" });
  const box = element("input", { type: "search", placeholder: "filter", ariaLabel: "Filter rows" });
  box.oninput = () => {
    table.search(box.value).draw();
    const left = table.rows({ search: "applied" }).count();
    said.textContent = box.value ? `${left} of ${table.rows().count()} rows` : "";
  };
  return [said, box];
}

function enhance(figure, DataTable) {
  const table = new DataTable(figure.querySelector("table"), {
    paging: false, autoWidth: false, order: [],
    layout: { topStart: null, topEnd: null, bottomStart: null, bottomEnd: null },
    columnDefs: [{ targets: "_all", type: "btxrd" }],
  });
  const tools = element("div", { className: "tools" });
  if (table.rows().count() >= FILTERED_FROM) tools.append(...filterTools(table));
  tools.append(...copyTools(table));
  figure.querySelector(".frame").before(tools);
  // JupyterLab takes keys for commands otherwise.
  figure.dataset.lmSuppressShortcuts = "true";
}

async function start() {
  const DataTable = await unpacked("btxrd-datatables");
  Object.assign(DataTable.ext.type.order, { "btxrd-asc": compared(1), "btxrd-desc": compared(-1) });
  const enhanceNew = () =>
    document.querySelectorAll(".btxrd-table:not(:has(.tools, .none))")
      .forEach((figure) => enhance(figure, DataTable));
  enhanceNew();
  new MutationObserver(enhanceNew).observe(document.body, { childList: true, subtree: true });
}

if (!window.btxrdTables) window.btxrdTables = start();
