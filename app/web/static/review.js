"use strict";
// Keys of the review page: each presses what carries it. Nothing is pressed twice, and not while somebody writes.

let sent = false;
document.addEventListener("submit", (event) => {
  if (sent) event.preventDefault();
  sent = true;
});
document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.altKey || event.metaKey || event.repeat) return;
  if (event.key === "Enter" && event.target.matches("input[type=checkbox]")) event.preventDefault();
  const writing = event.target.matches("input:not([type=checkbox]), textarea, select");
  if (writing) {
    if (event.key === "Escape") event.target.blur();
    // Enter would press the first button of the form, which is a verdict
    if (event.key === "Enter" && event.target.matches("input")) event.preventDefault();
    return;
  }
  if (!/^[a-z]$/i.test(event.key)) return;
  const found = document.querySelector(`[data-key="${event.key.toLowerCase()}"]`);
  if (!found) return;
  event.preventDefault();
  if (found.matches("input:not([type=checkbox])")) found.focus(); else found.click();
});
