{
  const nav = document.getElementById("navigation");
  const { up, page } = nav.dataset;

  // Beside the text the navigation stands open; above it, on narrow screens, it is folded.
  const contents = nav.querySelector("details");
  const wide = matchMedia("(min-width: 1200px)");
  const unfold = () => { contents.open = wide.matches; };
  wide.addEventListener("change", unfold);
  unfold();

  const element = (name, attributes, ...children) => {
    const made = Object.assign(document.createElement(name), attributes);
    made.append(...children);
    return made;
  };
  const link = (text, to) => {
    const address = to.split("/").map(encodeURIComponent).join("/");
    const made = element("a", { href: up + address }, text);
    if (to === page) made.setAttribute("aria-current", "page");
    return made;
  };
  const list = (links) => element("ul", {}, ...links.map((made) => element("li", {}, made)));

  const ofStudy = nav.querySelector(".study");
  const runs = window.btxrdRuns;
  if (ofStudy && !runs) ofStudy.remove(); // the page was taken out of its study, or it still runs
  if (ofStudy && runs) {
    // From a page of heat maps to the heat maps of another run.
    const file = page.split("/").at(-1);
    const sameOf = ({ folder, pages }) => {
      const names = Object.values(pages);
      return `${folder}/${names.includes(file) ? file : names[0]}`;
    };
    const here = runs.find((run) => page.startsWith(`${run.folder}/`));
    const others = element("details", {}, element("summary", {}, `all runs (${runs.length})`));
    for (const experiment of new Set(runs.map((run) => run.experiment))) {
      const own = runs.filter((run) => run.experiment === experiment);
      others.append(element("p", {}, experiment), list(own.map((run) => link(run.name, sameOf(run)))));
    }
    ofStudy.after(others);
    if (here) {
      const pages = Object.entries(here.pages);
      ofStudy.after(
        element("p", {}, `${here.experiment} · ${here.name}`),
        list(pages.map(([title, name]) => link(title, `${here.folder}/${name}`))),
      );
    }
  }

  // What scrolls can be scrolled by keyboard too.
  const reach = new ResizeObserver((entries) => {
    for (const { target } of entries) {
      if (target.scrollWidth > target.clientWidth) target.tabIndex = 0;
      else target.removeAttribute("tabindex");
    }
  });
  addEventListener("DOMContentLoaded", () => {
    for (const output of document.querySelectorAll(".output_html, .frame")) reach.observe(output);
  });
  addEventListener("keydown", (event) => {
    if (event.key === "Escape" && document.activeElement.matches(".term")) document.activeElement.blur();
  });
}
