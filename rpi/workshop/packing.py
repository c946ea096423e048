"""A built wheel, packed again so that it depends on nothing but its content."""

import base64
import hashlib
import re
import time
import zipfile
from pathlib import Path


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
