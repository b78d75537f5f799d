/**
 * Token ids → text, all at once or as they come. Byte-level vocabularies, which nearly all models have, are decoded here
 * by their bytes; the others (Metaspace, byte fallback, WordPiece) by the library's decoder, over a window of the last
 * tokens.
 */

/** What decoding needs from a vocabulary. Special tokens to be skipped are removed before. */
export interface Decoder {
  decode(ids: readonly number[]): string;
  incremental(): IncrementalDecoder;
}

/** Text as tokens come: the results of `push` and `end`, joined, equal decoding all ids at once. */
export interface IncrementalDecoder {
  /** @returns text that is final now; "" while it depends on what follows */
  push(id: number): string;
  /**
   * @returns what `end` would add now, without incomplete characters: text that the next token may still change. Looks
   * only at text that is not final, never at the whole text.
   */
  pending(): string;
  /** @returns the rest */
  end(): string;
}

/** GPT-2's byte-level alphabet: printable bytes stand for themselves, the others for U+0100 and on. */
export function byteAlphabet(): Map<string, number> {
  const isPrintable = (byte: number) =>
    (byte >= 0x21 && byte <= 0x7e) || (byte >= 0xa1 && byte <= 0xac) || (byte >= 0xae && byte <= 0xff);
  const alphabet = new Map<string, number>();
  let next = 0x100;
  for (let byte = 0; byte < 256; byte++) alphabet.set(String.fromCodePoint(isPrintable(byte) ? byte : next++), byte);
  return alphabet;
}

const utf8 = { ignoreBOM: true } as const;

/**
 * For a vocabulary in the byte-level alphabet. Invalid UTF-8 becomes U+FFFD.
 *
 * @param tokenOf a token in the vocabulary's spelling; undefined for an id without one, which decodes to nothing
 */
export function byteLevelDecoder(tokenOf: (id: number) => string | undefined): Decoder {
  const alphabet = byteAlphabet();
  const known: Uint8Array[] = [];
  function bytesOf(id: number): Uint8Array {
    const cached = known[id];
    if (cached !== undefined) return cached;
    const token = tokenOf(id) ?? "";
    const bytes = Array.from(token, (character) => alphabet.get(character));
    // An added token may have characters outside the alphabet; it then stands for itself.
    const result = bytes.includes(undefined) ? new TextEncoder().encode(token) : Uint8Array.from(bytes as number[]);
    known[id] = result;
    return result;
  }
  return {
    decode(ids) {
      const parts = ids.map(bytesOf);
      const bytes = new Uint8Array(parts.reduce((sum, part) => sum + part.length, 0));
      let at = 0;
      for (const part of parts) {
        bytes.set(part, at);
        at += part.length;
      }
      return new TextDecoder("utf-8", utf8).decode(bytes);
    },
    incremental() {
      const decoder = new TextDecoder("utf-8", utf8);
      return {
        push: (id) => decoder.decode(bytesOf(id), { stream: true }),
        pending: () => "", // only bytes of an incomplete character
        end: () => decoder.decode(),
      };
    },
  };
}

/** English punctuation that `cleanUpSpaces` joins to the word before it. */
const spacings: readonly (readonly [string, string])[] = [
  [" .", "."],
  [" ?", "?"],
  [" !", "!"],
  [" ,", ","],
  [" ' ", "'"],
  [" n't", "n't"],
  [" 'm", "'m"],
  [" 's", "'s"],
  [" 've", "'ve"],
  [" 're", "'re"],
];
/** Text this close to the end can still change when more comes: consecutive replacements reach no further. */
const spacingReach = 12;

/** The text of a run of byte tokens so far; "" once a byte makes it invalid UTF-8, for then each byte is U+FFFD. */
function byteRun() {
  const decoder = new TextDecoder("utf-8", { ...utf8, fatal: true });
  let broken = false;
  let text = "";
  return {
    push(byte: number): void {
      if (broken) return;
      try {
        text += decoder.decode(Uint8Array.of(byte), { stream: true });
      } catch {
        broken = true;
        text = "";
      }
    },
    get text() {
      return text;
    },
  };
}

/** transformers' `clean_up_tokenization`. */
function cleanUpSpaces(text: string): string {
  return spacings.reduce((cleaned, [spaced, joined]) => cleaned.replaceAll(spaced, joined), text);
}

/**
 * For any other vocabulary.
 *
 * @param decode ids → text by the vocabulary's own rules, by which a token's text may depend on its neighbours
 * @param byteOf the byte that a byte token stands for, whose text is known when the run of them ends; else null
 * @param cleanUp whether transformers joins punctuation in this model's text
 */
export function windowedDecoder(
  decode: (ids: readonly number[]) => string,
  byteOf: (id: number) => number | null,
  cleanUp: boolean,
): Decoder {
  const finish = cleanUp ? cleanUpSpaces : (text: string) => text;
  const decodeAll = (ids: readonly number[]) => finish(decode(ids));
  return {
    decode: decodeAll,
    incremental() {
      const ids: number[] = [];
      let raw = "";
      let emitted = 0;
      // Tokens from `start` to `read` are already text; they stay in the window because they affect what follows.
      let start = 0;
      let read = 0;
      let run: ReturnType<typeof byteRun> | null = null;
      let unsettled = ""; // after `raw`
      return {
        push(id) {
          ids.push(id);
          const byte = byteOf(id);
          if (byte !== null) {
            run ??= byteRun();
            run.push(byte);
            unsettled = run.text;
            return "";
          }
          run = null;
          const before = decode(ids.slice(start, read));
          const now = decode(ids.slice(start));
          // A character whose bytes have not all come yet.
          if (now.endsWith("\ufffd")) {
            unsettled = now.slice(before.length).replace(/\ufffd+$/, "");
            return "";
          }
          unsettled = "";
          raw += now.slice(before.length);
          start = read;
          read = ids.length;
          const settled = cleanUp ? finish(raw).slice(0, -spacingReach) : raw;
          const text = settled.slice(emitted);
          emitted += text.length;
          return text;
        },
        pending: () => (cleanUp ? finish(raw + unsettled).slice(emitted) : unsettled),
        end: () => decodeAll(ids).slice(emitted),
      };
    },
  };
}
