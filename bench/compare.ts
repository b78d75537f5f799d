export async function compare(): Promise<unknown> {
  return null;
}
