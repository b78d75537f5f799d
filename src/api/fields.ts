/** Which setting a refusal is about, for programs that show it beside a form's field. */
import { toCamel } from "../config/names.ts";
import { type CommandName, settingsOf } from "../config/schema.ts";
import { InputError } from "../errors.ts";

/** What a call takes besides the schema's settings. */
const values: Partial<Record<CommandName, readonly string[]>> = { generate: ["prompts"], score: ["groups"] };

/** Every message begins with the place of what is wrong: a setting as one of the sources spells it, perhaps in a file. */
const place = /^(?:\S+:\d+: )?(?:--)?([A-Za-z_]\w*)(?=[\s:[])/;

/** The setting's name in camelCase; null if the message begins with something else, such as a file. */
function fieldOf(message: string, command: CommandName): string | null {
  const name = place.exec(message)?.[1];
  if (name === undefined) return null;
  const camel = toCamel(name);
  const known = [...Object.keys(settingsOf(command)).map(toCamel), ...(values[command] ?? [])];
  if (known.includes(camel)) return camel;
  // An unknown name is refused under the name that was written.
  return /^\w+: (?:unknown setting|is written|a setting of)/.test(message) ? name : null;
}

/** Runs the work of a command; its refusals know their fields. */
export async function withFields<R>(command: CommandName, work: () => Promise<R>): Promise<R> {
  try {
    return await work();
  } catch (error) {
    if (error instanceof InputError) {
      for (const one of error.errors) one.field = fieldOf(one.message, command);
      error.field = error.errors[0]?.field ?? null;
    }
    throw error;
  }
}
