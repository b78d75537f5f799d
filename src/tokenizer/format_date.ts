/** Python's `strftime` in its C locale, which chat templates rely on for today's date. Leaves out time zones and weeks. */

const months = "January February March April May June July August September October November December".split(" ");
const days = "Sunday Monday Tuesday Wednesday Thursday Friday Saturday".split(" ");

/** Formats local time by the codes `%a %A %b %B %d %e %H %I %j %m %M %p %S %y %Y %%`; others stay as they are. */
export function formatDate(date: Date, format: string): string {
  const pad = (value: number, width = 2, fill = "0") => String(value).padStart(width, fill);
  const year = date.getFullYear();
  const codes: Record<string, () => string> = {
    a: () => days[date.getDay()]!.slice(0, 3),
    A: () => days[date.getDay()]!,
    b: () => months[date.getMonth()]!.slice(0, 3),
    B: () => months[date.getMonth()]!,
    d: () => pad(date.getDate()),
    e: () => pad(date.getDate(), 2, " "),
    H: () => pad(date.getHours()),
    I: () => pad(date.getHours() % 12 || 12),
    // Through UTC, so that a change to summer time does not shorten the count.
    j: () => pad((Date.UTC(year, date.getMonth(), date.getDate()) - Date.UTC(year, 0, 0)) / 86_400_000, 3),
    m: () => pad(date.getMonth() + 1),
    M: () => pad(date.getMinutes()),
    p: () => (date.getHours() < 12 ? "AM" : "PM"),
    S: () => pad(date.getSeconds()),
    y: () => pad(year % 100),
    Y: () => String(year),
    "%": () => "%",
  };
  return format.replace(/%([a-zA-Z%])/g, (code, letter: string) => codes[letter]?.() ?? code);
}
