/** Copies a block; where the browser does not allow that, it is left selected. */
async function copy(button) {
  const text = button.parentElement.querySelector("code");
  let done = true;
  try {
    await navigator.clipboard.writeText(text.textContent);
  } catch {
    getSelection().selectAllChildren(text);
    done = document.execCommand("copy");
  }
  button.textContent = done ? "Copied" : "Selected";
  setTimeout(() => (button.textContent = "Copy"), 2000);
}

const data = JSON.parse(document.getElementById("data").textContent);
const all = (kind, make) =>
  [...document.querySelectorAll(`[data-${kind}]`)].map((root) => make(root, Number(root.dataset[kind])));
const players = all("player", (root, i) => new Player(root, data.clip_sets[i]));
all("plot", (root, i) => new Plot(root, data.plots[i]));
all("curves", (root, i) => new Curves(root, data.curves[i]));
all("picture", (root, i) => new Picture(root, data.pictures[i]));
for (const button of document.querySelectorAll("[data-copy]")) button.addEventListener("click", () => copy(button));

/** Keys go to the player that has the focus, else to the first one in sight; never where they mean something else. */
document.addEventListener("keydown", (event) => {
  const target = event.target;
  if (event.ctrlKey || event.metaKey || event.altKey || target.closest("input, select, .drawing, .scroll, pre")) return;
  const player = players.find((one) => one.root.contains(target)) ?? players.find((one) => one.seen);
  if (!player) return;
  if (event.key === " " && !target.closest("button, summary")) player.toggle();
  else if (event.key === "ArrowLeft") player.choose(player.prompt - 1);
  else if (event.key === "ArrowRight") player.choose(player.prompt + 1);
  else return;
  event.preventDefault();
});
