/** Server-sent events to every open page. A page that does not keep up is let go: its browser connects again. */

export interface Events {
  /** How many pages follow. */
  readonly pages: number;
  /** A stream for one page, which begins with these events; null: there are too many pages. */
  open(first: readonly string[]): ReadableStream<Uint8Array> | null;
  send(event: string): void;
  close(): void;
}

/** Most pages that are followed at once. */
const LISTENERS = 64;
/** Bytes that may wait for a slow page. */
const WAITING = 1 << 20;

export const eventText = (name: string, data: unknown): string => `event: ${name}\ndata: ${JSON.stringify(data)}\n\n`;

export function createEvents(): Events {
  type Controller = ReadableStreamDefaultController<Uint8Array>;
  const pages = new Set<Controller>();
  const encoder = new TextEncoder();
  const leave = (page: Controller): void => {
    pages.delete(page);
    try {
      page.close();
    } catch {
      // The browser closed it first.
    }
  };
  return {
    get pages() {
      return pages.size;
    },
    open(first) {
      if (pages.size >= LISTENERS) return null;
      let own: Controller;
      return new ReadableStream<Uint8Array>(
        {
          start(controller) {
            own = controller;
            pages.add(own);
            // Asks the browser to connect again after a second.
            own.enqueue(encoder.encode(`retry: 1000\n\n${first.join("")}`));
          },
          cancel() {
            pages.delete(own);
          },
        },
        { highWaterMark: WAITING, size: (chunk) => chunk?.byteLength ?? 0 },
      );
    },
    send(event) {
      const bytes = encoder.encode(event);
      for (const page of pages) {
        if ((page.desiredSize ?? 0) <= 0) leave(page);
        else page.enqueue(bytes);
      }
    },
    close() {
      for (const page of pages) leave(page);
    },
  };
}
