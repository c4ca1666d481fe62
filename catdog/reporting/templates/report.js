(() => {
  const boxes = [...document.querySelectorAll('input[name="exclude"]')];
  const list = document.getElementById("exclude-list");
  const status = document.getElementById("exclude-status");
  const save = document.getElementById("exclude-save");
  const fill = () => {
    const lines = [...new Set(boxes.filter((box) => box.checked).map((box) => box.value))];
    list.value = lines.map((line) => line + "\n").join("");
    status.textContent = lines.length === 1 ? "1 photo is ticked." : lines.length + " photos are ticked.";
    save.href = "data:text/plain;charset=utf-8," + encodeURIComponent(list.value);
  };
  for (const box of boxes) {
    box.addEventListener("change", () => {
      // A photo may stand in several sheets.
      for (const same of boxes) if (same.value === box.value) same.checked = box.checked;
      fill();
    });
  }
  const copy = async () => {
    list.select();
    try {
      await navigator.clipboard.writeText(list.value);
      return true;
    } catch {
      // Inside a frame of another page, the MLflow UI's say, the clipboard may be closed.
      return document.execCommand("copy");
    }
  };
  document.getElementById("exclude-copy").addEventListener("click", async () => {
    status.textContent = (await copy())
      ? "The list is copied."
      : "The browser forbids it: the list is selected, press Ctrl+C.";
  });
  fill();
})();
