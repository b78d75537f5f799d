"""How the tokenizers library splits and normalizes hostile text, the reference of test/unit/tokenizer-splits.test.ts.

usage: make_tokenizer_splits.py > tokenizer-splits.json (needs tokenizers)
       make_tokenizer_splits.py --compare N: N random texts per tokenizer, by the program too (needs bun); says how many differ
The vocabulary is the 256 bytes, so that ids show every split that matters: pre-tokenizers of public models, each kind of
step there is, normalizers, and added tokens with every flag.
"""
import json, pathlib, random, subprocess, sys, tempfile
from tokenizers import Tokenizer

HERE = pathlib.Path(__file__).parent


def alphabet():
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    return [chr(byte) for byte in printable] + [chr(256 + i) for i in range(len(others))]


VOCABULARY = {character: i for i, character in enumerate(alphabet())}
BYTES = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
GPT2 = {**BYTES, "use_regex": True}
ENDINGS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
REST = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
LETTERS = r"[^\r\n\p{L}\p{N}]?\p{L}+"
CASED = (r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+ENDINGS?|"
         r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*ENDINGS?|\p{N}{1,3}").replace("ENDINGS", ENDINGS)
QWEN = ENDINGS + "|" + LETTERS + r"|\p{N}" + REST


def split(regex, behavior="Isolated", invert=False):
    return {"type": "Split", "pattern": {"Regex": regex}, "behavior": behavior, "invert": invert}


def sequence(*steps):
    return {"type": "Sequence", "pretokenizers": list(steps)}


PRE_TOKENIZERS = {
    "GPT-2": GPT2, "GPT-2 with a space before": {**GPT2, "add_prefix_space": True},
    "Llama-3": sequence(split(ENDINGS + "|" + LETTERS + r"|\p{N}{1,3}" + REST), BYTES), "Qwen2": sequence(split(QWEN), BYTES),
    "Qwen3.5": sequence(split(QWEN.replace(r"?\p{L}+", r"?[\p{L}\p{M}]+").replace(r"[^\s\p{L}\p{N}]", r"[^\s\p{L}\p{M}\p{N}]")), BYTES),
    "gpt-oss": sequence(split(CASED + REST.replace(r"[\r\n]*", r"[\r\n/]*")), BYTES),
    "SmolLM2": sequence({"type": "Digits", "individual_digits": True}, GPT2),
    "DeepSeek-V3": sequence(split(r"\p{N}{1,3}"), split("[一-龥\u3040-ゟ゠-ヿ]+"), split(
        r"[!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"), BYTES),
    "cl100k": sequence(split(ENDINGS + r"|[^\r\n\p{L}\p{N}]?+\p{L}++|\p{N}{1,3}+| ?[^\s\p{L}\p{N}]++[\r\n]*+|\s++$|\s*[\r\n]|\s+(?!\S)|\s"), BYTES),
    "BLOOM": sequence(split(" ?[^(\\s|[.,!?…。，、।۔،])]+"), BYTES),
    "Digits": sequence({"type": "Digits", "individual_digits": False}, GPT2),
    **{kind: sequence({"type": kind}, BYTES) for kind in ("Whitespace", "WhitespaceSplit", "BertPreTokenizer")},
    **{f"Punctuation {behavior}": sequence({"type": "Punctuation", "behavior": behavior}, BYTES) for behavior in ("Isolated", "Contiguous", "Removed")},
    **{f"Split {behavior} {invert}": sequence(split(r"\s", behavior, invert), BYTES) for invert in (False, True)
       for behavior in ("Removed", "Isolated", "MergedWithPrevious", "MergedWithNext", "Contiguous")},
    "Split by a text": sequence({"type": "Split", "pattern": {"String": " "}, "behavior": "Removed", "invert": False}, BYTES),
    "Split with a group": sequence(split(r"(\s)+(a)?", "Removed"), BYTES), "FixedLength": sequence({"type": "FixedLength", "length": 3}, BYTES),
    "classes": sequence(split(r"\w+|\d|[[:alpha:]]|\h+|^a|b$|\R|."), BYTES),
    "atomic": sequence(split(r"(?>\s+)a|(?>a|ab)c|\s*+\n|\p{L}++"), BYTES), "letters": sequence(split(r"(?i:straße|[sx]+|k)"), BYTES),
}
NORMALIZERS = {
    "NFC": {"type": "NFC"}, "NFKC": {"type": "NFKC"}, "NFD": {"type": "NFD"}, "Lowercase": {"type": "Lowercase"},
    "Strip": {"type": "Strip", "strip_left": True, "strip_right": True},
    "Replace": {"type": "Replace", "pattern": {"Regex": r"\s+"}, "content": "$& "},
    "Prepend": {"type": "Sequence", "normalizers": [{"type": "Prepend", "prepend": "▁"}, {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}]},
    "StripAccents": {"type": "Sequence", "normalizers": [{"type": "NFD"}, {"type": "StripAccents"}]},
    "BertNormalizer": {"type": "BertNormalizer", "clean_text": True, "handle_chinese_chars": True, "strip_accents": None, "lowercase": True},
}
FLAGS = [dict(content="<|l|>", lstrip=True), dict(content="<|r|>", rstrip=True), dict(content="<|lr|>", lstrip=True, rstrip=True),
         dict(content="word", single_word=True), dict(content="wo", single_word=True), dict(content="éß", normalized=True),
         dict(content="<|a|>"), dict(content="<|a|><|b|>"), dict(content="\n\n")]
ADDED = [{"id": 256 + i, "single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": not flags.get("normalized", False), **flags}
         for i, flags in enumerate(FLAGS)]
PIECES = [" ", "  ", "\n", "\n\n", "\t", "\r\n", "\r", "\u0085", "\ufeff", "\u00a0", "\u3000", "\u200b", "\u200d", "\u2028", "\x1c", "\x0b", "\x0c",
          "a", "b", "ab", "abc", "word", "Word", "wo", "é", "e\u0301", "ß", "éß", "ſ", "'ſ", "\u212a", "İ", "ΑΣ", "ΟΔΟΣ ", "😀", "👩‍👩‍👧", "🇩🇪", "中", "ひらがな",
          "カタ", "한", "हि", "1", "12", "1234", "½", "²", "Ⅷ", "٣", "_", "'s", "'S", "'LL", "'", '"', "-", "—", "…", "。", "$", "+", "^", "<|l|>", "<|r|>",
          "<|lr|>", "<|a|>", "<|b|>", "/", "\\", "\u0300", "\u0903", "ﬁ", "ǅ", "ª", "𝒜", "\x00", "\x7f", "\ue000"]


def tokenizer(pre_tokenizer, normalizer=None, added=()):
    return {"version": "1.0", "truncation": None, "padding": None, "added_tokens": list(added), "normalizer": normalizer, "pre_tokenizer": pre_tokenizer,
            "post_processor": None, "decoder": None,
            "model": {"type": "BPE", "unk_token": None, "ignore_merges": True, "vocab": VOCABULARY, "merges": []}}


def tokenizers():
    yield from ((name, tokenizer(steps)) for name, steps in PRE_TOKENIZERS.items())
    for name, normalizer in {"none": None, **NORMALIZERS}.items():
        yield f"normalizer {name}", tokenizer(PRE_TOKENIZERS["Qwen2"], normalizer)
        yield f"added tokens, normalizer {name}", tokenizer(PRE_TOKENIZERS["Qwen2"], normalizer, ADDED)


def text(rng):
    return "".join(rng.choice(PIECES) for _ in range(rng.randrange(1, 12)))


def recorded(json_text, texts):
    """For each text, the pieces passed to the vocabulary, and the ids."""
    library = Tokenizer.from_str(json_text)
    normalized = lambda given: library.normalizer.normalize_str(given) if library.normalizer else given
    return [[[piece for piece, _ in library.pre_tokenizer.pre_tokenize_str(normalized(given))], library.encode(given, add_special_tokens=False).ids]
            for given in texts]


def compare(count):
    rng = random.Random(count)
    texts = [text(rng) for _ in range(count)]
    cases = [(name, given, recorded(json.dumps(given), texts)) for name, given in tokenizers()]
    program = f"""
      import {{ openLibrary }} from "{HERE.parent.parent}/src/tokenizer/library.ts";
      const {{ tokenizers, texts }} = await Bun.file(process.argv[2]).json();
      await Bun.write(process.argv[3], JSON.stringify(tokenizers.map((json) => {{
        const library = openLibrary(json, {{}}, [], "x");
        return texts.map((text) => [library.pre_tokenizer.pre_tokenize(library.normalizer?.normalize(text) ?? text, {{ section_index: 0 }}),
                                    library.encode(text, {{ add_special_tokens: false }}).ids]);
      }})));"""
    with tempfile.TemporaryDirectory() as folder:
        names = [f"{folder}/{name}" for name in ("program.ts", "in.json", "out.json")]
        pathlib.Path(names[0]).write_text(program)
        pathlib.Path(names[1]).write_text(json.dumps({"tokenizers": [given for _, given, _ in cases], "texts": texts}))
        subprocess.run(["bun", *names], check=True)
        ours = json.loads(pathlib.Path(names[2]).read_text())
    total = different = 0
    for (name, _, theirs), mine in zip(cases, ours):
        for given, a, b in zip(texts, theirs, mine):
            total += 1
            if a != b:
                different += 1
                if different <= 8: print(name, repr(given), "\n  theirs", a, "\n  ours  ", b)
    print(f"{total} texts, {different} differ")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--compare"]:
        compare(int(sys.argv[2]))
    else:
        rng = random.Random(11)
        texts = [text(rng) for _ in range(30)] + ["a\u0085b\ufeffc", "x\ufeff \u0085\n y", "it'ſ IT'S", " \u00a0\u3000", "swordfish word, words"]
        json.dump({"vocabulary": VOCABULARY, "texts": texts, "tokenizers": [
            {"name": name, **{key: given[key] for key in ("pre_tokenizer", "normalizer", "added_tokens")}, "expected": recorded(json.dumps(given), texts)}
            for name, given in tokenizers()]}, sys.stdout, ensure_ascii=True, separators=(",", ":"))
        print()
