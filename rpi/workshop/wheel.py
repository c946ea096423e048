"""A built wheel: packed again so that it depends on nothing but its content, and looked into."""

import base64
import hashlib
import io
import re
import time
import zipfile
from pathlib import Path, PurePosixPath

from capstone import CS_ARCH_ARM, CS_MODE_ARM, Cs
from elftools.elf.elffile import ELFFile
from elftools.elf.gnuversions import GNUVerNeedSection

#: The largest wheel, bytes.
LIMIT = 1_000_000
#: What of a package is of use where it is installed.
INSTALLED = {".py", ".pyi", ".pxd", ".so", ".toml", ".typed"}
MACHINES = {"x86_64": "EM_X86_64", "aarch64": "EM_AARCH64", "armv6l": "EM_ARM"}
# What the wheels' glibc may be at least, as in manylinux_2_17.
GLIBC = (2, 17)
# The instructions of ARMv6K and of VFPv2, without a condition; all that is not here came later, or has no place in a module.
_INTEGER = """
    adc add and asr b bic bl blx bx clz cmn cmp eor ldm ldmda ldmdb ldmib ldr ldrb ldrd ldrex ldrexb ldrexd ldrexh ldrh ldrsb
    ldrsh lsl lsr mcr mla mov mrc mul mvn nop orr pkhbt pkhtb pld pop push rev rev16 revsh ror rrx rsb rsc sbc smla[bt][bt] smlal
    smmla smmls smmul smul[bt][bt] smull ssat stm stmda stmdb stmib str strb strd strex strexb strexd strexh strh sub sxtab sxtah
    sxtb sxth teq tst umaal umlal umull usat uxtab uxtah uxtb uxth
"""
_FLOAT = """vabs vadd vcmp vcmpe vcvt vcvtr vdiv vldmdb vldmia vldr vmla vmls vmov vmrs vmsr vmul vneg vnmla vnmls vnmul vpop vpush vsqrt
    vstmdb vstmia vstr vsub"""
_CONDITION = "(eq|ne|hs|lo|mi|pl|vs|vc|hi|ls|ge|lt|gt|le)?"
V6 = re.compile(rf"({'|'.join(_INTEGER.split())})s?{_CONDITION}|({'|'.join(_FLOAT.split())}){_CONDITION}(\.(f32|f64|s32|u32))*")
# VFPv2 has 16 double registers, no fixed point, and no constants but the zero that it compares with and those in addresses.
VFP3 = re.compile(r"\b(d1[6-9]|d2\d|d3[01]|q\d+)\b|#")


def pack(source: Path, folder: Path, tags: list[str], epoch: int) -> Path:
    """The wheel `source` again in `folder`, for the platforms `tags`: sorted, with one time and one mode for all files."""
    with zipfile.ZipFile(source) as archive:
        files = {name: archive.read(name) for name in archive.namelist() if not name.endswith("/")}
    (about,) = {name for name in files if re.fullmatch(r"[^/]+\.dist-info/WHEEL", name)}
    record = about.replace("WHEEL", "RECORD")
    lines = [line for line in files[about].decode().splitlines() if line and not line.startswith("Tag:")]
    files[about] = "\n".join(lines + [f"Tag: cp311-abi3-{tag}" for tag in tags] + [""]).encode()
    del files[record]
    digests = {name: base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode() for name, data in files.items()}
    files[record] = "".join([f"{name},sha256={digests[name]},{len(files[name])}\n" for name in sorted(files)] + [f"{record},,\n"]).encode()
    result = folder / f"{source.name.split('-cp311-')[0]}-cp311-abi3-{'.'.join(tags)}.whl"
    with zipfile.ZipFile(result, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
        for name in sorted(files):
            entry = zipfile.ZipInfo(name, time.gmtime(epoch)[:6])
            entry.external_attr = (0o100755 if name.endswith(".so") else 0o100644) << 16
            entry.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(entry, files[name])
    return result


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
    for section in elf.iter_sections():
        if section.name == ".symtab" or section.name.startswith(".debug"):
            yield f"it is not stripped: it has {section.name}"
    for entry in elf.get_section_by_name(".dynamic").iter_tags():
        if entry.entry.d_tag == "DT_NEEDED" and entry.needed != "libc.so.6":
            yield f"it needs {entry.needed}"
        if entry.entry.d_tag in ("DT_RPATH", "DT_RUNPATH", "DT_TEXTREL"):
            yield f"it has a {entry.entry.d_tag}"
    for section in elf.iter_sections(GNUVerNeedSection):
        for _, versions in section.iter_versions():
            for version in versions:
                if tuple(map(int, version.name.removeprefix("GLIBC_").split("."))) > (*GLIBC, 0):
                    yield f"it needs {version.name}"
    versions = elf.get_section_by_name(".gnu.version")
    for index, symbol in enumerate(elf.get_section_by_name(".dynsym").iter_symbols()):
        # What comes from no library is of the interpreter, or from a library that the linker was not told of: libatomic, for one.
        needed = symbol.name and symbol["st_shndx"] == "SHN_UNDEF" and symbol["st_info"]["bind"] != "STB_WEAK"
        of_a_library = versions and versions.get_symbol(index)["ndx"] not in ("VER_NDX_LOCAL", "VER_NDX_GLOBAL")
        if needed and not of_a_library and not symbol.name.startswith(("Py", "_Py")):
            yield f"it needs {symbol.name}, which nothing has"


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


def too_new(mnemonic: str, operands: str) -> bool:
    """Whether ARMv6K with VFPv2 lacks an instruction."""
    if not V6.fullmatch(mnemonic):
        return True
    if mnemonic.startswith("vcmp"):
        operands = operands.removesuffix(", #0")
    return mnemonic.startswith("v") and bool(VFP3.search(re.sub(r"\[.*?\]", "", operands)))
