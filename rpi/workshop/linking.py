"""What an extension module needs of others, and what it should not have any more, wherever it was built."""

from elftools.elf.elffile import ELFFile


def complaints(elf: ELFFile):
    """What is wrong with how a module is linked, a sentence each."""
    for section in elf.iter_sections():
        if section.name == ".symtab" or section.name.startswith(".debug"):
            yield f"it is not stripped: it has {section.name}"
    versions = elf.get_section_by_name(".gnu.version")
    for index, symbol in enumerate(elf.get_section_by_name(".dynsym").iter_symbols()):
        # What comes from no library is of the interpreter, or from a library that the linker was not told of: libm or libatomic, for one.
        needed = symbol.name and symbol["st_shndx"] == "SHN_UNDEF" and symbol["st_info"]["bind"] != "STB_WEAK"
        of_a_library = versions and versions.get_symbol(index)["ndx"] not in ("VER_NDX_LOCAL", "VER_NDX_GLOBAL")
        if needed and not of_a_library and not symbol.name.startswith(("Py", "_Py")):
            yield f"it needs {symbol.name}, which nothing has"
