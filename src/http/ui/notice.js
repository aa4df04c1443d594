// Where a part of the page says what is wrong with it.

import { Away, Refusal, tryAgain, words } from "./api.js";
import { askForKey } from "./credential.js";
import { h, replace } from "./dom.js";

// Shows an error in its place, or clears it. The same words are not said twice; that the server is away is told for the whole page.
export function notice(place, error) {
  if (!error || error instanceof Away) {
    if (!place.hidden) replace(place);
    place.hidden = true;
    place.dataset.words = "";
    return;
  }
  const said = words(error);
  if (place.dataset.words === said && !place.hidden) return;
  place.dataset.words = said;
  place.hidden = false;
  const credential = error instanceof Refusal && error.status === 401;
  const tools = credential && [
    h("button", { type: "button", onclick: askForKey }, "Paste a key"),
    h("button", { type: "button", onclick: tryAgain }, "Try again"),
  ];
  const faults = (error.errors ?? []).map(({ pointer, detail }) => h("li", null, h("code", null, pointer || "/"), " ", detail));
  replace(place, h("span", null, said), faults.length > 1 && h("ul", null, faults), tools);
}
