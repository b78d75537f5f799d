/** One message of a conversation, as in rows, chat templates and reward functions. */
export interface Message {
  readonly role: string;
  /** Absent if the message consists of tool calls only. */
  readonly content?: string;
  /** Other fields of the row, for templates that read them: `name`, `reasoning_content`, `tool_calls`. */
  readonly [key: string]: unknown;
}
