// Posters of films in the cache: a placeholder, then the picture, when it can be seen.

import { h } from "../dom.js";

const AT_A_TIME = 2; // a browser has six connections, which other calls need

export class Posters {
  #waiting = [];
  #loading = 0;
  #isStopped = false;
  #observer = new IntersectionObserver((entries) => this.#show(entries), { rootMargin: "200px" });

  // The poster of an object; without a film, an empty space as wide.
  element(row) {
    if (!row.film) return h("span", { class: "poster none" });
    const element = h("span", { class: "poster", "data-id": row.id }, placeholder());
    this.#observer.observe(element);
    return element;
  }

  stop() {
    this.#isStopped = true;
    this.#observer.disconnect();
    this.#waiting = [];
  }

  #show(entries) {
    for (const { isIntersecting, target } of entries) {
      if (!isIntersecting) continue;
      this.#observer.unobserve(target);
      this.#waiting.push(target);
    }
    this.#loadNext();
  }

  #loadNext() {
    while (this.#loading < AT_A_TIME && this.#waiting.length && !this.#isStopped) {
      const element = this.#waiting.shift();
      if (element.isConnected) this.#load(element);
    }
  }

  // The name beside it says what it is, so that the picture needs no text.
  #load(element) {
    this.#loading += 1;
    const image = h("img", { alt: "", src: `/cache/${element.dataset.id}/poster` });
    const end = () => {
      this.#loading -= 1;
      this.#loadNext();
    };
    image.addEventListener("load", () => {
      element.replaceChildren(image);
      end();
    });
    image.addEventListener("error", () => {
      element.classList.add("missing-poster");
      end();
    });
  }
}

function placeholder() {
  return h(
    "svg:svg",
    { viewBox: "0 0 32 18", "aria-hidden": "true" },
    h("svg:path", { d: "M13 5.5v7l6-3.5z" }),
  );
}
