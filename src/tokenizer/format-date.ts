/**
 * Python's `strftime` for local time in the C locale on Linux, which chat templates use for today's date: glibc's codes,
 * its flags (`%-d`, `%_d`, `%^a`) and Python's `%f`. `%Z` and `%z` are empty, since the time has no zone.
 */

const months = "January February March April May June July August September October November December".split(" ");
const days = "Sunday Monday Tuesday Wednesday Thursday Friday Saturday".split(" ");
const DAY = 86_400_000;

/** A number with its width, and its padding unless a flag says otherwise. */
type Field = readonly [value: number, width: number, fill: "0" | " "] | string;

/** Days since the start of the year, from 0; in UTC, so that daylight saving time does not shorten the count. */
function dayOfYear(date: Date): number {
  const year = date.getFullYear();
  return (Date.UTC(year, date.getMonth(), date.getDate()) - Date.UTC(year, 0, 1)) / DAY;
}

/** ISO 8601: a week belongs to the year of its Thursday. */
function isoWeek(date: Date): { year: number; week: number } {
  const thursday = new Date(date.getFullYear(), date.getMonth(), date.getDate() + 4 - (date.getDay() || 7));
  return { year: thursday.getFullYear(), week: Math.floor(dayOfYear(thursday) / 7) + 1 };
}

const two = (value: number): Field => [value, 2, "0"];
const blank = (value: number): Field => [value, 2, " "];
const halfDay = (date: Date): number => date.getHours() % 12 || 12;

const codes: Readonly<Record<string, (date: Date) => Field>> = {
  a: (date) => days[date.getDay()]!.slice(0, 3),
  A: (date) => days[date.getDay()]!,
  b: (date) => months[date.getMonth()]!.slice(0, 3),
  B: (date) => months[date.getMonth()]!,
  c: (date) => formatDate(date, "%a %b %e %H:%M:%S %Y"),
  C: (date) => two(Math.floor(date.getFullYear() / 100)),
  d: (date) => two(date.getDate()),
  D: (date) => formatDate(date, "%m/%d/%y"),
  e: (date) => blank(date.getDate()),
  f: (date) => String(date.getMilliseconds() * 1000).padStart(6, "0"),
  F: (date) => formatDate(date, "%Y-%m-%d"),
  g: (date) => two(isoWeek(date).year % 100),
  G: (date) => [isoWeek(date).year, 1, "0"],
  h: (date) => months[date.getMonth()]!.slice(0, 3),
  H: (date) => two(date.getHours()),
  I: (date) => two(halfDay(date)),
  j: (date) => [dayOfYear(date) + 1, 3, "0"],
  k: (date) => blank(date.getHours()),
  l: (date) => blank(halfDay(date)),
  m: (date) => two(date.getMonth() + 1),
  M: (date) => two(date.getMinutes()),
  n: () => "\n",
  p: (date) => (date.getHours() < 12 ? "AM" : "PM"),
  P: (date) => (date.getHours() < 12 ? "am" : "pm"),
  r: (date) => formatDate(date, "%I:%M:%S %p"),
  R: (date) => formatDate(date, "%H:%M"),
  s: (date) => [Math.floor(date.getTime() / 1000), 1, "0"],
  S: (date) => two(date.getSeconds()),
  t: () => "\t",
  T: (date) => formatDate(date, "%H:%M:%S"),
  u: (date) => [date.getDay() || 7, 1, "0"],
  // Weeks that begin on Sunday, on Monday; days before the first are week 0.
  U: (date) => two(Math.floor((dayOfYear(date) + 7 - date.getDay()) / 7)),
  V: (date) => two(isoWeek(date).week),
  w: (date) => [date.getDay(), 1, "0"],
  W: (date) => two(Math.floor((dayOfYear(date) + 7 - ((date.getDay() + 6) % 7)) / 7)),
  x: (date) => formatDate(date, "%m/%d/%y"),
  X: (date) => formatDate(date, "%H:%M:%S"),
  y: (date) => two(date.getFullYear() % 100),
  Y: (date) => [date.getFullYear(), 1, "0"],
  z: () => "",
  Z: () => "",
  "%": () => "%",
};

/** Unknown codes stay unchanged, as in glibc. */
export function formatDate(date: Date, format: string): string {
  return format.replace(/%([-_0^]?)[EO]?([a-zA-Z%])/g, (whole, flag: string, letter: string) => {
    const field = Object.hasOwn(codes, letter) ? codes[letter]!(date) : whole;
    if (typeof field === "string") return flag === "^" ? field.toUpperCase() : field;
    const [value, width, fill] = field;
    if (flag === "-") return String(value);
    return String(value).padStart(width, flag === "_" ? " " : flag === "0" ? "0" : fill);
  });
}
