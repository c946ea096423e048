"""The signal that switches a transceiver: what is not taken from the kernel's headers is equal to them."""

import re
import subprocess
from pathlib import Path

from live import programs

from mbcore import engine

PROGRAM = """
%s
#include <linux/gpio.h>
_Static_assert(MBCORE_LINE_SET_VALUES == GPIO_V2_LINE_SET_VALUES_IOCTL, "number");
_Static_assert(sizeof(struct mbcore_line_values) == sizeof(struct gpio_v2_line_values), "size");
_Static_assert(__builtin_offsetof(struct mbcore_line_values, bits) == __builtin_offsetof(struct gpio_v2_line_values, bits), "bits");
_Static_assert(__builtin_offsetof(struct mbcore_line_values, mask) == __builtin_offsetof(struct gpio_v2_line_values, mask), "mask");
"""


def test_the_values_of_a_gpio_line_are_those_of_the_kernel_headers(tmp_path):
    compiler = programs.need("cc", "build-essential")
    [ours] = re.findall(r'"""(.*?)"""', Path(engine.__file__).with_name("direction.pxd").read_text(), re.DOTALL)
    (tmp_path / "values.c").write_text(PROGRAM % ours)
    subprocess.run([compiler, "-Wall", "-Werror", "-fsyntax-only", tmp_path / "values.c"], check=True)
