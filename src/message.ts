/** A turn of a conversation, as rows, chat templates and reward functions have it. */
export interface Message {
  readonly role: string;
  /** Absent where the message is calls of tools alone. */
  readonly content?: string;
  /** What else the row has, for templates that read it: `name`, `reasoning_content`, `tool_calls`. */
  readonly [key: string]: unknown;
}
