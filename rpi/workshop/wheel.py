"""Looks into a built wheel: what must be in it is there, and runs where it is meant to."""

import io
import re
import zipfile
from pathlib import Path, PurePosixPath

from capstone import CS_ARCH_ARM, CS_MODE_ARM, Cs
from elftools.elf.elffile import ELFFile
from elftools.elf.gnuversions import GNUVerNeedSection

from . import linking
from .armv6 import too_new

#: The largest wheel, bytes.
LIMIT = 1_000_000
#: What of a package is of use where it is installed.
INSTALLED = {".py", ".pyi", ".pxd", ".so", ".toml", ".typed"}
MACHINES = {"x86_64": "EM_X86_64", "aarch64": "EM_AARCH64", "armv6l": "EM_ARM"}
# What the wheels' glibc may be at least, as in manylinux_2_17.
GLIBC = (2, 17)
# All of that glibc, which has threads in a file of their own.
LIBC = {"libc.so.6", "libpthread.so.0"}


def complaints(path: Path, arch: str, modules: set[str], linked: Path):
    """What is wrong with a wheel for `arch`, a sentence each.

    :param modules: the extension modules that belong into it, as paths without a suffix
    :param linked: where the same modules lie with their symbols
    """
    if path.stat().st_size > LIMIT:
        yield f"it has {path.stat().st_size} bytes, more than {LIMIT}"
    with zipfile.ZipFile(path) as archive:
        names = archive.namelist()
        compiled = {name.removesuffix(".abi3.so") for name in names if name.endswith(".so")}
        for name in sorted(modules ^ compiled):
            yield f"{name}: {'missing' if name in modules else 'there is no such module'}"
        for name in names:
            parts, suffix = PurePosixPath(name).parts, PurePosixPath(name).suffix
            top = parts[0]
            if top != "mbcore" and not top.endswith(".dist-info"):
                yield f"{name} is installed outside of mbcore/"
            elif top == "mbcore" and (suffix not in INSTALLED or {"workshop", "emulated"} & set(parts)):
                yield f"{name} has no use in an installed package"
        for name in sorted(name for name in names if name.endswith(".so")):
            data = archive.read(name)
            for text in (*module_complaints(data, arch), *(v6_complaints(data, (linked / name).read_bytes()) if arch == "armv6l" else ())):
                yield f"{name}: {text}"


def module_complaints(data: bytes, arch: str):
    """What is wrong with an extension module."""
    elf = ELFFile(io.BytesIO(data))
    if elf["e_machine"] != MACHINES[arch]:
        yield f"it is for {elf['e_machine']}, not {MACHINES[arch]}"
    yield from linking.complaints(elf)
    for entry in elf.get_section_by_name(".dynamic").iter_tags():
        if entry.entry.d_tag == "DT_NEEDED" and entry.needed not in LIBC:
            yield f"it needs {entry.needed}"
        if entry.entry.d_tag in ("DT_RPATH", "DT_RUNPATH", "DT_TEXTREL"):
            yield f"it has a {entry.entry.d_tag}"
    for section in elf.iter_sections(GNUVerNeedSection):
        for _, versions in section.iter_versions():
            for version in versions:
                if tuple(map(int, version.name.removeprefix("GLIBC_").split("."))) > (*GLIBC, 0):
                    yield f"it needs {version.name}"


def v6_complaints(data: bytes, linked: bytes):
    """What of a 32-bit module a Pi 1 or Zero cannot run. `linked`: the module with its symbols, which tell code from constants."""
    elf, with_symbols = ELFFile(io.BytesIO(data)), ELFFile(io.BytesIO(linked))
    found = {}
    for section in elf.get_section_by_name(".ARM.attributes").iter_subsections():
        for part in section.iter_subsubsections():
            found |= {attribute.tag: attribute.value for attribute in part.iter_attributes()}
    # Of the ABI: 6 is v6, 7 v6KZ, 9 v6K; 2 is VFPv2; 1 is numbers in its registers.
    wanted = (("TAG_CPU_ARCH", (6, 7, 9), "ARMv6"), ("TAG_FP_ARCH", (2,), "VFPv2"), ("TAG_ABI_VFP_ARGS", (1,), "hard float"))
    for tag, values, meaning in wanted:
        if found.get(tag) not in values:
            yield f"its {tag} is {found.get(tag)}, which is not {meaning}"
    code = elf.get_section_by_name(".text")
    same = with_symbols.get_section_by_name(".text")
    if code.data() != same.data() or code["sh_addr"] != same["sh_addr"]:
        yield "the module with its symbols has other code"
        return
    kinds = []
    for symbol in with_symbols.get_section_by_name(".symtab").iter_symbols():
        if re.match(r"\$[adt](\.|$)", symbol.name) and symbol["st_shndx"] != "SHN_UNDEF":
            kinds.append((symbol["st_value"], symbol.name[1]))
    disassembler = Cs(CS_ARCH_ARM, CS_MODE_ARM)
    end = code["sh_addr"] + code["sh_size"]
    kinds = sorted(kind for kind in kinds if code["sh_addr"] <= kind[0] < end)
    if not kinds or kinds[0][0] != code["sh_addr"]:
        yield "no symbol says what its code begins with"
    for (start, kind), (stop, _) in zip(kinds, [*kinds[1:], (end, "")], strict=True):
        if kind == "t":
            yield f"Thumb code at {start:#x}"
        if kind != "a":
            continue
        at = start
        for instruction in disassembler.disasm(code.data()[start - code["sh_addr"] : stop - code["sh_addr"]], start):
            at = instruction.address + instruction.size
            if too_new(instruction.mnemonic, instruction.op_str):
                yield f"{instruction.mnemonic} {instruction.op_str} at {instruction.address:#x} came after ARMv6"
        if at != stop:
            yield f"what stands at {at:#x} is no instruction"
