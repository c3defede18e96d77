// Lets every table of btxrd.report.tables be sorted, filtered and copied, those that a notebook
// shows later too. Without it they are whole, only still.
const FILTERED_FROM = 13; // rows

const LATEX = {
  "\\": "\\textbackslash{}", "~": "\\textasciitilde{}", "^": "\\textasciicircum{}",
  "<": "$<$", ">": "$>$", "≤": "$\\leq$", "≥": "$\\geq$", "±": "$\\pm$", "×": "$\\times$",
  "→": "$\\rightarrow$", "★": "$\\star$", "−": "$-$", "–": "--",
  ...Object.fromEntries([..."&%$#_{}"].map((sign) => [sign, `\\${sign}`])),
};
const inLatex = (row) =>
  `${row.map((text) => [...text].map((sign) => LATEX[sign] ?? sign).join("")).join(" & ")} \\\\`;
const inMarkdown = (row) => `| ${row.map((text) => text.replaceAll("|", "\\|")).join(" | ")} |`;

const FORMATS = {
  Markdown: (head, rows) => [head, head.map(() => "---"), ...rows].map(inMarkdown),
  LaTeX: (head, rows, numeric) => [
    `\\begin{tabular}{${numeric.map((isNumber) => (isNumber ? "r" : "l")).join("")}}`,
    "\\toprule", inLatex(head), "\\midrule", ...rows.map(inLatex), "\\bottomrule", "\\end{tabular}",
  ],
};
const copied = (format) => (text, config, table) => {
  const { header, body } = table.buttons.exportData({ decodeEntities: true });
  const heads = table.columns().header().toArray();
  return format(header, body, heads.map((cell) => cell.classList.contains("number"))).join("\n");
};
const COPY = { extend: "copyHtml5", title: null };
const BUTTONS = [
  { ...COPY, text: "CSV", fieldSeparator: ",", fieldBoundary: '"', escapeChar: '"' },
  ...Object.entries(FORMATS).map(([text, f]) => ({ ...COPY, text, customize: copied(f) })),
].map((button) => ({ ...button, titleAttr: `Copy this table as ${button.text}` }));

// No value is the last one in either direction.
const collator = new Intl.Collator("en", { numeric: true });
const compared = (sign) => (a, b) => {
  if (a === "" || b === "") return (a === "") - (b === "");
  return sign * (Number(a) - Number(b) || collator.compare(a, b));
};

// The library is packed: pages stay small.
async function unpacked(base64) {
  const packed = await fetch(`data:application/gzip;base64,${base64}`);
  const stream = packed.body.pipeThrough(new DecompressionStream("gzip"));
  const code = new Blob([await new Response(stream).blob()], { type: "text/javascript" });
  return (await import(URL.createObjectURL(code))).default;
}

function enhance(figure, DataTable) {
  const rows = figure.querySelectorAll("tbody tr").length;
  new DataTable(figure.querySelector("table"), {
    paging: false, autoWidth: false, order: [],
    language: { search: "filter", info: "_TOTAL_ of _MAX_ rows" },
    layout: {
      topStart: rows < FILTERED_FROM ? null : ["search", "info"],
      topEnd: { buttons: BUTTONS }, bottomStart: null, bottomEnd: null,
    },
    columnDefs: [{ targets: "_all", type: "btxrd" }],
  });
  const frame = figure.querySelector(".frame");
  frame.before(...frame.querySelectorAll(".dt-layout-row:not(.dt-layout-table)"));
  // JupyterLab takes keys for commands otherwise.
  figure.dataset.lmSuppressShortcuts = "true";
}

async function start() {
  const DataTable = await unpacked(document.getElementById("btxrd-datatables").textContent);
  Object.assign(DataTable.ext.type.order, { "btxrd-asc": compared(1), "btxrd-desc": compared(-1) });
  const enhanceNew = () =>
    document.querySelectorAll(".btxrd-table:not(:has(.dt-container, .none))")
      .forEach((figure) => enhance(figure, DataTable));
  enhanceNew();
  new MutationObserver(enhanceNew).observe(document.body, { childList: true, subtree: true });
}

if (!window.btxrdTables) window.btxrdTables = start();
