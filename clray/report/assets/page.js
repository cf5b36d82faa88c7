"use strict";
(async () => {
  // JSON, compressed: the plots' specifications and data
  const packed = Uint8Array.from(atob(document.getElementById("clray-page").textContent),
    (letter) => letter.charCodeAt(0));
  const unpacked = new Blob([packed]).stream().pipeThrough(new DecompressionStream("gzip"));
  const stored = await new Response(unpacked).json();
  const plots = [...document.querySelectorAll(".plot")];
  const views = new Map();
  const queue = [];
  let busy = false;
  let pinned = "";

  const isDark = () => {
    const chosen = document.documentElement.dataset.theme;
    return chosen ? chosen === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
  };

  // columns, as they are stored, to the rows that Vega reads
  const inflated = new Map();
  const rowsOf = (name) => {
    if (!inflated.has(name)) {
      const columns = stored.data[name];
      const heads = Object.keys(columns);
      const length = heads.length ? columns[heads[0]].length : 0;
      inflated.set(name, Array.from({ length }, (_, i) =>
        Object.fromEntries(heads.map((head) => [head, columns[head][i]]))));
    }
    return inflated.get(name).map((row) => ({ ...row }));
  };

  const draw = async (plot) => {
    const { spec, data, marks, ratio } = stored.plots[plot.dataset.plot];
    const whole = structuredClone(spec);
    if (ratio) {
      whole.width = Math.max(plot.clientWidth, 760);
      whole.height = Math.round(whole.width * ratio);
    }
    whole.datasets = Object.fromEntries(data.map((name) => [name, rowsOf(name)]));
    views.get(plot)?.finalize();
    const embedded = await vegaEmbed(plot, whole, {
      mode: "vega-lite",
      renderer: marks > 1500 ? "canvas" : "svg",
      actions: false,
      config: stored.configs[isDark() ? "dark" : "light"],
      tooltip: { theme: isDark() ? "dark" : "light" },
    });
    views.set(plot, embedded);
    plot.dataset.drawn = "yes";
    if (pinned) focus([plot], pinned);
  };

  const work = async () => {
    if (busy) return;
    busy = true;
    while (queue.length) {
      const plot = queue.shift();
      try {
        await draw(plot);
      } catch (error) {
        plot.dataset.drawn = "no";
        console.error(`${plot.dataset.plot}: ${error}`);
      }
      await new Promise((resolve) => setTimeout(resolve));
    }
    busy = false;
    document.documentElement.dataset.drawn = String(views.size);
  };

  const first = (wanted) => {
    const waiting = wanted.filter((plot) => queue.includes(plot));
    for (const plot of waiting) queue.splice(queue.indexOf(plot), 1);
    queue.unshift(...waiting);
  };

  // a page with hundreds of plots draws those that are looked at, any other one all of them
  const all = plots.length <= 150;
  const seen = new Set();
  const start = () => {
    queue.length = 0;
    queue.push(...(all ? plots : seen));
    first([...seen]);
    work();
  };
  const observer = new IntersectionObserver((entries) => {
    const fresh = entries.filter((entry) => entry.isIntersecting && !seen.has(entry.target));
    for (const { target } of fresh) {
      seen.add(target);
      observer.unobserve(target);
      if (!all) queue.push(target);
    }
    first(fresh.map((entry) => entry.target));
    work();
  }, { rootMargin: "600px" });

  const focus = (some, method) => {
    for (const plot of some) {
      const view = views.get(plot)?.view;
      if (view) view.signal("focus", method).runAsync();
    }
  };

  for (const chip of document.querySelectorAll(".chip")) {
    const own = [...chip.closest("figure").querySelectorAll(".plot")];
    const method = chip.dataset.method;
    chip.addEventListener("pointerenter", () => focus(own, method));
    chip.addEventListener("pointerleave", () => focus(own, pinned));
    chip.addEventListener("click", () => {
      pinned = pinned === method ? "" : method;
      for (const other of document.querySelectorAll(".chip")) {
        other.setAttribute("aria-pressed", String(other.dataset.method === pinned));
      }
      focus(plots, pinned);
    });
  }

  for (const list of document.querySelectorAll("[role=tablist]")) {
    const tabs = [...list.querySelectorAll("[role=tab]")];
    const select = (chosen, move) => {
      for (const tab of tabs) {
        const on = tab === chosen;
        const shown = document.getElementById(tab.getAttribute("aria-controls"));
        tab.setAttribute("aria-selected", String(on));
        tab.tabIndex = on ? 0 : -1;
        shown.classList.toggle("away", !on);
      }
      if (move) chosen.focus();
    };
    list.addEventListener("click", (event) => {
      const tab = event.target.closest("[role=tab]");
      if (tab) select(tab);
    });
    list.addEventListener("keydown", (event) => {
      const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
      const at = tabs.indexOf(document.activeElement);
      if (step && at >= 0) select(tabs[(at + step + tabs.length) % tabs.length], true);
    });
    if (tabs.length) select(tabs[0]);
  }

  document.querySelector(".theme").addEventListener("click", () => {
    document.documentElement.dataset.theme = isDark() ? "light" : "dark";
    start();
  });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => {
    if (!document.documentElement.dataset.theme) start();
  });
  if (location.hash === "#dark" || location.hash === "#light") {
    document.documentElement.dataset.theme = location.hash.slice(1);
  }
  for (const plot of plots) observer.observe(plot);
  start();
})();
