/** The nodes of a parsed template. */

export type Expr =
  | { readonly type: "const"; readonly value: string | bigint | number | boolean | null }
  | { readonly type: "name"; readonly name: string }
  | { readonly type: "tuple" | "list"; readonly items: readonly Expr[] }
  | { readonly type: "dict"; readonly entries: readonly (readonly [Expr, Expr])[] }
  | { readonly type: "choice"; readonly test: Expr; readonly yes: Expr; readonly no: Expr | null }
  | { readonly type: "and" | "or"; readonly left: Expr; readonly right: Expr }
  | { readonly type: "not" | "negative" | "positive"; readonly operand: Expr }
  | { readonly type: "compare"; readonly first: Expr; readonly rest: readonly (readonly [string, Expr])[] }
  | { readonly type: "binary"; readonly operator: string; readonly left: Expr; readonly right: Expr }
  | { readonly type: "concat"; readonly items: readonly Expr[] }
  | { readonly type: "attribute"; readonly object: Expr; readonly name: string }
  | { readonly type: "item"; readonly object: Expr; readonly key: Expr }
  | { readonly type: "slice"; readonly bounds: readonly (Expr | null)[] }
  | { readonly type: "call"; readonly callee: Expr; readonly args: Arguments }
  | { readonly type: "filter"; readonly name: string; readonly operand: Expr | null; readonly args: Arguments }
  | { readonly type: "test"; readonly name: string; readonly operand: Expr; readonly args: Arguments };

export interface Arguments {
  readonly positional: readonly Expr[];
  readonly named: readonly (readonly [string, Expr])[];
  /** `*list` and `**dict`. */
  readonly spread: Expr | null;
  readonly spreadNamed: Expr | null;
}

export const noArguments: Arguments = { positional: [], named: [], spread: null, spreadNamed: null };

/** The target of an assignment: a name, a namespace's attribute, or a tuple of them. */
export type Target =
  | { readonly type: "name"; readonly name: string }
  | { readonly type: "member"; readonly name: string; readonly attribute: string }
  | { readonly type: "tuple"; readonly items: readonly Target[] };

export interface Signature {
  readonly parameters: readonly { readonly name: string; readonly fallback: Expr | null }[];
  /** Which of `caller`, `varargs` and `kwargs` the body reads. */
  readonly special: ReadonlySet<string>;
}

export type Stmt =
  | { readonly type: "text"; readonly text: string }
  | { readonly type: "print"; readonly value: Expr }
  | {
      readonly type: "if";
      readonly branches: readonly (readonly [Expr, readonly Stmt[]])[];
      readonly otherwise: readonly Stmt[];
    }
  | {
      readonly type: "for";
      readonly target: Target;
      readonly over: Expr;
      readonly test: Expr | null;
      readonly recursive: boolean;
      readonly body: readonly Stmt[];
      readonly otherwise: readonly Stmt[];
    }
  | { readonly type: "set"; readonly target: Target; readonly value: Expr }
  | { readonly type: "setBlock"; readonly target: Target; readonly filter: Expr | null; readonly body: readonly Stmt[] }
  | { readonly type: "with"; readonly targets: readonly (readonly [Target, Expr])[]; readonly body: readonly Stmt[] }
  | { readonly type: "macro"; readonly name: string; readonly signature: Signature; readonly body: readonly Stmt[] }
  | { readonly type: "callBlock"; readonly call: Expr; readonly signature: Signature; readonly body: readonly Stmt[] }
  | { readonly type: "filterBlock"; readonly filter: Expr; readonly body: readonly Stmt[] }
  | { readonly type: "generation"; readonly body: readonly Stmt[] }
  | { readonly type: "break" | "continue" };
