// Keeps the page current without reloading it: fetches the same address now and then, and puts in
// only those parts that changed. What somebody opened stays open, what they select stays selected.
"use strict";
(() => {
  const PERIOD = 3000;
  const mark = document.querySelector(".live");
  const log = document.querySelector("pre[data-log]");
  let misses = 0;

  const busy = (part) => {
    const selection = document.getSelection();
    const typed = [...part.querySelectorAll("input")].some((input) => input.value !== input.defaultValue);
    return typed || (selection && !selection.isCollapsed && part.contains(selection.anchorNode));
  };

  const put = (part, fresh) => {
    const open = new Set([...part.querySelectorAll("details[open]")].map((item) => item.id));
    const focused = part.contains(document.activeElement) ? document.activeElement.id : "";
    part.innerHTML = fresh.innerHTML;
    for (const id of open) document.getElementById(id)?.setAttribute("open", "");
    if (focused) document.getElementById(focused)?.focus({ preventScroll: true });
  };

  // The open ones are written into the old text too, or each of them would count as a change.
  const text = (part) => part.innerHTML.replaceAll(' open=""', "");

  const follow = async () => {
    if (!log || log.dataset.ended === "true") return;
    const answer = await fetch(`/api/v1/builds/${log.dataset.log}/log?from=${log.dataset.from}`);
    if (!answer.ok) return;
    const bytes = new Uint8Array(await answer.arrayBuffer());
    const atEnd = innerHeight + scrollY >= document.documentElement.scrollHeight - 40;
    log.append(new TextDecoder().decode(bytes));
    log.dataset.from = Number(log.dataset.from) + bytes.length;
    if (answer.headers.get("x-volary-ended") === "true") log.dataset.ended = "true";
    if (atEnd && bytes.length) scrollTo(0, document.documentElement.scrollHeight);
  };

  const refresh = async () => {
    try {
      const answer = await fetch(location.href, { headers: { accept: "text/html" }, redirect: "manual" });
      if (answer.type === "opaqueredirect") return location.reload();
      if (!answer.ok) throw new Error(answer.status);
      const fresh = new DOMParser().parseFromString(await answer.text(), "text/html");
      for (const part of document.querySelectorAll("[data-live]")) {
        const next = fresh.getElementById(part.id);
        if (next && text(next) !== text(part) && !busy(part)) put(part, next);
      }
      await follow();
      misses = 0;
    } catch {
      misses += 1;
    }
    if (mark) {
      mark.classList.toggle("lost", misses > 1);
      mark.textContent = misses > 1 ? "no connection" : "live";
    }
    setTimeout(refresh, document.hidden ? PERIOD * 5 : PERIOD);
  };
  setTimeout(refresh, PERIOD);
})();
