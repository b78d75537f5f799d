/** What is opened is closed on every way out, whatever closing meets; the error of the work is the one that is thrown. */
import { describe, expect, test } from "bun:test";
import { createClosers, whileOpen } from "../../src/closing.ts";

/** Resources that write down their closing; those named in `failing` throw then. */
function resources(failing: readonly string[]) {
  const closed: string[] = [];
  const resource = (name: string) => ({
    close() {
      closed.push(name);
      if (failing.includes(name)) throw new Error(`${name} does not close`);
    },
  });
  return { closed, resource };
}

describe("closers", () => {
  test("close in reverse order, each once, even if one fails", () => {
    const { closed, resource } = resources(["b", "a"]);
    const closers = createClosers();
    for (const name of ["a", "b", "c"]) closers.add(resource(name));
    expect(() => closers.close()).toThrow("b does not close");
    expect(closed).toEqual(["c", "b", "a"]);
    closers.close();
    expect(closed).toEqual(["c", "b", "a"]);
  });

  test("abandoned, close as well and throw nothing", () => {
    const { closed, resource } = resources(["a"]);
    const closers = createClosers();
    for (const name of ["a", "b"]) closers.add(resource(name));
    closers.abandon();
    expect(closed).toEqual(["b", "a"]);
  });
});

describe("while something is open", () => {
  test("the result comes after closing", async () => {
    const { closed, resource } = resources([]);
    expect(await whileOpen(resource("a"), async () => [...closed])).toEqual([]);
    expect(closed).toEqual(["a"]);
  });

  test("the error of the work is thrown, not that of closing", async () => {
    const { closed, resource } = resources(["a"]);
    const work = () => Promise.reject(new Error("no work"));
    await expect(whileOpen(resource("a"), work)).rejects.toThrow("no work");
    expect(closed).toEqual(["a"]);
  });

  test("a failure of closing alone is thrown", async () => {
    await expect(whileOpen(resources(["a"]).resource("a"), async () => 1)).rejects.toThrow("a does not close");
  });
});
