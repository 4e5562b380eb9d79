// One entry of the browser's history for each of the reader's actions. Streamlit pushes one whenever the address changes: of
// those that follow one action (a switch of pages changes the path, then the parameters) only the first is a new entry.
(() => {
  if (window.tokenlensHistory) return;
  window.tokenlensHistory = true;
  let acted = false;
  const act = () => { acted = true; };
  for (const kind of ["pointerdown", "click", "keydown", "change", "drop"]) window.addEventListener(kind, act, true);
  window.addEventListener("popstate", () => { acted = false; }, true);
  const push = window.history.pushState.bind(window.history);
  window.history.pushState = (data, title, url) => {
    if (acted) push(data, title, url);
    else window.history.replaceState(data, title, url);
    acted = false;
  };
  // Streamlit's own word for a path that it doesn't know; ours stands on the page.
  const dismiss = () => {
    const said = document.querySelector('[role="dialog"]');
    if (!said?.textContent.startsWith("Page not found")) return;
    said.querySelector("button")?.click();
    acted = false;
  };
  dismiss();
  new MutationObserver((_changes, watch) => { dismiss(); if (performance.now() > 60000) watch.disconnect(); })
    .observe(document.body, { childList: true });
})();
