// Elements, without markup from strings: what viewers choose (names, agents) is only ever text.

const SVG = "http://www.w3.org/2000/svg";

// Makes an element. `properties`: attributes; `onclick` and the like are listeners; true is an
// attribute without a value, and false, null and undefined are left out. Children are nodes or text.
export function h(name, properties = {}, ...children) {
  const element = name.startsWith("svg:")
    ? document.createElementNS(SVG, name.slice(4))
    : document.createElement(name);
  for (const [key, value] of Object.entries(properties)) {
    if (value === false || value === null || value === undefined) continue;
    if (key.startsWith("on")) element.addEventListener(key.slice(2), value);
    else element.setAttribute(key, value === true ? "" : String(value));
  }
  element.append(...children.flat().filter((child) => child !== null && child !== undefined));
  return element;
}

// Sets a text only where it differs, so that screen readers and selections are left alone.
export function setText(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

let lastId = 0;

// An id that no other element of the page has.
export function uniqueId(prefix) {
  lastId += 1;
  return `${prefix}-${lastId}`;
}

// A label and its field, one below the other.
export function labelled(text, field, hint) {
  const id = field.id || uniqueId("field");
  field.id = id;
  const parts = [h("label", { for: id }, text), field];
  if (hint) {
    const hintId = `${id}-hint`;
    field.setAttribute("aria-describedby", hintId);
    parts.push(h("p", { class: "hint", id: hintId }, hint));
  }
  return h("div", { class: "field" }, ...parts);
}

// A section with a heading.
export function card(title, ...children) {
  const id = uniqueId("card");
  return h("section", { class: "card", "aria-labelledby": id }, h("h2", { id }, title), ...children);
}

// The heading of a view, and a sentence about it.
export function heading(title, sentence, ...tools) {
  return h(
    "div",
    { class: "view-head" },
    h("div", {}, h("h1", { tabindex: "-1" }, title), sentence ? h("p", { class: "lead" }, sentence) : null),
    tools.length ? h("div", { class: "tools" }, ...tools) : null,
  );
}

// A choice of one among few, as radio buttons that look like one control.
export function choice(label, options, chosen, onchange) {
  const name = uniqueId("choice");
  return h(
    "fieldset",
    { class: "choice" },
    h("legend", { class: "hidden" }, label),
    ...options.map(([value, text]) => {
      const id = uniqueId("option");
      const input = h("input", { type: "radio", name, id, value, onchange: () => onchange(value) });
      input.checked = value === chosen;
      return h("span", {}, input, h("label", { for: id }, text));
    }),
  );
}

// A label of a state, with its colour; the text says the same as the colour.
export function badge(text, kind) {
  return h("span", { class: `badge ${kind}` }, text);
}
