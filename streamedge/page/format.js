// Numbers and times as text.

const DECIMAL = ["", "k", "M", "G", "T", "P"];
const BINARY = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"];
const NONE = "–";

function digits(value) {
  if (value === 0) return "0";
  return value.toFixed(value < 10 ? 2 : value < 100 ? 1 : 0);
}

function isNumber(value) {
  return typeof value === "number" && Number.isFinite(value);
}

// "1.25 M" and the like, with powers of 1000.
export function count(value) {
  if (!isNumber(value)) return NONE;
  if (Number.isInteger(value) && Math.abs(value) < 10000) return value.toLocaleString("en");
  let size = Math.abs(value);
  let unit = 0;
  while (size >= 999.5 && unit < DECIMAL.length - 1) {
    size /= 1000;
    unit += 1;
  }
  const text = digits(size);
  return `${value < 0 ? "-" : ""}${text}${unit ? ` ${DECIMAL[unit]}` : ""}`;
}

// Bytes, with powers of 1024.
export function bytes(value) {
  if (!isNumber(value)) return NONE;
  let size = value;
  let unit = 0;
  while (size >= 1023.5 && unit < BINARY.length - 1) {
    size /= 1024;
    unit += 1;
  }
  return `${unit === 0 ? Math.round(size) : digits(size)} ${BINARY[unit]}`;
}

// A rate of bytes a second as bits a second, as networks are measured.
export function bits(bytesPerS) {
  if (!isNumber(bytesPerS)) return NONE;
  const text = count(bytesPerS * 8);
  return /[a-zA-Z]$/.test(text) ? `${text}bit/s` : `${text} bit/s`;
}

// "12 /s".
export function perSecond(value) {
  return isNumber(value) ? `${count(value)} /s` : NONE;
}

// A ratio from 0 to 1.
export function percent(value) {
  if (!isNumber(value)) return NONE;
  const hundredths = value * 100;
  if (hundredths === 0 || hundredths === 100) return `${hundredths} %`;
  return `${hundredths > 99.9 && hundredths < 100 ? "99.9" : hundredths.toFixed(hundredths < 10 || hundredths > 99 ? 1 : 0)} %`;
}

// A duration in seconds: "42 s", "3 min 5 s", "2 h 10 min", "5 d 3 h".
export function duration(seconds) {
  if (!isNumber(seconds)) return NONE;
  const whole = Math.max(0, Math.floor(seconds));
  const parts = [[86400, "d"], [3600, "h"], [60, "min"], [1, "s"]];
  for (let index = 0; index < parts.length; index += 1) {
    const [size, unit] = parts[index];
    if (whole < size && size > 1) continue;
    const big = Math.floor(whole / size);
    const next = parts[index + 1];
    const small = next ? Math.floor((whole % size) / next[0]) : 0;
    return small ? `${big} ${unit} ${small} ${next[1]}` : `${big} ${unit}`;
  }
  return NONE;
}

// A position in a medium: "1:02:03".
export function position(seconds) {
  if (!isNumber(seconds)) return NONE;
  const whole = Math.max(0, Math.floor(seconds));
  const [hours, minutes, rest] = [Math.floor(whole / 3600), Math.floor(whole / 60) % 60, whole % 60];
  const two = (value) => String(value).padStart(2, "0");
  return hours ? `${hours}:${two(minutes)}:${two(rest)}` : `${minutes}:${two(rest)}`;
}

// A time, seconds since 1970, in the reader's own zone.
export function time(seconds) {
  if (!isNumber(seconds)) return NONE;
  return new Date(seconds * 1000).toLocaleString(undefined, { dateStyle: "medium", timeStyle: "medium" });
}

// As `time`, without the day if that is today.
export function moment(seconds) {
  if (!isNumber(seconds)) return NONE;
  const date = new Date(seconds * 1000);
  const isToday = date.toDateString() === new Date().toDateString();
  return isToday ? date.toLocaleTimeString(undefined, { timeStyle: "medium" }) : time(seconds);
}

export function day(seconds) {
  if (!isNumber(seconds)) return NONE;
  return new Date(seconds * 1000).toLocaleDateString(undefined, { dateStyle: "medium" });
}

export function text(value) {
  return value === null || value === undefined || value === "" ? NONE : String(value);
}

// "1 viewer", "2 viewers".
export function plural(number, word) {
  return `${count(number)} ${word}${number === 1 ? "" : "s"}`;
}
