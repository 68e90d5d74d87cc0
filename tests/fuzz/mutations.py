"""Mutations of valid inputs: of bytes, of trees of settings, of what lies on disk. All that is random has a seed."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from copy import deepcopy
from pathlib import Path
from random import Random
from typing import Any

import yaml

PLANTED = "executed-by-a-planted-code"  # the file that planted code would leave in its working directory
TAG = "fuzzed-tag"  # an HTML element that nobody writes by mistake
HTML = f'</script></style><{TAG} onload="alert(1)">"&\'</{TAG}><script>alert(1)</script>'

_DEEP = 3000
_LONG = 100_000


def odd_values(random: Random) -> list[Any]:
    """Values that no setting expects."""
    nested: Any = "x"
    for _ in range(80):  # what a file's own text can nest much deeper has a mutation of its own
        nested = [nested] if random.random() < 0.5 else {"a": nested}
    return [
        None, True, False, "", " ", [], {}, [[]], {"a": None}, "text", "1", "nan", 0, -1, -5, 1, 0.5, -0.5, 10**8,
        10**18, 10**30, 2**31, 2**63, 2**64, 1e300, -1e300, 1e-300, 1e308, float("nan"), float("inf"), -float("inf"),
        "x" * _LONG, "two\nlines\r\nand\tmore", "\x1b[31mred\x1b[0m\x00\x07", "\ufeff", "\u202egnp.exe", "💥" * 50,
        "\ud800", "..", "../../etc/passwd", "/etc/passwd", "/", ".", "~", "~nobody/x", "a\x00b", "C:\\x", "%s%n{}{0}",
        HTML, "${HOME}", nested, list(range(2000)), {str(i): i for i in range(500)}, [None, 1, "a"],
    ]  # fmt: skip


def mutate_tree(random: Random, tree: Any) -> Any:
    """A copy with one to three of its values, keys or entries changed."""
    tree = deepcopy(tree)
    for _ in range(random.choice((1, 1, 1, 2, 3))):
        places = list(_places(tree))
        if not places:
            return random.choice(odd_values(random))
        node, key = random.choice(places)
        _change(random, node, key)
    return tree


def _places(tree: Any) -> list[tuple[Any, Any]]:
    """Every (container, key) of a tree."""
    places, waiting = [], [tree]
    while waiting:
        node = waiting.pop()
        keys = list(node) if isinstance(node, dict) else range(len(node)) if isinstance(node, list) else ()
        for key in keys:
            places.append((node, key))
            waiting.append(node[key])
    return places


def _change(random: Random, node: Any, key: Any) -> None:
    value = node[key]
    match random.randrange(8):
        case 0:
            del node[key]
        case 1 if isinstance(node, dict):
            node[random.choice([f"{key}x", str(key).upper(), HTML, "", "__class__", "x" * 1000])] = node.pop(key)
        case 1:
            node.insert(key, deepcopy(value))
        case 2 if isinstance(value, int | float) and not isinstance(value, bool):
            node[key] = random.choice([-value, value * 10**9, value + 1, value / 7, str(value), [value], -1, 0])
        case 2 if isinstance(value, str):
            node[key] = random.choice([f"../../{value}", f"/{value}", f"{value}\n{value}", value * 3000, HTML, [value]])
        case 2 if isinstance(value, list):
            node[key] = random.choice([value * 50, value[:-1], value[::-1], {str(i): v for i, v in enumerate(value)}])
        case 2 if isinstance(value, dict):
            node[key] = random.choice([list(value.items()), list(value), {**value, "unknown": 1}, str(value)])
        case _:
            node[key] = random.choice(odd_values(random))


def mutate_bytes(random: Random, content: bytes) -> bytes:
    """Flipped, cut, doubled, filled or encoded otherwise."""
    at = random.randrange(len(content) + 1)
    match random.randrange(12):
        case 0 | 1 | 2:
            flipped = bytearray(content)
            for _ in range(random.choice((1, 1, 4, 32))):
                if flipped:
                    flipped[random.randrange(len(flipped))] ^= 1 << random.randrange(8)
            return bytes(flipped)
        case 3 | 4:
            return content[:at]
        case 5:
            return content[:at] + random.randbytes(random.choice((1, 8, 500))) + content[at:]
        case 6:
            return content[:at] + content[at + random.choice((1, 10, 100)) :]
        case 7:
            return b"\xef\xbb\xbf" + content
        case 8:
            return content[:at] + b"\xff\xfe\xc3\x28\xed\xa0\x80" + content[at:]
        case 9:
            return content.decode("utf-8", "replace").encode(random.choice(("utf-16", "utf-32", "utf-16-le")))
        case 10:
            return random.choice((b"", b"\x00", b"\n", b"\x00" * 4096, content + content, content[::-1]))
        case _:
            return content[:at] + b"x" * _LONG + content[at:]


def mutate_json(random: Random, content: bytes) -> bytes:
    """Of a JSON file."""
    if random.random() < 0.3:
        return mutate_bytes(random, content)
    text = content.decode()
    match random.randrange(10):
        case 0:
            bracket = random.choice(("[", '{"a":', '[{"a":', "[1,"))
            deep = bracket * _DEEP * random.choice((1, 30))
            return _put(random, text, random.choice((deep, deep + "1" + "]" * _DEEP * 2))).encode()
        case 1:
            return _doubled_key(random, text).encode()
        case 2:
            return _put(
                random, text, random.choice(("NaN", "-Infinity", "1e999", "9" * 5000, "-0", "tru", "'x'"))
            ).encode()
    return json.dumps(mutate_tree(random, json.loads(text)), ensure_ascii=random.random() < 0.7).encode(
        "utf-8", "surrogatepass"
    )


def mutate_lines(random: Random, content: bytes) -> bytes:
    """Of a file of JSON lines."""
    lines = content.splitlines()
    if random.random() < 0.25 or not lines:
        return mutate_bytes(random, content)
    at = random.randrange(len(lines))
    lines[at] = mutate_json(random, lines[at])
    return b"\n".join(lines) + b"\n"


def mutate_text(random: Random, content: bytes) -> bytes:
    """Of a list of prompts, a caption or a table of cells."""
    if random.random() < 0.4:
        return mutate_bytes(random, content)
    lines = content.decode().splitlines() or [""]
    at = random.randrange(len(lines))
    odd = str(random.choice(odd_values(random)))
    lines[at] = random.choice(
        (odd, f'"{lines[at]}', f"{lines[at]},{odd}", lines[at] * 200, f"{lines[0]}", f'"{odd}",{lines[at]}', "")
    )
    return "\n".join(lines).encode("utf-8", "surrogatepass")


def mutate_yaml(random: Random, content: bytes) -> bytes:
    """Of a YAML file."""
    if random.random() < 0.2:
        return mutate_bytes(random, content)
    text = content.decode()
    if random.random() < 0.25:
        key, _, rest = text.partition("\n")
        return random.choice(yaml_bombs())(key, rest).encode()
    return yaml.safe_dump(mutate_tree(random, yaml.safe_load(text)), sort_keys=False, allow_unicode=True).encode(
        "utf-8", "surrogatepass"
    )


def yaml_bombs() -> Sequence[Callable[[str, str], str]]:
    """Ways in which a text of a few lines is endless, enormous or a program; each takes a first line and the rest."""
    laughs = "".join(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9 if i else ['lol'] * 9)}]\n" for i in range(9))
    maps = "".join(
        f"m{i}: &m{i} {{{', '.join(f'k{j}: *m{i - 1}' for j in range(9)) if i else 'x: 1'}}}\n" for i in range(9)
    )
    merges = "".join(
        f"n{i}: &n{i} {{<<: [{', '.join([f'*n{i - 1}'] * 9)}]}}\n" if i else "n0: &n0 {x: 1}\n" for i in range(9)
    )
    run = f"!!python/object/apply:os.system ['touch {PLANTED}']"
    new = f"!!python/object/new:subprocess.Popen [[touch, {PLANTED}]]"
    return (
        lambda first, rest: f"{first}\nlogging: &loop {{prompts: *loop}}\n{rest}",
        lambda first, rest: f"&top\n{first}\nstages: *top\n{rest}",
        lambda first, rest: f"stages: &s [*s]\n{first}\n",
        lambda first, rest: f"{laughs}{first}\n{rest}",
        lambda first, rest: f"{first}\n{rest}\n{laughs}",
        lambda first, rest: f"{maps}{first}\n{rest}",
        lambda first, rest: f"{merges}{first}\n{rest}",
        lambda first, rest: f"{first.split(':')[0]}: {run}\n{rest}",
        lambda first, rest: f"{first}\n{rest}\nseed: {new}\n",
        lambda first, rest: f"{first}\nout: !!python/name:os.system\n{rest}",
        lambda first, rest: f"{first}\ndata: {'[' * _DEEP}\n{rest}",
        lambda first, rest: f"{first}\nsize: {'{a: ' * _DEEP}\n{rest}",
        lambda first, rest: f"{first}\n{first}\n{rest}",
        lambda first, rest: f"{'- ' * _DEEP}x",
        lambda first, rest: f"{first}\nseed: {'9' * 10_000}\n",
        lambda first, rest: f"{first}\nseed: 2024-99-99\nout: !!int x\nshift: !!bool maybe\n",
        lambda first, rest: f"{first}\n? [a, b]\n: 1\n? {{a: 1}}\n: 2\n{rest}",
        lambda first, rest: f"--- 1\n--- 2\n{first}",
        lambda first, rest: "".join(f"k{i}: {i}\n" for i in range(4000)),
        lambda first, rest: f"{first}\n\tseed: 1\n{rest}",
    )


def mutate_safetensors(random: Random, content: bytes) -> bytes:
    """Of a safetensors file, mostly of its header."""
    length = int.from_bytes(content[:8], "little")
    header, body = content[8 : 8 + length], content[8 + length :]
    match random.randrange(6):
        case 0:
            return mutate_bytes(random, content)
        case 1:
            text = random.choice((0, 1, length - 1, length + 1, 2**31, 2**63, 2**64 - 1, 10**9))
            return text.to_bytes(8, "little") + header + body
        case 2:
            header = mutate_bytes(random, header)
        case _:
            header = mutate_json(random, header)
    return len(header).to_bytes(8, "little") + header + body


def misplaced(random: Random, path: Path) -> None:
    """Something else in a file's place: a loop of links, a link to nowhere, a folder, nothing."""
    path.unlink()
    match random.randrange(5):
        case 0:
            path.symlink_to(path.name)
        case 1:
            other = path.with_name(f"other-{path.name}")
            other.symlink_to(path.name)
            path.symlink_to(other.name)
        case 2:
            path.symlink_to("nowhere")
        case 3:
            path.mkdir()
        case _:
            pass


def _put(random: Random, text: str, value: str) -> str:
    """The text with `value` behind one of its colons."""
    places = [i for i, letter in enumerate(text) if letter == ":"]
    if not places:
        return value
    at = random.choice(places) + 1
    return f"{text[:at]} {value}{text[at:] if random.random() < 0.3 else _rest(text, at)}"


def _rest(text: str, at: int) -> str:
    """What follows the value that begins at `at`."""
    ends = [index for letter in ",}]\n" if (index := text.find(letter, at)) >= 0]
    return text[min(ends) :] if ends else ""


def _doubled_key(random: Random, text: str) -> str:
    opened = text.find("{")
    if opened < 0:
        return text * 2
    parsed = json.loads(text)
    key = random.choice(list(parsed)) if isinstance(parsed, dict) and parsed else "a"
    value = random.choice(("null", "1", "[]", '"x"'))
    return f"{text[: opened + 1]}{json.dumps(key)}: {value}, {text[opened + 1 :]}"
