"""Hostile chat templates: endless, too large, with errors of every kind, or accessing private attributes."""

from __future__ import annotations

import gc
import json
import sys
import time
from pathlib import Path

NESTED = "{% set ns = namespace(l=[]) %}{% for i in range(9999) %}{% set ns.l = [ns.l] %}{% endfor %}"
# templates that must be stopped by a limit or end in one error
HOSTILE: dict[str, str] = {
    # endless
    "nested loops": "{% for a in range(99999) %}{% for b in range(99999) %}{% for c in range(99999) %}{% endfor %}"
    "{% endfor %}{% endfor %}",
    "loops that write": "{% for a in range(99999) %}{% for b in range(99999) %}xxxxxxxxxx{% endfor %}{% endfor %}",
    "macro that calls itself": "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}",
    "two macros that call each other": "{% macro a() %}{{ b() }}{% endmacro %}{% macro b() %}{{ a() }}{% endmacro %}"
    "{{ a() }}",
    "exponential macro": "{% macro m(n) %}{% if n %}{{ m(n - 1) }}{{ m(n - 1) }}{% endif %}{% endmacro %}{{ m(60) }}",
    "recursive loop": "{% for x in [1] recursive %}{{ loop([1]) }}{% endfor %}",
    "call block without an end": "{% macro m() %}{{ caller() }}{{ m() }}{% endmacro %}{% call m() %}x{% endcall %}",
    "lipsum": "{{ lipsum(n=999999999) }}",
    "lipsum of large paragraphs": "{{ lipsum(n=1, min=10**8, max=10**8 + 1) }}",
    "sum of lists": "{{ ([[0] * 1000] * 99999) | sum(start=[]) | length }}",
    "batches": "{% for a in range(99999) %}{{ range(99999) | batch(1) | list | length }}{% endfor %}",
    "sorting": "{% for a in range(99999) %}{{ (range(99999) | list | sort(reverse=true))[0] }}{% endfor %}",
    "urlize": "{% set ns = namespace(s='www.') %}{% for i in range(20) %}{% set ns.s = ns.s + ns.s %}{% endfor %}"
    "{{ ns.s | urlize }}",
    "striptags": "{% set s = '<!--' * 400000 %}{% for i in range(999) %}{{ s | striptags }}{% endfor %}",
    "word wrap": "{{ ('ab ' * 5000000) | wordwrap(3) | length }}",
    # numbers
    "power": "{{ 10 ** 10 ** 10 }}",
    "power of a variable": "{% set n = messages | length + 9 %}{{ n ** n ** n }}",
    "squares": "{% set ns = namespace(n=3) %}{% for i in range(60) %}{% set ns.n = ns.n * ns.n %}{% endfor %}"
    "{{ ns.n % 7 }}",
    "round to many places": "{{ 1 | round(10 ** 9, 'ceil') }}",
    "round to many places before": "{{ 123 | round(-(10 ** 9)) }}",
    "division by zero": "{{ 1 / 0 }}",
    "modulo zero": "{{ 1 % 0 }}",
    "float overflow": "{{ 10.0 ** 400 }}",
    "long number to text": "{{ ((10 ** 600) ~ '') | length }}{{ ('9' * 9000) | int | string }}{{ 1 // 0 }}",
    # memory
    "text times": "{{ 'x' * 10 ** 10 }}",
    "list times": "{{ [0] * 10 ** 10 }}",
    "width of a format": "{{ '%999999999d' % 1 }}{{ '%1999999999d' % 1 }}",
    "precision of a format": "{{ '%.999999999f' % 1.0 }}",
    "width given to a format": "{{ '%*d' % (2147483647, 1) }}",
    "format method": "{{ '{:>9999999999}'.format(1) }}",
    "format filter": "{{ '%9999999999s' | format(1) }}",
    "center": "{{ 'x' | center(10 ** 10) }}",
    "center method": "{{ 'x'.center(10 ** 10) }}",
    "just": "{{ 'x'.ljust(10 ** 10) ~ 'x'.rjust(10 ** 10) }}",
    "zeros": "{{ '1'.zfill(10 ** 10) }}",
    "tabs": "{{ ('\t' * 1000).expandtabs(10 ** 8) }}",
    "replace": "{{ ('x' * 10 ** 6).replace('x', 'x' * 10 ** 6) }}",
    "replace filter": "{{ ('x' * 10 ** 6) | replace('x', 'x' * 10 ** 6) }}",
    "join": "{{ ['x' * 10 ** 5] * 10 ** 5 | int }}{{ (['x' * 10 ** 5] * 10 ** 5) | join('y' * 10 ** 5) }}",
    "indent": "{{ ('x\n' * 10 ** 6) | indent(10 ** 6) }}",
    "indent of JSON": "{{ [1, 2] | tojson(indent=10 ** 10) }}",
    "doubling": "{% set ns = namespace(s='x') %}{% for i in range(60) %}{% set ns.s = ns.s ~ ns.s %}{% endfor %}"
    "{{ ns.s }}",
    "doubling by blocks": "{% set s = 'x' * 1000 %}" + "{% set s %}{{ s }}{{ s }}{{ s }}{{ s }}{% endset %}" * 20,
    "namespace growth": "{% set ns = namespace(l=[1]) %}{% for i in range(99999) %}{% set ns.l = ns.l + ns.l %}"
    "{% endfor %}",
    "list of ranges": "{% set ns = namespace(l=[]) %}{% for i in range(99999) %}"
    "{% set ns.l = ns.l + [range(99999) | list] %}{% endfor %}",
    "joined cycles": "{% set c = cycler('x' * 10 ** 8, 'y' * 10 ** 8) %}{% for i in range(99) %}{{ c.next() }}"
    "{% endfor %}",
    "joiner": "{% set j = joiner('x' * 10 ** 8) %}{% for i in range(99) %}{{ j() }}{% endfor %}",
    "a range too long": "{% for i in range(10 ** 12) %}{% endfor %}",
    "slices": "{{ range(9) | slice(10 ** 9) | list | length }}",
    "fill of a batch": "{{ range(9) | batch(10 ** 10, 'x') | list }}",
    "percent-encoding": "{{ ('%' * 10 ** 8) | urlencode | urlencode }}",
    "nested lists to text": NESTED + "{{ ns.l }}",
    "nested lists to JSON": NESTED + "{{ ns.l | tojson }}",
    "nested lists, printed": NESTED + "{{ ns.l | pprint }}",
    "escapes": "{{ ('<' * 10 ** 8) | escape | escape | escape }}",
    "a time of any width": "{{ strftime_now('%Y' * 10 ** 8) }}",
    # errors of every kind
    "undefined call": "{{ nothing() }}",
    "call of text": "{{ 'x'() }}",
    "missing attribute": "{{ messages[0].content.nothing.more }}",
    "index error": "{{ 'x'.index('y') }}",
    "type error": "{{ 1 + 'x' }}",
    "unknown filter": "{{ 1 | nothing }}",
    "unknown test": "{{ 1 is nothing }}",
    "wrong arguments": "{{ messages | join(1, 2, 3, 4) }}",
    "include": "{% include 'secret' %}",
    "import": "{% import 'os' as os %}{{ os }}",
    "extends": "{% extends 'x' %}",
    "break outside a loop": "{% break %}",
    "an invalid key": "{{ {[]: 1} }}",
    "encoding": "{{ '\ud800'.encode('ascii') }}",
    "decoding": "{{ ('x'.encode() * 3).decode('utf-77') }}",
    "end of an iterator": "{{ ([] | first).x }}{{ ([] | random).x }}",
    "raise an error of terminal escapes": "{{ raise_exception('\\x1b[2J\\x1b]0;owned\\x07 a\\nb\\r\\nc \\u202e') }}",
    "raise an error of many words": "{{ raise_exception('word ' * 1000000) }}",
    "raise nothing": "{{ raise_exception() }}",
    "raise an object": "{{ raise_exception(namespace()) }}{{ raise_exception(messages) }}",
    "raise nested lists": NESTED + "{{ raise_exception(ns.l) }}",
    # not a template
    "open tag": "{% if %}",
    "deep blocks": "{% for a in [1] %}" * 30 + "x" + "{% endfor %}" * 30,
    "deep parentheses": "{{ " + "(" * 3000 + "1" + ")" * 3000 + " }}",
    "deep lists": "{{ " + "[" * 300 + "]" * 300 + " }}",
    "many operators": "{{ " + "1 + " * 20000 + "1 }}",
    "many negations": "{{ " + "not " * 20000 + "1 }}",
    "raw without an end": "{% raw %}" * 50000,
    "too long": "x" * ((1 << 20) + 1),
    # attributes
    "classes": "{{ ''.__class__.__mro__[1].__subclasses__() | length }}{{ ''.__class__.x.y }}",
    "globals": "{{ cycler.__init__.__globals__.os.popen('id').read() }}",
    "globals of a function": "{{ raise_exception.__globals__.x }}",
    "format string": "{{ '{0.__class__.__mro__.x}'.format(messages) }}",
    "format map": "{{ '{a.__class__.x.y}'.format_map({'a': 1}) }}",
    "attr filter": "{{ (messages | attr('__class__')).x }}",
    "map to an attribute": "{{ (messages | map(attribute='__class__') | list)[0].x.y }}",
    "self": "{{ self.__init__.__globals__.x }}{{ self._TemplateReference__context.x.y }}",
    "mutation": "{{ messages.append(1) }}{{ messages.clear() }}",
    "code of a generator": "{{ (messages | map('upper')).gi_frame.f_globals.x }}",
}  # fmt: skip

MESSAGES = [{"role": "user", "content": "Hello"}]


def most_kib() -> int:
    """Return this process's peak memory in KiB. (getrusage starts from the parent process's peak.)"""
    return int(Path("/proc/self/status").read_text().partition("VmHWM:")[2].split()[0])


def main() -> int:
    """Render every hostile template; print name, seconds and outcome as JSON lines, and peak memory last."""
    from burnish.chat import ChatError, ChatTemplate

    timeout_s = float(sys.argv[1])
    for name, source in HOSTILE.items():
        gc.collect()  # don't count the previous one's garbage
        began = time.monotonic()
        try:
            text = ChatTemplate(source, "2026-01-02", timeout_s=timeout_s).render(MESSAGES, add_generation_prompt=True)
            outcome = f"text of {len(text)}"
        except ChatError as error:
            outcome = f"{type(error).__name__}: {error}"
        print(json.dumps([name, round(time.monotonic() - began, 3), outcome]), flush=True)
    print(json.dumps(["peak KiB", most_kib(), ""]), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
