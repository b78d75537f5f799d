"""What transformers renders from chat templates, the reference of test/unit/chat-renders.test.ts.

usage: make_chat_renders.py > chat-renders.json (needs transformers 5 and jinja2; no model)
       make_chat_renders.py --compare N [FOLDER …]: N random conversations per template, here and in FOLDERs of other
       templates, rendered by the program too (needs bun); prints how many differ
Two parts: expressions and statements (chat-snippets.json), each over one set of variables; and the templates of
chat-templates/, each over hostile conversations: white space of all kinds, emoji, null and empty contents, tools, thoughts.
"""
import datetime, json, pathlib, random, subprocess, sys, tempfile
from transformers.utils import chat_template_utils as utils

HERE = pathlib.Path(__file__).parent
NOW = datetime.datetime(2025, 3, 4, 5, 6, 7)
VARIABLES = {"s": "  Héllo 😀 wörld\t\n", "e": "", "l": [1, 2.5, "x", None, True], "n": None, "t": True, "f": False, "i": 7, "x": 1.5,
             "d": {"b": 1, "a": [1, {"c": "é\n\"'"}], "items": 3, "n": None}, "xs": [1, 2, 3],
             "msgs": [{"role": "user", "content": "a"}, {"role": "assistant", "content": None, "n": {"k": 2}}, {"role": "user", "content": "😀b"}],
             "tree": [{"n": 1, "c": [{"n": 2, "c": []}, {"n": 3, "c": []}]}]}
PIECES = ["Hi", "", "  ", "\n", "\n\n", "\t", "    x = 1\n", "😀", "👩‍👩‍👧", "é", "\u00a0", "\u3000", "\u0085", "\ufeff", "\u200b", "\x1c", "\u2028",
          "<think>", "</think>", "<think>\n", "\n</think>\n\n", "<|im_end|>", "</s>", "[INST]", "{{ x }}", "'", '"', "\\n", "\\", "<tool_call>",
          "<tool_response>", "</tool_response>", "null", "None", "1.0", "a<b>&c", "\r\n", "\r", "ß", "İ", "中文", "/no_think"]
CHOICES = {"enable_thinking": [True, False], "thinking": [True, False], "reasoning_effort": ["low", "high"], "thinking_budget": [0, 512],
           "custom_instructions": ["a\n"], "documents": [[{"title": "t", "text": " é "}]], "xml_tools": [["def f(): pass"]]}
TOKENS = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>"}


class Clock(datetime.datetime):
    @classmethod
    def now(cls, tz=None):
        return NOW


utils.datetime = Clock


def text(rng):
    return "".join(rng.choice(PIECES) for _ in range(rng.choice([0, 1, 1, 2, 3, 4, 6])))


def value(rng, depth=0):
    kind = rng.randrange(9 if depth < 2 else 7)
    if kind == 7: return [value(rng, depth + 1) for _ in range(rng.randrange(3))]
    if kind == 8: return {rng.choice(["a", "é", "items", "x y"]): value(rng, depth + 1) for _ in range(rng.randrange(3))}
    return [text(rng), rng.randrange(-5, 1000), rng.choice([0.5, -3.75, 1e-7]), None, True, False, ""][kind]


def content(rng):
    draw = rng.random()
    if draw < 0.8: return text(rng)
    return None if draw < 0.9 else [{"type": "text", "text": text(rng)} for _ in range(rng.randrange(3))]


def tool_call(rng):
    arguments = {rng.choice(["city", "é", "items"]): value(rng) for _ in range(rng.randrange(3))} if rng.random() < 0.7 else '{"a": 1}'
    return {"id": rng.choice(["call_1", "abcdefghi", ""]), "type": "function", "function": {"name": rng.choice(["f", "ünï"]), "arguments": arguments}}


def conversation(rng):
    messages = [{"role": "system", "content": content(rng)}] if rng.random() < 0.5 else []
    for _ in range(rng.randrange(3)):
        messages.append({"role": "user", "content": content(rng)})
        reply = {"role": "assistant", "content": content(rng)}
        if rng.random() < 0.35: reply[rng.choice(["reasoning_content", "thinking", "reasoning"])] = rng.choice([text(rng), None])
        messages.append(reply)
        if rng.random() < 0.3:
            reply["tool_calls"] = rng.choice([None, [tool_call(rng) for _ in range(rng.randrange(3))]])
            messages += [{"role": "tool", "content": text(rng), "name": "f", "tool_call_id": "call_1"} for _ in range(rng.randrange(3))]
    if rng.random() < 0.7 or not messages: messages.append({"role": "user", "content": content(rng)})
    kwargs = {name: rng.choice(choices) for name, choices in CHOICES.items() if rng.random() < 0.15}
    if rng.random() < 0.3:
        properties = {rng.choice(["city", "é"]): {"type": rng.choice(["string", ["string", "null"]]), "description": text(rng), "enum": ["a"]}}
        kwargs["tools"] = [{"type": "function", "function": {"name": "f", "description": text(rng), "parameters": {
            "type": "object", "properties": properties, "required": rng.choice([[], ["city"]])}}}]
    return {"messages": messages, "kwargs": kwargs, "add_generation_prompt": rng.random() < 0.6}


def rendered(template, case):
    """As in tokenizer.apply_chat_template; null if it raises."""
    kwargs = {**TOKENS, **case["kwargs"]}
    tools, documents = kwargs.pop("tools", None), kwargs.pop("documents", None)
    try:
        messages = utils._normalize_chat_messages(case["messages"])
        return utils.render_jinja_template([messages], tools=tools, documents=documents, chat_template=template,
                                           add_generation_prompt=case["add_generation_prompt"], **kwargs)[0][0]
    except Exception:
        return None


def snippet(source):
    try:
        return utils._compile_jinja_template(source).render(**VARIABLES)
    except Exception:
        return None


def templates(folder):
    return {path.stem: path.read_text(encoding="utf-8") for path in sorted(pathlib.Path(folder).glob("*.jinja"))}


def compare(count, folders):
    rng = random.Random(count)
    cases = [{"template": source, **conversation(rng)} for folder in folders for source in templates(folder).values() for _ in range(count)]
    program = f"""
      import {{ setSystemTime }} from "bun:test";
      import {{ chatTemplateOf }} from "{HERE.parent.parent}/src/tokenizer/chat_template.ts";
      setSystemTime(new Date(2025, 2, 4, 5, 6, 7));
      const out = (await Bun.file(process.argv[2]).json()).map(({{ template, messages, kwargs, add_generation_prompt }}) => {{
        try {{ return chatTemplateOf(template, "x", {json.dumps(TOKENS)}).render(messages, {{ addGenerationPrompt: add_generation_prompt, kwargs }}); }}
        catch {{ return null; }}
      }});
      await Bun.write(process.argv[3], JSON.stringify(out));"""
    with tempfile.TemporaryDirectory() as folder:
        names = [f"{folder}/{name}" for name in ("program.ts", "in.json", "out.json")]
        pathlib.Path(names[0]).write_text(program)
        pathlib.Path(names[1]).write_text(json.dumps(cases))
        subprocess.run(["bun", *names], check=True)
        ours = json.loads(pathlib.Path(names[2]).read_text())
    theirs = [rendered(case["template"], case) for case in cases]
    different = [i for i, pair in enumerate(zip(ours, theirs)) if pair[0] != pair[1]]
    for i in different[:5]: print(json.dumps(cases[i])[:400], "\n  theirs", repr(theirs[i])[-300:], "\n  ours  ", repr(ours[i])[-300:])
    print(f"{len(cases)} renders, {sum(text is not None for text in theirs)} without an error, {len(different)} differ")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--compare"]:
        compare(int(sys.argv[2]), sys.argv[3:] or [HERE / "chat-templates"])
    else:
        rng = random.Random(7)
        snippets = json.loads((HERE / "chat-snippets.json").read_text())
        conversations = [conversation(rng) for _ in range(24)]
        json.dump({
            "variables": VARIABLES, "tokens": TOKENS, "conversations": conversations,
            "expressions": [[source, snippet("{{ " + source + " }}")] for source in snippets["expressions"]],
            "statements": [[source, snippet(source)] for source in snippets["statements"]],
            "renders": {name: [rendered(source, case) for case in conversations] for name, source in templates(HERE / "chat-templates").items()},
        }, sys.stdout, ensure_ascii=True, indent=0)
        print()
