"""WebDataset: tar shards in which the files of one item share a key."""

from __future__ import annotations

import io
import json
import tarfile
from collections import Counter
from collections.abc import Iterable
from contextlib import ExitStack

from negguide.image_files import SUFFIXES
from negguide.mining.formats.folders import Target
from negguide.mining.item import Item
from negguide.storage import Place


def write_webdataset(items: Iterable[tuple[Item, Place]], target: Target) -> None:
    """``00000.tar``, ...; keys are running numbers, since an id may hold dots, which end a key.

    Controls are left out: only some items have one, and ``datasets`` reads shards only when all keys have the same
    fields. So it does not read images that came in several formats; that is said. Equal items give equal bytes: no
    times and no owners are stored.

    Raises:
        ValueError: the suffix of an image is none that readers take for an image.
    """
    kinds: Counter[str] = Counter()
    with ExitStack() as stack:
        shard: tarfile.TarFile
        for number, (item, place) in enumerate(items):
            if number % target.shard_size == 0:
                stack.close()
                path = target.folder / f"{number // target.shard_size:05d}.tar"
                shard = stack.enter_context(tarfile.open(path, "w"))
            files = item.files(place)
            texts = {
                "txt": item.caption,
                "negative.txt": item.negative_caption,
                "json": json.dumps(item.row(), ensure_ascii=False),
            }
            parts = {
                prefix + files[role].suffix.lower().lstrip("."): files[role].read_bytes()
                for role, prefix in (("image", ""), ("negative_image", "negative."))
                if role in files
            }
            kinds.update(part for part in parts if "." not in part)
            unknown = [file for file in files.values() if file.suffix.lower().lstrip(".") not in SUFFIXES]
            if unknown:
                raise ValueError(
                    f"format='webdataset' tells images by their suffix, and {unknown[0]} has {unknown[0].suffix!r}; "
                    f"readers know {', '.join(SUFFIXES)}: export as parquet, or name the file so"
                )
            parts |= {suffix: text.encode() for suffix, text in texts.items()}
            for suffix, content in parts.items():
                member = tarfile.TarInfo(f"{number:09d}.{suffix}")
                member.size = len(content)
                shard.addfile(member, io.BytesIO(content))
    if len(kinds) > 1:
        target.say(
            f"the images are {', '.join(f'{count} {kind}' for kind, count in sorted(kinds.items()))}: webdataset reads "
            f"them as {';'.join(sorted(kinds))!r}, but `datasets` refuses the shards, or takes those that are not as "
            "the first five for missing; export as parquet for it"
        )
