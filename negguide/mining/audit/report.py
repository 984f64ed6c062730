"""The report of an audit: markdown, a picture, and JSON."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import PIL.Image

from negguide.mining.audit.audit import SYNTHETIC, Audit, Findings
from negguide.mining.audit.probes import LIMIT, OVERALL, Accuracy, Verdict
from negguide.pictures import save_json, save_png, versions
from negguide.storage import write_whole

REPORT, PICTURE, DATA = "report.md", "audit.png", "audit.json"
_SHOWN = 20
"""So many duplicates and unreadable images stand in the report; all are in the JSON."""
_AS_MINED, _REBALANCED = "#8b949e", "#1f6feb"
_COLUMNS = 4


def write_report(audit: Audit, folder: Path) -> list[Path]:
    """Write ``report.md``, ``audit.png`` and ``audit.json`` into ``folder``; gives their paths.

    The JSON holds the lines of ``verdict_lines`` as "verdicts", for the card of the set.
    """
    paths = [folder / name for name in (REPORT, PICTURE, DATA)]
    settings = {"command": "audit", **audit.settings, "versions": versions()}
    save_png(plot(audit), paths[1], settings)
    save_json(audit.to_dict() | {"verdicts": verdict_lines(audit), "versions": versions()}, paths[2])
    write_whole(paths[0], markdown(audit).encode())
    return paths


def markdown(audit: Audit) -> str:
    """The report; its picture is ``audit.png`` beside it."""
    lines = [
        f"# Audit of {Path(str(audit.settings['set'])).name}",
        "",
        f"{audit.mined.pairs} pairs. Each probe is shown both captions (or both images) of a pair and says which "
        f"is the negative; chance is 50%, and above {100 * LIMIT:.0f}% it tells them. Cross-validated, with all pairs "
        "of one source in one fold; 95% intervals. Add and remove are judged as one: each alone is told by length.",
        "",
        f"![accuracy of every probe]({PICTURE})",
        "",
        *_summary(audit),
    ]
    after = None if audit.rebalanced is None else audit.rebalanced.text
    lines += ["## Captions alone", "", *_table("probe", audit.mined.text, after)]
    for comparison, verdicts in audit.mined.images.items():
        after = None if audit.rebalanced is None else audit.rebalanced.images.get(comparison, {})
        lines += [f"## Images alone: {comparison}", "", *_table("probe", verdicts, after)]
    if audit.mined.images:
        lines += [
            "Where originals are told from negatives but controls are not, what is told is that an image was rendered, "
            "not that it is the negative. Controls are renders of the original captions.",
            "",
        ]
    lines += [
        *_by_family("As mined", audit.mined),
        *(_by_family("Rebalanced", audit.rebalanced) if audit.rebalanced else []),
    ]
    lines += [*_dropped(audit), *_duplicates(audit), *_unreadable(audit)]
    if audit.skipped:
        lines += ["## Not done", "", *(f"- {line}" for line in audit.skipped), ""]
    return "\n".join(lines)


def verdict_lines(audit: Audit) -> list[str]:
    """What a reader needs first: the probe that tells most, before and after, and what was found twice."""
    # in the past, for the card repeats it when the set is complete
    so_far = "was not complete: what `negguide mine` had made of it was"
    lines = [f"the set {so_far} audited"] if audit.half_made else []
    lines += [f"{name} {so_far} searched" for name in audit.half_made_references]
    for title, findings in (("as mined", audit.mined), ("rebalanced", audit.rebalanced)):
        if findings is None:
            continue
        if not findings.pairs:
            lines.append(f"{title}, 0 pairs: no choice of them is without tells")
        groups: dict[str, Mapping[str, Verdict]] = {"captions": findings.text, **findings.images}
        for group, verdicts in groups.items():
            if group == SYNTHETIC or not verdicts:
                continue
            name, best = max(
                ((name, verdict.accuracies[OVERALL]) for name, verdict in verdicts.items()),
                key=lambda pair: pair[1].value,
            )
            mark = "told" if best.told else "not told"
            # probes of images see a sample, and the pairs that have both of its images
            count = f"{findings.pairs}" if best.n == findings.pairs else f"{best.n} of {findings.pairs}"
            lines.append(f"{title}, {count} pairs, {group}: {mark}, at most {best} by {name}")
    duplicates = audit.duplicates
    lines.append(
        f"{sum(len(ids) - 1 for ids in duplicates.texts)} repeated pairs of captions, "
        f"{len(duplicates.images)} near-duplicate images of different sources"
    )
    for name, ids in duplicates.leaked_captions.items():
        images = {row[0] for row in duplicates.leaked_images[name]}
        lines.append(f"{len(ids)} items share a caption with {name}, {len(images)} an image")
    if audit.unreadable:
        lines.append(f"{len(audit.unreadable)} images could not be opened")
    return lines


def _summary(audit: Audit) -> list[str]:
    return [*(f"- {line}" for line in verdict_lines(audit)), ""]


def _cell(accuracy: Accuracy | None) -> str:
    if accuracy is None:
        return "too few"
    return f"**{accuracy}**" if accuracy.told else str(accuracy)


def _rows(heading: Sequence[str], rows: Sequence[Sequence[object]]) -> list[str]:
    lines = [heading, ["---", *("---:" for _ in heading[1:])], *rows]
    return [*("| " + " | ".join(str(cell) for cell in line) + " |" for line in lines), ""]


def _table(first: str, before: Mapping[str, Verdict], after: Mapping[str, Verdict] | None) -> list[str]:
    heading = [first, "as mined"] + ([] if after is None else ["rebalanced"])
    rows = []
    for name, verdict in before.items():
        row = [name, _cell(verdict.accuracies[OVERALL])]
        if after is not None:
            row.append(_cell(after[name].accuracies[OVERALL]) if name in after else "too few")
        rows.append(row)
    return _rows(heading, rows)


def _by_family(title: str, findings: Findings) -> list[str]:
    families = list(findings.families)
    groups: dict[str, Mapping[str, Verdict]] = {"captions": findings.text, **findings.images}
    rows = [["pairs", *findings.families.values()]]
    for group, verdicts in groups.items():
        for name, verdict in verdicts.items() if group != SYNTHETIC else ():
            rows.append([f"{group}: {name}", *(_cell(verdict.accuracies.get(family)) for family in families)])
    return [f"## {title}, by category", "", *_rows(["probe", *families], rows)]


def _dropped(audit: Audit) -> list[str]:
    balance = audit.balance
    if balance is None:
        return []
    reasons = Counter(balance.dropped.values())
    lines = [
        "## What rebalancing did",
        "",
        f"{len(balance.kept)} items are kept, {len(balance.exchanged)} of them with exchanged roles; "
        f"{len(balance.dropped)} are dropped. Nothing is deleted: `rebalanced.json` lists them.",
        "",
        "Accuracies somewhat below 50% are no tell: in a balanced set, the pairs that a probe is tried on are the "
        "counterweight of those that it learned from.",
        "",
    ]
    if balance.rendered:
        lines += ["Rendered originals stand in for the originals.", ""]
    return [*lines, *(_rows(["reason", "items"], reasons.most_common()) if reasons else [])]


def _duplicates(audit: Audit) -> list[str]:
    found = audit.duplicates
    rows: list[Sequence[object]] = [["same captions", ", ".join(ids)] for ids in found.texts]
    rows += [["images alike", f"{a} ({x}), {b} ({y})"] for a, x, b, y in found.images]
    for name, items in found.leaked_captions.items():
        rows += [[f"caption in {name}", item] for item in items]
    for name, alike in found.leaked_images.items():
        rows += [[f"image in {name}", f"{item} ({x}), {y}"] for item, x, y in alike]
    if not rows:
        return ["## Near-duplicates", "", "None.", ""]
    return ["## Near-duplicates", "", *_limited(["what", "items"], rows)]


def _unreadable(audit: Audit) -> list[str]:
    if not audit.unreadable:
        return []
    return [
        "## Images that could not be opened",
        "",
        *_limited(["image", "why"], list(audit.unreadable.items())),
    ]


def _limited(heading: Sequence[str], rows: Sequence[Sequence[object]]) -> list[str]:
    rest = len(rows) - _SHOWN
    more = [f"{rest} more are in `{DATA}`.", ""] if rest > 0 else []
    return [*_rows(heading, rows[:_SHOWN]), *more]


def plot(audit: Audit) -> PIL.Image.Image:
    """Bars with intervals: a panel a probe of the captions by category, a panel a comparison of the images by probe."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    mined, after = audit.mined, audit.rebalanced
    families = [OVERALL, *mined.families] if len(mined.families) > 1 else [OVERALL]
    panels: list[tuple[str, list[tuple[str, Accuracy | None, Accuracy | None]]]] = []
    for name, verdict in mined.text.items():
        other = None if after is None else after.text.get(name)
        panels.append((f"captions: {name}", [_bar(f, verdict, other, f) for f in families]))
    for comparison, verdicts in mined.images.items():
        others = {} if after is None else after.images.get(comparison, {})
        bars = [_bar(name, verdict, others.get(name), OVERALL) for name, verdict in verdicts.items()]
        panels.append((f"images: {comparison}", bars))

    columns = min(_COLUMNS, len(panels))
    lines = [panels[i : i + columns] for i in range(0, len(panels), columns)]
    tallest = [max(len(bars) for _, bars in line) for line in lines]
    height = sum(0.34 * count + 0.85 for count in tallest) + 1.0
    figure = Figure(figsize=(3.5 * columns, height), layout="constrained")
    canvas = FigureCanvasAgg(figure)
    axes = figure.subplots(len(lines), columns, squeeze=False, gridspec_kw={"height_ratios": tallest})
    for line, row in zip(lines, axes, strict=True):
        for place, axis in enumerate(row):
            if place < len(line):
                _panel(axis, *line[place])
            else:
                axis.set_axis_off()
    counts = f"{mined.pairs} pairs" + ("" if after is None else f", {after.pairs} rebalanced")
    figure.suptitle(f"Which of the two is the negative? {counts}", fontsize=13)
    _legend(figure, after is not None)
    canvas.draw()
    return PIL.Image.frombuffer("RGBA", canvas.get_width_height(), canvas.buffer_rgba()).convert("RGB")


def _bar(
    label: str, before: Verdict, after: Verdict | None, place: str
) -> tuple[str, Accuracy | None, Accuracy | None]:
    return label, before.accuracies.get(place), None if after is None else after.accuracies.get(place)


def _panel(axis: Any, title: str, bars: Sequence[tuple[str, Accuracy | None, Accuracy | None]]) -> None:
    both = any(after is not None for _, _, after in bars)
    width = 0.38 if both else 0.6
    for place, (_, before, after) in enumerate(bars):
        for accuracy, color, shift in ((before, _AS_MINED, -0.2), (after, _REBALANCED, 0.2)):
            if accuracy is None:
                continue
            y = place + (shift if both else 0)
            axis.barh(y, 100 * accuracy.value, width, color=color)
            axis.plot([100 * accuracy.low, 100 * accuracy.high], [y, y], color="#24292f", linewidth=1.2)
        if before is None and after is None:
            axis.text(2, place, "too few", va="center", fontsize=8, color="#57606a")
    axis.axvline(50, color="#57606a", linewidth=1, linestyle="--")
    axis.axvline(100 * LIMIT, color="#cf222e", linewidth=1)
    axis.set_xlim(0, 101)
    axis.set_ylim(len(bars) - 0.4, -0.6)
    axis.set_xticks([0, 25, 50, 75, 100], ["0", "25", "50", "75", "100%"], fontsize=8)
    axis.set_yticks(range(len(bars)), [label for label, _, _ in bars], fontsize=9)
    axis.set_title(title, fontsize=10)
    axis.grid(axis="x", alpha=0.3)
    axis.set_axisbelow(True)


def _legend(figure: Any, rebalanced: bool) -> None:
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    handles: list[Any] = [Patch(color=_AS_MINED, label="as mined")]
    if rebalanced:
        handles.append(Patch(color=_REBALANCED, label="rebalanced"))
    handles += [
        Line2D([], [], color="#24292f", linewidth=1.2, label="95% interval"),
        Line2D([], [], color="#57606a", linestyle="--", label="chance"),
        Line2D([], [], color="#cf222e", label=f"{100 * LIMIT:.0f}%: above, it tells"),
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=len(handles), frameon=False, fontsize=9)
