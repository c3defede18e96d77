/* Shows the figures of a threshold and a prevalence. JupyterLab runs this once an output, so each
   explorer of the document is taken once. An estimate is an array: value, low, high. */
for (const root of document.querySelectorAll(".btxrd-explorer:not([data-ready])")) {
  root.dataset.ready = "";
  const data = JSON.parse(root.querySelector("[type='application/json']").textContent);
  const threshold = root.querySelector("[name=threshold]");
  const prevalence = root.querySelector("[name=prevalence]");

  /* What follows from sensitivity and specificity where `share` of the images are malignant; the ends
     from both low ends and from both high ends. The net benefit is a share of the most there can be. */
  const at = (row, share) => {
    const harm = row.threshold / (1 - row.threshold);
    const ends = row.sensitivity.map((sensitivity, end) => {
      const found = sensitivity * share, missed = share - found;
      const cleared = row.specificity[end] * (1 - share), alarmed = 1 - share - cleared;
      return {
        ppv: found / (found + alarmed), npv: cleared / (cleared + missed),
        alarms: found + alarmed, benefit: (found - harm * alarmed) / share,
      };
    });
    const figures = { ...row, alarms: ends[0].alarms, all: 1 - harm * (1 - share) / share };
    /* At their own share both predictive values are counted, and have intervals of their own. */
    const others = share === data.own ? ["benefit"] : ["benefit", "ppv", "npv"];
    for (const name of others) figures[name] = ends.map((end) => end[name]);
    return figures;
  };

  /* Numbers are written as in the tables that Python writes. */
  const fixed = (value, digits, signDisplay = "auto") => value.toLocaleString("en-GB", {
    minimumFractionDigits: digits, maximumFractionDigits: digits, roundingMode: "halfEven", signDisplay,
  });
  const interval = ([value, low, high], digits = 3, sign = "auto") => {
    if (!Number.isFinite(value)) return "–";
    while (digits < 12 && fixed(low, digits) === fixed(high, digits)) digits += 1;
    const [middle, left, right] = [value, low, high].map((number) => fixed(number, digits, sign));
    return `${middle} (${left}${sign === "auto" ? "–" : " to "}${right})`;
  };

  const line = (points) => `M${points.map(([x, y]) => `${x.toFixed(4)} ${y.toFixed(4)}`).join("L")}`;

  /* Draws a panel: its curves, and the dots of rows whose place in it is what `x` and `y` say. */
  const draw = (panel, x, y, here, marked, curves) => {
    const dots = (rows) => rows.map((row) => [x(row)[0], y(row)[0]])
      .filter((place) => place.every(Number.isFinite)).map((place) => `${line([place])}h0`).join("");
    const [[across, left, right], [up, low, high]] = [x(here), y(here)];
    const ends = Number.isFinite(up) ? `M${across} ${low}V${high}` : "";
    const paths = { ...curves, ends, marks: dots(marked), marker: dots([here]) };
    if (ends && left !== undefined) paths.ends += `M${left} ${up}H${right}`;
    for (const [part, path] of Object.entries(paths))
      root.querySelector(`.${panel} .${part}`).setAttribute("d", path);
  };

  const update = () => {
    const share = data.prevalences[prevalence.value];
    const rows = data.rows.map((row) => at(row, share));
    const here = rows[threshold.value], marked = data.chosen.map(([row]) => rows[row]);
    const shown = {
      threshold: fixed(here.threshold, 3), share: `${Number((100 * share).toPrecision(3))}\u00a0%`,
      missed: fixed(data.malignant - here.tp, 0), fp: fixed(here.fp, 0), alarms: fixed(100 * here.alarms, 1),
      benefit: interval(here.benefit.map((part) => 100 * share * part), 1, "always"),
    };
    for (const name of ["sensitivity", "specificity", "ppv", "npv"]) shown[name] = interval(here[name]);
    for (const place of root.querySelectorAll("[data-show]"))
      place.textContent = shown[place.dataset.show];
    threshold.ariaValueText = `${shown.threshold}: sensitivity ${shown.sensitivity}`;
    prevalence.ariaValueText = `${shown.share}: PPV ${shown.ppv}, NPV ${shown.npv}`;

    const falseAlarms = (row) => row.specificity.map((value) => 1 - value);
    draw("roc", falseAlarms, (row) => row.sensitivity, here, marked, {
      chance: "M0 0L1 1",
      curve: line([[1, 1], ...rows.map((row) => [falseAlarms(row)[0], row.sensitivity[0]]), [0, 0]]),
    });
    /* Precision at a recall is that of the highest threshold which reaches it. */
    const called = rows.filter((row) => row.ppv[0] !== null && !Number.isNaN(row.ppv[0])).reverse();
    const steps = called.map((row) => `V${row.ppv[0]}H${row.sensitivity[0]}`).join("");
    draw("pr", (row) => row.sensitivity, (row) => row.ppv, here, marked, {
      curve: `M0 ${called[0]?.ppv[0] ?? share}${steps}V${share}H1`,
    });
    const heights = (end) => rows.map((row) => [row.threshold, row.benefit[end]]);
    const inside = (row) => row.benefit.map((part) => Math.max(part, 0));
    draw("decision", (row) => [row.threshold], inside, here, marked, {
      band: line([...heights(1), ...heights(2).reverse()]),
      chance: line([[0, 1], ...rows.map((row) => [row.threshold, row.all])]),
      curve: line(heights(0)),
    });
  };

  root.addEventListener("input", update);
  root.addEventListener("click", ({ target: { dataset } }) => {
    if (dataset.of) root.querySelector(`[name=${dataset.of}]`).value = dataset.value;
    update();
  });
  update();
}
