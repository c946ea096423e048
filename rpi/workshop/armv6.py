"""Which instructions a Pi 1 or Zero has."""

import re

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


def too_new(mnemonic: str, operands: str) -> bool:
    """Whether ARMv6K with VFPv2 lacks an instruction."""
    if not V6.fullmatch(mnemonic):
        return True
    if mnemonic.startswith("vcmp"):
        operands = operands.removesuffix(", #0")
    return mnemonic.startswith("v") and bool(VFP3.search(re.sub(r"\[.*?\]", "", operands)))
