// Buttons for the conditions of a conditional model; pressing one redraws the page.

import { $, element } from "./images.js";

export function makeConditions(model, redraw) {
  const { size, names } = model.info.condition;
  const buttons = Array.from({ length: size }, (_, index) => {
    const button = element("button", {}, names?.[index] ?? String(index));
    button.addEventListener("click", () => press(index));
    return button;
  });

  function mark() {
    buttons.forEach((button, index) => button.setAttribute("aria-pressed", index === model.condition));
  }

  function press(index) {
    model.condition = index;
    mark();
    redraw.forEach((draw) => draw());
  }

  mark();
  $("condition-list").replaceChildren(...buttons);
  $("conditions").hidden = false;
}
