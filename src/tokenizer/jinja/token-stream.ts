/** The tokens of a template, as read by its parser. */
import { TemplateFault } from "./fault.ts";
import { type Token, type TokenType, tokenize } from "./lexer.ts";

export class TokenStream {
  private readonly tokens: readonly Token[];
  private at = 0;
  /** How many loops the parser is in. */
  loops = 0;

  constructor(template: string) {
    this.tokens = tokenize(template);
  }
  get current(): Token {
    return this.tokens[this.at]!;
  }
  get ahead(): Token {
    return this.tokens[Math.min(this.at + 1, this.tokens.length - 1)]!;
  }
  is(type: TokenType, value?: string): boolean {
    return this.current.type === type && (value === undefined || this.current.value === value);
  }
  isOperator(...values: string[]): boolean {
    return this.current.type === "operator" && values.includes(this.current.value);
  }
  isName(...values: string[]): boolean {
    return this.current.type === "name" && values.includes(this.current.value);
  }
  next(): Token {
    const token = this.current;
    if (token.type !== "end") this.at++;
    return token;
  }
  /** Consumes the token if it is the named one; returns whether it was. */
  accept(type: TokenType, value: string): boolean {
    if (!this.is(type, value)) return false;
    this.next();
    return true;
  }
  expect(type: TokenType, value?: string): Token {
    if (!this.is(type, value))
      this.fail(`expected ${value === undefined ? type.replace("_", " ") : `'${value}'`}, found ${this.found()}`);
    return this.next();
  }
  found(): string {
    const { type, value } = this.current;
    return type === "end" ? "the end of the template" : value === "" ? type.replace("_", " ") : `'${value}'`;
  }
  fail(message: string): never {
    throw new TemplateFault(`line ${this.current.line}: ${message}`);
  }
}
