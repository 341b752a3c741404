// Shows how far background work is, and shows the page afresh when it has ended. Without it, "Look again" does.
const place = document.querySelector("[data-progress]");
const bar = place?.querySelector("progress");
const count = place?.querySelector("[data-count]");
const look = async () => {
  let wait = 2000;
  try {
    const answer = await fetch(place.dataset.progress, { cache: "no-store" });
    if (answer.ok) {
      const { busy, done, total } = await answer.json();
      if (!busy) { location.reload(); return; }
      if (bar) { bar.max = total || 1; bar.value = done; }
      if (count) count.textContent = `${done} of ${total}`;
    } else wait = 15000;
  } catch { wait = 15000; }
  setTimeout(look, wait);
};
if (place) setTimeout(look, 1000);
