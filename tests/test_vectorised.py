"""Every loss's loop is made of vector instructions of the module's full width.

A compiler gives up without a word: above ten pointers, at a load under a condition, at a call. So
the machine code is read: of the loops in a block function, one per result asked for, dtype and
variant, so many must have packed arithmetic.
"""

import platform
import re
import subprocess
import sys
from functools import cache
from importlib import import_module
from pathlib import Path

import pytest

import fastloss as fl

WIDTH = {"baseline": "xmm", "avx2": "ymm", "avx512": "zmm"}
ARITHMETIC = r"\bv?(?:sub|mul|div|max|min|sqrt|cmp\w*|and|andn|xor|fn?m(?:add|sub)\d+)"

KERNELS = Path(__file__).resolve().parent.parent / "fastloss" / "kernels"

# objdump comes with the compiler on Linux; other processors have other instructions to look for.
HERE = sys.platform == "linux" and platform.machine() == "x86_64"


@cache
def functions(isa):
    """The instructions of each function, as (address, text)."""
    module = import_module(f"fastloss.kernels.{isa}")
    command = ["objdump", "-d", "--no-show-raw-insn", "--section=.text", module.__file__]
    listing = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    found = {}
    for block in re.split(r"\n\n(?=[0-9a-f]+ <)", listing):
        name = re.match(r"\s*[0-9a-f]+ <(\S+)>:", block)
        if name:
            lines = re.findall(r"^\s*([0-9a-f]+):\t(.*)$", block, re.M)
            found[name[1]] = [(int(at, 16), text) for at, text in lines]
    return module, found


def loops(instructions, innermost=False):
    """Each loop's own text, without that of loops in it: from a jump's target to the jump, if that
    is backwards.
    """
    index = {at: i for i, (at, _) in enumerate(instructions)}
    spans = []
    for i, (_, text) in enumerate(instructions):
        jump = re.match(r"j\w+\s+([0-9a-f]+)", text)
        if jump and index.get(int(jump[1], 16), i + 1) <= i:
            spans.append((index[int(jump[1], 16)], i))
    found = []
    for span in spans:
        a, b = span
        inner = [(c, d) for c, d in spans if a <= c and d <= b and (c, d) != span]
        if inner and innermost:
            continue
        own = bytearray(b"1") * (b + 1)
        for c, d in inner:
            own[c : d + 1] = bytes(d + 1 - c)
        found.append("\n".join(instructions[i][1] for i in range(a, b + 1) if own[i]))
    return found


@cache
def maps():
    """By which macros each block function of the source goes over its elements, with what."""
    source = "".join(path.read_text() for path in KERNELS.glob("*.pxi"))
    bodies = re.findall(r"^cdef void (\w+)\(fl_elements\* b\).*:\n((?:(?: .*)?\n)+)", source, re.M)
    return {name: re.findall(r"(MAP\w*)\((?:b|&own), ([^)]*)\)", body) for name, body in bodies}


@cache
def variants():
    """How many loops of floats and of doubles each block function has in the source: one for each
    order of derivatives, and for losses of exp or log one more for each that is asked for alone.
    """
    return {
        name: [
            sum((3 if way == "MAP" else 5) * len(re.findall(of_dtype, at)) for way, at in found)
            for of_dtype in (r"_at\[float\]", r"_at\[double\]|_brief_at")
        ]
        for name, found in maps().items()
    }


@pytest.mark.parametrize("isa", [isa for isa in fl.kernels.available if HERE])
def test_every_loop_of_a_block_function_is_vectorised(isa):
    module, found = functions(isa)
    missing = {}
    for name in module.BLOCKS:
        symbol = "__pyx_f_8fastloss_7kernels_7kernels_" + name
        own = [found[key] for key in found if key == symbol or key.startswith(symbol + ".")]
        of_loops = [text for each in own for text in loops(each)]  # of gcc's clones too
        assert sum(variants()[name]) > 0
        # Not additions: those of floats' sums are of doubles too.
        for letter, count in zip("sd", variants()[name], strict=True):
            vector = rf"{ARITHMETIC}p{letter}\s.*%{WIDTH[isa]}"
            full = sum(bool(re.search(vector, text)) for text in of_loops)
            if full < count:
                missing[name, letter] = f"{full} of {count} loops"
        # Nor may a loop of those do its lanes one by one (what returns is no loop).
        ways = {way for way, _ in maps()[name]}
        for text in (text for each in own for text in loops(each, innermost=True)):
            single, packed = (len(re.findall(ARITHMETIC + x, text)) for x in ("s[sd]", "p[sd]"))
            if ways == {"MAP"} and single > packed and "\nret" not in text:
                missing[name] = text
    assert not missing


@pytest.mark.parametrize("isa", [isa for isa in fl.kernels.available if HERE])
def test_every_exponential_of_the_scores_is_vectorised(isa):
    """2^n is made by a shift: by 23 bits in floats, by 52 in doubles; less where a table helps."""
    _, found = functions(isa)
    symbol = re.compile(r"_score(s|_row|_lanes)\b")
    float_bits, double_bits = {"avx512": (19, 49), "avx2": (20, 52)}.get(isa, (23, 52))
    for fused, shift in ((0, rf"pslld\s+\${float_bits:#x}"), (1, rf"psllq\s+\${double_bits:#x}")):
        of_loops = [
            text
            for key in found
            if symbol.search(key) and key.startswith(f"__pyx_fuse_{fused}_")
            for text in loops(found[key], innermost=True)
        ]
        # The sums of a row, with what is beside the highest, with distances; of rows side by side.
        wide = sum(bool(re.search(rf"{shift},.*%{WIDTH[isa]}", text)) for text in of_loops)
        assert wide >= 4
        for text in of_loops:  # in doubles a row's label is added to its sums, one after the other
            scalar = re.findall(r"\bv?(?:mul|fn?m(?:add|sub)\d+)ss\s", text)
            assert len(scalar) < 5, text
