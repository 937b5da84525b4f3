// Brings the page up to date while somebody looks at it, and says so when the gateway no longer answers.
// Nothing is replaced that did not change, so that focus, selection and scrolling stay where they are.
"use strict";

const every = Number(document.body.dataset.refreshS) * 1000;
const late = Math.max(5000, every);
let busy = false;
let failedSince = null;

function same(here, there) {
  return here.nodeType === there.nodeType && here.nodeName === there.nodeName;
}

function follow(here, there) {
  if (here.nodeType !== Node.ELEMENT_NODE) {
    if (here.nodeValue !== there.nodeValue) here.nodeValue = there.nodeValue;
    return;
  }
  if (here.tagName === "FORM") return;  // somebody may be filling it in
  for (const name of here.getAttributeNames()) if (!there.hasAttribute(name)) here.removeAttribute(name);
  for (const name of there.getAttributeNames()) {
    if (here.getAttribute(name) !== there.getAttribute(name)) here.setAttribute(name, there.getAttribute(name));
  }
  const ours = Array.from(here.childNodes);
  const theirs = Array.from(there.childNodes);
  theirs.forEach((node, place) => {
    if (place >= ours.length) here.appendChild(document.importNode(node, true));
    else if (same(ours[place], node)) follow(ours[place], node);
    else here.replaceChild(document.importNode(node, true), ours[place]);
  });
  for (const node of ours.slice(theirs.length)) node.remove();
}

function tellStale(isStale, isBusy = false) {
  const notice = document.getElementById("stale");
  if (!notice) return;
  if (!isStale) failedSince = null;
  else if (failedSince === null) {
    failedSince = new Date();
    document.getElementById("stale-since").textContent = failedSince.toLocaleTimeString();
  }
  document.getElementById("stale-silent").hidden = isBusy;
  document.getElementById("stale-busy").hidden = !isBusy;
  notice.hidden = !isStale;
  document.body.classList.toggle("is-stale", isStale);
}

async function refresh() {
  if (busy || document.hidden) return;
  busy = true;
  try {
    const answer = await fetch(location.href, {cache: "no-store", signal: AbortSignal.timeout(late)});
    if (answer.status === 503) {  // it answers, and has more to do than it can
      tellStale(true, true);
      return;
    }
    if (!answer.ok) throw new Error(String(answer.status));
    const fresh = new DOMParser().parseFromString(await answer.text(), "text/html").getElementById("live");
    if (!fresh) throw new Error("another page");
    follow(document.getElementById("live"), fresh);
    tellStale(false);
  } catch (error) {
    tellStale(true);
  } finally {
    busy = false;
  }
}

if (every > 0) {
  setInterval(refresh, every);
  document.addEventListener("visibilitychange", refresh);
}
const button = document.getElementById("print");
if (button) button.addEventListener("click", () => window.print());
