// Keyboard for the list of calls: j/k move, Enter opens (the row's link has the focus), / goes to the filters.
const rows = [...document.querySelectorAll("tr[data-href]")];
let at = -1;
const show = (index) => {
  rows[at]?.classList.remove("current");
  at = Math.min(rows.length - 1, Math.max(0, index));
  rows[at]?.classList.add("current");
  rows[at]?.querySelector("a")?.focus();
};
document.addEventListener("keydown", (event) => {
  if (event.target.closest("input, select, textarea") || event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.key === "j") show(at + 1);
  else if (event.key === "k") show(at - 1);
  else if (event.key === "/") { document.querySelector("[data-search]")?.focus(); event.preventDefault(); }
});
rows.forEach((row) => row.addEventListener("click", (event) => {
  if (!event.target.closest("a") && !getSelection().toString()) row.querySelector("a")?.click();
}));
