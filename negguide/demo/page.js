// What Gradio has no setting for: tabs in the address, words that come back, keys for the line, texts for pictures.
const negguide = {
  // the ids of what a visitor writes into, and where the words are while another page is open
  fields: [],
  store: "negguide-words",
  // before that, the first tab says that it was opened, whatever the address says
  begun: false,

  // the address names the tab that is open, and the browser's Back goes to the one before
  opened(name) {
    if (negguide.begun && location.hash.slice(1) !== name) history.pushState(null, "", "#" + name);
    negguide.mark(name);
  },
  // on a narrow page, in the line of tabs, which is longer than the page is broad
  mark(name) {
    for (const link of document.querySelectorAll("#nav button")) {
      const open = link.id === "nav-" + name;
      link.classList.toggle("open", open);
      if (open) link.parentElement.scrollLeft = link.offsetLeft - (link.parentElement.clientWidth - link.offsetWidth) / 2;
    }
  },
  open() {
    const name = location.hash.slice(1) || "leave-out";
    if (/^[a-z0-9-]+$/.test(name)) document.getElementById("nav-" + name)?.click();
  },

  // after Back, the words are those that were written. Gradio puts them in: it keeps what belongs into tabs that were not
  // opened yet, and would write its own words over what is put into a field while it is made
  kept: {},
  keep() {
    // a page that is left before it has begun has none of its own, and leaves those that it found
    if (!negguide.begun) return;
    const words = { ...negguide.kept };
    for (const id of negguide.fields) {
      const area = document.getElementById(id)?.querySelector("textarea");
      if (area) words[id] = area.value;
    }
    sessionStorage.setItem(negguide.store, JSON.stringify(words));
  },
  // what Gradio is to put into the fields; what is undefined stays as it is
  begin(fields) {
    negguide.begun = true;
    negguide.fields = fields;
    if (performance.getEntriesByType("navigation")[0]?.type === "back_forward") {
      negguide.kept = JSON.parse(sessionStorage.getItem(negguide.store) || "{}");
    }
    negguide.mark("leave-out");
    if (location.hash.length > 1) negguide.open();
    return fields.map((id) => negguide.kept[id]);
  },

  // the line between two pictures takes the arrow keys; it listens to the mouse alone
  line(handle) {
    handle.tabIndex = 0;
    handle.setAttribute("role", "slider");
    handle.setAttribute("aria-label", "Line between the two pictures");
    handle.setAttribute("aria-valuemin", "0");
    handle.setAttribute("aria-valuemax", "100");
    handle.setAttribute("aria-valuenow", "50");
    handle.addEventListener("keydown", (event) => {
      const box = handle.parentElement.getBoundingClientRect();
      const own = handle.getBoundingClientRect();
      const x = own.left + own.width / 2;
      const step = box.width / 20;
      const wanted = { ArrowLeft: x - step, ArrowRight: x + step, Home: box.left, End: box.right }[event.key];
      if (wanted === undefined) return;
      event.preventDefault();
      const to = Math.min(Math.max(wanted, box.left), box.right);
      const at = (clientX) => ({ bubbles: true, cancelable: true, view: window, button: 0, clientX, clientY: own.top + own.height / 2 });
      handle.dispatchEvent(new MouseEvent("mousedown", at(x)));
      window.dispatchEvent(new MouseEvent("mousemove", at(to)));
      window.dispatchEvent(new MouseEvent("mouseup", at(to)));
      handle.setAttribute("aria-valuenow", String(Math.round((100 * (to - box.left)) / box.width)));
    });
  },

  // pictures say what they are
  describe() {
    for (const handle of document.querySelectorAll(".two .outer:not([role=slider])")) negguide.line(handle);
    for (const block of document.querySelectorAll(".two")) {
      const said = [...(block.parentElement.querySelectorAll(".sides strong") || [])].map((one) => one.innerText);
      block.querySelectorAll("img").forEach((image, i) => negguide.alt(image, said[i] || (i ? "right picture" : "left picture")));
    }
    for (const image of document.querySelectorAll(".block:not(.two) img")) {
      const caption = image.closest("button")?.querySelector(".caption-label")?.innerText;
      const label = image.closest(".block")?.querySelector("[data-testid=block-label]")?.innerText.trim();
      if (caption || label) negguide.alt(image, caption || label);
    }
  },
  alt(image, text) {
    if (image.alt !== text) image.alt = text;
  },
};
addEventListener("popstate", negguide.open);
addEventListener("pagehide", negguide.keep);
{
  let waiting = false;
  const soon = () => {
    if (waiting) return;
    waiting = true;
    setTimeout(() => ((waiting = false), negguide.describe()), 200);
  };
  new MutationObserver(soon).observe(document.documentElement, { childList: true, subtree: true });
}
