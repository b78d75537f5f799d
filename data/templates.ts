/**
 * The stories of the bundled problems: text with placeholders, and the calculation that answers it. problems.ts draws
 * the values.
 *
 * In a text `{N}` and `{M}` are two names, `{o}` is a kind of thing, `{a}` to `{d}` are numbers. A step is `x op y`,
 * where x and y are a placeholder's letter or `1`, `2`: the result of that step.
 */

/** Lowest and highest value of a number, both included. */
export type Range = readonly [number, number];

export interface Template {
  readonly text: string;
  readonly numbers: Readonly<Record<string, Range>>;
  readonly steps: readonly string[];
}

export const names = [
  "Ana", "Ben", "Carl", "Dora", "Emil", "Fay", "Gus", "Hana", "Ivan", "Jill",
  "Kim", "Leo", "Mia", "Nils", "Olga", "Paul", "Rosa", "Sam", "Tara", "Uma",
] as const; // biome-ignore format: a table

export const things = [
  "apples",
  "balls",
  "beads",
  "bells",
  "books",
  "buttons",
  "candles",
  "cards",
  "coins",
  "cookies",
  "cups",
  "dolls",
  "eggs",
  "figs",
  "flowers",
  "keys",
  "kites",
  "marbles",
  "nuts",
  "oranges",
  "pears",
  "pencils",
  "pens",
  "plums",
  "rings",
  "shells",
  "stamps",
  "stickers",
  "stones",
  "toys",
] as const;

const few: Range = [2, 9];
const some: Range = [2, 9];
const many: Range = [10, 60];

export const templates: readonly Template[] = [
  {
    text: "{N} has {a} {o}. {M} gives {N} {b} more. Then {N} loses {c}. How many {o} does {N} have now?",
    numbers: { a: many, b: some, c: some },
    steps: ["a + b", "1 - c"],
  },
  {
    text: "{N} has {a} {o} and finds {b} more. Then {N} finds {c} more. How many {o} does {N} have in all?",
    numbers: { a: many, b: few, c: few },
    steps: ["a + b", "1 + c"],
  },
  {
    text: "{N} had {a} {o}. {N} gave {b} to {M} and lost {c}. How many {o} are left?",
    numbers: { a: many, b: some, c: few },
    steps: ["a - b", "1 - c"],
  },
  {
    text: "A shop has {a} {o}. It sells {b} and then gets {c} new ones. How many {o} does the shop have now?",
    numbers: { a: many, b: some, c: some },
    steps: ["a - b", "1 + c"],
  },
  {
    text: "There are {a} boxes with {b} {o} in each. {N} takes {c} of them. How many {o} are left?",
    numbers: { a: few, b: few, c: few },
    steps: ["a * b", "1 - c"],
  },
  {
    text: "{N} has {a} bags with {b} {o} in each and {c} more {o}. How many {o} is that in all?",
    numbers: { a: few, b: few, c: some },
    steps: ["a * b", "1 + c"],
  },
  {
    text: "{N} has {a} {o}. Then {N} buys {b} packs of {c} {o}. How many {o} does {N} have now?",
    numbers: { a: some, b: few, c: few },
    steps: ["b * c", "a + 1"],
  },
  {
    text: "{N} makes {a} red {o} and {b} blue {o}. Each one costs {c} dollars. How many dollars do all of them cost?",
    numbers: { a: few, b: few, c: few },
    steps: ["a + b", "1 * c"],
  },
  {
    text: "{N} had {a} {o} and lost {b}. {N} sells the others for {c} dollars each. How many dollars does {N} get?",
    numbers: { a: some, b: some, c: few },
    steps: ["a - b", "1 * c"],
  },
  {
    text: "{N} has {a} {o}. {M} has {b} more than {N}. How many {o} do they have together?",
    numbers: { a: some, b: few },
    steps: ["a + b", "a + 1"],
  },
  {
    text: "{N} has {a} {o}. {M} has {b} fewer than {N}. How many {o} do they have together?",
    numbers: { a: some, b: few },
    steps: ["a - b", "a + 1"],
  },
  {
    text: "{N} has {a} {o}. {M} has {b} times as many. How many {o} do they have together?",
    numbers: { a: few, b: few },
    steps: ["a * b", "a + 1"],
  },
  {
    text: "{N} wants {a} {o}. Now {N} has {b} bags of {c} {o}. How many more {o} does {N} need?",
    numbers: { a: many, b: few, c: few },
    steps: ["b * c", "a - 1"],
  },
  {
    text: "A book has {a} pages. {N} reads {b} pages a day for {c} days. How many pages are left?",
    numbers: { a: many, b: few, c: few },
    steps: ["b * c", "a - 1"],
  },
  {
    text: "{N} sees {a} people on a bus. Then {b} get off and {c} get on. How many people are on the bus now?",
    numbers: { a: many, b: some, c: some },
    steps: ["a - b", "1 + c"],
  },
  {
    text: "{N} sees {a} birds in a tree. Then {b} come and {c} fly away. How many birds are in the tree now?",
    numbers: { a: many, b: some, c: some },
    steps: ["a + b", "1 - c"],
  },
  {
    text: "{N} had {a} {o}. {N} gave {b} to {M} and shared the others equally with {c} children. How many {o} did each of the children get?",
    numbers: { a: many, b: few, c: few },
    steps: ["a - b", "1 / c"],
  },
  {
    text: "{N} and {M} put {a} {o} equally into {b} boxes. Then {N} puts {c} more into each box. How many {o} are in one box?",
    numbers: { a: many, b: few, c: few },
    steps: ["a / b", "1 + c"],
  },
  {
    text: "{N} has {a} {o}. {N} buys {b} packs of {c} {o} and gives {d} to {M}. How many {o} does {N} have now?",
    numbers: { a: some, b: few, c: few, d: few },
    steps: ["b * c", "a + 1", "2 - d"],
  },
  {
    text: "There are {a} rows of {b} red {o} and {c} rows of {d} blue {o}. How many {o} are there in all?",
    numbers: { a: few, b: few, c: few, d: few },
    steps: ["a * b", "c * d", "1 + 2"],
  },
  {
    text: "{N} buys {a} {o} for {b} dollars each and a bag for {c} dollars. {N} pays with {d} dollars. How many dollars are left?",
    numbers: { a: few, b: few, c: few, d: many },
    steps: ["a * b", "1 + c", "d - 2"],
  },
  {
    text: "{N} gets {a} dollars a day for {b} days. Then {N} spends {c} dollars and finds {d}. How many dollars does {N} have now?",
    numbers: { a: few, b: few, c: some, d: few },
    steps: ["a * b", "1 - c", "2 + d"],
  },
  {
    text: "{N} works {a} hours on Monday and {b} hours on Friday for {c} dollars an hour. Then {N} spends {d} dollars. How many dollars are left?",
    numbers: { a: few, b: few, c: few, d: some },
    steps: ["a + b", "1 * c", "2 - d"],
  },
  {
    text: "{N} has a farm with {a} cows and {b} hens. {N} buys {c} cows and sells {d} hens. How many animals does the farm have now?",
    numbers: { a: some, b: some, c: few, d: few },
    steps: ["a + b", "1 + c", "2 - d"],
  },
];
