// What a view shows where the edge does not have what it needs.

import { h } from "../dom.js";

export function unavailable(place, error, what) {
  const reason =
    error.status === 404
      ? `This edge does not offer ${what}. A newer version may.`
      : error.status === 409
        ? `${error.message}.`
        : `${what} cannot be read: ${error.message}.`;
  place.append(h("p", { class: "empty card", role: "status" }, reason.charAt(0).toUpperCase() + reason.slice(1)));
}
