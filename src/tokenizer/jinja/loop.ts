/** The `loop` of a `for`, and jinja2's other objects that track a position in a sequence. */
import { TemplateFault } from "./fault.ts";
import { Attributes, isEqual, type Kwargs, Tuple, Undefined, type Value } from "./values.ts";

export class Loop extends Attributes {
  readonly typeName = "LoopContext";
  /** Counted from 0. */
  index = 0;
  private last: Value | undefined;

  private readonly items: readonly Value[];
  private readonly depth: number;
  private readonly recurse: ((children: Value) => Value) | null;
  constructor(items: readonly Value[], depth: number, recurse: ((children: Value) => Value) | null) {
    super();
    this.items = items;
    this.depth = depth;
    this.recurse = recurse;
  }
  attribute(name: string): Value | undefined {
    const { items, index, depth } = this;
    switch (name) {
      case "index":
        return BigInt(index + 1);
      case "index0":
        return BigInt(index);
      case "revindex":
        return BigInt(items.length - index);
      case "revindex0":
        return BigInt(items.length - index - 1);
      case "first":
        return index === 0;
      case "last":
        return index === items.length - 1;
      case "length":
        return BigInt(items.length);
      case "depth":
        return BigInt(depth + 1);
      case "depth0":
        return BigInt(depth);
      case "previtem":
        return index > 0 ? items[index - 1]! : new Undefined("there is no previous item");
      case "nextitem":
        return index + 1 < items.length ? items[index + 1]! : new Undefined("there is no next item");
      case "cycle":
        return (args) => {
          if (args.length === 0) throw new TemplateFault("no items for cycling given");
          return args[index % args.length]!;
        };
      case "changed":
        return (args) => {
          const now = new Tuple(args);
          const isSame = this.last !== undefined && isEqual(this.last, now);
          this.last = now;
          return !isSame;
        };
      default:
        return undefined;
    }
  }
  override call(args: readonly Value[], _kwargs: Kwargs): Value {
    if (this.recurse === null)
      throw new TemplateFault("The loop must have the 'recursive' marker to be called recursively.");
    return this.recurse(args[0] ?? null);
  }
}

export class Cycler extends Attributes {
  readonly typeName = "Cycler";
  private at = 0;
  private readonly items: readonly Value[];
  constructor(items: readonly Value[]) {
    super();
    this.items = items;
    if (items.length === 0) throw new TemplateFault("at least one item has to be provided");
  }
  attribute(name: string): Value | undefined {
    const current = this.items[this.at]!;
    if (name === "current") return current;
    if (name === "reset")
      return () => {
        this.at = 0;
        return null;
      };
    if (name !== "next") return undefined;
    return () => {
      const item = this.items[this.at]!;
      this.at = (this.at + 1) % this.items.length;
      return item;
    };
  }
}
