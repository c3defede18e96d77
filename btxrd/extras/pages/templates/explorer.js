/* Looks up what is shown for a threshold and a prevalence. JupyterLab runs this once an output, so
   each explorer of the document is taken once. */
for (const root of document.querySelectorAll(".btxrd-explorer:not([data-ready])")) {
  root.dataset.ready = "";
  const all = (selector) => [...root.querySelectorAll(selector)];
  const data = JSON.parse(root.querySelector("script[type='application/json']").textContent);
  const threshold = root.querySelector("[name=threshold]");
  const prevalence = root.querySelector("[name=prevalence]");

  const elsewhere = () => data.prevalences[prevalence.value];
  const text = (name, row) => (data[name] ?? elsewhere()[name])[row];
  const numbers = (name, row) => (text(name, row).match(/[-+]?[\d.]+/g) ?? []).map(Number);

  /* Thousandths of a panel: estimate, low, high. Those of a net benefit are of the most there can
     be, and end at the floor. */
  const heights = (name, row) =>
    numbers(name, row).map((value) =>
      name === "net_benefit"
        ? Math.max(10 * value / elsewhere().share, 1000 * data.floor)
        : 1000 * value);

  const draw = (panel, row) => {
    const { x, y, title } = panel.dataset;
    const dot = (at) => {
      const [across] = heights(x, at), [up] = heights(y, at);
      return up === undefined ? "" : `M${across} ${up}h0`;
    };
    for (const mark of panel.querySelectorAll("[data-row]"))
      mark.setAttribute("d", dot(mark.dataset.row));
    panel.querySelector(".marker").setAttribute("d", dot(row));
    const [across, left, right] = heights(x, row), [up, low, high] = heights(y, row);
    let ends = "";
    if (high !== undefined) ends += `M${across} ${low}V${high}`;
    if (right !== undefined && up !== undefined) ends += `M${left} ${up}H${right}`;
    panel.querySelector(".ends").setAttribute("d", ends);
    panel.ariaLabel = `${title}: ${y.replace("_", " ")} ${text(y, row)} at ${x} ${text(x, row)}`;
  };

  const update = () => {
    const row = Number(threshold.value), here = elsewhere();
    for (const place of all("[data-show]")) {
      const name = place.dataset.show;
      place.textContent = name === "title" ? here.title : text(name, row);
    }
    for (const bar of all("[data-bar]")) {
      const [at, low, high] = numbers(bar.dataset.bar, row);
      if (at === undefined) bar.removeAttribute("style");
      else bar.style = `--at: ${at}; --low: ${low ?? at}; --high: ${high ?? at}`;
    }
    for (const line of all("[data-line]")) line.setAttribute("d", here.lines[line.dataset.line]);
    for (const panel of all("[data-x]")) draw(panel, row);
    all("[data-y=net_benefit] .tick").forEach((tick, i) => (tick.textContent = here.ticks[i]));
    for (const input of [threshold, prevalence])
      for (const button of all(`button[data-${input.name}]`))
        button.setAttribute("aria-pressed", button.dataset[input.name] === input.value);
    threshold.ariaValueText = `${text("threshold", row)}: sensitivity ${text("sensitivity", row)}`;
    prevalence.ariaValueText = `${here.title}: PPV ${text("ppv", row)}, NPV ${text("npv", row)}`;
  };

  for (const input of [threshold, prevalence]) {
    input.addEventListener("input", update);
    for (const button of all(`button[data-${input.name}]`))
      button.addEventListener("click", () => {
        input.value = button.dataset[input.name];
        update();
      });
  }
  update();
}
