// The dialog in which a key is pasted and forgotten.

import { changes, faultOfKey, hasKey, setKey } from "./api.js";
import { h, replace } from "./dom.js";

const dialog = document.getElementById("credential");
const button = document.getElementById("key");

export function askForKey() {
  const fault = h("p", { class: "note bad", role: "alert", hidden: true });
  const input = h("input", {
    id: "credential-key",
    type: "password",
    autocomplete: "off",
    spellcheck: "false",
    "aria-describedby": "credential-about",
    placeholder: hasKey() ? "a key is in use; paste another one in its place" : "ttd_live_…",
  });
  const use = (event) => {
    event.preventDefault();
    const text = input.value.trim();
    const wrong = faultOfKey(text);
    fault.hidden = wrong === null;
    fault.textContent = wrong ?? "";
    if (wrong !== null) return;
    dialog.close();
    setKey(text);
  };
  const forget = () => {
    dialog.close();
    setKey("");
  };
  replace(
    dialog,
    h(
      "form",
      { onsubmit: use },
      h("h2", { id: "credential-title" }, "API key"),
      h(
        "p",
        { id: "credential-about", class: "fine" },
        "It is kept in this tab alone until the tab is closed, and sent to this server alone, in a header. A reader's key shows its ",
        "streams and their records; an operator's all streams, but no records; an admin's everything.",
      ),
      h("label", { for: "credential-key" }, "Key or token"),
      input,
      fault,
      h(
        "div",
        { class: "row" },
        h("button", { type: "submit", class: "main" }, "Use it"),
        hasKey() && h("button", { type: "button", class: "forget", onclick: forget }, "Forget the key"),
        h("button", { type: "button", onclick: () => dialog.close() }, "Close"),
      ),
    ),
  );
  dialog.showModal();
  input.focus();
}

function told() {
  button.textContent = hasKey() ? "Key in use" : "API key";
  button.classList.toggle("on", hasKey());
}

export function begin() {
  button.addEventListener("click", askForKey);
  // What was typed does not stay in the page.
  dialog.addEventListener("close", () => replace(dialog));
  changes.addEventListener("key", told);
  told();
}
